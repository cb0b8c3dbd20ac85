#pragma once
// From a container's output to log records, in the form of CRI (kubernetes cri-api: container log format) or of Docker's
// json-file logging driver:
//
//   2026-01-02T03:04:05.123456789Z stdout F line\n
//   {"log":"line\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}\n
//
// A line longer than kMaxLine is cut; output that ends without a newline stays without one. CRI's form marks such pieces
// with P, Docker's by the missing \\n; Docker's form cannot hold bytes that are no UTF-8 and has U+FFFD for each. The result
// does not depend on how the output was cut into reads, except for the times. Newlines only end records.
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
inline constexpr size_t kJsonFrame = 112;      // of a record in Docker's form, around its content
inline constexpr size_t kMaxJsonRecord = kJsonFrame + 6 * kMaxLine;
static_assert(kOutput >= kMaxJsonRecord + kSlop && kOutput >= 2 * (kMaxRecord + kSlop));

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
  bool terminal = false;       // CRI's form drops one CR before LF
  bool json = false;           // Docker's form
  // What LogGate knows.
  bool open_line = false;      // the last byte that was let through is no newline
  bool skipping = false;       // the line that is being read is dropped
  bool cut_off = false;        // the log has the beginning of the last line, and the rest was dropped
  uint64_t dropped_lines = 0, dropped_bytes = 0;   // since the last notice
};

// Time of a batch of records, formatted once.
struct Stamp {
  char prefix[kPrefix];        // of CRI's form
  char tail[48];               // of Docker's form: "\",\"stream\":..." is put before it
  size_t tail_size = 0;
  void Set(int64_t unix_nanos);
};

// Formats records from `in` into `out` (capacity >= kOutput; `in` is followed by kSlop readable bytes) until
// the input is used up or another record might not fit. Returns bytes written; *used: bytes of input taken.
size_t FormatRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, size_t* used,
                     char* out, size_t capacity);
// At the end of the stream: what is held, as records of unfinished lines.
size_t FlushRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out);
// A record that says what `stream` has dropped since the last notice; forgets it. At most kMaxRecord bytes.
size_t FormatNotice(LogStream& stream, const Stamp& stamp, char* out);

// Docker's form, log_json.cc.
size_t FormatJson(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, size_t* used, char* out,
                  size_t capacity);
char* PutJson(char* out, const LogStream& stream, const Stamp& stamp, const char* content, size_t size, bool full);
// Offset of the next newline, at most `limit`; may read kSlop bytes further.
size_t FindLine(const char* in, size_t limit);

}  // namespace berth::shim
