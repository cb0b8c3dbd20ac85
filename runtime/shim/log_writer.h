#pragma once
// From a container's output to CRI log records (kubernetes cri-api: container log format):
//
//   2026-01-02T03:04:05.123456789Z stdout F line\n
//
// A line longer than kMaxLine is cut into P records and a last F; output that ends without a newline becomes a P record.
// On a terminal one CR before LF is dropped. The result does not depend on how the output was cut into reads, except for
// the times. Nothing is lost: what the disk refuses is kept, and the caller stops reading until it is written.
//
// No heap, no C++ run time: part of berth-shim. Single-threaded.
#include <cstddef>
#include <cstdint>

namespace berth::shim {

inline constexpr size_t kMaxLine = 16384;      // bytes of content in one record (containerd, CRI-O)
inline constexpr size_t kPrefix = 40;          // "2026-01-02T03:04:05.123456789Z stdout F "
inline constexpr size_t kSlop = 32;            // copies run up to this far past the end of what they copy
inline constexpr size_t kInput = 65536;        // one read
inline constexpr size_t kOutput = 131072;      // one write
inline constexpr size_t kMaxRecord = kPrefix + kMaxLine + 1;

// The unfinished last line of a stream, held until its end comes. Blocks are made when a line is unfinished and given back
// with its end, so an idle container holds none.
struct Hold {
  char bytes[kMaxLine + 1 + kSlop];
};
class HoldPool {
 public:
  Hold* Take();                // nullptr when the kernel has no memory
  void Give(Hold* hold);
  void Trim();                 // returns the pages of unused blocks to the kernel
 private:
  static constexpr size_t kKeep = 4;
  Hold* free_[kKeep] = {};
  size_t count_ = 0;
};

// One output stream of one container.
struct LogStream {
  Hold* hold = nullptr;
  uint32_t held = 0;           // bytes; at most kMaxLine + 1
  bool error = false;          // stderr
  bool terminal = false;
};

// Time of a batch of records, formatted once.
struct Stamp {
  char prefix[kPrefix];
  void Set(int64_t unix_nanos);
};

// Formats records from `in` into `out` (capacity >= kMaxRecord + kSlop; `in` is followed by kSlop readable bytes) until
// the input is used up or another record might not fit. Returns bytes written; *used: bytes of input taken.
size_t FormatRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, size_t* used,
                     char* out, size_t capacity);
// At the end of the stream: what is held, as P records. `capacity` >= 2 * (kMaxRecord + kSlop).
size_t FlushRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out, size_t capacity);

// A log file and what it has not yet taken.
class LogFile {
 public:
  static constexpr int kNone = -1;
  void Open(int fd) { fd_ = fd; }              // takes ownership; kNone drops all output
  bool stalled() const { return stall_ != nullptr; }
  // Formats and writes one read. False: the file takes no more now (full disk); the rest is kept and stalled() is true
  // until Retry has written it; give no further input before.
  bool Write(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, char* out);
  bool Flush(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out);
  bool Retry(HoldPool& pool, const Stamp& stamp, char* out);   // true: nothing is stalled any more
  // Switches to another file: everything from now on, and a record that the old file holds only in part, goes there.
  void Reopen(int fd);
  void Close(HoldPool& pool);                  // gives up what is stalled
  int error() const { return error_; }         // errno of the last refused write, 0: none

 private:
  struct Stall;
  bool Send(const char* bytes, size_t size, size_t* sent);
  bool Keep(LogStream* stream, const char* out, size_t out_size, size_t sent, const char* in, size_t in_size);

  int fd_ = kNone;
  int error_ = 0;
  Stall* stall_ = nullptr;
};

}  // namespace berth::shim
