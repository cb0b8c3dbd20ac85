#include "runtime/oci/planner_mounts.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "base/atomic_file.h"
#include "runtime/linux/mount.h"
#include "runtime/linux/namespaces.h"

namespace berth::runtime::oci {
namespace {

using init::Op;
using init::OpKind;

// Made inside the container's namespaces by the executor: they take no source path of the host.
bool MadeInside(std::string_view type) {
  static constexpr std::string_view kTypes[] = {
      "proc",    "sysfs",   "devpts",   "tmpfs",    "mqueue", "ramfs",   "hugetlbfs",   "bpf",       "securityfs",
      "debugfs", "tracefs", "configfs", "efivarfs", "pstore", "fusectl", "binfmt_misc", "selinuxfs", "binder"};
  return std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
}

struct Context {
  PlanWriter& w;
  const PlanInput& in;
  const cgroup::Group& group;
  const Scope& scope;
  std::vector<Op> ops;
  bool dev_is_ours = false;  // a fresh tmpfs at /dev

  uint32_t TargetFlags(const std::string& target) const {
    // The image must not lead these elsewhere: CVE-2023-28642, CVE-2026-41579.
    bool guarded = target == "/proc" || target == "/sys" || target == "/dev" || target.starts_with("/dev/");
    return guarded ? static_cast<uint32_t>(init::kOpNoSymlinks) : 0;
  }

  void Tree(const std::string& target, unique_fd tree, bool file, std::string_view source) {
    Op op;
    op.kind = OpKind::kTree;
    op.flags = TargetFlags(target) | (file ? static_cast<uint32_t>(init::kOpFile) : 0);
    op.fd = w.Fd(std::move(tree));
    op.target = w.Text(target);
    op.source = w.Text(source);
    ops.push_back(op);
  }

  void Node(const std::string& path, uint32_t mode, uint32_t major, uint32_t minor, uint32_t uid = 0,
            uint32_t gid = 0) {
    Op op;
    op.kind = OpKind::kNode;
    op.flags = TargetFlags(path);
    op.target = w.Text(path);
    op.mode = mode;
    op.major = major;
    op.minor = minor;
    op.uid = uid;
    op.gid = gid;
    ops.push_back(op);
  }

  void Link(const char* path, const char* content) {
    Op op;
    op.kind = OpKind::kSymlink;
    op.flags = TargetFlags(path);
    op.target = w.Text(path);
    op.source = w.Text(content);
    ops.push_back(op);
  }

  // What the mounts bring themselves: a host's whole list of devices (podman --privileged) has its terminals in it.
  bool IsOfMount(const std::string& path) const {
    for (const Mount& m : in.spec->mounts) {
      if (m.type != "devpts" && m.type != "mqueue") continue;
      if (path == "/dev/ptmx" && m.type == "devpts" && dev_is_ours) return true;
      if (path.starts_with(CleanPath(m.destination) + "/")) return true;
    }
    return false;
  }

  // A device node. In a user namespace none can be made: the host's own is bound, if the host has it.
  Result<void> DeviceFile(const std::string& path, uint32_t mode, uint32_t major, uint32_t minor, uint32_t uid,
                          uint32_t gid, const std::string& at) {
    if (!scope.user_mode || S_ISFIFO(mode)) {
      Node(path, mode, major, minor, uid, gid);
      return {};
    }
    dev_t device = makedev(major, minor);
    auto is_it = [&](const std::string& file) {
      struct stat st;
      return ::stat(file.c_str(), &st) == 0 && (st.st_mode & S_IFMT) == (mode & S_IFMT) && st.st_rdev == device;
    };
    std::string source = path;
    if (!is_it(source)) {
      auto text =
          ReadFile(fmt::format("/sys/dev/{}/{}:{}/uevent", S_ISBLK(mode) ? "block" : "char", major, minor), 4096);
      size_t name = text ? text->find("DEVNAME=") : std::string::npos;
      if (name != std::string::npos) source = "/dev/" + text->substr(name + 8, text->find('\n', name) - name - 8);
      if (!is_it(source))
        return Err(Code::kFailedPrecondition,
                   "{}: in a user namespace devices come from the host, which has no file for {} {}:{} ({})", at,
                   S_ISBLK(mode) ? "block device" : "character device", major, minor, path);
    }
    unique_fd tree = TRY_CTX(mount::CloneTree(source, false), "{}", at);
    struct stat st;
    if (::fstat(tree.get(), &st) < 0 || st.st_rdev != device)
      return Err(Code::kConflict, "{}: {} has changed", at, source);
    TRY_CTX(mount::Configure(tree.get(), {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC}, true), "{}", at);
    Tree(path, std::move(tree), true, source);
    return {};
  }

