// The way into a user namespace. The kernel lets a process enter one only for itself, and a process that has entered
// has no rights left outside; so a guide, forked from the caller, goes ahead and clones the container's process from
// inside, as a child of the caller. With a new PID namespace there is no shorter way: only children enter that, and it
// must be owned by the user namespace.
#include <linux/filter.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "runtime/init/child.h"
#include "runtime/init/clone.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

const char* NamespaceName(uint64_t flag) {
  switch (flag) {
    case CLONE_NEWPID:
      return "PID";
    case CLONE_NEWNET:
      return "network";
    case CLONE_NEWNS:
      return "mount";
    case CLONE_NEWIPC:
      return "IPC";
    case CLONE_NEWUTS:
      return "UTS";
    case CLONE_NEWUSER:
      return "user";
    case CLONE_NEWCGROUP:
      return "cgroup";
    default:
      return "time";
  }
}

// A procfs of the caller's PID namespace: /proc, or an instance of our own where nothing is mounted. -1 and errno.
int OpenProc(bool* mounted) {
  int proc = static_cast<int>(OpenAt2(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS));
  if (proc >= 0 && FilesystemMagic(proc) == kProcMagic) {
    *mounted = true;
    return proc;
  }
  if (proc >= 0) close(proc);
  *mounted = false;
  int fs = static_cast<int>(FsOpen("proc"));
  if (fs < 0) return -1;
  proc = FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0
             ? -1
             : static_cast<int>(FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  int err = errno;
  close(fs);
  errno = err;
  return proc;
}

// What the kernel allows only to the host's own privileges: a lower score for the OOM killer, higher hard limits.
// Inherited by the process; what fails here is tried again there, and said there.
void SetFromOutside(const Child& child, int proc) {
  const Plan& plan = *child.plan;
  if (plan.flags & kPlanOomScore && proc >= 0) {
    Line<16> score;
    score.text << plan.oom_score_adj;
    int fd = static_cast<int>(OpenAt2(proc, "self/oom_score_adj", O_WRONLY, RESOLVE_BENEATH | RESOLVE_NO_XDEV));
    if (fd >= 0) {
      (void)!write(fd, score.bytes, strlen(score.bytes));
      close(fd);
    }
  }
  const Limit* limits = child.Array<Limit>(plan.rlimits);
  for (uint32_t i = 0; i < plan.rlimits.count; ++i) {
    struct {
      uint64_t soft, hard;
    } now{};
    if (syscall(SYS_prlimit64, 0, limits[i].resource, nullptr, &now) < 0 || now.hard >= limits[i].hard) continue;
    now.hard = limits[i].hard;
    syscall(SYS_prlimit64, 0, limits[i].resource, &now, nullptr);
  }
}

// In a namespace without procfs (the monitor's) a process in a user namespace could mount neither procfs nor sysfs: the
// kernel wants an uncovered instance in sight. They go into a mount namespace of the guide's own.
void ShowFilesystems(const Child& child, int proc) {
  if (syscall(SYS_unshare, CLONE_NEWNS) < 0 || Mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    Fail(child, errno, "make mount namespace");
  int fs = static_cast<int>(FsOpen("tmpfs"));
  int top = fs >= 0 && FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0 ? static_cast<int>(FsMount(fs, 0)) : -1;
  int sys = static_cast<int>(FsOpen("sysfs"));
  int sysfs =
      sys >= 0 && FsConfig(sys, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0 ? static_cast<int>(FsMount(sys, 0)) : -1;
  if (top < 0 || sysfs < 0 || MoveMount(top, "/") < 0 || mkdirat(top, "proc", 0555) < 0 ||
      mkdirat(top, "sys", 0555) < 0)
    Fail(child, errno, "show procfs to the user namespace");
  int at_proc = openat(top, "proc", O_PATH | O_CLOEXEC), at_sys = openat(top, "sys", O_PATH | O_CLOEXEC);
  if (MoveMount(proc, at_proc) < 0 || MoveMount(sysfs, at_sys) < 0)
    Fail(child, errno, "show procfs to the user namespace");
  // As the root: what is stacked on a root would be locked there for whoever comes in from the user namespace.
  if (fchdir(top) < 0 || PivotRoot(".", ".") < 0 || Umount(".", kMntDetach) < 0)
    Fail(child, errno, "show procfs to the user namespace");
  const int done[] = {fs, top, sys, sysfs, at_proc, at_sys};
  for (int fd : done) close(fd);
}

// Those that belong to the host are joined before the host's privileges go, those that the user namespace owns may only
// open after it has been entered (rootless): first all, then what was refused.
void JoinAll(Child& child, int pid_namespace) {
  const Plan& plan = *child.plan;
  const Join* joins = child.Array<Join>(plan.joins);
  uint64_t refused = 0;
  bool pid_refused = pid_namespace >= 0 && syscall(SYS_setns, pid_namespace, CLONE_NEWPID) < 0;
  if (pid_refused && errno != EPERM) {
    if (errno == ESRCH) Fail(child, 0, "container not running");
    Fail(child, errno, "join PID namespace");
  }
  for (uint32_t i = 0; i < plan.joins.count && i < 64; ++i) {
    if (joins[i].flags == CLONE_NEWCGROUP || syscall(SYS_setns, child.Fd(joins[i].fd), joins[i].flags) == 0) continue;
    if (errno != EPERM) Fail(child, errno, "join ", NamespaceName(joins[i].flags), " namespace");
    refused |= 1ULL << i;
  }
  if (syscall(SYS_setns, child.Fd(plan.user_namespace), CLONE_NEWUSER) < 0) Fail(child, errno, "join user namespace");
  if (pid_refused && syscall(SYS_setns, pid_namespace, CLONE_NEWPID) < 0) Fail(child, errno, "join PID namespace");
  for (uint32_t i = 0; i < plan.joins.count && i < 64; ++i)
    if (refused >> i & 1 && syscall(SYS_setns, child.Fd(joins[i].fd), joins[i].flags) < 0)
      Fail(child, errno, "join ", NamespaceName(joins[i].flags), " namespace");
}

}  // namespace

bool NeedsGuide(const Plan& plan) {
  return plan.user_namespace >= 0 || (plan.kind == PlanKind::kExec && plan.target_flags & CLONE_NEWUSER);
}

bool HasOomScore(Child& child, int score) {
  Line<64> path;
  path.text << static_cast<int>(syscall(SYS_getpid)) << "/oom_score_adj";
  int fd = static_cast<int>(OpenAt2(ProcOf(child), path.bytes, O_RDONLY, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH));
  if (fd < 0) return false;
  char have[16] = {};
  Line<16> want;
  want.text << score << "\n";
  bool same = read(fd, have, sizeof have - 1) > 0 && strcmp(have, want.bytes) == 0;
  close(fd);
  return same;
}

// A guide leaves the cgroup namespace: from inside it could not clone into a cgroup of the host (nsdelegate).
void JoinNamespaces(Child& child) {
  const Plan& plan = *child.plan;
  uint32_t flags = NeedsGuide(plan) ? plan.target_flags & static_cast<uint32_t>(CLONE_NEWCGROUP) : plan.target_flags;
  if (plan.kind == PlanKind::kExec && flags && syscall(SYS_setns, child.target, flags) < 0)
    Fail(child, errno, "join the container's namespaces");
  const Join* joins = child.Array<Join>(plan.joins);
  for (uint32_t i = 0; i < plan.joins.count; ++i)
    if ((!NeedsGuide(plan) || joins[i].flags == CLONE_NEWCGROUP) &&
        syscall(SYS_setns, child.Fd(joins[i].fd), joins[i].flags) < 0)
      Fail(child, errno, "join ", NamespaceName(joins[i].flags), " namespace");
}

void GuideThroughUserNamespace(Child& child, int pid_namespace, size_t fd_count, size_t plan_size, int stub) {
  const Plan& plan = *child.plan;
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NAME, "berth:user", 0, 0, 0);
  bool mounted;
  int proc = OpenProc(&mounted);
  SetFromOutside(child, proc);
  if (plan.kind == PlanKind::kExec) {
    // One call: the kernel checks each with the old privileges and those of the user namespace.
    int flags = static_cast<int>(plan.target_flags & ~static_cast<uint32_t>(CLONE_NEWCGROUP));
    if (syscall(SYS_setns, child.target, flags) < 0) {
      if (errno == ESRCH) Fail(child, 0, "container not running");
      Fail(child, errno, "join the container's namespaces");
    }
  } else {
    if (!mounted && proc >= 0) ShowFilesystems(child, proc);
    JoinAll(child, pid_namespace);
  }
  int pidfd = -1;
  CloneArgs args = PrepareClone(CloneFlags(plan) | CLONE_PARENT, child.Fd(plan.cgroup2), &pidfd);
  args.exit_signal = 0;  // CLONE_PARENT: that of the guide
  Message message;
  message.type = MessageType::kPid;
  long pid = StartChild(child, fd_count, plan_size, stub, -1, &args);
  if (pid < 0) {
    if (errno == ENOMEM && pid_namespace >= 0) Fail(child, 0, "container not running");
    Fail(child, errno, "clone into new namespaces");
  }
  message.sys = static_cast<int32_t>(pid);
  Send(child, message, pidfd);
  _exit(0);
}

}  // namespace berth::init
