#include "runtime/init/executor.h"

#include <linux/filter.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "runtime/init/child.h"
#include "runtime/init/clone.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

// ---- Messages
// ---------------------------------------------------------------------------------------------------------

// 1 message, 0 end of file, -1 error. *fd: a descriptor that came along, else -1.
int Receive(int sync, Message* message, int* fd, int flags = 0) {
  iovec part{message, sizeof *message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(sync, &header, MSG_CMSG_CLOEXEC | flags);
  while (n < 0 && errno == EINTR);
  *fd = -1;
  if (n < 0) return errno == ECONNRESET ? 0 : -1;
  if (cmsghdr* c = CMSG_FIRSTHDR(&header); c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
    memcpy(fd, CMSG_DATA(c), sizeof(int));
  if (n == 0) return 0;
  message->text[sizeof message->text - 1] = 0;
  return 1;
}

void Reap(int pidfd) {
  siginfo_t info;
  while (waitid(static_cast<idtype_t>(3) /* P_PIDFD */, static_cast<id_t>(pidfd), &info, WEXITED | __WALL) < 0 &&
         errno == EINTR) {
  }
}

void Abandon(Process* process) {
  PidfdSignal(process->pidfd, SIGKILL);
  Reap(process->pidfd);
  Discard(process);
}

bool Started(Process* process, const Observer& observer, Failure* failure) {
  Progress progress = Progress::kFailed;
  if (Release(process, failure)) {
    do progress = Continue(process, true, failure, observer);
    while (progress == Progress::kMore);
  }
  close(process->sync);
  process->sync = -1;
  return progress == Progress::kStarted;
}

bool RaiseLoopback() {
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) return false;
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  bool ok = ioctl(s, SIOCSIFFLAGS, &request) == 0;
  int err = errno;
  close(s);
  errno = err;
  return ok;
}

void JoinKeyring(const Child& child) {
  // Shared with the host otherwise. Kernels without keys and full quotas are not a reason to fail.
  long ring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, child.String(child.plan->keyring), 0, 0, 0);
  if (ring < 0) {
    if (errno == ENOSYS) return;
    if (errno != EDQUOT && errno != ENOMEM) Fail(child, errno, "join session keyring");
    Warn(child, errno, "session keyring");
    return;
  }
  constexpr unsigned kSearchable = 0x3f1b0000;  // possessor all; user view, read, search, link
  syscall(SYS_keyctl, KEYCTL_SETPERM, ring, kSearchable, 0, 0);
}

}  // namespace

// ---- Child
// ------------------------------------------------------------------------------------------------------------

