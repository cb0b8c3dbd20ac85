#include "runtime/shim/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/init/kernel.h"
#include "runtime/init/text.h"
#include "runtime/shim/monitor.h"
#include "runtime/shim/wire.h"

namespace berth::shim {
namespace {

constexpr int kSocket = 3;
constexpr unsigned long kPrivate = 1UL << 18, kRecursiveMount = 1UL << 14;  // MS_PRIVATE, MS_REC

// An empty tmpfs becomes the root and the only mount. Where pivot_root is impossible (root on initramfs, or a chroot that
// is no mount point) the old mounts stay below, which only makes clones dearer.
bool EnterEmptyRoot() {
  if (unshare(CLONE_NEWNS) < 0 || init::Mount(nullptr, "/", nullptr, kPrivate | kRecursiveMount, nullptr) < 0) return false;
  int fs = static_cast<int>(init::FsOpen("tmpfs"));
  int root = -1;
  if (fs >= 0 && init::FsConfig(fs, FSCONFIG_SET_STRING, "mode", "0700") == 0 &&
      init::FsConfig(fs, FSCONFIG_SET_STRING, "size", "1m") == 0 &&
      init::FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0)
    root = static_cast<int>(init::FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (fs >= 0) close(fs);
  if (root < 0) return false;
  bool good = init::MoveMount(root, "/") == 0 && fchdir(root) == 0;
  if (good) {
    if (init::PivotRoot(".", ".") == 0) {
      good = init::Umount(".", init::kMntDetach) == 0 && chdir("/") == 0;
    } else {
      good = chroot(".") == 0;
    }
  }
  close(root);
  return good && mkdir("/shm", 0700) == 0;
}

[[noreturn]] void BecomeMonitor(const SpawnRequest& request, Message* message, char* title, unsigned long title_size) {
  setsid();
  signal(SIGCHLD, SIG_DFL);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "berth-shim");
  memset(title, 0, title_size);
  init::Text text(title, title_size);
  char shortened[13] = {};
  memcpy(shortened, request.pod, 12);
  text << "berth-shim: " << shortened;

  MonitorFds fds;
  fds.client = message->TakeFd(0);
  fds.listener = message->TakeFd(1);
  fds.state_dir = message->TakeFd(2);
  message->CloseFds();
  Pod pod;
  ErrorReply error;
  uint64_t id = message->header.request;
  if (!MakePod(request, message->body + sizeof request, request.sysctl_bytes, &pod, &error)) {
    Send(fds.client, Type::kError, 0, id, &error, sizeof error);
    _exit(1);
  }
  RunMonitor(pod, fds, id);
}

void Spawn(Message* message, char* title, unsigned long title_size) {
  auto request = message->As<SpawnRequest>();
  ErrorReply error;
  if (message->fd_count < 3 || !ValidId(request.pod) || message->size < sizeof request ||
      request.sysctl_bytes > message->size - sizeof request) {
    Fail(&error, Status::kInvalid, 0, "spawn: malformed request");
  } else {
    pid_t pid = fork();
    if (pid == 0) {
      close(kSocket);
      BecomeMonitor(request, message, title, title_size);
    }
    if (pid > 0) return;
    Fail(&error, Status::kSystem, errno, "fork the pod's monitor");
  }
  if (message->fd_count > 0) Send(message->fds[0], Type::kError, 0, message->header.request, &error, sizeof error);
}

}  // namespace

void RunSpawner(char* title, unsigned long title_size) {
  prctl(PR_SET_DUMPABLE, 0);  // a process in a container that gets at us finds no memory or descriptor to read
  prctl(PR_SET_NAME, "berth-spawner");
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);   // systemd ends the agent; what it started ends by its socket, or not at all
  signal(SIGCHLD, SIG_IGN);   // monitors are reaped by the kernel
  umask(022);
  syscall(SYS_close_range, kSocket + 1, ~0U, 0);
  bool good = EnterEmptyRoot();
  int sys = errno;
  Message message;
  while (true) {
    Got got = Receive(kSocket, &message);
    if (got == Got::kNothing) continue;
    if (got == Got::kClosed) _exit(0);
    if (!good) {
      ErrorReply error;
      Fail(&error, Status::kSystem, sys, "the spawner cannot make its mount namespace");
      if (message.fd_count > 0) Send(message.fds[0], Type::kError, 0, message.header.request, &error, sizeof error);
    } else if (message.header.type == Type::kSpawn) {
      Spawn(&message, title, title_size);
    }
    message.CloseFds();
  }
}

}  // namespace berth::shim
