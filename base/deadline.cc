#include "base/deadline.h"

#include <poll.h>
#include <sys/eventfd.h>

namespace berth {
namespace {

using std::chrono::steady_clock;

// Past this a deadline is none; also keeps `now + d` from overflowing.
constexpr std::chrono::nanoseconds kForever = std::chrono::hours(24 * 365 * 50);
constexpr int kBlindSliceMs = 100;  // with a token that got no descriptor

}  // namespace

CancelToken::CancelToken() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void CancelToken::Cancel() {
  cancelled_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  if (event_) (void)!::write(event_.get(), &one, sizeof one);
}

Deadline Deadline::After(Duration d, std::shared_ptr<CancelToken> cancel) {
  Deadline result;
  result.cancel_ = std::move(cancel);
  if (d < kForever) result.at_ = steady_clock::now() + std::max(d, Duration::zero());
  return result;
}

Deadline Deadline::Never(std::shared_ptr<CancelToken> cancel) {
  Deadline result;
  result.cancel_ = std::move(cancel);
  return result;
}

Deadline Deadline::Sooner(Duration d) const {
  Deadline result = After(d, cancel_);
  if (at_ && (!result.at_ || *at_ < *result.at_)) result.at_ = at_;
  return result;
}

bool Deadline::expired() const { return cancelled() || (at_ && steady_clock::now() >= *at_); }

std::optional<Deadline::Duration> Deadline::remaining() const {
  if (!at_) return std::nullopt;
  return std::max(Duration(*at_ - steady_clock::now()), Duration::zero());
}

int Deadline::poll_timeout_ms() const {
  const auto left = remaining();
  if (!left) return -1;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(*left).count();
  return static_cast<int>(std::min<int64_t>(ms, 1 << 30));
}

Result<void> Deadline::Check(std::string_view what) const {
  if (cancelled()) return Err(Code::kCancelled, "waiting for {}: the caller went away", what);
  if (at_ && steady_clock::now() >= *at_) return Err(Code::kDeadlineExceeded, "waiting for {}: time is up", what);
  return {};
}

Result<void> Deadline::WaitFor(int fd, short events, std::string_view what) const {
  for (;;) {
    pollfd fds[2] = {{fd, events, 0}, {cancel_fd(), POLLIN, 0}};
    int timeout = poll_timeout_ms();
    if (cancel_ && cancel_fd() < 0 && (timeout < 0 || timeout > kBlindSliceMs)) timeout = kBlindSliceMs;
    const int n = ::poll(fds, 2, timeout);
    if (n < 0 && errno != EINTR) return SysErr("poll for {}", what);
    if (n > 0 && (fds[0].revents & POLLNVAL)) return Err(Code::kInternal, "waiting for {}: descriptor {} is not open", what, fd);
    // Cancelled wins over ready: a busy stream must not outlive its caller.
    TRY(Check(what));
    if (n > 0 && fds[0].revents != 0) return {};
  }
}

Result<void> Deadline::Sleep(Duration d, std::string_view what) const {
  const auto end = steady_clock::now() + std::clamp(d, Duration::zero(), Duration(kForever));
  for (;;) {
    TRY(Check(what));
    const auto left = end - steady_clock::now();
    if (left <= Duration::zero()) return {};
    Duration slice = std::min(Duration(left), remaining().value_or(Duration(left)));
    if (cancel_ && cancel_fd() < 0) slice = std::min(slice, Duration(std::chrono::milliseconds(kBlindSliceMs)));
    pollfd cancel = {cancel_fd(), POLLIN, 0};
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(slice);
    const timespec ts = {seconds.count(), static_cast<long>((slice - seconds).count())};
    if (::ppoll(&cancel, 1, &ts, nullptr) < 0 && errno != EINTR) return SysErr("sleep for {}", what);
  }
}

}  // namespace berth