  Result<void> DefaultDevices() {
    static constexpr struct {
      const char* path;
      uint32_t major, minor;
    } kDevices[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    for (const auto& d : kDevices) {
      TRY(DeviceFile(d.path, S_IFCHR | 0666, d.major, d.minor, 0, 0, d.path));
    }
    Link("/dev/ptmx", "pts/ptmx");
    Link("/dev/fd", "/proc/self/fd");
    Link("/dev/stdin", "/proc/self/fd/0");
    Link("/dev/stdout", "/proc/self/fd/1");
    Link("/dev/stderr", "/proc/self/fd/2");
    Link("/dev/core", "/proc/kcore");
    return {};
  }

  void Attributes(Op& op, const mount::Options& o) {
    op.ms_flags = o.ms_flags;
    if (o.tree_set || o.tree_clear) {
      op.attr_set = o.tree_set;
      op.attr_clear = o.tree_clear;
      op.flags |= init::kOpRecursive;
    }
    if (o.propagation) op.propagation = o.propagation;
  }

  // Id-mapped mounts: with the mount's own mappings, else with the container's user namespace.
  Result<void> MapIds(int tree, const Mount& m, const mount::Options& o, const std::string& at) {
    if (!o.idmap && m.uidMappings.empty()) return {};
    unique_fd made;
    int ns = scope.user;
    if (!m.uidMappings.empty()) {
      made = TRY_CTX(namespaces::MakeUser(m.uidMappings, m.gidMappings), "{}.uidMappings", at);
      ns = made.get();
    } else if (ns < 0) {
      return Err(
          Code::kInvalidArgument,
          "{}.options: idmap needs uidMappings and gidMappings of the mount, or a user namespace of the container", at);
    }
    if (auto done = mount::MapIds(tree, ns, o.idmap_recursive); !done) {
      if (done.error().sys == EINVAL)
        return Err(Code::kFailedPrecondition, "{}: the filesystem of {} cannot be id-mapped on this kernel", at,
                   m.source);
      return Wrap(std::move(done).error(), "{}", at);
    }
    return {};
  }

  Result<void> Bind(const Mount& m, const std::string& target, const mount::Options& o, const std::string& at) {
    if (m.source.empty()) return Err(Code::kInvalidArgument, "{}.source: missing; a bind mount needs one", at);
    std::string source = m.source[0] == '/' ? m.source : in.bundle + "/" + m.source;
    auto tree = mount::CloneTree(source, o.recursive);
    if (!tree) {
      Error e = std::move(tree).error();
      if (e.sys == EINVAL && e.code == Code::kInvalidArgument)
        return Err(Code::kFailedPrecondition, "{}.source: {}: cannot be bound (unbindable, or its mounts are locked)",
                   at, source);
      return Wrap(std::move(e), "{}.source", at);
    }
    struct stat st;
    if (::fstat(tree->get(), &st) < 0) return SysErr("{}.source: {}", at, source);
    TRY(MapIds(tree->get(), m, o, at));
    if (auto done = mount::Configure(tree->get(), o, !o.recursive); !done) {
      if (done.error().code == Code::kPermissionDenied && scope.user_mode)
        return Err(
            Code::kPermissionDenied,
            "{}.options: flags of the mount at {} are locked in a user namespace and cannot be cleared (ro, nosuid, "
            "nodev, noexec, atime)",
            at, source);
      return Wrap(std::move(done).error(), "{}.options", at);
    }
    if (target == "/dev") dev_is_ours = false;
    Tree(target, std::move(*tree), !S_ISDIR(st.st_mode), source);
    return {};
  }

  // Filesystems with a source on the host (overlay, block devices, network): made here, attached there.
  Result<void> Detached(const Mount& m, const std::string& target, const mount::Options& o, const std::string& at) {
    unique_fd fs(static_cast<int>(::syscall(SYS_fsopen, m.type.c_str(), FSOPEN_CLOEXEC)));
    if (!fs) {
      if (errno == ENODEV)
        return Err(Code::kFailedPrecondition, "{}.type: this kernel has no filesystem \"{}\"", at, m.type);
      return SysErr("{}.type: {}", at, m.type);
    }
    auto set = [&](unsigned command, const std::string& key, const char* value) -> Result<void> {
      if (::syscall(SYS_fsconfig, fs.get(), command, key.c_str(), value, 0) == 0) return {};
      int err = errno;
      char text[256];
      ssize_t n = ::read(fs.get(), text, sizeof text - 1);  // what the filesystem itself says
      errno = err;
      if (n > 2) return SysErr("{}.options: {}: {}", at, key, std::string(text + 2, static_cast<size_t>(n - 2)));
      return SysErr("{}.options: {}", at, key);
    };
    if (!m.source.empty()) TRY(set(FSCONFIG_SET_STRING, "source", m.source.c_str()));
    std::string_view data = o.data;
    while (!data.empty()) {
      std::string_view word = data.substr(0, data.find(','));
      data.remove_prefix(std::min(data.size(), word.size() + 1));
      std::string key(word.substr(0, word.find('=')));
      if (key.size() == word.size())
        TRY(set(FSCONFIG_SET_FLAG, key, nullptr));
      else
        TRY(set(FSCONFIG_SET_STRING, key, std::string(word.substr(key.size() + 1)).c_str()));
    }
    if (o.ms_flags & MS_RDONLY) TRY(set(FSCONFIG_SET_FLAG, "ro", nullptr));
    if (::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
      return SysErr("{}: mount {}", at, m.type);
    unique_fd tree(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, o.attr_set)));
    if (!tree) return SysErr("{}: mount {}", at, m.type);
    TRY_CTX(mount::Configure(tree.get(), o), "{}.options", at);
    Tree(target, std::move(tree), false, m.type);
    return {};
  }

