#include "runtime/oci/notify.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/atomic_file.h"

namespace berth::runtime::oci {
namespace {

constexpr std::string_view kInside = "/run/notify";

Result<std::pair<sockaddr_un, socklen_t>> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@'))
    return Err(Code::kInvalidArgument, "NOTIFY_SOCKET: \"{}\": must be an absolute path or @name", path);
  memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = 0;
  return std::pair(address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size()));
}

}  // namespace

Result<void> NotifySocket::Prepare(const std::string& state_dir, Spec& spec) {
  if (!spec.process) return {};
  std::string dir = state_dir + "/notify";
  if (::mkdir(dir.c_str(), 0755) < 0 || ::chmod(dir.c_str(), 0755) < 0) return SysErr("make {}", dir);
  spec.mounts.push_back({std::string(kInside), "bind", dir, {"bind", "nosuid", "noexec", "nodev", "ro"}, {}, {}});
  std::erase_if(spec.process->env, [](const std::string& v) { return v.starts_with("NOTIFY_SOCKET="); });
  spec.process->env.push_back(fmt::format("NOTIFY_SOCKET={}/notify.sock", kInside));
  return {};
}

Result<NotifySocket> NotifySocket::Listen(const std::string& state_dir, const std::string& manager) {
  NotifySocket out;
  auto [address, size] = TRY(Address(manager));
  out.manager_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!out.manager_ || ::connect(out.manager_.get(), reinterpret_cast<sockaddr*>(&address), size) < 0)
    return SysErr("NOTIFY_SOCKET: connect to {}", manager);
  // By descriptor: a socket address has only 108 bytes.
  unique_fd dir = TRY(Open(state_dir + "/notify", O_PATH | O_DIRECTORY));
  sockaddr_un own{};
  own.sun_family = AF_UNIX;
  snprintf(own.sun_path, sizeof own.sun_path, "/proc/self/fd/%d/notify.sock", dir.get());
  out.socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!out.socket_ || ::bind(out.socket_.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) < 0 ||
      ::chmod(own.sun_path, 0777) < 0)
    return SysErr("NOTIFY_SOCKET: listen in {}/notify", state_dir);
  return out;
}

Result<bool> NotifySocket::Pass(pid_t pid, int pidfd) {
  pollfd fds[2] = {{socket_.get(), POLLIN, 0}, {pidfd, POLLIN, 0}};
  while (::poll(fds, 2, -1) < 0)
    if (errno != EINTR) return SysErr("wait for notifications");
  if (!fds[0].revents) return false;
  char text[8192];
  ssize_t n = ::recv(socket_.get(), text, sizeof text, MSG_DONTWAIT);
  if (n <= 0) return true;
  std::string out;
  bool ready = false;
  for (std::string_view left(text, static_cast<size_t>(n)); !left.empty();) {
    std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    // Ids from inside mean nothing outside; a container is not to hand them in either.
    if (line.empty() || line.starts_with("MAINPID=") || line.starts_with("FDSTORE") || line.starts_with("FDNAME"))
      continue;
    ready = ready || line == "READY=1";
    out += fmt::format("{}\n", line);
  }
  if (ready) out += fmt::format("MAINPID={}\n", pid);
  if (!out.empty()) (void)::send(manager_.get(), out.data(), out.size(), MSG_NOSIGNAL);
  ready_ = ready_ || ready;
  return true;
}

Result<void> NotifySocket::UntilReady(pid_t pid, int pidfd) {
  while (!ready_ && TRY(Pass(pid, pidfd))) {
  }
  return {};
}

Result<void> NotifySocket::InBackground(pid_t pid, int pidfd) {
  pid_t child = ::fork();
  if (child < 0) return SysErr("start the forwarder of notifications");
  if (child > 0) return {};
  for (;;) {
    auto more = Pass(pid, pidfd);
    if (!more || !*more) ::_exit(0);
  }
}

}  // namespace berth::runtime::oci
