#include "runtime/oci/listener.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "base/atomic_file.h"
#include "base/json.h"
#include "runtime/oci/hooks.h"

namespace berth::runtime::oci {

Result<std::optional<Listener>> Listener::Connect(const StateRecord& s, int64_t pid, std::string_view status) {
  if (s.listenerPath.empty()) return std::optional<Listener>();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (s.listenerPath.size() >= sizeof address.sun_path)
    return Err(Code::kInvalidArgument, "linux.seccomp.listenerPath: {}: longer than 107 bytes", s.listenerPath);
  strcpy(address.sun_path, s.listenerPath.c_str());
  unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return SysErr("linux.seccomp.listenerPath: connect to {}", s.listenerPath);
  std::string container = HookState(s.ociVersion, s.id, s.bundle, s.annotations).For(status, s.pid);
  std::string message = fmt::format(R"({{"ociVersion":{},"fds":["seccompFd"],"pid":{},"metadata":{},"state":{}}})",
                                    json::Serialize(json::ToValue(s.ociVersion)), pid,
                                    json::Serialize(json::ToValue(s.listenerMetadata)), container);
  return std::optional(Listener(std::move(fd), s.listenerPath, std::move(message)));
}

init::Observer Listener::Observe(std::optional<Listener>& listener) {
  if (!listener) return {};
  return {nullptr, Take, &*listener};
}

bool Listener::Take(void* context, int fd, init::Failure* failure) {
  auto& l = *static_cast<Listener*>(context);
  iovec part{l.message_.data(), l.message_.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof(int));
  ssize_t n;
  do n = ::sendmsg(l.socket_.get(), &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  bool sent = n >= 0;
  if (sent && static_cast<size_t>(n) < l.message_.size())  // a stream may take it in pieces
    sent = WriteAll(l.socket_.get(), std::string_view(l.message_).substr(static_cast<size_t>(n))).has_value();
  if (!sent) {
    failure->sys = errno;
    snprintf(failure->what, sizeof failure->what, "linux.seccomp.listenerPath: send to %s: %s", l.path_.c_str(),
             strerror(errno));
  }
  l.socket_.reset();
  return sent;
}

}  // namespace berth::runtime::oci
