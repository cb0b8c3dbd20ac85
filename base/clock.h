#pragma once
// Time, as a seam: tests move it by hand.
#include <chrono>
#include <cstdint>

namespace berth {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::chrono::steady_clock::time_point Now() const = 0;
  virtual int64_t UnixNanos() const = 0;  // wall clock, nanoseconds since 1970
  static const Clock& System();
};

class FakeClock : public Clock {
 public:
  std::chrono::steady_clock::time_point Now() const override { return std::chrono::steady_clock::time_point(offset_); }
  int64_t UnixNanos() const override { return 1'700'000'000'000'000'000 + offset_.count(); }
  void Advance(std::chrono::nanoseconds by) { offset_ += by; }

 private:
  std::chrono::nanoseconds offset_{1'000'000'000};
};

}  // namespace berth
