#pragma once
// For tests of the store: small images, as tars and as what a registry holds.
#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "images/layers/testing.h"
#include "images/media.h"
#include "images/registry/fake_registry.h"

namespace berth::images {

inline std::string Gzip(const std::string& bytes) {
  std::string out(bytes.size() + bytes.size() / 8 + 1024, '\0');
  isal_zstream stream;
  isal_deflate_stateless_init(&stream);
  stream.gzip_flag = IGZIP_GZIP;
  stream.end_of_stream = 1;
  stream.flush = NO_FLUSH;
  stream.next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uint32_t>(bytes.size());
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = static_cast<uint32_t>(out.size());
  isal_deflate_stateless(&stream);
  out.resize(stream.total_out);
  return out;
}

inline std::string Zstd(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

// Bytes that do not compress, the same for the same seed.
inline std::string Noise(size_t size, uint32_t seed) {
  std::string out(size, '\0');
  uint64_t state = seed * 2654435761u + 1;
  for (char& c : out) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(state >> 56);
  }
  return out;
}

struct TestImage {
  std::vector<std::string> tars;    // bottom first
  std::vector<std::string> blobs;   // the same, compressed
  std::string config, manifest;
  Digest id, digest;                // of config and manifest

  static TestImage Make(const std::vector<std::string>& tars, const std::string& architecture = "amd64", const std::string& label = "",
                        std::string (*compress)(const std::string&) = Gzip) {
    TestImage image;
    image.tars = tars;
    std::string diff_ids, layers;
    for (const std::string& tar : tars) {
      image.blobs.push_back(compress(tar));
      diff_ids += fmt::format("{}\"{}\"", diff_ids.empty() ? "" : ",", Digest::Of(tar));
      layers += fmt::format(R"({}{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}})", layers.empty() ? "" : ",",
                            Digest::Of(image.blobs.back()), image.blobs.back().size());
    }
    image.config = fmt::format(R"({{"architecture":"{}","os":"linux","config":{{"Cmd":["sh"],"Labels":{{"l":"{}"}}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}})",
                               architecture, label, diff_ids);
    image.id = Digest::Of(image.config);
    image.manifest = fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{}]}})",
                                 media::kOciManifest, media::kOciConfig, image.id, image.config.size(), layers);
    image.digest = Digest::Of(image.manifest);
    return image;
  }
  // One layer with one file.
  static TestImage Small(const std::string& content, const std::string& architecture = "amd64") {
    return Make({TarMaker().File("file", content).Finish()}, architecture);
  }

  void PutInto(FakeRegistry& registry, const std::string& base, const std::string& tag) const {
    for (const std::string& blob : blobs) registry.PutBlob(base, blob);
    registry.PutBlob(base, config);
    registry.PutManifest(base, tag, manifest);
  }
  std::string Descriptor(const std::string& platform) const {
    size_t slash = platform.find('/');
    return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{}","architecture":"{}"}}}})", media::kOciManifest, digest,
                       manifest.size(), platform.substr(0, slash), platform.substr(slash + 1));
  }
};

inline std::string IndexText(const std::vector<std::string>& descriptors) {
  return fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}})", media::kOciIndex, fmt::join(descriptors, ","));
}

class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/berth-images-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TempDir() { (void)RemoveTree(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace berth::images