  // Filesystems that show a namespace belong to its owner: of a namespace of the host a container in a user namespace
  // can only be given the host's own mount.
  std::string FromHost(std::string_view type) const {
    if (!scope.user_mode) return "";
    if (type == "sysfs" && !scope.net) return "/sys";
    if (type == "proc" && !scope.pid) return "/proc";
    if (type == "mqueue" && !scope.ipc) return "/dev/mqueue";
    return "";
  }

  Result<unique_fd> HostTree(const std::string& host, const mount::Options& asked, const std::string& at) {
    unique_fd tree = TRY_CTX(mount::CloneTree(host, true), "{}", at);
    mount::Options o;
    o.tree_set = asked.attr_set | asked.tree_set;
    if (host == "/sys") o.tree_set |= MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    o.tree_set &= ~uint64_t{MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME};
    o.propagation = MS_SLAVE;
    o.propagation_recursive = true;
    TRY_CTX(mount::Configure(tree.get(), o), "{}.options", at);
    return tree;
  }

  Result<void> HostMount(const Mount& m, const std::string& host, const std::string& target, const mount::Options& o,
                         const std::string& at) {
    if (m.type == "mqueue" && !Exists(host)) return {};
    if (m.type == "proc" && target != "/proc")
      return Err(Code::kInvalidArgument, "{}.destination: procfs belongs on /proc, not {}", at, target);
    Tree(target, TRY(HostTree(host, o, at)), false, m.type);
    return {};
  }

