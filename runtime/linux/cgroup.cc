#include "runtime/linux/cgroup.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <thread>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

std::vector<std::string> Words(std::string_view text, char separator = ' ') {
  std::vector<std::string> words;
  while (!text.empty()) {
    std::string_view word = text.substr(0, text.find(separator));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    word = Trim(word);
    if (!word.empty()) words.emplace_back(word);
  }
  return words;
}

// Version 2 controllers that containers use; enabling more makes every mkdir dearer.
constexpr std::string_view kWanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};

Result<void> CheckPath(const std::string& path) {
  bool clean = path.size() > 1 && path[0] == '/' && path.back() != '/' && path.size() < 3000;
  for (const std::string& part : Words(path, '/'))
    if (part == "." || part == "..") clean = false;
  if (clean && path.find("//") != std::string::npos) clean = false;
  if (clean && (path.find('\n') != std::string::npos || path.find('\0') != std::string::npos)) clean = false;
  if (!clean)
    return Err(Code::kInvalidArgument, "cgroup path \"{}\": must be absolute, without empty parts, \".\" or \"..\"",
               path);
  return {};
}

std::string Parent(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? std::string() : path.substr(0, slash);
}

// A new cpuset is empty and takes no process: it starts with what its parent has, and so on up to the mount.
Result<void> InheritCpuset(const std::string& mount, const std::string& path) {
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    std::string own = TRY(ReadControl(mount + path + file));
    if (!Trim(own).empty()) continue;
    std::string parent = TRY(ReadControl(mount + Parent(path) + file));
    if (Trim(parent).empty() && !Parent(path).empty()) {
      TRY(InheritCpuset(mount, Parent(path)));
      parent = TRY(ReadControl(mount + Parent(path) + file));
    }
    TRY(WriteControl(mount + path + file, Trim(parent)));
  }
  return {};
}

Result<void> EnableControllers(const std::string& dir) {
  std::string have = TRY(ReadControl(dir + "/cgroup.subtree_control"));
  auto enabled = Words(have);
  auto is_on = [&](std::string_view c) { return std::find(enabled.begin(), enabled.end(), c) != enabled.end(); };
  std::string want;
  auto available = Words(TRY(ReadControl(dir + "/cgroup.controllers")));
  for (std::string_view c : kWanted)
    if (!is_on(c) && std::find(available.begin(), available.end(), c) != available.end())
      want += fmt::format("+{} ", c);
  if (want.empty()) return {};
  want.pop_back();
  if (auto all = WriteControl(dir + "/cgroup.subtree_control", want); all || all.error().sys == EBUSY) {
    if (all) return {};
    return Wrap(std::move(all).error(),
                "cgroup {} has processes of its own, so it cannot give controllers to groups below it", dir);
  }
  // One that cannot be enabled (cpu beside real-time processes) must not take the others with it.
  for (const std::string& one : Words(want)) (void)WriteControl(dir + "/cgroup.subtree_control", one);
  return {};
}

struct Maker {
  const Layout& layout;
  std::vector<std::string> made;  // outermost first

  // One directory of a hierarchy with its parents. True: it was made now.
  Result<bool> Make(const std::string& mount, const std::string& path, bool cpuset, bool v2) {
    if (path.empty()) return false;
    std::string dir = mount + path;
    bool fresh = false;
    if (v2) {  // controllers reach a group only if every ancestor hands them down
      std::string parent = Parent(path);
      if (!parent.empty()) TRY(Make(mount, parent, cpuset, v2));
      TRY(EnableControllers(mount + parent));
    }
    if (::mkdir(dir.c_str(), 0755) == 0) {
      fresh = true;
    } else if (errno == ENOENT && !v2 && !Parent(path).empty()) {
      TRY(Make(mount, Parent(path), cpuset, v2));
      if (::mkdir(dir.c_str(), 0755) == 0)
        fresh = true;
      else if (errno != EEXIST)
        return SysErr("make cgroup {}", dir);
    } else if (errno != EEXIST) {
      return SysErr("make cgroup {}", dir);
    }
    if (fresh) made.push_back(dir);
    if (cpuset) TRY(InheritCpuset(mount, path));
    return fresh;
  }

  void Undo() {
    for (auto it = made.rbegin(); it != made.rend(); ++it) ::rmdir(it->c_str());
  }
};

