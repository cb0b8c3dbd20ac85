#include "runtime/shim/pod.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::shim {
namespace {

// First process of a shared PID namespace: reaps what its siblings orphan, has no right to anything, ends with the monitor.
[[noreturn]] void RunInit(int monitor) {
  prctl(PR_SET_NAME, "berth-init");
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  for (int cap = 0; prctl(PR_CAPBSET_DROP, cap) == 0; ++cap) {
  }
  __user_cap_data_struct none[2] = {};
  init::CapSet(none);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd gone{monitor, POLLIN, 0};
  if (poll(&gone, 1, 0) != 0) _exit(0);  // it died before the line above
  syscall(SYS_close_range, 0, ~0U, 0);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  while (true) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    sigwaitinfo(&child, nullptr);
  }
}

bool WriteSysctls(const char* list, size_t size, ErrorReply* error) {
  int fs = static_cast<int>(init::FsOpen("proc"));
  int proc = -1;
  if (fs >= 0 && init::FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0)
    proc = static_cast<int>(init::FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  int sys = errno;
  if (fs >= 0) close(fs);
  if (proc < 0) {
    Fail(error, Status::kSystem, sys, "mount proc to set sysctls");
    return false;
  }
  const char* at = list;
  const char* end = list + size;
  bool good = true;
  while (good && at < end) {
    const char* name = at;
    at += strnlen(at, static_cast<size_t>(end - at)) + 1;
    const char* value = at;
    if (at < end) at += strnlen(at, static_cast<size_t>(end - at)) + 1;
    if (at > end) {
      Fail(error, Status::kInvalid, 0, "sysctls: a name or value does not end");
      good = false;
      break;
    }
    init::Line<320> path;
    path.text << "sys/" << name;
    // Dots separate, as in sysctl.conf; a slash stands for a dot inside an interface's name.
    if (strchr(name, '/') == nullptr) {
      for (char* c = path.bytes + 4; *c != '\0'; ++c)
        if (*c == '.') *c = '/';
    }
    int fd = static_cast<int>(init::OpenAt2(proc, path.bytes, O_WRONLY,
                                            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS));
    size_t length = strlen(value);
    if (fd < 0 || write(fd, value, length) != static_cast<ssize_t>(length)) {
      init::Line<200> what;
      what.text << "sysctl " << name << "=" << value;
      Fail(error, errno == ENOENT || errno == EINVAL || errno == ERANGE ? Status::kInvalid : Status::kSystem, errno, what.bytes);
      good = false;
    }
    if (fd >= 0) close(fd);
  }
  close(proc);
  return good;
}

bool MakeShm(uint64_t bytes, bool attach, Pod* pod, ErrorReply* error) {
  init::Line<32> size;
  size.text << static_cast<unsigned long>(bytes);
  int fs = static_cast<int>(init::FsOpen("tmpfs"));
  int mount = -1;
  if (fs >= 0 && init::FsConfig(fs, FSCONFIG_SET_STRING, "source", "shm") == 0 &&
      init::FsConfig(fs, FSCONFIG_SET_STRING, "mode", "1777") == 0 &&
      init::FsConfig(fs, FSCONFIG_SET_STRING, "size", size.bytes) == 0 &&
      init::FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0)
    mount = static_cast<int>(init::FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  int sys = errno;
  if (fs >= 0) close(fs);
  if (mount < 0) {
    Fail(error, Status::kSystem, sys, "make the pod's /dev/shm");
    return false;
  }
  pod->shm = mount;
  int probe = attach ? -1 : static_cast<int>(init::OpenTree(mount, "", OPEN_TREE_CLONE | init::kEmpty));
  if (probe >= 0) {
    close(probe);
    pod->shm_detached = true;
    return true;
  }
  // Before 6.15 only a mount of the caller's own namespace can be cloned.
  if (init::MoveMount(mount, "/shm") < 0) {
    Fail(error, Status::kSystem, errno, "attach the pod's /dev/shm");
    return false;
  }
  return true;
}

bool StartInit(Pod* pod, ErrorReply* error) {
  int self = static_cast<int>(init::PidfdOpen(getpid()));
  clone_args args{};
  int pidfd = -1;
  args.flags = CLONE_NEWPID | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  long pid = self < 0 ? -1 : syscall(SYS_clone3, &args, sizeof args);
  int sys = errno;
  if (pid == 0) RunInit(self);
  if (self >= 0) close(self);
  if (pid < 0) {
    Fail(error, Status::kSystem, sys, "start the init of the pod's PID namespace");
    return false;
  }
  pod->init = static_cast<pid_t>(pid);
  pod->init_pidfd = pidfd;
  return true;
}

}  // namespace

void Fail(ErrorReply* error, Status status, int sys, const char* what, const char* subject) {
  error->status = status;
  error->sys = sys;
  init::Text text(error->what, sizeof error->what);
  text << what << subject;
  if (sys != 0) text << ": " << strerror(sys);
}

bool MakePod(const SpawnRequest& request, const char* sysctls, size_t sysctl_bytes, Pod* pod, ErrorReply* error) {
  memcpy(pod->id, request.pod, kIdSize);
  pod->own_net = (request.flags & kOwnNet) != 0;
  int namespaces = CLONE_NEWNS;
  if (pod->own_net) namespaces |= CLONE_NEWNET;
  if (request.flags & kOwnUts) namespaces |= CLONE_NEWUTS;
  if (request.flags & kOwnIpc) namespaces |= CLONE_NEWIPC;
  if (unshare(namespaces) < 0) {
    Fail(error, Status::kSystem, errno, "make the pod's namespaces");
    return false;
  }
  if ((request.flags & kOwnUts) && request.hostname[0] != '\0' &&
      sethostname(request.hostname, strnlen(request.hostname, sizeof request.hostname)) < 0) {
    Fail(error, errno == EINVAL ? Status::kInvalid : Status::kSystem, errno, "hostname ", request.hostname);
    return false;
  }
  if (sysctl_bytes > 0 && !WriteSysctls(sysctls, sysctl_bytes, error)) return false;
  if (request.shm_bytes > 0 && !MakeShm(request.shm_bytes, (request.flags & kAttachShm) != 0, pod, error)) return false;
  return !(request.flags & kSharedPid) || StartInit(pod, error);
}

int CloneShm(const Pod& pod) {
  if (pod.shm < 0) {
    errno = ENOENT;
    return -1;
  }
  return static_cast<int>(init::OpenTree(pod.shm, "", OPEN_TREE_CLONE | init::kEmpty));
}

size_t OpenHelloFds(const Pod& pod, int* fds, uint32_t* which) {
  size_t count = 0;
  *which = 0;
  auto add = [&](long fd, HelloFds kind) {
    if (fd < 0) return;
    fds[count++] = static_cast<int>(fd);
    *which |= kind;
  };
  add(init::PidfdOpen(getpid()), kFdMonitor);
  if (pod.own_net) {
    int route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    // A socket knows its namespace: no procfs is needed to get at it.
    if (route >= 0) add(ioctl(route, SIOCGSKNS), kFdNetns);
    add(route, kFdRoute);
    add(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), kFdNetfilter);
  }
  if (pod.shm_detached) add(pod.shm, kFdShm);
  return count;
}

}  // namespace berth::shim