void Send(const Child& child, const Message& message, int fd) {
  iovec part{const_cast<Message*>(&message), sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
  }
  ssize_t n;
  do n = sendmsg(child.sync, &header, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
}

void Fail(const Child& child, int sys, const char* a, const char* b, const char* c, const char* d, int kind) {
  Message message;
  message.type = MessageType::kFailed;
  message.sys = sys;
  message.kind = kind;
  Text text(message.text, sizeof message.text);
  text << a << b << c << d;
  if (sys) text << ": " << strerror(sys);
  Send(child, message);
  _exit(kind == 1 ? 127 : kind == 2 ? 126 : 128);
}

void Warn(const Child& child, int sys, const char* a, const char* b, const char* c) {
  Message message;
  message.type = MessageType::kWarning;
  Text text(message.text, sizeof message.text);
  text << a << b << c;
  if (sys) text << ": " << strerror(sys);
  Send(child, message);
}

long ForkChild(int* pidfd) {
  CloneArgs args = PrepareClone(0, -1, pidfd);
  return Fork(&args);
}

namespace {

// Lets the parent do its part while the environment is there and the root is not yet entered.
void AwaitEnvironment(Child& child) {
  Message message;
  message.type = MessageType::kEnvironment;
  Send(child, message);
  char answer = 0;
  ssize_t n;
  do n = recv(child.sync, &answer, 1, 0);
  while (n < 0 && errno == EINTR);
  if (n != 1 || answer != 'e') _exit(0);  // the parent has given up, and says why
}

// Shows in ps and in /proc/<pid>/comm where a start is stuck.
void Stage(const char* name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
}  // namespace

void RunChild(Child& child) {
  const Plan& plan = *child.plan;
  // Before anything is joined: what shares a PID namespace with us must not read our descriptors. CVE-2016-9962.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  Stage("berth:enter");
  if (NeedsGuide(plan)) {
    char go;
    ssize_t n;
    do n = recv(child.sync, &go, 1, 0);
    while (n < 0 && errno == EINTR);
    if (n != 1 || go != 'g') _exit(0);
  }
  if (plan.flags & kPlanUserNamespace) {
    BecomeUserRoot(plan.uid, plan.gid);
    if (plan.clone_flags & ~CloneFlags(plan) && syscall(SYS_unshare, plan.clone_flags & ~CloneFlags(plan)) < 0)
      Fail(child, errno, "make IPC namespace");
  }
  struct {
    uint64_t handler, flags, restorer, mask;
  } dispose{};
  for (int signal = 1; signal < 32; ++signal)
    if (signal != SIGKILL && signal != SIGSTOP) syscall(SYS_rt_sigaction, signal, &dispose, nullptr, sizeof(uint64_t));
  if (setsid() < 0 && errno != EPERM) Fail(child, errno, "start a session");

  const FdIndex* tasks = child.Array<FdIndex>(plan.cgroup1);
  for (uint32_t i = 0; i < plan.cgroup1.count; ++i)
    if (write(child.Fd(tasks[i]), "0", 1) != 1) Fail(child, errno, "enter cgroup");
  if (child.enter) {
    int procs = openat(child.Fd(plan.cgroup2), "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (procs < 0 || write(procs, "0", 1) != 1) Fail(child, errno, "enter cgroup");
    close(procs);
  }
  JoinedCgroups(child);
  JoinNamespaces(child);
  if (plan.kind == PlanKind::kExec && plan.rootfs >= 0 && (fchdir(child.Fd(plan.rootfs)) < 0 || chroot(".") < 0))
    Fail(child, errno, "enter the container's root");
  if (plan.flags & kPlanNewCgroupNamespace && syscall(SYS_unshare, CLONE_NEWCGROUP) < 0)
    Fail(child, errno, "make cgroup namespace");
  if (plan.keyring) JoinKeyring(child);
  if (plan.flags & kPlanLoopbackUp && !RaiseLoopback()) Fail(child, errno, "bring up loopback");

  if (plan.kind == PlanKind::kContainer) {
    mode_t mask = umask(0);
    Stage("berth:mounts");
    EnterRoot(child);
    BuildTree(child);
    if (plan.host_root) {
      ReturnToHost(child);
      if (plan.flags & kPlanEnvironment) AwaitEnvironment(child);
      RunHooks(child, plan.create_container, "creating", true, "createContainer");
      LeaveHost(child);
    }
    umask(mask);
  }
  Stage("berth:process");
  MakeTerminal(child);
  SetStandardStreams(child);
  ApplySettings(child);
  EnterDirectory(child, false);
  if (plan.kind == PlanKind::kContainer) SealTree(child);
  ApplyAttributes(child);
  DropPrivileges(child);
  EnterDirectory(child, true);
  Stage("berth:created");
  Execute(child);
}

// ---- Parent
// -----------------------------------------------------------------------------------------------------------

bool Begin(const void* bytes, size_t size, const int* fds, size_t fd_count, const Stdio& stdio, const Options& options,
           Process* process, Failure* failure) {
  *process = Process{};
  *failure = Failure{};
  Plan room;
  const Plan* plan = CheckPlan(bytes, size, fd_count, &room, failure);
  if (!plan) return false;

  Child child;
  child.base = static_cast<const char*>(bytes);
  child.plan = plan;
  child.fds = fds;
  child.stdio = stdio;
  child.target = plan->flags & kPlanCallerTarget ? options.target : child.Fd(plan->target);
  int pid_namespace = plan->flags & kPlanCallerPid ? options.pid_namespace : child.Fd(plan->pid_namespace);
  if (plan->kind == PlanKind::kExec) {
    if (child.target < 0) {
      Describe(failure, 0, "start plan: no pidfd of the container");
      return false;
    }
    if (pid_namespace < 0) pid_namespace = child.target;
  } else if (plan->flags & kPlanCallerPid && pid_namespace < 0) {
    Describe(failure, 0, "start plan: no PID namespace to join");
    return false;
  }

  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
    Describe(failure, errno, "make synchronisation socket");
    return false;
  }
  // Joining a PID namespace only concerns children, so the caller does it around the clone and goes back to its own.
  int self = -1;
  if (pid_namespace >= 0 && !NeedsGuide(*plan)) {
    self = static_cast<int>(PidfdOpen(static_cast<pid_t>(syscall(SYS_getpid))));
    if (self < 0 || syscall(SYS_setns, pid_namespace, CLONE_NEWPID) < 0) {
      int err = errno;
      if (err == ESRCH)
        Describe(failure, 0, "container not running");
      else
        Describe(failure, err, "join PID namespace");
      if (self >= 0) close(self);
      close(sockets[0]);
      close(sockets[1]);
      return false;
    }
  }
  // Inherited by the child, which is then in the cgroup from its birth on version 2.
  uint64_t cpus[128];
  long cpu_bytes = 0;
  if (plan->initial_cpus.count) {
    cpu_bytes = syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
    if (cpu_bytes < 0 || SetCpus(child, plan->initial_cpus) < 0) {
      Describe(failure, errno, "process.execCPUAffinity.initial: set CPU affinity");
      if (self >= 0) {
        syscall(SYS_setns, self, CLONE_NEWPID);
        close(self);
      }
      close(sockets[0]);
      close(sockets[1]);
      return false;
    }
  }
  int pidfd = -1;
  long pid;
  child.sync = sockets[1];
  if (NeedsGuide(*plan)) {
    CloneArgs clone = PrepareClone(0, -1, &pidfd);
    pid = Fork(&clone);
    if (pid == 0) {
      close(sockets[0]);
      GuideThroughUserNamespace(child, pid_namespace, fd_count, size, options.stub);
    }
    process->guided = true;
  } else {
    CloneArgs clone = PrepareClone(CloneFlags(*plan), child.Fd(plan->cgroup2), &pidfd);
    pid = StartChild(child, fd_count, size, options.stub, sockets[0], &clone);
    // A cgroup at its pids.max takes no new process, but it takes one that exists: as every runtime's exec into it.
    if (pid < 0 && errno == EAGAIN && plan->cgroup2 >= 0) {
      child.enter = 1;
      clone = PrepareClone(plan->clone_flags, -1, &pidfd);
      pid = StartChild(child, fd_count, size, options.stub, sockets[0], &clone);
    }
  }
  int err = errno;
  if (cpu_bytes > 0) syscall(SYS_sched_setaffinity, 0, cpu_bytes, cpus);
  close(sockets[1]);
  process->sync = sockets[0];
  bool restored = true;
  if (self >= 0) {
    restored = syscall(SYS_setns, self, CLONE_NEWPID) == 0;
    close(self);
  }
  if (pid < 0) {
    close(sockets[0]);
    *process = Process{};
    bool gone = err == ENOMEM && pid_namespace >= 0;  // the namespace's first process has ended
    // The kernel's words for a group that takes no process.
    const char* why = gone                                        ? "container not running"
                      : err == EOPNOTSUPP && plan->cgroup2 >= 0   ? "clone into the cgroup (threaded, or below a threaded one)"
                      : err == EBUSY && plan->cgroup2 >= 0        ? "clone into the cgroup (it hands controllers to groups below it)"
                                                                  : "clone into new namespaces";
    Describe(failure, gone ? 0 : err, why);
    return false;
  }
  process->pid = static_cast<pid_t>(pid);
  process->pidfd = pidfd;
  if (!restored) {
    Describe(failure, errno, "return to own PID namespace");
    Abandon(process);
    return false;
  }
  return true;
}

Progress Continue(Process* process, bool wait, Failure* failure, const Observer& observer) {
  Message message;
  int fd;
  int got = Receive(process->sync, &message, &fd, wait ? 0 : MSG_DONTWAIT);
  if (got == 1 && message.type == MessageType::kReady && !process->released) return Progress::kReady;
  if (got == 1 && message.type == MessageType::kTerminal && fd >= 0 && process->terminal < 0) {
    process->terminal = fd;
    return Progress::kMore;
  }
  if (got == 1 && message.type == MessageType::kPid && fd >= 0 && process->guided) {
    Reap(process->pidfd);  // it has nothing left to do but to end
    close(process->pidfd);
    process->pid = message.sys;
    process->pidfd = fd;
    process->guided = false;
    char go = 'g';
    (void)send(process->sync, &go, 1, MSG_NOSIGNAL);  // when it is gone, the next message says so
    return Progress::kMore;
  }
  if (got == 1 && message.type == MessageType::kEnvironment && !process->released) {
    if (!observer.environment) Describe(failure, 0, "start plan: nobody runs its hooks");
    if (!observer.environment || !observer.environment(observer.context, process->pid, failure))
      return Progress::kFailed;
    char go = 'e';
    send(process->sync, &go, 1, MSG_NOSIGNAL);  // a child that is gone shows in the next message
    return Progress::kMore;
  }
  if (got == 1 && message.type == MessageType::kListener && fd >= 0 && process->released) {
    // Before the exec is waited for: the filter may have asked about that very call.
    if (!observer.listener) Describe(failure, 0, "seccomp: nobody is there to answer notifications");
    bool taken = observer.listener && observer.listener(observer.context, fd, failure);
    close(fd);
    return taken ? Progress::kMore : Progress::kFailed;
  }
  if (fd >= 0) close(fd);
  if (got == 1 && message.type == MessageType::kWarning) {
    size_t used = strlen(process->warnings);
    Text(process->warnings + used, sizeof process->warnings - used) << message.text << "\n";
    return Progress::kMore;
  }
  if (got < 0 && errno == EAGAIN) return Progress::kMore;
  if (got == 0 && process->released) return Progress::kStarted;  // closed by execve
  if (got == 1 && message.type == MessageType::kFailed) {
    Describe(failure, 0, message.text);
    failure->sys = message.sys;
    failure->kind = message.kind;
  } else if (got == 0) {
    Describe(failure, 0, "the process ended while it was set up (killed, or out of memory)");
  } else {
    Describe(failure, got < 0 ? errno : EPROTO, "receive from the process");
  }
  return Progress::kFailed;
}

bool Release(Process* process, Failure* failure) {
  char go = 's';
  ssize_t n;
  do n = send(process->sync, &go, 1, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  process->released = true;
  if (n != 1) Describe(failure, 0, "container not running: it ended before it was started");
  return n == 1;
}

void Discard(Process* process) {
  if (process->pidfd >= 0) {
    PidfdSignal(process->pidfd, SIGKILL);
    close(process->pidfd);
  }
  if (process->sync >= 0) close(process->sync);
  if (process->terminal >= 0) close(process->terminal);
  *process = Process{};
}

bool Create(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio,
            const Options& options, Process* process, Failure* failure) {
  if (!Begin(plan, plan_size, fds, fd_count, stdio, options, process, failure)) return false;
  Progress progress;
  do progress = Continue(process, true, failure, options.observer);
  while (progress == Progress::kMore);
  if (progress == Progress::kReady) return true;
  Abandon(process);
  return false;
}

bool Create(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio, Process* process,
            Failure* failure) {
  return Create(plan, plan_size, fds, fd_count, stdio, Options{}, process, failure);
}

void RunStub(int control) {
  // Everything arrives without close-on-exec, to survive the exec that made us; nothing may survive the next one.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  syscall(SYS_close_range, 3, ~0U, kCloseRangeCloexec);
  struct stat st;
  if (fstat(control, &st) < 0 || st.st_size < static_cast<off_t>(sizeof(Control))) _exit(255);
  void* map = mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ, MAP_PRIVATE, control, 0);
  if (map == MAP_FAILED) _exit(255);
  close(control);
  const Control* header = static_cast<const Control*>(map);
  if (static_cast<size_t>(st.st_size) != PlanOffset(header->fd_count) + header->plan_size) _exit(255);
  Child child;
  child.base = static_cast<const char*>(map) + PlanOffset(header->fd_count);
  child.plan = reinterpret_cast<const Plan*>(child.base);
  child.fds = reinterpret_cast<const int32_t*>(header + 1);
  child.sync = header->sync;
  child.stdio = header->stdio;
  child.target = header->target;
  child.enter = header->enter;
  // What the caller keeps for the process beyond this exec must not be closed with the rest.
  for (uint32_t i = 0; i < child.plan->preserve_fds; ++i) fcntl(3 + static_cast<int>(i), F_SETFD, 0);
  RunChild(child);
}

int SealExecutable(const void* image, size_t size) {
  constexpr unsigned kExec = 0x10;  // MFD_EXEC, 6.3: says so where vm.memfd_noexec asks; unknown before
  int fd = static_cast<int>(syscall(SYS_memfd_create, "berth-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | kExec));
  if (fd < 0 && errno == EINVAL)
    fd = static_cast<int>(syscall(SYS_memfd_create, "berth-init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd < 0) return -1;
  constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  if (write(fd, image, size) == static_cast<ssize_t>(size) && fcntl(fd, F_ADD_SEALS, kSeals) == 0) return fd;
  int err = errno;
  close(fd);
  errno = err;
  return -1;
}

bool Start(Process* process, const Observer& observer, Failure* failure) {
  *failure = Failure{};
  if (process->sync < 0) {
    Describe(failure, EINVAL, "start: already started");
    return false;
  }
  return Started(process, observer, failure);
}
bool Start(Process* process, Failure* failure) { return Start(process, Observer{}, failure); }

bool StartOver(int connection, const Observer& observer, Failure* failure) {
  *failure = Failure{};
  Process process;
  process.sync = connection;
  return Started(&process, observer, failure);
}
bool StartOver(int connection, Failure* failure) { return StartOver(connection, Observer{}, failure); }

bool Exec(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio,
          const Options& options, Process* process, Failure* failure) {
  if (!Create(plan, plan_size, fds, fd_count, stdio, options, process, failure)) return false;
  if (Start(process, failure)) return true;
  Abandon(process);
  return false;
}

bool Exec(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio, Process* process,
          Failure* failure) {
  return Exec(plan, plan_size, fds, fd_count, stdio, Options{}, process, failure);
}

}  // namespace berth::init