Result<Group> Build(const Layout& layout, const std::string& path, bool may_be_used) {
  TRY(CheckPath(path));
  Maker maker{layout, {}};
  auto run = [&]() -> Result<void> {
    auto each = [&](const std::string& mount, bool cpuset, bool v2) -> Result<void> {
      bool fresh = TRY(maker.Make(mount, path, cpuset, v2));
      if (fresh || may_be_used) return {};
      std::string procs = TRY(ReadControl(mount + path + "/cgroup.procs"));
      if (!Trim(procs).empty())
        return Err(Code::kConflict, "cgroup {}{} has processes: container cgroups must be empty", mount, path);
      return {};
    };
    for (const Hierarchy& h : layout.v1)
      TRY(each(h.mount, std::find(h.controllers.begin(), h.controllers.end(), "cpuset") != h.controllers.end(), false));
    if (!layout.v2.empty()) TRY(each(layout.v2, false, true));
    return {};
  };
  if (auto r = run(); !r) {
    maker.Undo();
    return std::unexpected(std::move(r).error());
  }
  return Group{path};
}

std::vector<std::string> Children(const std::string& dir) {
  std::vector<std::string> names;
  DIR* d = ::opendir(dir.c_str());
  if (!d) return names;
  while (dirent* e = ::readdir(d))
    if (e->d_type == DT_DIR && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
      names.emplace_back(e->d_name);
  ::closedir(d);
  return names;
}

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

// 0 removed or absent, else errno. Children first.
int RemoveDir(const std::string& dir) {
  if (::rmdir(dir.c_str()) == 0 || errno == ENOENT) return 0;
  if (errno != EBUSY && errno != ENOTEMPTY) return errno;
  for (const std::string& child : Children(dir))
    if (int err = RemoveDir(dir + "/" + child)) return err;
  if (::rmdir(dir.c_str()) == 0 || errno == ENOENT) return 0;
  return errno;
}

Result<void> SignalPids(const std::vector<pid_t>& pids, int signal) {
  for (pid_t pid : pids) {
    // By pidfd, so that a number that is used again meanwhile is not hit: the group is read, then the process is held.
    unique_fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!fd) {
      if (errno == ESRCH || errno == EINVAL) continue;
      return SysErr("open process {}", pid);
    }
    if (::syscall(SYS_pidfd_send_signal, fd.get(), signal, nullptr, 0) < 0 && errno != ESRCH)
      return SysErr("signal {} to process {}", signal, pid);
  }
  return {};
}

}  // namespace

const Hierarchy* Layout::V1(std::string_view controller) const {
  for (const Hierarchy& h : v1)
    for (const std::string& c : h.controllers)
      if (c == controller) return &h;
  return nullptr;
}

bool Layout::V2(std::string_view controller) const {
  return std::find(v2_controllers.begin(), v2_controllers.end(), controller) != v2_controllers.end();
}

Result<Layout> DetectLayout(std::string_view mountinfo, const std::string& v2_root_for_test) {
  static constexpr std::string_view kControllers[] = {"cpu",      "cpuacct",    "cpuset", "memory",  "devices",
                                                      "freezer",  "blkio",      "pids",   "hugetlb", "net_cls",
                                                      "net_prio", "perf_event", "rdma",   "misc"};
  Layout layout;
  while (!mountinfo.empty()) {
    std::string_view line = mountinfo.substr(0, mountinfo.find('\n'));
    mountinfo.remove_prefix(std::min(mountinfo.size(), line.size() + 1));
    size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    auto left = Words(line.substr(0, dash));
    auto right = Words(line.substr(dash + 3));
    if (left.size() < 5 || right.size() < 3) continue;
    const std::string& point = left[4];
    if (right[0] == "cgroup2") {
      if (layout.v2.empty() || point.size() < layout.v2.size()) layout.v2 = point;
    } else if (right[0] == "cgroup") {
      Hierarchy h{point, {}};
      for (const std::string& option : Words(right[2], ',')) {
        bool known = std::find(std::begin(kControllers), std::end(kControllers), option) != std::end(kControllers);
        if (known || option.starts_with("name=")) h.controllers.push_back(option);
      }
      if (h.controllers.empty()) continue;
      bool seen = false;  // the same hierarchy mounted a second time
      for (const Hierarchy& other : layout.v1) seen = seen || other.controllers == h.controllers;
      if (!seen) layout.v1.push_back(std::move(h));
    }
  }
  if (!layout.v2.empty()) {
    auto text = ReadControl((v2_root_for_test.empty() ? layout.v2 : v2_root_for_test) + "/cgroup.controllers");
    if (text) layout.v2_controllers = Words(*text);
  }
  if (layout.v1.empty() && layout.v2.empty())
    return Err(Code::kFailedPrecondition, "no cgroup filesystem is mounted; mount cgroup2 on /sys/fs/cgroup");
  return layout;
}

