#include "runtime/shim/spawner_client.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/atomic_file.h"
#include "base/log.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace berth::runtime {
namespace {

constexpr int kSocketInChild = 3, kImageInChild = 4;
constexpr size_t kProgramLimit = 32 << 20;

}  // namespace

Result<unique_fd> SealedFile(const char* name, std::string_view bytes, bool executable) {
  unique_fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL)));
  if (!fd && errno == EINVAL) fd.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));  // before 6.3
  if (!fd) return SysErr("memfd {}", name);
  TRY(WriteAll(fd.get(), bytes));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) return SysErr("seal {}", name);
  return fd;
}

SpawnerClient::~SpawnerClient() {
  std::lock_guard lock(mutex_);
  EndLocked(false);
}

pid_t SpawnerClient::pid() const {
  std::lock_guard lock(mutex_);
  return process_.pid;
}

Result<void> SpawnerClient::EnsureRunning(const Deadline& until) {
  std::lock_guard lock(mutex_);
  return socket_ ? Result<void>() : StartLocked(until);
}

Result<void> SpawnerClient::StartLocked(const Deadline& /*until*/) {
  if (!image_) {
    auto bytes = ReadFile(program_, kProgramLimit);
    if (!bytes)
      return Err(Code::kFailedPrecondition, "{} (runtime.shim in the configuration names the program berth-shim)", bytes.error().what);
    image_ = TRY(SealedFile("berth-shim", *bytes, true));
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return SysErr("socketpair");
  unique_fd ours(ends[0]), theirs(ends[1]);
  Command command;
  // The run of blanks is where a monitor writes its pod's id for `ps`.
  command.argv = {fmt::format("/proc/self/fd/{}", kImageInChild), "spawner", std::string(32, ' ')};
  command.inherit = {{theirs.get(), kSocketInChild}, {image_.get(), kImageInChild}};
  process_ = TRY_CTX(berth::Spawn(command), "start {}", program_);
  socket_ = std::move(ours);
  log::Info("spawner.started", {{"pid", process_.pid}});
  return {};
}

void SpawnerClient::EndLocked(bool kill) {
  socket_.reset();
  if (!process_.pidfd) return;
  if (kill) ::syscall(SYS_pidfd_send_signal, process_.pidfd.get(), SIGKILL, nullptr, 0);
  if (!WaitExit(process_, Deadline::After(std::chrono::seconds(kill ? 2 : 1)))) {
    ::syscall(SYS_pidfd_send_signal, process_.pidfd.get(), SIGKILL, nullptr, 0);
    if (!WaitExit(process_, Deadline::After(std::chrono::seconds(2))))
      log::Warn("spawner.stuck", {{"pid", process_.pid}});
  }
  process_ = Spawned();
}

Result<void> SpawnerClient::Spawn(const Outgoing& request, uint64_t id, const Deadline& until) {
  std::lock_guard lock(mutex_);
  for (int attempt = 0;; ++attempt) {
    if (!socket_) TRY(StartLocked(until));
    auto sent = SendPacket(socket_.get(), request, id, until, "spawner");
    if (sent || sent.error().code != Code::kUnavailable) return sent;
    log::Warn("spawner.died", {{"pid", process_.pid}});
    EndLocked(true);
    if (attempt == 1) return Err(Code::kInternal, "{}: ends as soon as it is started", program_);
  }
}

void SpawnerClient::Abandon() {
  std::lock_guard lock(mutex_);
  if (process_.pid >= 0) log::Warn("spawner.hangs", {{"pid", process_.pid}});
  EndLocked(true);
}

}  // namespace berth::runtime
