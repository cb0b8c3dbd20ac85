// Hooks that run in the container's namespaces: the child is what is in them, so it runs them.
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

int Memory(const Child& child, const char* name) {
  int fd = static_cast<int>(syscall(SYS_memfd_create, name, MFD_CLOEXEC));
  if (fd < 0) Fail(child, errno, "run hooks: memfd");
  return fd;
}

void Put(const Child& child, int fd, const char* text) {
  for (size_t left = strlen(text); left;) {
    ssize_t n = write(fd, text, left);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) Fail(child, errno, "run hooks: write the state");
    text += n;
    left -= static_cast<size_t>(n);
  }
}

// What the hook reads: in memory, so that one that does not read cannot stop us.
int StateOf(const Child& child, const char* status) {
  Line<24> pid;
  pid.text << static_cast<int>(syscall(SYS_getpid));  // as the container's PID namespace counts
  int fd = Memory(child, "berth-state");
  Put(child, fd, child.String(child.plan->state_head));
  Put(child, fd, status);
  Put(child, fd, "\",\"pid\":");
  Put(child, fd, pid.bytes);
  Put(child, fd, child.String(child.plan->state_tail));
  return fd;
}

[[noreturn]] void BecomeHook(const Child& child, const Hook& hook, int state, int output, bool in_host, char** argv,
                             char** envp) {
  const char* path = child.String(hook.path);
  auto give_up = [&](const char* what) {
    Line<400> line;
    line.text << what << ": " << strerror(errno);
    [[maybe_unused]] ssize_t n = write(output, line.bytes, strlen(line.bytes));
    _exit(127);
  };
  syscall(SYS_setpgid, 0, 0);  // to be ended with what it has started
  if (in_host && chdir(child.plan->hook_dir ? child.String(child.plan->hook_dir) : "/") < 0 && chdir("/") < 0)
    give_up("enter a directory");
  // Descriptors above 2 would lead out of the container: CVE-2024-21626.
  state = fcntl(state, F_DUPFD_CLOEXEC, 3);
  output = fcntl(output, F_DUPFD_CLOEXEC, 3);
  if (state < 0 || output < 0 || dup2(state, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
    give_up("place standard streams");
  if (syscall(SYS_close_range, 3, ~0U, kCloseRangeCloexec) < 0) give_up("close descriptors");
  umask(022);
  uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
  syscall(SYS_execve, path, argv, envp);
  give_up("execute");
  _exit(127);
}

uint64_t Milliseconds() {
  timespec now{};
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

// False: it did not end within its time.
bool Ended(int pidfd, uint32_t seconds) {
  uint64_t until = Milliseconds() + uint64_t{seconds} * 1000;
  for (;;) {
    uint64_t now = Milliseconds();
    uint64_t left = now < until ? until - now : 0;
    if (left > 1 << 30) left = 1 << 30;
    pollfd waiting{pidfd, POLLIN, 0};
    int ready = poll(&waiting, 1, seconds ? static_cast<int>(left) : -1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // waitid will tell
    if (ready == 0 && Milliseconds() >= until) return false;
  }
}

void RunHook(const Child& child, const Hook& hook, uint32_t number, int state, bool in_host, const char* what) {
  const char* path = child.String(hook.path);
  int output = Memory(child, "berth-hook");
  char** argv = Pointers(child, hook.args);
  char** envp = Pointers(child, hook.env);
  if (hook.args.count == 0) {
    argv[0] = const_cast<char*>(path);
    argv[1] = nullptr;
  }
  lseek(state, 0, SEEK_SET);
  int pidfd = -1;
  long pid = ForkChild(&pidfd);
  if (pid < 0) Fail(child, errno, "run hook ", path);
  if (pid == 0) BecomeHook(child, hook, state, output, in_host, argv, envp);
  bool ended = Ended(pidfd, hook.timeout);
  if (!ended) {
    kill(static_cast<pid_t>(-pid), SIGKILL);
    PidfdSignal(pidfd, SIGKILL);
  }
  siginfo_t info{};
  while (waitid(static_cast<idtype_t>(3) /* P_PIDFD */, static_cast<id_t>(pidfd), &info, WEXITED | __WALL) < 0)
    if (errno != EINTR) Fail(child, errno, "wait for hook ", path);
  close(pidfd);
  if (ended && info.si_code == CLD_EXITED && info.si_status == 0) {
    close(output);
    return;
  }
  Line<160> name;
  name.text << what << " hook #" << number << " (" << path << "): ";
  Line<160> why;
  if (!ended) {
    why.text << "not done within its timeout of " << hook.timeout << " s";
  } else {
    why.text << (info.si_code == CLD_EXITED ? "exit status " : "ended by signal ") << info.si_status;
    char said[100];
    ssize_t n = pread(output, said, sizeof said - 1, 0);
    while (n > 0 && (said[n - 1] == '\n' || said[n - 1] == ' ')) --n;
    if (n > 0) {
      said[n] = 0;
      why.text << ": " << said;
    }
  }
  Fail(child, 0, name.bytes, why.bytes, "", "", 3);
}

}  // namespace

void RunHooks(Child& child, Slice hooks, const char* status, bool in_host, const char* what) {
  if (!hooks.count) return;
  int state = StateOf(child, status);
  const Hook* list = child.Array<Hook>(hooks);
  for (uint32_t i = 0; i < hooks.count; ++i) RunHook(child, list[i], i, state, in_host, what);
  close(state);
}

}  // namespace berth::init