  Result<void> Cgroups(const std::string& target, const mount::Options& o, const std::string& at) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    // The container's own directory of each hierarchy, bound: shows what a mount from inside a cgroup namespace would
    // show, without a new superblock for each.
    auto attach = [&](const std::string& mount_point, const std::string& where) -> Result<void> {
      // Without a group of its own (rootless) a container sees the caller's, never writable: CVE-2023-25809. Without a
      // cgroup namespace of its own paths mean the host's tree, which version 2 then shows whole, as runc does.
      bool whole = layout->unified() && !scope.cgroup;
      std::string dir = whole ? "" : group.path;
      if (!whole && dir.empty()) dir = cgroup::OwnPath(mount_point);
      mount::Options how = o;
      if (group.path.empty() || (whole && scope.user_mode)) {
        how.attr_set |= MOUNT_ATTR_RDONLY;
        how.attr_clear &= ~uint64_t{MOUNT_ATTR_RDONLY};
      }
      unique_fd tree = TRY_CTX(mount::CloneTree(mount_point + dir, false), "{}", at);
      TRY_CTX(mount::Configure(tree.get(), how, true), "{}.options", at);
      Tree(where, std::move(tree), false, "cgroup");
      return {};
    };
    if (layout->unified()) return attach(layout->v2, target);
    Op top;
    top.kind = OpKind::kFilesystem;
    top.target = w.Text(target);
    top.source = top.type = w.Text("tmpfs");
    top.data = w.Text("mode=755");
    top.ms_flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    ops.push_back(top);
    auto name_of = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
    for (const cgroup::Hierarchy& h : layout->v1) {
      std::string name = name_of(h.mount);
      TRY(attach(h.mount, target + "/" + name));
      if (name.find(',') == std::string::npos) continue;
      for (const std::string& controller : h.controllers) Link((target + "/" + controller).c_str(), name.c_str());
    }
    if (!layout->v2.empty()) TRY(attach(layout->v2, target + "/" + name_of(layout->v2)));
    if (o.ms_flags & MS_RDONLY) {
      Op seal;
      seal.kind = OpKind::kAttributes;
      seal.target = w.Text(target);
      seal.attr_set = MOUNT_ATTR_RDONLY;
      ops.push_back(seal);
    }
    return {};
  }

  Result<void> One(const Mount& m, size_t index) {
    std::string at = fmt::format("mounts[{}]", index);
    std::string target = CleanPath(m.destination);
    if (target == "/") return Err(Code::kInvalidArgument, "{}.destination: nothing may be mounted on /", at);
    mount::Options o = mount::ParseOptions(m.options);
    bool bind = o.bind || m.type == "bind";
    if (o.copy_up && (m.type != "tmpfs" || bind))
      return Err(Code::kInvalidArgument, "{}.options: tmpcopyup is for mounts of type tmpfs", at);
    if ((o.idmap || !m.uidMappings.empty()) && !bind)
      return Err(Code::kInvalidArgument, "{}.options: only bind mounts can be id-mapped", at);
    if (target == "/dev/shm" && in.shm >= 0 && m.type == "tmpfs" && !o.bind && !o.remount) {
      unique_fd tree = TRY_CTX(mount::CloneOrTake(in.shm, false), "{}: the pod's shared memory", at);
      TRY_CTX(
          mount::Configure(tree.get(), {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC}, true),
          "{}", at);
      Tree(target, std::move(tree), false, "shm");
      return {};
    }
    if (o.remount) {
      Op op;
      op.kind = OpKind::kRemount;
      op.flags = TargetFlags(target);
      op.target = w.Text(target);
      op.ms_flags = o.ms_flags | (o.bind ? MS_BIND : 0);
      op.attr_set = o.attr_set;
      op.attr_clear = o.attr_clear;
      op.propagation = o.propagation;
      if (o.propagation_recursive) op.flags |= init::kOpRecursive;
      op.data = w.TextOrNone(o.data);
      ops.push_back(op);
      return {};
    }
    if (o.bind || m.type == "bind") return Bind(m, target, o, at);
    if (m.type.empty())
      return Err(Code::kInvalidArgument, "{}.type: missing; it is neither a bind mount nor a filesystem", at);
    if (m.type == "cgroup" || m.type == "cgroup2") return Cgroups(target, o, at);
    if (m.type == "none") return Err(Code::kInvalidArgument, "{}.type: \"none\" needs the option bind or remount", at);
    if (!MadeInside(m.type)) return Detached(m, target, o, at);
    if (std::string host = FromHost(m.type); !host.empty()) return HostMount(m, host, target, o, at);
    Op op;
    op.kind = OpKind::kFilesystem;
    op.flags = TargetFlags(target);
    op.target = w.Text(target);
    op.type = w.Text(m.type);
    op.source = w.Text(m.source.empty() ? m.type : m.source);
    op.data = w.TextOrNone(o.data);
    if (m.type == "proc") {
      if (target != "/proc")
        return Err(Code::kInvalidArgument, "{}.destination: procfs belongs on /proc, not {}", at, target);
      op.flags |= init::kOpProc | init::kOpOverProc;
    }
    if (m.type == "devpts" && target == "/dev/pts") op.flags |= init::kOpDevpts;
    if (m.type == "mqueue") op.flags |= init::kOpOptional;
    if (m.type == "tmpfs") {
      if (o.copy_up) op.flags |= init::kOpCopyUp;
      if (("," + o.data).find(",mode=") == std::string::npos) op.flags |= init::kOpKeepMode;
    }
    if (scope.user_mode && (m.type == "proc" || m.type == "sysfs")) {
      op.flags |= init::kOpEarly;
      if (m.type == "sysfs") {  // where something hides parts of sysfs a new instance is refused
        auto tree = HostTree("/sys", o, at);
        if (tree) op.fd = w.Fd(std::move(*tree));
      }
    }
    if (target == "/proc" && m.type != "proc")
      return Err(Code::kInvalidArgument, "{}.type: only procfs may be mounted on /proc", at);
    if (target == "/sys" && m.type != "sysfs" && m.type != "tmpfs")
      return Err(Code::kInvalidArgument, "{}.type: only sysfs may be mounted on /sys", at);
    Attributes(op, o);
    ops.push_back(op);
    if (target == "/dev") {
      dev_is_ours = m.type == "tmpfs";
      if (dev_is_ours) TRY(DefaultDevices());
    }
    return {};
  }
};

}  // namespace

