#pragma once
// Images in one tar stream: what `docker save`, skopeo, umoci and buildx write, and what we write.
//
// Reading. docker-archive: manifest.json names config and layers (files, or symbolic links among the archive's entries as old
// versions wrote them). OCI layout: oci-layout, index.json and blobs/sha256/. An archive with both is read by its manifest.json.
// The stream may be gzip or zstd; it is read once, in order; since layers come before the documents that name them, it goes to
// an unlinked file below <root>/ingest first, unless it is an uncompressed regular file already, which is read in place. Nothing
// of the archive ever becomes a path on this machine. Limits: ArchiveLimits.
//
// Writing. Layers are written uncompressed, as their digests in the config (diffIDs) say, since the compressed originals are
// not kept: so the config, and with it the image's id, is the same after an import elsewhere, while the manifest is made anew
// and has another digest than the registry's. The docker form has the OCI files in it too, as current `docker save` does. The
// same images give the same bytes.
#include <map>
#include <string>
#include <string_view>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "images/content/inflate.h"

namespace berth::images {

struct ArchiveLimits {
  uint64_t entries = 200'000;
  uint64_t names = 64u << 20;       // bytes of all names together
  size_t images = 1000;
};

class ArchiveReader {
 public:
  // Takes the whole stream from the descriptor's position on. `spool_dir`: where an unlinked file may grow. The descriptor is the
  // caller's, and must stay open when it is read in place. kInvalidArgument for what is no archive.
  static Result<ArchiveReader> Open(int fd, const std::string& spool_dir, const Deadline& until, const ArchiveLimits& limits = {});
  bool Has(const std::string& name) const { return entries_.contains(name); }
  // A document; kNotFound when the archive has no such entry, kInvalidArgument when it is larger than `limit`.
  Result<std::string> Read(const std::string& name, size_t limit) const;
  // A layer, piece by piece. Symbolic links within the archive are followed.
  Result<void> Stream(const std::string& name, const Inflater::Sink& sink, const Deadline& until) const;

 private:
  struct Entry {
    uint64_t offset = 0, size = 0;
    std::string link;
    bool directory = false;
  };
  Result<const Entry*> Follow(const std::string& name) const;
  unique_fd spool_;
  int file_ = -1;
  uint64_t start_ = 0;              // of the tar in file_
  std::map<std::string, Entry> entries_;
};

class ArchiveWriter {
 public:
  explicit ArchiveWriter(int fd, const Deadline& until) : fd_(fd), until_(until) {}
  Result<void> Directory(const std::string& name);
  Result<void> File(const std::string& name, std::string_view bytes);
  Result<void> Begin(const std::string& name, uint64_t size);   // then exactly `size` bytes through Write, then End
  Result<void> Write(std::string_view bytes);
  Result<void> End();
  Result<void> Finish();

 private:
  Result<void> Header(const std::string& name, char type, unsigned mode, uint64_t size);
  int fd_;
  const Deadline& until_;
  uint64_t left_ = 0, padding_ = 0;
};

}  // namespace berth::images
