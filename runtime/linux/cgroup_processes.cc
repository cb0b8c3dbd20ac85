// The processes of a group: who they are, signals to all of them, stopping and waiting for their end.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

void CollectProcesses(const std::string& dir, std::vector<pid_t>* pids) {
  auto text = ReadControl(dir + "/cgroup.procs", 16 << 20);
  if (text)
    for (const std::string& line : Words(*text, '\n'))
      if (auto n = Number(line); n && *n > 0) pids->push_back(static_cast<pid_t>(*n));
  for (const std::string& child : Children(dir)) CollectProcesses(dir + "/" + child, pids);
}

// Where membership is read: version 2 holds every process of ours when it is mounted.
std::string MainDir(const Layout& layout, const Group& group) {
  if (!layout.v2.empty()) return layout.v2 + group.path;
  if (const Hierarchy* h = layout.V1("freezer")) return h->mount + group.path;
  return layout.v1.empty() ? std::string() : layout.v1.front().mount + group.path;
}

}  // namespace

Result<std::vector<pid_t>> Processes(const Layout& layout, const Group& group) {
  std::vector<pid_t> pids;
  CollectProcesses(MainDir(layout, group), &pids);
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

Result<void> SignalAll(const Layout& layout, const Group& group, int signal) {
  // By pidfd, and only what is still listed once it is held: a number that is used again meanwhile is not hit.
  std::vector<std::pair<pid_t, unique_fd>> held;
  for (pid_t pid : TRY(Processes(layout, group))) {
    unique_fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (fd)
      held.emplace_back(pid, std::move(fd));
    else if (errno != ESRCH && errno != EINVAL)
      return SysErr("open process {}", pid);
  }
  if (held.empty()) return {};
  std::vector<pid_t> still = TRY(Processes(layout, group));
  for (const auto& [pid, fd] : held)
    if (std::binary_search(still.begin(), still.end(), pid) &&
        ::syscall(SYS_pidfd_send_signal, fd.get(), signal, nullptr, 0) < 0 && errno != ESRCH)
      return SysErr("signal {} to process {}", signal, pid);
  return {};
}

Result<void> KillAll(const Layout& layout, const Group& group) {
  if (!layout.v2.empty()) {
    auto killed = WriteControl(layout.v2 + group.path + "/cgroup.kill", "1");
    if (killed) return {};
    if (killed.error().sys == ENOENT && !Exists(layout.v2 + group.path)) return {};
    // Kernels before 5.14 have no cgroup.kill: below.
  }
  auto frozen = Freeze(layout, group, true, Deadline::After(std::chrono::milliseconds(500)));
  Result<void> last = SignalAll(layout, group, SIGKILL);
  if (frozen) (void)Freeze(layout, group, false, Deadline::After(std::chrono::milliseconds(500)));
  // Without a freezer, what was forked meanwhile shows up in the next reading.
  for (int round = 0; last && !frozen && round < 20; ++round) {
    if (TRY(Processes(layout, group)).empty()) break;
    last = SignalAll(layout, group, SIGKILL);
  }
  return last;
}

Result<void> WaitEmpty(const Layout& layout, const Group& group, const Deadline& until) {
  if (!layout.v2.empty()) {
    auto events = Open(layout.v2 + group.path + "/cgroup.events", O_RDONLY);
    if (!events) return {};
    for (;;) {
      char text[256];
      ssize_t n = ::pread(events->get(), text, sizeof text, 0);
      if (n < 0) return {};  // ENODEV: the group is gone
      if (Keyed({text, static_cast<size_t>(n)}, "populated").value_or(0) == 0) return {};
      TRY(until.WaitFor(events->get(), POLLPRI, "the processes of a cgroup to end"));
    }
  }
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    if (TRY(Processes(layout, group)).empty()) return {};
    TRY(until.Sleep(pause, "the processes of a cgroup to end"));
    pause = std::min(pause * 2, std::chrono::milliseconds(20));
  }
}

Result<void> Freeze(const Layout& layout, const Group& group, bool frozen, const Deadline& until) {
  const char* waits = frozen ? "a cgroup to freeze" : "a cgroup to thaw";
  if (!layout.v2.empty()) {
    const std::string dir = layout.v2 + group.path, file = dir + "/cgroup.freeze";
    auto told = WriteControl(file, frozen ? "1" : "0");
    if (told) {
      auto wait = [&]() -> Result<void> {
        unique_fd events = TRY(Open(dir + "/cgroup.events", O_RDONLY));
        for (;;) {
          char text[256];
          ssize_t n = ::pread(events.get(), text, sizeof text, 0);
          if (n < 0) return SysErr("read {}/cgroup.events", dir);
          if (Keyed({text, static_cast<size_t>(n)}, "frozen").value_or(0) == (frozen ? 1U : 0U)) return {};
          TRY(until.WaitFor(events.get(), POLLPRI, waits));
        }
      };
      auto done = wait();
      if (!done && frozen) (void)WriteControl(file, "0");
      return done;
    }
    // Kernels before 5.2 have no cgroup.freeze: version 1, if it is there.
    if (told.error().sys != ENOENT) return told;
    if (!Exists(dir)) return Err(Code::kNotFound, "cgroup {}: not there", dir);
  }
  auto dir = V1Dir(layout, "freezer", group);
  if (!dir) return Err(Code::kFailedPrecondition, "this host has no freezer cgroup");
  if (!Exists(*dir)) return Err(Code::kNotFound, "cgroup {}: not there", *dir);
  const std::string file = *dir + "/freezer.state";
  std::string_view want = frozen ? "FROZEN" : "THAWED";
  auto pause = std::chrono::milliseconds(1);
  for (int round = 1;; ++round) {
    // Written again each round: what was forked during FREEZING can hold it up (kernel documentation,
    // freezer-subsystem).
    TRY(WriteControl(file, want));
    if (Trim(TRY(ReadControl(file))) == want) return {};
    // A group that forks faster than it is frozen has to start over from a state of its own.
    if (frozen && round % 20 == 0) TRY(WriteControl(file, "THAWED"));
    if (auto slept = until.Sleep(pause, waits); !slept) {
      if (frozen) (void)WriteControl(file, "THAWED");
      return slept;
    }
    pause = std::min(pause * 2, std::chrono::milliseconds(10));
  }
}

Result<bool> IsFrozen(const Layout& layout, const Group& group) {
  if (!layout.v2.empty()) {
    auto text = ReadControl(layout.v2 + group.path + "/cgroup.freeze");
    if (text) return text->starts_with("1");
    if (text.error().sys != ENOENT) return std::unexpected(std::move(text).error());
  }
  if (auto dir = V1Dir(layout, "freezer", group))
    return !TRY(ReadControl(*dir + "/freezer.state")).starts_with("THAWED");
  return false;
}

}  // namespace berth::runtime::cgroup