std::string CleanPath(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), part.size() + 1));
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
      continue;
    }
    parts.push_back(part);
  }
  std::string out;
  for (std::string_view part : parts) {
    out += '/';
    out += part;
  }
  return out.empty() ? "/" : out;
}

Result<void> WriteMounts(PlanWriter& w, const PlanInput& in, const cgroup::Group& group, const Scope& scope) {
  Context c{w, in, group, scope, {}, false};
  const Spec& spec = *in.spec;
  bool dev_is_bound = false, has_dev = false;
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    TRY(c.One(spec.mounts[i], i));
    if (CleanPath(spec.mounts[i].destination) == "/dev") {
      has_dev = true;
      dev_is_bound = !c.dev_is_ours;
    }
  }
  // A /dev that the caller brought is the caller's; a rootfs without a mount there gets the nodes in place.
  if (!has_dev && !dev_is_bound) TRY(c.DefaultDevices());
  for (size_t i = 0; i < spec.linux->devices.size(); ++i) {
    const Device& d = spec.linux->devices[i];
    if (c.IsOfMount(CleanPath(d.path))) continue;
    uint32_t type = d.type == "b" ? S_IFBLK : d.type == "p" ? S_IFIFO : S_IFCHR;
    TRY(c.DeviceFile(CleanPath(d.path), type | (d.fileMode.value_or(0666) & 07777), static_cast<uint32_t>(d.major),
                     static_cast<uint32_t>(d.minor), d.uid.value_or(0), d.gid.value_or(0),
                     fmt::format("linux.devices[{}]", i)));
  }
  w.plan.ops = w.Array(c.ops);
  if ((!c.dev_is_ours || scope.user_mode) && !spec.linux->maskedPaths.empty()) {
    unique_fd null = TRY(mount::CloneTree("/dev/null", false));
    struct stat st;
    if (::fstat(null.get(), &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
      return Err(Code::kFailedPrecondition, "/dev/null of this host is not the null device");
    // Read-only, so that nobody inside can change the mode of the host's inode.
    TRY(mount::Configure(null.get(), {.attr_set = MOUNT_ATTR_RDONLY, .attr_clear = MOUNT_ATTR_NODEV}));
    w.plan.null_tree = w.Fd(std::move(null));
  }
  return {};
}

}  // namespace berth::runtime::oci
