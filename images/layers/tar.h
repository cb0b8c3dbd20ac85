#pragma once
// Reads the headers of a tar stream, of any dialect a layer may come in: V7, ustar, pax, GNU, star. Data is never kept:
// an entry says where in the stream its bytes lie.
//
//   TarScanner scanner([&](TarEntry&& entry) -> Result<void> { ... });
//   while (more) TRY(scanner.Feed(chunk));          // chunks of any size
//   TRY(scanner.Finish());                          // the stream is over
//
// The bytes are hostile. Every length is checked against TarLimits before memory is taken for it, checksums are
// verified, and an error (kInvalidArgument) names the entry by its number and path. No global state, no input or output
// of its own, so that it can run in a confined process. One thread at a time.
//
// Where dialects leave room, the choice is what other engines do with images, so that a layer means the same to all:
// link-like and special entries have no data whatever their size field says; global pax headers are skipped; a lone
// zero block inside the archive is an error; the archive may end without zero blocks, but only between two entries;
// what follows the end marker is not looked at; an unknown type is a regular file (POSIX pax, ustar interchange
// format).
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace berth::images {

struct Timestamp {
  int64_t seconds = 0;       // may be negative
  uint32_t nanoseconds = 0;  // always forward from `seconds`
  bool operator==(const Timestamp&) const = default;
};

struct Extent {         // bytes of a file that are not a hole
  uint64_t offset = 0;  // in the file
  uint64_t length = 0;
  uint64_t source = 0;  // in the tar
  bool operator==(const Extent&) const = default;
};

using Xattrs = std::vector<std::pair<std::string, std::string>>;  // name with its namespace, value as getxattr gives it

enum class EntryType : uint8_t { kFile, kDirectory, kSymlink, kHardLink, kCharDevice, kBlockDevice, kFifo };

struct TarEntry {
  std::string path;    // as written: may be absolute, have "." and ".." and empty components
  std::string target;  // of symbolic and hard links
  EntryType type = EntryType::kFile;
  uint32_t mode = 0;  // permission bits only, 07777
  uint32_t uid = 0, gid = 0;
  Timestamp mtime;
  uint64_t size = 0;  // of the file as read, holes included
  uint32_t major = 0, minor = 0;
  std::vector<Extent> extents;  // ascending, not overlapping, none empty
  Xattrs xattrs;
  uint64_t number = 0;  // counts entries from 1
};

struct TarLimits {
  uint64_t entries = 2'000'000;
  uint64_t metadata = 512u << 20;  // names, xattrs and extents of all entries together, bytes
  uint64_t extended = 8u << 20;    // one pax header or sparse map
  uint64_t path = 32 << 10;        // a path
  uint64_t target = 4095;          // a link target (PATH_MAX without its NUL)
  uint64_t xattr_value = 65535;    // XATTR_SIZE_MAX is 65536; the on-disk length field has 16 bits
};

class TarScanner {
 public:
  using Sink = std::function<Result<void>(TarEntry&&)>;
  explicit TarScanner(Sink sink, TarLimits limits = {});
  ~TarScanner();
  TarScanner(const TarScanner&) = delete;

  Result<void> Feed(std::string_view bytes);  // after an error: the same error again
  Result<void> Finish();
  // Bytes ahead that hold file data only: who reads from a file may Skip up to so many instead of feeding them.
  uint64_t skippable() const { return state_ == State::kSkip ? skip_ : 0; }
  void Skip(uint64_t bytes);
  uint64_t offset() const { return offset_; }  // bytes fed
  uint64_t entries() const { return entries_; }

 private:
  enum class State { kHeader, kExtended, kSparseHeaders, kSparseMap, kSkip, kEnd };
  struct Pending;  // what extended headers said about the next entry

  Result<void> Consume(std::string_view& bytes);
  Result<void> OnHeader(const char* block);
  Result<void> OnExtended(std::string_view data);
  Result<void> OnSparseHeader(const char* block);
  Result<void> OnSparseMapBlock(const char* block);
  Result<void> ParsePax(std::string_view data);
  Result<void> ParsePaxRecord(std::string_view key, std::string_view value);
  Result<void> AddSparse(uint64_t offset, uint64_t length);
  Result<void> ApplyPending(const char* block);
  Result<void> BeginData();
  Result<void> Charge(uint64_t bytes);
  std::string Name() const;
  template <class... Args>
  std::unexpected<Error> Bad(std::string_view format, const Args&... args) const;

  Sink sink_;
  TarLimits limits_;
  State state_ = State::kHeader;
  std::string buffer_;  // an incomplete block or extended header
  uint64_t need_ = 0;   // bytes of an extended header, without padding
  uint64_t skip_ = 0;
  uint64_t offset_ = 0;
  uint64_t entries_ = 0;
  uint64_t metadata_ = 0;
  char extended_type_ = 0;
  bool zero_block_ = false;
  std::unique_ptr<Pending> pending_;
  TarEntry entry_;
  uint64_t stored_ = 0;  // data bytes of entry_ in the tar, without padding
  std::optional<Error> failed_;
};

// All entries of the tar in a file, reading little more than its headers. `size` is the file's; the caller has checked
// it.
Result<std::vector<TarEntry>> ScanTarFile(int fd, uint64_t size, TarLimits limits = {});

}  // namespace berth::images
