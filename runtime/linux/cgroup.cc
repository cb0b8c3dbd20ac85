#include "runtime/linux/cgroup.h"

#include <dirent.h>
#include <sys/stat.h>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {

std::vector<std::string> Words(std::string_view text, char separator) {
  std::vector<std::string> words;
  while (!text.empty()) {
    std::string_view word = text.substr(0, text.find(separator));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    word = Trim(word);
    if (!word.empty()) words.emplace_back(word);
  }
  return words;
}

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

namespace {

// Version 2 controllers that containers use; enabling more makes every mkdir dearer.
constexpr std::string_view kWanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};

std::string Parent(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? std::string() : path.substr(0, slash);
}

// A new cpuset is empty and takes no process: it starts with what its parent has, and so on up to the mount.
Result<void> InheritCpuset(const std::string& mount, const std::string& path, bool fresh) {
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    if (!fresh && !Trim(TRY(ReadControl(mount + path + file))).empty()) continue;
    std::string parent = TRY(ReadControl(mount + Parent(path) + file));
    if (Trim(parent).empty() && !Parent(path).empty()) {
      TRY(InheritCpuset(mount, Parent(path), false));
      parent = TRY(ReadControl(mount + Parent(path) + file));
    }
    TRY(WriteControl(mount + path + file, Trim(parent)));
  }
  return {};
}

Result<void> WriteSubtree(const std::string& dir, const std::string& words) {
  auto done = WriteControl(dir + "/cgroup.subtree_control", words);
  if (done || done.error().sys != EBUSY) return done;
  return Wrap(std::move(done).error(),
              "cgroup {} has processes of its own, so it cannot give controllers to groups below it", dir);
}

struct Maker {
  const Layout& layout;
  std::vector<std::string> made;  // outermost first

  // Controllers reach a group only if every ancestor hands them down. Most often all did already: one file tells.
  Result<void> EnableControllers(const std::string& path) {
    const std::string dir = layout.v2 + path;
    auto have = ReadControl(dir + "/cgroup.subtree_control");
    if (!have && (have.error().sys != ENOENT || path.empty())) return std::unexpected(std::move(have).error());
    std::vector<std::string> missing, enabled = have ? Words(*have) : std::vector<std::string>();
    for (std::string_view c : kWanted)
      if (layout.V2(c) && std::find(enabled.begin(), enabled.end(), c) == enabled.end()) missing.emplace_back(c);
    if (have && missing.empty()) return {};
    if (!path.empty()) TRY(Make(layout.v2, path, false, true));
    auto available = Words(TRY(ReadControl(dir + "/cgroup.controllers")));
    std::string want;
    for (const std::string& c : missing)
      if (std::find(available.begin(), available.end(), c) != available.end()) want += fmt::format("+{} ", c);
    if (want.empty()) return {};
    want.pop_back();
    auto all = WriteSubtree(dir, want);
    if (all || all.error().sys == EBUSY) return all;
    // One that cannot be enabled (cpu beside real-time processes) must not take the others with it.
    for (const std::string& one : Words(want)) (void)WriteControl(dir + "/cgroup.subtree_control", one);
    return {};
  }

  // One directory of a hierarchy with its parents. True: it was made now.
  Result<bool> Make(const std::string& mount, const std::string& path, bool cpuset, bool v2) {
    if (path.empty()) return false;
    std::string dir = mount + path;
    bool fresh = false;
    // A removal of empty parents may pass between: then again.
    for (int round = 0; !fresh; ++round) {
      if (v2) TRY(EnableControllers(Parent(path)));
      if (::mkdir(dir.c_str(), 0755) == 0)
        fresh = true;
      else if (errno == EEXIST)
        break;
      else if (errno != ENOENT || Parent(path).empty() || round > 20)
        return SysErr("make cgroup {}", dir);
      else if (!v2)
        TRY(Make(mount, Parent(path), cpuset, v2));
    }
    if (fresh) made.push_back(dir);
    if (cpuset) TRY(InheritCpuset(mount, path, fresh));
    return fresh;
  }

  void Undo() {
    for (auto it = made.rbegin(); it != made.rend(); ++it) ::rmdir(it->c_str());
  }
};

bool Has(const Hierarchy& h, std::string_view controller) {
  return std::find(h.controllers.begin(), h.controllers.end(), controller) != h.controllers.end();
}

