#pragma once
// What of a container's output may go to its log now: a rate limit, and what happens to output that the log does not take.
// Blocking, the caller reads no more than Allowance; dropping, it reads everything and Cut says which pieces to keep. Only
// whole lines are dropped. Part of berth-shim.
#include "runtime/shim/log_format.h"
#include "runtime/shim/protocol.h"

namespace berth::shim {

class LogGate {
 public:
  void Set(LogMode mode, uint64_t rate) {
    drops_ = mode == LogMode::kDrop;
    rate_ = rate;
  }
  bool drops() const { return drops_; }
  bool limited() const { return rate_ != 0; }
  // Without rate and without drops there is nothing to decide.
  bool open() const { return rate_ == 0 && !drops_; }

  // Monotonic time. Bytes that may be read, at most kInput; 0: none before NextAt.
  size_t Allowance(int64_t now);
  int64_t NextAt(int64_t now) const;
  void Spend(size_t bytes) { tokens_ -= static_cast<int64_t>(bytes); }

  struct Piece {
    size_t size;
    bool keep;       // write it; else it has been counted
  };
  // The next piece of a read, never empty. `stuck`: the log takes nothing now.
  Piece Cut(LogStream& stream, const char* in, size_t size, bool stuck, int64_t now);
  // The stream has ended: a line that was being dropped is counted.
  static void End(LogStream& stream);
  // Something was dropped and the log takes output again: the line that was cut off is to be ended (stream.cut_off), and
  // the notice to be written, before anything else.
  bool Resumes(const LogStream& stream, int64_t now);

  uint64_t dropped_lines = 0, dropped_bytes = 0;   // in all

 private:
  void Refill(int64_t now);
  Piece Drop(LogStream& stream, size_t size, bool line_ends);

  bool drops_ = false;
  uint64_t rate_ = 0;
  int64_t tokens_ = 0;      // bytes; below zero after a line that was longer than what was left
  int64_t filled_at_ = 0;
};

}  // namespace berth::shim
