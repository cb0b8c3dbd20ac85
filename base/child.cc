#include "base/child.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <condition_variable>
#include <thread>

#include "base/atomic_file.h"
#include "base/descriptor_limit.h"
#include "base/log.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

// The child borrows our memory until it execs (CLONE_VM | CLONE_VFORK): it must neither allocate nor touch what a
// sanitizer keeps per thread, hence raw system calls and no instrumentation.
// __clone is clone, less ThreadSanitizer's wrapper, which takes the child for one with a copy of the memory.
extern "C" int __clone(int (*)(void*), void* stack, int flags, void* argument, ...);
#define BERTH_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

namespace berth {
namespace {

constexpr std::chrono::seconds kDieTime(2);  // for a killed process to be gone
constexpr size_t kStackSize = 64 << 10;

struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

struct Placement {
  int source, target, scratch;
};

struct Plan {
  const char* path;
  const char* directory;   // null: none
  char* const* argv;
  char* const* envp;
  Placement* placements;
  size_t count;
  int above;               // every target is below
  bool die_with_parent;
  long parent;
  const rlimit* descriptors;  // null: inherited
  int error = 0;           // written by the child
  const char* step = "";
};

BERTH_IN_CHILD int ChildMain(void* argument) {
  auto* plan = static_cast<Plan*>(argument);
  const auto fail = [&](const char* step, int error) __attribute__((no_sanitize("address", "thread", "undefined"))) {
    plan->step = step;
    plan->error = error;
    ::syscall(SYS_exit_group, 127);
  };
  // Our handlers must not run in the child; ignored signals would stay ignored over exec.
  KernelSigaction deflt{};
  for (int signal = 1; signal <= 64; ++signal) ::syscall(SYS_rt_sigaction, signal, &deflt, nullptr, 8);
  const unsigned long none = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8);
  ::syscall(SYS_setsid);  // a process group of its own, to be killed as one, and no terminal
  if (plan->die_with_parent) {
    if (::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) fail("set parent death signal", errno);
    if (::syscall(SYS_getppid) != plan->parent) ::syscall(SYS_exit_group, 127);  // it died in between
  }
  if (plan->descriptors != nullptr && ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, plan->descriptors, nullptr) < 0)
    fail("set the limit of open descriptors", errno);
  for (size_t i = 0; i < plan->count; ++i) {
    Placement& p = plan->placements[i];
    p.scratch = static_cast<int>(::syscall(SYS_fcntl, p.source, F_DUPFD_CLOEXEC, plan->above));
    if (p.scratch < 0) fail("duplicate descriptor", errno);
  }
  if (::syscall(SYS_close_range, 0, ~0U, CLOSE_RANGE_CLOEXEC) < 0) fail("close_range", errno);
  for (size_t i = 0; i < plan->count; ++i)
    if (::syscall(SYS_dup3, plan->placements[i].scratch, plan->placements[i].target, 0) < 0) fail("place descriptor", errno);
  if (plan->directory && ::syscall(SYS_chdir, plan->directory) < 0) fail("enter working directory", errno);
  ::syscall(SYS_execve, plan->path, plan->argv, plan->envp);
  fail("execute", errno);
  return 127;
}

Result<std::string> FindProgram(const Command& command) {
  if (!command.path.empty() && !command.argv.empty()) return command.path;
  if (command.argv.empty() || command.argv[0].empty()) return Err(Code::kInvalidArgument, "run: no program is named");
  const std::string& name = command.argv[0];
  if (name.find('/') != std::string::npos) return name;
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  if (const char* ours = ::getenv("PATH")) path = ours;
  for (const std::string& entry : command.env)
    if (entry.starts_with("PATH=")) path = entry.substr(5);
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find(':', at), path.size());
    const std::string candidate = path.substr(at, end - at) + "/" + name;
    struct stat st{};
    if (candidate[0] == '/' && ::stat(candidate.c_str(), &st) == 0 && S_ISREG(st.st_mode) && ::access(candidate.c_str(), X_OK) == 0)
      return candidate;
    at = end + 1;
  }
  return Err(Code::kNotFound, "run {}: not in PATH ({})", name, path);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

Result<Spawned> Start(const Command& command, bool die_with_parent) {
  const std::string path = TRY(FindProgram(command));
  const std::vector<char*> argv = Pointers(command.argv);
  const std::vector<char*> envp = Pointers(command.env);

  std::vector<Placement> placements;
  int above = 3;
  for (const auto& [source, target] : command.inherit) {
    if (source < 0 || target < 0 || target >= 1 << 16)
      return Err(Code::kInternal, "run {}: cannot place descriptor {} at {}", path, source, target);
    placements.push_back({source, target, -1});
    above = std::max(above, target + 1);
  }
  unique_fd null;
  for (int target = 0; target < 3; ++target) {
    if (std::ranges::any_of(command.inherit, [&](const auto& p) { return p.second == target; })) continue;
    if (!null) null = TRY(Open("/dev/null", O_RDWR));
    placements.push_back({null.get(), target, -1});
  }

  void* const stack = ::mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return SysErr("run {}: stack", path);
  Plan plan{path.c_str(), command.directory.empty() ? nullptr : command.directory.c_str(), argv.data(), envp.data(), placements.data(), placements.size(), above, die_with_parent, ::getpid(),
            ChildDescriptorLimit() ? &*ChildDescriptorLimit() : nullptr};
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  // With CLONE_VFORK we stand still until the child has exec'ed or ended, so `plan` and the stack outlive its use of them.
  const int pid = ::__clone(ChildMain, static_cast<char*>(stack) + kStackSize,
                            CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &pidfd);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::munmap(stack, kStackSize);
  if (pid < 0) return SysErrOf(error, "run {}", path);

  Spawned child{pid, unique_fd(pidfd)};
  if (plan.error == 0) return child;
  siginfo_t info;
  while (::waitid(static_cast<idtype_t>(P_PIDFD), pidfd, &info, WEXITED) < 0 && errno == EINTR) {}
  return SysErrOf(plan.error, "run {}: {}", path, plan.step);
}

