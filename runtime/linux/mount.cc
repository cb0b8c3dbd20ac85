#include "runtime/linux/mount.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>

namespace berth::runtime::mount {
namespace {

constexpr unsigned kEmptyPath = 0x1000, kTree = 0x8000;  // AT_EMPTY_PATH, AT_RECURSIVE

struct Word {
  std::string_view name;
  uint64_t ms_set, ms_clear;      // mount(2)
  uint64_t attr_set, attr_clear;  // mount_setattr(2); the recursive word is "r" + name
};

// atime modes share a field: setting one clears the field first.
constexpr Word kWords[] = {
    {"ro", MS_RDONLY, 0, MOUNT_ATTR_RDONLY, 0},
    {"rw", 0, MS_RDONLY, 0, MOUNT_ATTR_RDONLY},
    {"nosuid", MS_NOSUID, 0, MOUNT_ATTR_NOSUID, 0},
    {"suid", 0, MS_NOSUID, 0, MOUNT_ATTR_NOSUID},
    {"nodev", MS_NODEV, 0, MOUNT_ATTR_NODEV, 0},
    {"dev", 0, MS_NODEV, 0, MOUNT_ATTR_NODEV},
    {"noexec", MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC},
    {"nosymfollow", 256 /* MS_NOSYMFOLLOW */, 0, MOUNT_ATTR_NOSYMFOLLOW, 0},
    {"symfollow", 0, 256, 0, MOUNT_ATTR_NOSYMFOLLOW},
    {"noatime", MS_NOATIME, MS_STRICTATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME},
    {"atime", 0, MS_NOATIME, MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME, MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"norelatime", 0, MS_RELATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    {"strictatime", MS_STRICTATIME, MS_NOATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    {"nostrictatime", 0, MS_STRICTATIME, MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"nodiratime", MS_NODIRATIME, 0, MOUNT_ATTR_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME, 0, MOUNT_ATTR_NODIRATIME},
    {"sync", MS_SYNCHRONOUS, 0, 0, 0},
    {"async", 0, MS_SYNCHRONOUS, 0, 0},
    {"dirsync", MS_DIRSYNC, 0, 0, 0},
    {"mand", MS_MANDLOCK, 0, 0, 0},
    {"nomand", 0, MS_MANDLOCK, 0, 0},
    {"lazytime", MS_LAZYTIME, 0, 0, 0},
    {"nolazytime", 0, MS_LAZYTIME, 0, 0},
    {"iversion", MS_I_VERSION, 0, 0, 0},
    {"noiversion", 0, MS_I_VERSION, 0, 0},
    {"silent", MS_SILENT, 0, 0, 0},
    {"loud", 0, MS_SILENT, 0, 0},
    {"acl", 1 << 16 /* MS_POSIXACL */, 0, 0, 0},
    {"noacl", 0, 1 << 16, 0, 0},
    {"defaults", 0, 0, 0, 0},
};

struct Propagation {
  std::string_view name;
  uint64_t flag;
};
constexpr Propagation kPropagation[] = {
    {"private", MS_PRIVATE}, {"shared", MS_SHARED}, {"slave", MS_SLAVE}, {"unbindable", MS_UNBINDABLE}};

Result<void> SetAttr(int tree, unsigned flags, mount_attr attr, const char* what) {
  if (syscall(SYS_mount_setattr, tree, "", kEmptyPath | flags, &attr, sizeof attr) < 0) return SysErr("{}", what);
  return {};
}

}  // namespace

Options ParseOptions(const std::vector<std::string>& words) {
  Options o;
  for (const std::string& word : words) {
    if (word == "bind") {
      o.bind = true;
      continue;
    }
    if (word == "rbind") {
      o.bind = o.recursive = true;
      continue;
    }
    if (word == "remount") {
      o.remount = true;
      continue;
    }
    if (word == "tmpcopyup") {
      o.copy_up = true;
      continue;
    }
    if (word == "idmap" || word == "ridmap") {
      o.idmap = true;
      o.idmap_recursive = word[0] == 'r';
      continue;
    }
    bool found = false;
    for (const Propagation& p : kPropagation) {
      bool recursive =
          word.size() == p.name.size() + 1 && word[0] == 'r' && word.compare(1, std::string::npos, p.name) == 0;
      if (!recursive && word != p.name) continue;
      o.propagation = p.flag;
      o.propagation_recursive = recursive;
      found = true;
      break;
    }
    if (found) continue;
    for (const Word& w : kWords) {
      if (word == w.name) {
        o.ms_flags = (o.ms_flags & ~w.ms_clear) | w.ms_set;
        o.attr_set = (o.attr_set & ~w.attr_clear) | w.attr_set;
        o.attr_clear = (o.attr_clear & ~w.attr_set) | w.attr_clear;
        found = true;
      } else if ((w.attr_set || w.attr_clear) && word.size() == w.name.size() + 1 && word[0] == 'r' &&
                 word.compare(1, std::string::npos, w.name) == 0) {
        o.tree_set = (o.tree_set & ~w.attr_clear) | w.attr_set;
        o.tree_clear = (o.tree_clear & ~w.attr_set) | w.attr_clear;
        found = true;
      }
      if (found) break;
    }
    if (found) continue;
    if (!o.data.empty()) o.data += ',';
    o.data += word;
  }
  return o;
}

Result<unique_fd> CloneTree(int dir, const std::string& path, bool recursive) {
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? kTree : 0) | (path.empty() ? kEmptyPath : 0);
  int fd = static_cast<int>(syscall(SYS_open_tree, dir, path.c_str(), flags));
  if (fd < 0) return SysErr("clone the mount of {}", path.empty() ? "a descriptor" : path);
  return unique_fd(fd);
}

Result<unique_fd> CloneTree(const std::string& path, bool recursive) { return CloneTree(AT_FDCWD, path, recursive); }

Result<unique_fd> CloneOrTake(int tree, bool recursive) {
  auto clone = CloneTree(tree, "", recursive);
  if (clone || clone.error().sys != EINVAL) return clone;
  int copy = fcntl(tree, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return SysErr("duplicate a mount's descriptor");
  return unique_fd(copy);
}

Result<void> Configure(int tree, const Options& o, bool single) {
  if (single) {
    mount_attr all{};
    all.attr_set = (o.attr_set & ~o.tree_clear) | o.tree_set;
    all.attr_clr = (o.attr_clear & ~o.tree_set) | o.tree_clear;
    all.propagation = o.propagation ? o.propagation : MS_PRIVATE;
    return SetAttr(tree, 0, all, "set attributes of a mount");
  }
  // One call for the common case; two when the top mount and the tree below want different things.
  mount_attr whole{};
  whole.attr_set = o.tree_set;
  whole.attr_clr = o.tree_clear;
  uint64_t propagation = o.propagation ? o.propagation : MS_PRIVATE;
  bool recursive = o.propagation ? o.propagation_recursive : true;
  if (recursive) whole.propagation = propagation;
  if (whole.attr_set || whole.attr_clr || whole.propagation)
    TRY(SetAttr(tree, kTree, whole, "set attributes of a mount tree"));
  mount_attr top{};
  top.attr_set = o.attr_set;
  top.attr_clr = o.attr_clear;
  if (!recursive) top.propagation = propagation;
  if (top.attr_set || top.attr_clr || top.propagation) TRY(SetAttr(tree, 0, top, "set attributes of a mount"));
  return {};
}

Result<void> MapIds(int tree, int user_namespace, bool recursive) {
  mount_attr attr{};
  attr.attr_set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(user_namespace);
  return SetAttr(tree, recursive ? kTree : 0, attr, "map the ids of a mount");
}

Result<unique_fd> NewTmpfs(std::string_view options, bool readonly) {
  unique_fd fs(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!fs) return SysErr("open tmpfs");
  while (!options.empty()) {
    std::string_view word = options.substr(0, options.find(','));
    options.remove_prefix(std::min(options.size(), word.size() + 1));
    std::string key(word.substr(0, word.find('=')));
    long r = key.size() == word.size() ? syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0)
                                       : syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key.c_str(),
                                                 std::string(word.substr(key.size() + 1)).c_str(), 0);
    if (r < 0) return SysErr("tmpfs option {}", word);
  }
  if (syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return SysErr("create tmpfs");
  int fd = static_cast<int>(syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, readonly ? MOUNT_ATTR_RDONLY : 0));
  if (fd < 0) return SysErr("mount tmpfs");
  return unique_fd(fd);
}

}  // namespace berth::runtime::mount
