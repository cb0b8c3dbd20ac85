#include "cri/streaming/relay.h"

#include <sys/socket.h>
#include <unistd.h>

namespace berth::cri::streaming {
namespace {

constexpr size_t kPart = 64 << 10;

std::unexpected<Error> Gone() { return Err(Code::kUnavailable, "the client is gone"); }

}  // namespace

Result<void> Relay::Flush() {
  size_t done = 0;
  Result<void> result;
  while (done < mux_.out.size()) {
    size_t put = 0;
    const auto io = wire_.TryWrite(std::string_view(mux_.out).substr(done), &put);
    done += put;
    if (io == Wire::Io::kEnd) result = Gone();
    if (io != Wire::Io::kDone) break;
  }
  mux_.out.erase(0, done);
  return result;
}

Result<void> Relay::Receive(std::vector<Event>& events) {
  char part[kPart];
  size_t got = 0;
  switch (wire_.TryRead(part, sizeof part, &got)) {
    case Wire::Io::kEnd: return Gone();
    case Wire::Io::kWait: return {};
    case Wire::Io::kDone: return mux_.Take({part, got}, events);
  }
  return {};
}

Result<void> Relay::Turn(std::vector<pollfd>& fds, bool hungry, const Deadline& limit, std::vector<Event>& events,
                         std::string_view waits_for) {
  if (!began_) {
    began_ = true;
    TRY(mux_.Take(early_, events));
    early_.clear();
    if (!events.empty()) return {};
  }
  TRY(Flush());
  if (hungry && wire_.HasMore()) return Receive(events);
  const auto events_wanted = static_cast<short>((hungry ? POLLIN : 0) | (mux_.out.empty() ? 0 : POLLOUT));
  // Without interest in the connection a hang-up would still be reported, at once and for ever.
  fds.push_back({hungry || !mux_.out.empty() ? wire_.fd() : -1, events_wanted, 0});
  fds.push_back({limit.cancel_fd(), POLLIN, 0});
  const int ready = ::poll(fds.data(), fds.size(), limit.poll_timeout_ms());
  const short connection = fds[fds.size() - 2].revents;
  fds.resize(fds.size() - 2);
  if (ready < 0 && errno != EINTR) return SysErr("poll");
  TRY(limit.Check(waits_for));
  if (ready <= 0) {
    for (pollfd& p : fds) p.revents = 0;
    return {};
  }
  if ((connection & (POLLOUT | POLLERR)) != 0) TRY(Flush());
  if (hungry && (connection & (POLLIN | POLLHUP | POLLERR)) != 0) return Receive(events);
  return {};
}

void Relay::Farewell(const Deadline& stop) {
  const Deadline limit = stop.Sooner(kFarewellLimit);
  while (!mux_.out.empty()) {
    if (!Flush() || mux_.out.empty()) break;
    if (!limit.WaitFor(wire_.fd(), POLLOUT, "the client")) return;
  }
  // A close with unread input would reset the connection and take our last bytes with it: end our half, then read on until
  // the client has seen it.
  ::shutdown(wire_.fd(), SHUT_WR);
  char part[4096];
  for (size_t got = 0; limit.WaitFor(wire_.fd(), POLLIN, "the client");)
    if (wire_.TryRead(part, sizeof part, &got) == Wire::Io::kEnd) return;
}

bool Sink::Push() {
  while (Wants()) {
    const ssize_t n = socket ? ::send(fd.get(), pending.data(), pending.size(), MSG_NOSIGNAL) : ::write(fd.get(), pending.data(), pending.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return true;
      pending.clear();
      fd.reset();
      return false;
    }
    pending.erase(0, static_cast<size_t>(n));
  }
  if (ended && fd.valid() && pending.empty()) {
    if (socket) ::shutdown(fd.get(), SHUT_WR);
    fd.reset();
  }
  return true;
}

Pulled Pull(int fd, std::string& into) {
  into.resize(kPart);
  ssize_t n;
  do n = ::read(fd, into.data(), into.size());
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    into.resize(static_cast<size_t>(n));
    return Pulled::kData;
  }
  into.clear();
  return n < 0 && errno == EAGAIN ? Pulled::kNothing : Pulled::kEnd;  // EIO: a terminal whose other side is closed
}

}  // namespace berth::cri::streaming
