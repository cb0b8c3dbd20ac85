// What clients do with a running container's streams: attach, resize, connect to a port of its pod.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "pods/core.h"
#include "pods/operations.h"
#include "pods/registry.h"

namespace berth::pods {
namespace {

Result<ContainerPtr> Running(Core& core, const std::string& container) {
  auto c = TRY(core.registry.FindContainer(container));
  if (c->phase == ContainerPhase::kCreating) return Err(Code::kNotFound, "container {}: no such container", container);
  if (c->phase != ContainerPhase::kRunning) return Err(Code::kConflict, "container {}: is not running", c->id.Short());
  return c;
}

Result<void> Connect(const unique_fd& fd, const sockaddr* address, socklen_t size, const Deadline& until) {
  if (::connect(fd.get(), address, size) == 0) return {};
  if (errno != EINPROGRESS) return SysErr("connect");
  TRY(until.WaitFor(fd.get(), POLLOUT, "the connection"));
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) < 0) return SysErr("connect");
  if (error != 0) return SysErrOf(error, "connect");
  return {};
}

}  // namespace

Result<runtime::AttachHandle> Attach(Core& core, const std::string& container, const AttachOptions& options, const Deadline& until) {
  auto c = TRY(Running(core, container));
  if (options.in >= 0 && !c->spec.keep_stdin)
    return Err(Code::kFailedPrecondition, "container {}: was created without stdin, so there is none to attach", c->id.Short());
  Operation op(core, "attach", c->id.str());
  TRY(op.Stage("attach", "hand the streams to the monitor"));
  return op.In(core.launcher.Attach({.pod = c->pod,
                                     .container = c->id,
                                     .in = options.in,
                                     .out = options.out,
                                     .err = c->spec.tty ? -1 : options.err,
                                     .slow = options.slow},
                                    until));
}

Result<void> ResizeTerminal(Core& core, const std::string& container, uint16_t rows, uint16_t columns, const Deadline& until) {
  auto c = TRY(Running(core, container));
  return core.launcher.Resize(c->pod, c->id, rows, columns, until);
}

Result<unique_fd> Dial(Core& core, const std::string& pod, uint16_t port, const Deadline& until) {
  auto p = TRY(core.registry.FindPod(pod));
  if (p->phase != PodPhase::kReady) return Err(Code::kConflict, "pod {}: is not ready", p->id.Short());
  Operation op(core, "dial", p->id.str());
  TRY(op.Stage("connect", "connect to a port of the pod"));
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = htons(port);
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(port);
  six.sin6_addr = in6addr_loopback;
  Result<void> first;
  for (int family : {AF_INET, AF_INET6}) {
    unique_fd fd = TRY(core.launcher.Socket(p->id, family, until));
    if (::fcntl(fd.get(), F_SETFL, O_NONBLOCK) < 0) return SysErr("make a socket non-blocking");
    auto connected = family == AF_INET ? Connect(fd, reinterpret_cast<const sockaddr*>(&four), sizeof four, until)
                                       : Connect(fd, reinterpret_cast<const sockaddr*>(&six), sizeof six, until);
    if (connected) return fd;
    if (family == AF_INET) first = std::move(connected);
  }
  return Wrap(std::move(first).error(), "port {} of pod {}", port, p->id.Short());
}

}  // namespace berth::pods
