// Loads the seccomp filter. A filter that notifies has a descriptor which must reach our parent, while the filter may
// already forbid or ask about the very calls that would send it: so a second thread, started before the filter and
// outside it, sends. The exec ends that thread, so no process and no zombie is left in the container.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"

namespace berth::init {
namespace {

constexpr uint64_t kSysAdmin = 1ULL << CAP_SYS_ADMIN;
constexpr size_t kStack = 32 << 10;

// Between the two threads: the main one makes no system call between the filter and the exec.
struct Handover {
  const Child* child = nullptr;
  int listener = -1;  // set by the main thread: descriptor, or -2 when there is none
  int sent = 0;       // set by the other
};

[[noreturn]] void SendListener(void* argument) {
  Handover& h = *static_cast<Handover*>(argument);
  int fd;
  while ((fd = __atomic_load_n(&h.listener, __ATOMIC_ACQUIRE)) == -1) {
    timespec pause{0, 20000};
    syscall(SYS_nanosleep, &pause, nullptr);
  }
  if (fd >= 0) {
    Message message;
    message.type = MessageType::kListener;
    Send(*h.child, message, fd);
  }
  __atomic_store_n(&h.sent, 1, __ATOMIC_RELEASE);
  for (;;) syscall(SYS_exit, 0);
}

// clone(2) of a thread onto `stack`, by hand: the C libraries either have no such call or want a thread of their own.
// The new thread shares the caller's thread-local storage, which the caller leaves alone meanwhile.
[[gnu::noinline]] long SpawnThread(void* stack, void (*entry)(void*), void* argument) {
  constexpr unsigned long kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  void** top = static_cast<void**>(stack);
  *--top = argument;
  *--top = reinterpret_cast<void*>(entry);
#if defined(__x86_64__)
  long result = SYS_clone;
  register long parent asm("rdx") = 0;
  register long tid asm("r10") = 0;
  register long tls asm("r8") = 0;
  asm volatile(
      "syscall\n"
      "testq %%rax, %%rax\n"
      "jnz 1f\n"
      "xorl %%ebp, %%ebp\n"
      "popq %%rax\n"
      "popq %%rdi\n"
      "callq *%%rax\n"
      "hlt\n"
      "1:\n"
      : "+a"(result)
      : "D"(kFlags), "S"(top), "r"(parent), "r"(tid), "r"(tls)
      : "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register long number asm("x8") = SYS_clone;
  register long result asm("x0") = static_cast<long>(kFlags);
  register void* sp asm("x1") = top;
  register long parent asm("x2") = 0;
  register long tls asm("x3") = 0;
  register long tid asm("x4") = 0;
  asm volatile(
      "svc 0\n"
      "cbnz x0, 1f\n"
      "mov x29, #0\n"
      "ldp x9, x0, [sp], #16\n"
      "blr x9\n"
      "brk #1\n"
      "1:\n"
      : "+r"(result)
      : "r"(number), "r"(sp), "r"(parent), "r"(tls), "r"(tid)
      : "x9", "x30", "memory");
#else
#error "start a thread for this architecture"
#endif
  if (result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void LoadFilter(Child& child) {
  const Plan& plan = *child.plan;
  if (!plan.seccomp.count) return;
  if ((plan.flags & kPlanCapabilities) && !(plan.flags & kPlanNoNewPrivileges)) {
    // Raised for the filter alone, and not lowered again, which the filter could forbid: the exec computes its sets
    // from the bounding, inheritable and ambient ones only (capabilities(7)).
    uint64_t own = OwnPermitted(child);
    uint64_t inheritable = plan.capabilities.inheritable & own;
    uint64_t effective = (plan.capabilities.effective & plan.capabilities.permitted & own) | (kSysAdmin & own);
    __user_cap_data_struct data[2];
    for (int i = 0; i < 2; ++i) {
      data[i].effective = static_cast<uint32_t>(effective >> (32 * i));
      data[i].permitted = static_cast<uint32_t>(own >> (32 * i));
      data[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
    }
    if (CapSet(data) < 0) Fail(child, errno, "raise CAP_SYS_ADMIN for the seccomp filter");
  }
  sock_fprog program{static_cast<unsigned short>(plan.seccomp.count),
                     const_cast<sock_filter*>(child.Array<sock_filter>(plan.seccomp))};
  if (!(plan.seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)) {
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, plan.seccomp_flags, &program) < 0)
      Fail(child, errno, "load seccomp filter");
    return;
  }
  Handover handover;
  handover.child = &child;
  char* stack =
      static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0));
  if (stack == MAP_FAILED || SpawnThread(stack + kStack, SendListener, &handover) < 0)
    Fail(child, errno, "start the thread that hands over the seccomp listener");
  long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, plan.seccomp_flags, &program);
  int err = errno;
  __atomic_store_n(&handover.listener, listener < 0 ? -2 : static_cast<int>(listener), __ATOMIC_RELEASE);
  while (!__atomic_load_n(&handover.sent, __ATOMIC_ACQUIRE)) Pause();
  if (listener < 0) Fail(child, err, "load seccomp filter");
}

}  // namespace berth::init