// PR_SET_PDEATHSIG fires when the thread that started the child ends, so such children are started by a thread that
// never does.
class LastingThread {
 public:
  Result<Spawned> Start(const Command& command) {
    std::lock_guard one(callers_);
    std::unique_lock lock(mutex_);
    if (!running_) {
      try {
        std::thread([this] { Loop(); }).detach();
      } catch (const std::system_error& e) {
        return SysErrOf(e.code().value(), "run {}: start a thread", command.argv.empty() ? "" : command.argv[0]);
      }
      running_ = true;
    }
    command_ = &command;
    answer_.reset();
    changed_.notify_all();
    changed_.wait(lock, [&] { return answer_.has_value(); });
    return std::move(*answer_);
  }

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return command_ != nullptr; });
      answer_ = berth::Start(*std::exchange(command_, nullptr), true);
      changed_.notify_all();
    }
  }

  std::mutex callers_, mutex_;
  std::condition_variable changed_;
  bool running_ = false;
  const Command* command_ = nullptr;
  std::optional<Result<Spawned>> answer_;
};

Result<unique_fd> InputFile(const std::string& input) {
  unique_fd file(::memfd_create("berth-input", MFD_CLOEXEC));
  if (!file) return SysErr("make a memory file for a child's input");
  TRY(WriteAll(file.get(), input));
  if (::lseek(file.get(), 0, SEEK_SET) < 0) return SysErr("rewind a child's input");
  return file;
}

struct Stream {
  unique_fd end;
  std::string* to;

  // Reads what is there; closes at the end of the stream.
  void Drain(size_t limit, bool& truncated) {
    char buffer[16 << 10];
    while (end) {
      const ssize_t n = ::read(end.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return end.reset();
      const size_t room = limit - std::min(limit, to->size());
      to->append(buffer, std::min<size_t>(n, room));
      truncated |= static_cast<size_t>(n) > room;
    }
  }
};

Result<int> Reap(const Spawned& child) {
  siginfo_t info{};
  int rc;
  do rc = ::waitid(static_cast<idtype_t>(P_PIDFD), child.pidfd.get(), &info, WEXITED);
  while (rc < 0 && errno == EINTR);
  if (rc < 0) return SysErr("wait for process {}", child.pid);
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

void KillGroup(const Spawned& child, const std::string& name) {
  ::kill(-child.pid, SIGKILL);  // not reaped yet, so the number is still its own
  if (Deadline::After(kDieTime).WaitFor(child.pidfd.get(), POLLIN, "a killed process")) {
    (void)Reap(child);
    return;
  }
  log::Warn("child.unkillable", {{"pid", child.pid}, {"program", name}});
}

}  // namespace

Result<Spawned> Spawn(const Command& command, bool die_with_parent) {
  Command with_input = command;
  unique_fd input;
  if (!command.input.empty()) {
    input = TRY(InputFile(command.input));
    with_input.inherit.emplace_back(input.get(), 0);
  }
  if (!die_with_parent) return Start(with_input, false);
  static LastingThread& thread = *new LastingThread;  // never destroyed: its thread runs until the process ends
  return thread.Start(with_input);
}

Result<int> WaitExit(const Spawned& child, const Deadline& until) {
  TRY(until.WaitFor(child.pidfd.get(), POLLIN, fmt::format("the end of process {}", child.pid)));
  return Reap(child);
}

Result<CommandOutput> Run(const Command& command, const Deadline& until) {
  CommandOutput output;
  Stream streams[2] = {{{}, &output.out}, {{}, &output.err}};
  Command full = command;
  unique_fd ends[2];
  for (int i = 0; i < 2; ++i) {
    auto [read_end, write_end] = TRY(Pipe());
    if (::fcntl(read_end.get(), F_SETFL, O_NONBLOCK) < 0) return SysErr("make a pipe non-blocking");
    streams[i].end = std::move(read_end);
    ends[i] = std::move(write_end);
    full.inherit.emplace_back(ends[i].get(), i + 1);
  }
  const Spawned child = TRY(Spawn(full));
  for (unique_fd& end : ends) end.reset();

  const std::string& name = command.argv[0];
  for (;;) {
    pollfd fds[4] = {{child.pidfd.get(), POLLIN, 0},
                     {until.cancel_fd(), POLLIN, 0},
                     {streams[0].end.get(), POLLIN, 0},
                     {streams[1].end.get(), POLLIN, 0}};
    int timeout = until.poll_timeout_ms();
    if (until.cancel_fd() < 0 && (timeout < 0 || timeout > 100)) timeout = 100;  // a token may lack its descriptor
    const int n = ::poll(fds, 4, timeout);
    if (n < 0 && errno != EINTR) {
      const int error = errno;
      KillGroup(child, name);
      return SysErrOf(error, "run {}: poll", name);
    }
    const bool ended = n > 0 && fds[0].revents != 0;
    if (n > 0)
      for (Stream& stream : streams) stream.Drain(command.output_limit, output.truncated);
    if (ended) break;
    if (auto alive = until.Check(name); !alive) {
      KillGroup(child, name);
      return std::unexpected(alive.error());
    }
  }
  // A process it left behind may hold the streams open; what the program itself wrote is in the pipes already.
  for (Stream& stream : streams) stream.Drain(command.output_limit, output.truncated);
  output.exit_code = TRY(Reap(child));
  return output;
}

}  // namespace berth
