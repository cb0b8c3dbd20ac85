#include "runtime/init/clone.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

// Code that runs while a child shares the caller's memory is not instrumented: the marks that a sanitizer sets for the
// child's frames would stay behind in the caller's.
#define BERTH_UNMARKED gnu::no_sanitize("address", "undefined", "thread")

// In place, not through the C library's syscall(): a vfork-like child that returned from a function would leave the
// parent a return address that it has overwritten meanwhile.
[[gnu::always_inline, BERTH_UNMARKED]] inline long CloneHere(const CloneArgs* args) {
#if defined(__x86_64__)
  register long result asm("rax") = SYS_clone3;
  register const void* a asm("rdi") = args;
  register size_t b asm("rsi") = sizeof *args;
  asm volatile("syscall" : "+r"(result) : "r"(a), "r"(b) : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long number asm("x8") = SYS_clone3;
  register long result asm("x0") = reinterpret_cast<long>(args);
  register size_t b asm("x1") = sizeof *args;
  asm volatile("svc 0" : "+r"(result) : "r"(number), "r"(b) : "memory");
  return result;
#else
#error "clone3 in place for this architecture"
#endif
}

// Capabilities of a process that is not root of its user namespace go at the next exec unless they are ambient.
[[gnu::noinline, BERTH_UNMARKED]] void KeepCapabilitiesOverExec() {
  __user_cap_data_struct data[2] = {};
  if (CapGet(data) < 0) return;
  for (__user_cap_data_struct& half : data) half.inheritable = half.effective = half.permitted;
  CapSet(data);
  for (unsigned long cap = 0; cap < 64; ++cap)
    if (data[cap / 32].permitted >> (cap % 32) & 1) syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

// Child of a vfork-like clone: only system calls until execveat, in the caller's memory.
[[noreturn, gnu::noinline, BERTH_UNMARKED]] void BecomeStub(const Plan* plan, int stub, int control,
                                                            const Control* header, const int* fds, char* const* argv) {
  if (plan->flags & kPlanUserNamespace) {
    BecomeUserRoot(plan->uid, plan->gid);
    if (syscall(SYS_geteuid) != 0) KeepCapabilitiesOverExec();
  }
  syscall(SYS_fcntl, control, F_SETFD, 0);
  syscall(SYS_fcntl, header->sync, F_SETFD, 0);
  syscall(SYS_fcntl, header->target, F_SETFD, 0);
  for (uint32_t i = 0; i < header->fd_count; ++i) syscall(SYS_fcntl, fds[i], F_SETFD, 0);
  syscall(SYS_execveat, stub, "", argv, argv + 2, kEmpty);  // the null that ends argv is the empty environment
  for (;;) syscall(SYS_exit_group, 255);
}

[[gnu::noinline, BERTH_UNMARKED]] long SpawnStub(const Plan* plan, CloneArgs* args, int stub, int control,
                                                 const Control* header, const int* fds, char* const* argv) {
  args->flags |= CLONE_VM | CLONE_VFORK;
  long r = CloneHere(args);
  if (r == 0) BecomeStub(plan, stub, control, header, fds, argv);
  if (r < 0) {
    errno = static_cast<int>(-r);
    return -1;
  }
  return r;
}

// The memfd that berth-init maps. -1 and errno.
int WriteControl(const Control& header, const int* fds, const void* plan) {
  int fd = static_cast<int>(syscall(SYS_memfd_create, "berth-plan", MFD_CLOEXEC));
  if (fd < 0) return -1;
  char padding[8] = {};
  size_t used = sizeof header + header.fd_count * sizeof(int32_t);
  iovec parts[] = {{const_cast<Control*>(&header), sizeof header},
                   {const_cast<int*>(fds), header.fd_count * sizeof(int32_t)},
                   {padding, PlanOffset(header.fd_count) - used},
                   {const_cast<void*>(plan), header.plan_size}};
  ssize_t want = 0;
  for (const iovec& part : parts) want += static_cast<ssize_t>(part.iov_len);
  if (writev(fd, parts, 4) != want) {
    int err = errno ? errno : EIO;
    close(fd);
    errno = err;
    return -1;
  }
  return fd;
}

}  // namespace

CloneArgs PrepareClone(uint64_t flags, int cgroup, int* pidfd) {
  CloneArgs args;
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  if (cgroup >= 0) {
    args.flags |= kCloneIntoCgroup;
    args.cgroup = static_cast<uint64_t>(cgroup);
  }
  return args;
}

long Fork(const CloneArgs* args) { return syscall(SYS_clone3, args, sizeof *args); }

[[gnu::noinline, BERTH_UNMARKED]] void BecomeUserRoot(uint32_t uid, uint32_t gid) {
  syscall(SYS_setgroups, 0, nullptr);  // not allowed where setgroups is denied: then they stay, as strangers
  if (syscall(SYS_setresgid, 0, 0, 0) < 0) syscall(SYS_setresgid, gid, gid, gid);
  if (syscall(SYS_setresuid, 0, 0, 0) < 0) syscall(SYS_setresuid, uid, uid, uid);
}

long StartChild(Child& child, size_t fd_count, size_t plan_size, int stub, int parent_end, CloneArgs* args) {
  if (stub < 0) {
    long pid = Fork(args);
    if (pid != 0) return pid;
    close(parent_end);
    RunChild(child);
  }
  Control header{static_cast<uint32_t>(fd_count), static_cast<uint32_t>(plan_size), child.sync, child.target,
                 child.stdio, child.enter};
  int control = WriteControl(header, child.fds, child.base);
  if (control < 0) return -1;
  char name[] = "berth-init", number[16];
  Text(number, sizeof number) << control;
  char* const argv[] = {name, number, nullptr};
  long pid = SpawnStub(child.plan, args, stub, control, &header, child.fds, argv);
  int err = errno;
  close(control);
  errno = err;
  return pid;
}

}  // namespace berth::init
