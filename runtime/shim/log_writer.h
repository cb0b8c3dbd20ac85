#pragma once
// A container's log file: takes formatted records in batches, keeps what the disk refuses, rotates between two records.
// Nothing is lost: what is refused is kept, and the caller stops reading (or drops and counts, log_gate.h) until it is
// written. No heap, no C++ run time: part of berth-shim. Single-threaded.
#include "runtime/shim/log_format.h"

namespace berth::shim {

struct LogCounters {
  uint64_t bytes = 0;        // written
  uint64_t errors = 0;       // refused writes
  uint64_t rotations = 0;
};

class LogFile {
 public:
  static constexpr int kNone = -1;
  // Takes ownership; kNone drops all output.
  void Open(int fd);
  // From now on the file is rotated before it grows beyond `max_bytes`: `name` in `dir` (owned) becomes name.1 and so on;
  // `files` counts the current one. Call after Open.
  void Rotate(int dir, const char* name, uint64_t max_bytes, uint32_t files);
  bool stalled() const { return stall_ != nullptr; }
  // Formats and writes one read. False: the file takes no more now (full disk); the rest is kept and stalled() is true
  // until Retry has written it; give no further input before.
  bool Write(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, char* out);
  bool Flush(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out);
  bool Notice(LogStream& stream, const Stamp& stamp, char* out);   // what was dropped
  bool Retry(HoldPool& pool, const Stamp& stamp, char* out);   // true: nothing is stalled any more
  // Switches to another file: everything from now on, and a record that the old file holds only in part, goes there.
  void Reopen(int fd);
  void Close(HoldPool& pool);                  // gives up what is stalled
  int error() const { return error_; }         // errno of the last refused write, 0: none
  const LogCounters& counters() const { return counters_; }

 private:
  struct Stall;
  bool Send(const char* bytes, size_t size, size_t* sent, bool whole = true);
  bool Push(const char* bytes, size_t size, size_t* sent);
  bool Keep(LogStream* stream, const char* out, size_t out_size, size_t sent, const char* in, size_t in_size);
  bool Turn();
  void Measure();

  int fd_ = kNone;
  int error_ = 0;
  int dir_ = -1;
  uint32_t files_ = 0;
  uint64_t max_bytes_ = 0;   // 0: no rotation
  uint64_t size_ = 0;        // of the file, when it is rotated
  LogCounters counters_;
  Stall* stall_ = nullptr;
  char name_[256] = {};
};

}  // namespace berth::shim