Result<Layout> Detect() {
  std::string text = TRY(ReadControl("/proc/self/mountinfo", 16 << 20));
  return DetectLayout(text);
}

Result<const Layout*> Host() {
  static const Result<Layout> layout = Detect();
  if (!layout) return std::unexpected(layout.error());
  return &*layout;
}

Result<Group> Create(const Layout& layout, const std::string& path) { return Build(layout, path, false); }
Result<Group> Ensure(const Layout& layout, const std::string& path) { return Build(layout, path, true); }

Result<Entry> OpenEntry(const Layout& layout, const Group& group) {
  Entry entry;
  entry.tasks.reserve(layout.v1.size());
  for (const Hierarchy& h : layout.v1) entry.tasks.push_back(TRY(Open(h.mount + group.path + "/tasks", O_WRONLY)));
  if (!layout.v2.empty()) entry.v2 = TRY(Open(layout.v2 + group.path, O_PATH | O_DIRECTORY));
  return entry;
}

Result<std::vector<pid_t>> Processes(const Layout& layout, const Group& group) {
  std::vector<pid_t> pids;
  CollectProcesses(MainDir(layout, group), &pids);
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

Result<void> SignalAll(const Layout& layout, const Group& group, int signal) {
  return SignalPids(TRY(Processes(layout, group)), signal);
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

Result<void> Remove(const Layout& layout, const Group& group, const Deadline& until) {
  if (group.path.empty()) return {};
  TRY(CheckPath(group.path));
  std::vector<std::string> left;
  for (const Hierarchy& h : layout.v1) left.push_back(h.mount + group.path);
  if (!layout.v2.empty()) left.push_back(layout.v2 + group.path);
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    std::vector<std::string> busy;
    int last = 0;
    for (const std::string& dir : left) {
      if (int err = RemoveDir(dir)) {
        busy.push_back(dir);
        last = err;
      }
    }
    if (busy.empty()) return {};
    left = std::move(busy);
    if (last != EBUSY && last != ENOTEMPTY) {
      errno = last;
      return SysErr("remove cgroup {}", left.front());
    }
    if (auto slept = until.Sleep(pause, "cgroup " + left.front() + " to become empty"); !slept) return slept;
    pause = std::min(pause * 2, std::chrono::milliseconds(20));
  }
}

Result<void> Remove(const Group& group) {
  if (group.path.empty()) return {};
  return Remove(*TRY(Host()), group, Deadline::After(std::chrono::seconds(2)));
}

Result<void> Freeze(const Layout& layout, const Group& group, bool frozen, const Deadline& until) {
  if (!layout.v2.empty()) {
    std::string dir = layout.v2 + group.path;
    if (WriteControl(dir + "/cgroup.freeze", frozen ? "1" : "0")) {
      unique_fd events = TRY(Open(dir + "/cgroup.events", O_RDONLY));
      for (;;) {
        char text[256];
        ssize_t n = ::pread(events.get(), text, sizeof text, 0);
        if (n < 0) return SysErr("read {}/cgroup.events", dir);
        if (Keyed({text, static_cast<size_t>(n)}, "frozen").value_or(0) == (frozen ? 1U : 0U)) return {};
        TRY(until.WaitFor(events.get(), POLLPRI, frozen ? "a cgroup to freeze" : "a cgroup to thaw"));
      }
    }
  }
  auto dir = V1Dir(layout, "freezer", group);
  if (!dir) return Err(Code::kFailedPrecondition, "this host has no freezer cgroup");
  std::string_view want = frozen ? "FROZEN" : "THAWED";
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    // Written again each round: a fork during FREEZING can hold it up (kernel documentation, freezer-subsystem).
    TRY(WriteControl(*dir + "/freezer.state", want));
    std::string state = TRY(ReadControl(*dir + "/freezer.state"));
    if (Trim(state) == want) return {};
    if (auto slept = until.Sleep(pause, "a cgroup to freeze"); !slept) {
      if (frozen) (void)WriteControl(*dir + "/freezer.state", "THAWED");
      return slept;
    }
    pause = std::min(pause * 2, std::chrono::milliseconds(10));
  }
}

}  // namespace berth::runtime::cgroup