// Can a container be started in it? A new group only has to be looked at when its parent is not the root.
Result<void> CheckUsable(const std::string& dir, bool fresh, bool v2, bool freezer) {
  std::string frozen = fmt::format("cgroup {} is frozen: nothing can start in it", dir);
  if (v2) {
    std::string events = TRY(ReadControl(dir + "/cgroup.events"));
    if (!fresh && Keyed(events, "populated").value_or(0))
      return Err(Code::kConflict, "cgroup {} has processes: container cgroups must be empty", dir);
    auto own = fresh ? Result<std::string>() : ReadControl(dir + "/cgroup.freeze");
    if (Keyed(events, "frozen").value_or(0) || (own && own->starts_with("1")))
      return Err(Code::kConflict, "{}", frozen);
    return {};
  }
  if (!fresh && !Trim(TRY(ReadControl(dir + "/cgroup.procs"))).empty())
    return Err(Code::kConflict, "cgroup {} has processes: container cgroups must be empty", dir);
  if (!freezer) return {};
  if (!TRY(ReadControl(dir + "/freezer.state")).starts_with("THAWED")) return Err(Code::kConflict, "{}", frozen);
  return {};
}

Result<Group> Build(const Layout& layout, const std::string& path, bool may_be_used) {
  TRY(CheckPath(path));
  Maker maker{layout, {}};
  const bool nested = !Parent(path).empty();
  auto run = [&]() -> Result<void> {
    for (const Hierarchy& h : layout.v1) {
      bool fresh = TRY(maker.Make(h.mount, path, Has(h, "cpuset"), false));
      if (may_be_used || (fresh && !(nested && Has(h, "freezer")))) continue;
      TRY(CheckUsable(h.mount + path, fresh, false, Has(h, "freezer")));
    }
    if (layout.v2.empty()) return {};
    bool fresh = TRY(maker.Make(layout.v2, path, false, true));
    if (may_be_used || (fresh && !nested)) return {};
    return CheckUsable(layout.v2 + path, fresh, true, false);
  };
  if (auto r = run(); !r) {
    maker.Undo();
    return std::unexpected(std::move(r).error());
  }
  return Group{path};
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

Result<void> EnableController(const Layout& layout, const Group& group, const std::string& controller) {
  std::string dir = layout.v2;
  std::string_view rest = group.path;
  while (rest.size() > 1) {  // every ancestor, the root first
    TRY(WriteSubtree(dir, "+" + controller));
    size_t slash = rest.find('/', 1);
    if (slash == std::string_view::npos) break;
    dir += rest.substr(0, slash);
    rest.remove_prefix(slash);
  }
  return {};
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

void RemoveEmptyParents(const Layout& layout, const Group& group, std::string_view prefix) {
  for (std::string path = Parent(group.path); path.size() > prefix.size() && path.starts_with(prefix);
       path = Parent(path)) {
    bool removed = false;
    for (const Hierarchy& h : layout.v1) removed = ::rmdir((h.mount + path).c_str()) == 0 || removed;
    if (!layout.v2.empty()) removed = ::rmdir((layout.v2 + path).c_str()) == 0 || removed;
    if (!removed) return;
  }
}

Result<void> Remove(const Group& group) {
  if (group.path.empty()) return {};
  return Remove(*TRY(Host()), group, Deadline::After(std::chrono::seconds(2)));
}

std::string OwnPath(const std::string& mount) {
  auto layout = Host();
  auto text = ReadControl("/proc/self/cgroup");
  if (!layout || !text) return "";
  std::string controller;  // as the line has it: "4:memory:/path", "1:name=systemd:/path", "0::/path" for version 2
  for (const Hierarchy& h : (*layout)->v1)
    if (h.mount == mount) controller = h.controllers.front();
  for (const std::string& line : Words(*text, '\n')) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    auto names = Words(std::string_view(line).substr(first + 1, second - first - 1), ',');
    bool ours = controller.empty() ? names.empty() : std::find(names.begin(), names.end(), controller) != names.end();
    if (!ours) continue;
    std::string path = line.substr(second + 1);
    return path == "/" || !Exists(mount + path) ? "" : path;
  }
  return "";
}

Result<void> Delegate(const Layout& layout, const Group& group, uint32_t uid) {
  if (!layout.unified() || group.path.empty()) return {};
  std::string dir = layout.v2 + group.path;
  if (::chown(dir.c_str(), uid, static_cast<gid_t>(-1)) < 0) return SysErr("chown {}", dir);
  auto text = ReadControl("/sys/kernel/cgroup/delegate");
  std::vector<std::string> files = {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"};
  if (text) files = Words(*text, '\n');
  for (const std::string& file : files) {
    if (file.find('/') != std::string::npos) continue;
    if (::chown((dir + "/" + file).c_str(), uid, static_cast<gid_t>(-1)) < 0 && errno != ENOENT)
      return SysErr("chown {}/{}", dir, file);
  }
  return {};
}

}  // namespace berth::runtime::cgroup
