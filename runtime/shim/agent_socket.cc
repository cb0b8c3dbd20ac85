#include "runtime/shim/agent_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

namespace berth::runtime {

using shim::ErrorReply;
using shim::Header;
using shim::Status;

Result<void> Put(std::span<char> to, std::string_view value, std::string_view what) {
  if (value.size() >= to.size())
    return Err(Code::kInvalidArgument, "{}: {} characters are too many, at most {}", what, value.size(), to.size() - 1);
  std::ranges::copy(value, to.begin());
  to[value.size()] = '\0';
  return {};
}

Result<std::string> ContainerBody(const ContainerId& id) {
  shim::ContainerRequest request;
  TRY(Put(request.id, id.str(), "container id"));
  return Bytes(request);
}

Result<void> SendPacket(int socket, const Outgoing& message, uint64_t request, const Deadline& until, std::string_view what) {
  if (message.fds.size() > shim::kMaxFds)
    return Err(Code::kResourceExhausted, "{}: {} descriptors are too many for one message, at most {}", what,
               message.fds.size(), shim::kMaxFds);
  if (message.body.size() > shim::kMaxMessage - sizeof(Header))
    return Err(Code::kInvalidArgument, "{}: {} bytes are too many for one message", what, message.body.size());
  Header header;
  header.type = message.type;
  header.request = request;
  header.length = static_cast<uint32_t>(message.body.size());
  if (auto left = until.remaining()) {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    header.expires = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec + left->count());
  }
  iovec parts[2] = {{&header, sizeof header}, {const_cast<char*>(message.body.data()), message.body.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * shim::kMaxFds)];
  msghdr h{};
  h.msg_iov = parts;
  h.msg_iovlen = 2;
  if (!message.fds.empty()) {
    const size_t bytes = sizeof(int) * message.fds.size();
    h.msg_control = control;
    h.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), message.fds.data(), bytes);
  }
  while (true) {
    if (::sendmsg(socket, &h, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == ENOBUFS) {
      TRY(until.WaitFor(socket, POLLOUT, what));
      continue;
    }
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN || errno == EBADF)
      return Err(Code::kUnavailable, "{}: the monitor is gone", what);
    return SysErr("{}: send to the monitor", what);
  }
}

Result<std::optional<Packet>> ReceivePacket(int socket) {
  thread_local std::vector<char> inbox(shim::kMaxMessage);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (shim::kMaxFds + 3))];
  iovec data{inbox.data(), inbox.size()};
  msghdr h{};
  h.msg_iov = &data;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof control;
  ssize_t n;
  do n = ::recvmsg(socket, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return std::optional<Packet>();
  if (n < 0 && errno != ECONNRESET) return SysErr("receive from the monitor");
  if (n < 0) return Err(Code::kUnavailable, "the monitor closed the connection");
  Packet packet;
  for (cmsghdr* c = CMSG_FIRSTHDR(&h); c != nullptr; c = CMSG_NXTHDR(&h, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      packet.fds.emplace_back(fd);
    }
  }
  if (n == 0) return Err(Code::kUnavailable, "the monitor closed the connection");
  if (static_cast<size_t>(n) >= sizeof(Header)) memcpy(&packet.header, inbox.data(), sizeof(Header));
  if (static_cast<size_t>(n) < sizeof(Header) || packet.header.magic != shim::kMagic || (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
      packet.header.length != static_cast<size_t>(n) - sizeof(Header))
    return Err(Code::kUnavailable, "the monitor sent what is no message of its protocol");
  packet.body.assign(inbox.data() + sizeof(Header), static_cast<size_t>(n) - sizeof(Header));
  return std::optional(std::move(packet));
}

Error FromReply(const Packet& packet, std::string_view what) {
  auto reply = packet.As<ErrorReply>();
  reply.what[sizeof reply.what - 1] = '\0';
  Error error{Code::kInternal, fmt::format("{}: {}", what, reply.what), reply.sys};
  switch (reply.status) {
    case Status::kInvalid: error.code = Code::kInvalidArgument; break;
    case Status::kNotFound: error.code = Code::kNotFound; break;
    case Status::kExists: error.code = Code::kAlreadyExists; break;
    case Status::kState: error.code = Code::kConflict; break;
    case Status::kFull: error.code = Code::kResourceExhausted; break;
    case Status::kExpired: error.code = Code::kDeadlineExceeded; break;
    case Status::kUnimplemented: error.code = Code::kUnimplemented; break;
    case Status::kSystem: error.code = reply.sys != 0 ? CodeFromErrno(reply.sys) : Code::kInternal; break;
    case Status::kCommand: break;  // the caller reads the command's log
    case Status::kNoExecutable:
      error.code = Code::kInvalidArgument;
      error.sys = ENOENT;
      break;
    case Status::kNotExecutable:
      error.code = Code::kInvalidArgument;
      error.sys = EACCES;
      break;
  }
  // The monitor's system errors concern the container's set-up, not an object the caller named.
  if (reply.status == Status::kSystem && error.code == Code::kNotFound) error.code = Code::kFailedPrecondition;
  return error;
}

}  // namespace berth::runtime
