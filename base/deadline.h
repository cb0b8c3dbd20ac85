#pragma once
// Until when an operation may wait, and whether its caller still wants it. Every function that can block takes one.
//
// A Deadline is a value; copies share the cancel token. `Cancel` may be called from any thread and wakes everything that
// polls `cancel_fd()`.
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace berth {

class CancelToken {  // thread-safe
 public:
  CancelToken();
  void Cancel();
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // Readable once cancelled; poll it, do not read it. -1 when no descriptor was to be had at construction: then waiting
  // looks at the flag several times a second.
  int fd() const { return event_.get(); }

 private:
  std::atomic<bool> cancelled_ = false;
  unique_fd event_;
};

class Deadline {
 public:
  using Duration = std::chrono::nanoseconds;
  static Deadline Never() { return Deadline(); }
  static Deadline After(Duration d, std::shared_ptr<CancelToken> cancel = nullptr);
  static Deadline Never(std::shared_ptr<CancelToken> cancel);

  bool expired() const;                       // time is up or cancelled
  bool cancelled() const { return cancel_ && cancel_->cancelled(); }
  std::optional<Duration> remaining() const;  // nothing for Never; never negative
  int poll_timeout_ms() const;                // for poll(2): -1 forever, rounded up
  int cancel_fd() const { return cancel_ ? cancel_->fd() : -1; }
  Deadline Sooner(Duration d) const;          // the earlier of this and `d` from now, same cancel token

  // Error when expired: kCancelled or kDeadlineExceeded, "waiting for <what>".
  Result<void> Check(std::string_view what) const;
  // Waits until fd is ready for `events` (poll(2)); errors as Check. EINTR is repeated.
  Result<void> WaitFor(int fd, short events, std::string_view what) const;
  // Sleeps at most `d`; returns early with the error of Check.
  Result<void> Sleep(Duration d, std::string_view what) const;

 private:
  std::optional<std::chrono::steady_clock::time_point> at_;
  std::shared_ptr<CancelToken> cancel_;
};

}  // namespace berth
