#include "runtime/shim/log_gate.h"

namespace berth::shim {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

size_t LastLine(const char* in, size_t size) {   // up to and with the last newline; 0: there is none
  while (size > 0 && in[size - 1] != '\n') --size;
  return size;
}

}  // namespace

// A second's worth may come at once.
void LogGate::Refill(int64_t now) {
  if (rate_ == 0) return;
  auto most = static_cast<int64_t>(rate_ < (1ULL << 40) ? rate_ : 1ULL << 40);
  int64_t passed = now - filled_at_;
  if (filled_at_ == 0 || passed >= kSecond * 60) {
    tokens_ = most;
    filled_at_ = now;
    return;
  }
  // What is not yet a whole byte is left for the next time.
  int64_t gained = static_cast<int64_t>(static_cast<__int128>(passed) * most / kSecond);
  if (gained <= 0) return;
  filled_at_ += static_cast<int64_t>(static_cast<__int128>(gained) * kSecond / most);
  tokens_ = tokens_ + gained < most ? tokens_ + gained : most;
}

size_t LogGate::Allowance(int64_t now) {
  if (rate_ == 0 || drops_) return kInput;
  Refill(now);
  if (tokens_ <= 0) return 0;
  return static_cast<size_t>(tokens_) < kInput ? static_cast<size_t>(tokens_) : kInput;
}

int64_t LogGate::NextAt(int64_t now) const {
  if (rate_ == 0) return now;
  // Not for every single byte: a twentieth of a second's worth.
  auto rate = static_cast<int64_t>(rate_ < (1ULL << 40) ? rate_ : 1ULL << 40);
  int64_t want = rate / 20 + 1 - tokens_;
  if (want <= 0) return now;
  return filled_at_ + static_cast<int64_t>(static_cast<__int128>(want) * kSecond / rate) + 1;
}

LogGate::Piece LogGate::Drop(LogStream& stream, size_t size, bool line_ends) {
  stream.skipping = !line_ends;
  stream.cut_off = stream.open_line;
  stream.dropped_bytes += size;
  dropped_bytes += size;
  if (line_ends) {
    ++stream.dropped_lines;
    ++dropped_lines;
  }
  return {size, false};
}

LogGate::Piece LogGate::Cut(LogStream& stream, const char* in, size_t size, bool stuck, int64_t now) {
  Refill(now);
  size_t line = FindLine(in, size);
  bool ends = line < size;
  if (ends) ++line;
  if (stream.skipping) return Drop(stream, line, ends);
  bool spent = rate_ != 0 && tokens_ <= 0;
  // A line that has begun is finished, unless the log takes nothing at all.
  if (stuck || stream.cut_off || (spent && !stream.open_line)) return Drop(stream, line, ends);
  size_t keep = size;
  if (spent) {
    keep = line;
  } else if (rate_ != 0 && static_cast<size_t>(tokens_) < size) {
    keep = LastLine(in, static_cast<size_t>(tokens_));
    if (keep == 0) keep = line;
  }
  stream.open_line = in[keep - 1] != '\n';
  if (rate_ != 0) Spend(keep);
  return {keep, true};
}

void LogGate::End(LogStream& stream) {
  if (stream.skipping) ++stream.dropped_lines;
  stream.skipping = false;
}

bool LogGate::Resumes(const LogStream& stream, int64_t now) {
  if (stream.skipping || (!stream.cut_off && (stream.dropped_lines == 0 || stream.open_line))) return false;
  Refill(now);
  return rate_ == 0 || tokens_ > 0;
}

}  // namespace berth::shim
