#include <sys/stat.h>

#include "base/json.h"
#include "images/archive.h"
#include "images/store_impl.h"

namespace berth::images {
namespace {

constexpr size_t kChunk = 256 << 10;

struct Chosen {
  ImagePtr image;
  std::vector<std::string> tags;  // canonical
};

json::Object DescriptorOf(std::string_view media_type, const Digest& digest, uint64_t size) {
  return {{"mediaType", media_type}, {"digest", digest.str()}, {"size", size}};
}

std::string BlobName(const Digest& digest) { return "blobs/sha256/" + digest.hex(); }

}  // namespace

Result<void> StoreImpl::Export(const std::vector<std::string>& references, Archive form, int fd,
                               const Deadline& until) {
  if (references.empty()) return Err(Code::kInvalidArgument, "export: no image is named");
  std::vector<Chosen> chosen;
  std::vector<Digest> layers;
  for (const std::string& text : references) {
    ImagePtr image = TRY_CTX(Find(text), "export");
    auto at = std::find_if(chosen.begin(), chosen.end(), [&](const Chosen& c) { return c.image->id == image->id; });
    if (at == chosen.end()) {
      chosen.push_back({image, {}});
      at = std::prev(chosen.end());
      layers.insert(layers.end(), image->diff_ids.begin(), image->diff_ids.end());
    }
    // Named by tag, it keeps that tag; named by id or digest, none.
    auto reference = Reference::Parse(text);
    std::string tag = reference && reference->digest.empty() ? reference->Canonical() : "";
    bool its_tag = std::find(image->repo_tags.begin(), image->repo_tags.end(), tag) != image->repo_tags.end();
    if (its_tag && std::find(at->tags.begin(), at->tags.end(), tag) == at->tags.end()) at->tags.push_back(tag);
  }
  Busy busy(*this, layers);

  ArchiveWriter out(fd, until);
  std::set<Digest> written;
  TRY(out.Directory("blobs"));
  TRY(out.Directory("blobs/sha256"));
  std::map<Digest, uint64_t> sizes;
  for (const Digest& diff_id : layers) {
    if (!written.insert(diff_id).second) continue;
    unique_fd tar = TRY_CTX(snapshotter_.OpenTar(diff_id), "export: layer {}", diff_id);
    struct stat st;
    if (::fstat(tar.get(), &st) != 0) return SysErr("export: layer {}", diff_id);
    const uint64_t size = sizes[diff_id] = static_cast<uint64_t>(st.st_size);
    TRY(out.Begin(BlobName(diff_id), size));
    Hasher hasher;
    std::vector<char> chunk(kChunk);
    for (uint64_t at = 0; at < size;) {
      ssize_t n = ::pread(tar.get(), chunk.data(), std::min<uint64_t>(chunk.size(), size - at), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("export: read layer {}", diff_id);
      if (n == 0) break;
      hasher.Update(chunk.data(), static_cast<size_t>(n));
      TRY(out.Write({chunk.data(), static_cast<size_t>(n)}));
      at += static_cast<uint64_t>(n);
    }
    TRY(out.End());
    Digest found = hasher.Finish();
    if (found != diff_id)
      return Err(Code::kDataLoss, "export: layer {}: its bytes on this disk hash to {}", diff_id, found);
  }

  json::Array index, archive;
  json::Object repositories;
  for (const Chosen& c : chosen) {
    const Image& image = *c.image;
    json::Array layer_list, layer_names;
    for (const Digest& d : image.diff_ids) {
      layer_list.push_back(DescriptorOf(media::kOciLayer, d, sizes[d]));
      layer_names.push_back(json::Value(BlobName(d)));
    }
    json::Object manifest{{"schemaVersion", 2},
                          {"mediaType", media::kOciManifest},
                          {"config", DescriptorOf(media::kOciConfig, image.id, image.raw_config.size())},
                          {"layers", std::move(layer_list)}};
    std::string text = json::Serialize(manifest);
    Digest digest = Digest::Of(text);
    TRY(out.File(BlobName(image.id), image.raw_config));
    TRY(out.File(BlobName(digest), text));
    json::Object entry = DescriptorOf(media::kOciManifest, digest, text.size());
    if (!image.config.architecture.empty()) {
      json::Object platform{{"architecture", image.config.architecture}, {"os", image.config.os}};
      if (!image.config.variant.empty()) platform["variant"] = image.config.variant;
      entry["platform"] = std::move(platform);
    }
    json::Array familiar;
    for (const std::string& tag : c.tags) {
      auto reference = TRY(Reference::Parse(tag));
      json::Object named = entry;
      named["annotations"] =
          json::Object{{"io.containerd.image.name", tag}, {"org.opencontainers.image.ref.name", reference.tag}};
      index.push_back(std::move(named));
      familiar.push_back(json::Value(reference.Familiar()));
      if (!image.diff_ids.empty()) {
        std::string name = reference.Familiar();
        std::string repository = name.substr(0, name.rfind(':'));
        if (!repositories.contains(repository)) repositories[repository] = json::Object();
        repositories[repository].as_object()[reference.tag] = image.diff_ids.back().hex();
      }
    }
    if (c.tags.empty()) index.push_back(entry);
    json::Object legacy{{"Config", BlobName(image.id)},
                        {"RepoTags", familiar.empty() ? json::Value(nullptr) : json::Value(std::move(familiar))},
                        {"Layers", std::move(layer_names)}};
    archive.push_back(std::move(legacy));
  }
  TRY(out.File("index.json",
               json::Serialize(json::Object{
                   {"schemaVersion", 2}, {"mediaType", media::kOciIndex}, {"manifests", std::move(index)}})));
  if (form == Archive::kDocker) TRY(out.File("manifest.json", json::Serialize(archive)));
  TRY(out.File("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
  if (form == Archive::kDocker && !repositories.empty()) TRY(out.File("repositories", json::Serialize(repositories)));
  return out.Finish();
}

}  // namespace berth::images
