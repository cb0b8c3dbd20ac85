#include <sys/statfs.h>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {

uint32_t FilesystemMagic(int fd) {
  struct statfs s;
  return fstatfs(fd, &s) == 0 ? static_cast<uint32_t>(s.f_type) : 0;
}

namespace {

bool StartsWith(const char* s, const char* prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

// Inside procfs only what fakes single statistics may be covered (lxcfs); everything else could make us or a security
// module write to the wrong file. CVE-2019-16884, CVE-2023-28642.
bool MayCoverInProc(const char* target) {
  static constexpr const char* kAllowed[] = {"/proc/cpuinfo",
                                             "/proc/diskstats",
                                             "/proc/meminfo",
                                             "/proc/stat",
                                             "/proc/swaps",
                                             "/proc/uptime",
                                             "/proc/loadavg",
                                             "/proc/slabinfo",
                                             "/proc/sys/kernel/ns_last_pid",
                                             "/proc/sys/crypto/fips_enabled"};
  for (const char* allowed : kAllowed)
    if (strcmp(target, allowed) == 0) return true;
  return false;
}

[[noreturn]] void FailOp(const Child& child, const Op& op, int sys) {
  const char* what = op.type ? child.String(op.type) : child.String(op.source);
  switch (op.kind) {
    case OpKind::kNode:
      Fail(child, sys, "make device ", child.String(op.target));
    case OpKind::kSymlink:
      Fail(child, sys, "link ", child.String(op.target), " to ", child.String(op.source));
    case OpKind::kAttributes:
      Fail(child, sys, "set mount attributes of ", child.String(op.target));
    case OpKind::kRemount:
      Fail(child, sys, "remount ", child.String(op.target));
    default:
      if (sys == ELOOP && (op.flags & kOpNoSymlinks)) Fail(child, 0, "mount ", what, " on ", child.String(op.target));
      Fail(child, sys, "mount ", what, " on ", child.String(op.target));
  }
}

[[noreturn]] void RefuseOp(const Child& child, const Op& op, const char* why) {
  Line<240> target;
  target.text << child.String(op.target) << ": " << why;
  Fail(child, 0, "mount ", op.type ? child.String(op.type) : child.String(op.source), " on ", target.bytes);
}

// Directory and last component of a target that is to be created, below /dev when that is ours.
int OpenParent(const Child& child, const char* target, bool no_symlinks, const char** name) {
  const char* slash = strrchr(target, '/');
  *name = slash + 1;
  char dir[4096];
  size_t n = static_cast<size_t>(slash - target);
  if (n >= sizeof dir) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(dir, target, n);
  dir[n] = 0;
  if (n == 0) return static_cast<int>(OpenAt2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
  if (child.dev >= 0 && strcmp(dir, "/dev") == 0) return fcntl(child.dev, F_DUPFD_CLOEXEC, 3);
  return MakeTarget(child, dir, false, no_symlinks);
}

void Reattribute(const Child& child, const Op& op, int fd) {
  if (!op.attr_set && !op.attr_clear && !op.propagation) return;
  if (MountSetAttr(fd, op.flags & kOpRecursive, op.attr_set, op.attr_clear, op.propagation) < 0)
    FailOp(child, op, errno);
}

int OpenOpTarget(const Child& child, const Op& op) {
  int target = MakeTarget(child, child.String(op.target), op.flags & kOpFile, op.flags & kOpNoSymlinks);
  if (target < 0) {
    if (errno == ELOOP && (op.flags & kOpNoSymlinks)) RefuseOp(child, op, "a symbolic link stands in the way");
    if (errno == ENOTDIR)
      RefuseOp(child, op,
               (op.flags & kOpFile) ? "the mount point must be a file" : "the mount point must be a directory");
    FailOp(child, op, errno);
  }
  if (!(op.flags & kOpOverProc) && FilesystemMagic(target) == kProcMagic) {
    if (!MayCoverInProc(child.String(op.target))) RefuseOp(child, op, "inside procfs nothing may be mounted");
  }
  return target;
}

// "gid=5" has no meaning where group 5 is not mapped.
void WithoutGid(const char* data, char* out, size_t size) {
  Text text(out, size);
  for (const char* p = data; *p;) {
    const char* end = strchr(p, ',');
    size_t n = end ? static_cast<size_t>(end - p) : strlen(p);
    char word[256];
    if (n > 0 && n < sizeof word && !StartsWith(p, "gid=")) {
      memcpy(word, p, n);
      word[n] = 0;
      text << (*out ? "," : "") << word;
    }
    p += n + (end ? 1 : 0);
  }
}

long MountHere(const Child& child, const Op& op, const char* data) {
  long done = Mount(child.String(op.source), ".", child.String(op.type), op.ms_flags, data);
  if (done == 0 || errno != EINVAL || !data || !(op.flags & kOpDevpts) || !(child.plan->flags & kPlanUserNamespace))
    return done;
  char rest[1024];
  WithoutGid(data, rest, sizeof rest);
  return Mount(child.String(op.source), ".", child.String(op.type), op.ms_flags, rest);
}

void MountEarly(Child& child, const Op& op, int index) {
  int target = OpenOpTarget(child, op);
  if (MoveMount(child.early[index], target) < 0) FailOp(child, op, errno);
  close(child.early[index]);
  child.early[index] = -1;
  if (op.flags & kOpProc) {
    struct stat st;
    int mounted = OpenTarget(child, child.String(op.target), O_DIRECTORY, true);
    if (mounted < 0 || FilesystemMagic(mounted) != kProcMagic || fstat(mounted, &st) < 0 || st.st_ino != kProcRootInode)
      RefuseOp(child, op, "what is there now is not procfs");
    child.proc = mounted;
  }
  close(target);
}

void MountFilesystem(Child& child, const Op& op) {
  int target;
  char data[4096];
  const char* options = op.data ? child.String(op.data) : nullptr;
  if (op.flags & kOpKeepMode) {
    // As runc has it: a tmpfs without a mode of its own on a directory of the image looks like that directory.
    struct stat st;
    target = OpenTarget(child, child.String(op.target), O_DIRECTORY, op.flags & kOpNoSymlinks);
    if (target >= 0) {
      if (fstat(target, &st) < 0) FailOp(child, op, errno);
      char mode[5] = {static_cast<char>('0' + (st.st_mode >> 9 & 7)), static_cast<char>('0' + (st.st_mode >> 6 & 7)),
                      static_cast<char>('0' + (st.st_mode >> 3 & 7)), static_cast<char>('0' + (st.st_mode & 7)), 0};
      Text(data, sizeof data) << "mode=" << mode << (options ? "," : "") << options;
      options = data;
      close(target);
    }
  }
  target = OpenOpTarget(child, op);
  const char* path = child.String(op.target);
  // "." after fchdir is the mount point itself: as safe as mounting on a descriptor, and two calls instead of seven.
  if (fchdir(target) < 0) FailOp(child, op, errno);
  if (MountHere(child, op, options) < 0) {
    if (errno == ENODEV && (op.flags & kOpOptional)) {
      close(target);
      return;
    }
    FailOp(child, op, errno);
  }
  if (op.flags & kOpCopyUp) {
    int mounted = OpenTarget(child, path, O_DIRECTORY, true);
    if (mounted < 0) FailOp(child, op, errno);
    CopyUp(child, target, mounted, path);
    close(mounted);
  }
  close(target);
  bool is_dev = strcmp(path, "/dev") == 0;
  if (!is_dev && !(op.flags & (kOpProc | kOpDevpts)) && !op.attr_set && !op.attr_clear && !op.propagation) return;
  int mounted = OpenTarget(child, path, O_DIRECTORY, true);
  if (mounted < 0) FailOp(child, op, errno);
  Reattribute(child, op, mounted);
  uint32_t magic = FilesystemMagic(mounted);
  if (op.flags & kOpProc) {
    struct stat st;
    if (magic != kProcMagic || fstat(mounted, &st) < 0 || st.st_ino != kProcRootInode)
      RefuseOp(child, op, "what is there now is not procfs");
    child.proc = mounted;
  } else if (op.flags & kOpDevpts) {
    if (magic != kDevptsMagic) RefuseOp(child, op, "what is there now is not devpts");
    child.devpts = mounted;
  } else if (is_dev) {
    child.dev = mounted;
  } else {
    close(mounted);
  }
}

void AttachTree(Child& child, const Op& op) {
  int tree = child.Fd(op.fd);
  int target = OpenOpTarget(child, op);
  struct stat from, to;
  if (fstat(tree, &from) < 0 || fstat(target, &to) < 0) FailOp(child, op, errno);
  if (S_ISDIR(from.st_mode) != S_ISDIR(to.st_mode))
    RefuseOp(child, op,
             S_ISDIR(from.st_mode) ? "the mount point is not a directory" : "the mount point is a directory");
  if (strcmp(child.String(op.target), "/proc") == 0 &&
      (FilesystemMagic(tree) != kProcMagic || from.st_ino != kProcRootInode))
    RefuseOp(child, op, "only procfs may be mounted on /proc");
  if (MoveMount(tree, target) < 0) FailOp(child, op, errno);
  close(target);
}

// mount(2) sets the flags of the mount to exactly those given. What is set and not asked away stays: a remount for one
// flag must not open what another closed, and in a user namespace locked flags may not be left out at all.
void Remount(Child& child, const Op& op) {
  int fd = OpenTarget(child, child.String(op.target), 0, op.flags & kOpNoSymlinks);
  struct statfs now;
  if (fd < 0 || fstatfs(fd, &now) < 0) FailOp(child, op, errno);
  if (op.ms_flags & MS_BIND) {
    if (MountSetAttr(fd, false, op.attr_set, op.attr_clear, 0) < 0) FailOp(child, op, errno);
  } else {
    constexpr struct {
      uint64_t st, ms, attr;
    } kFlags[] = {{1, MS_RDONLY, MOUNT_ATTR_RDONLY},      {2, MS_NOSUID, MOUNT_ATTR_NOSUID},
                  {4, MS_NODEV, MOUNT_ATTR_NODEV},        {8, MS_NOEXEC, MOUNT_ATTR_NOEXEC},
                  {1024, MS_NOATIME, MOUNT_ATTR__ATIME},  {2048, MS_NODIRATIME, MOUNT_ATTR_NODIRATIME},
                  {4096, MS_RELATIME, MOUNT_ATTR__ATIME}, {8192, 256, MOUNT_ATTR_NOSYMFOLLOW}};
    uint64_t flags = op.ms_flags;
    for (const auto& f : kFlags)
      if (static_cast<uint64_t>(now.f_flags) & f.st && !(op.attr_clear & f.attr)) flags |= f.ms;
    int path = OpenTarget(child, child.String(op.target), O_DIRECTORY, op.flags & kOpNoSymlinks);
    if (path < 0 || fchdir(path) < 0) FailOp(child, op, errno);
    if (Mount(nullptr, ".", nullptr, flags | MS_REMOUNT, op.data ? child.String(op.data) : nullptr) < 0)
      FailOp(child, op, errno);
    close(path);
  }
  if (op.propagation && MountSetAttr(fd, op.flags & kOpRecursive, 0, 0, op.propagation) < 0) FailOp(child, op, errno);
  close(fd);
}

void MakeNode(Child& child, const Op& op) {
  const char* name;
  int dir = OpenParent(child, child.String(op.target), op.flags & kOpNoSymlinks, &name);
  if (dir < 0) FailOp(child, op, errno);
  dev_t device = static_cast<dev_t>(((op.major & 0xfffff000ULL) << 32) | ((op.major & 0xfffULL) << 8) |
                                    ((op.minor & 0xffffff00ULL) << 12) | (op.minor & 0xffULL));
  bool made = mknodat(dir, name, op.mode, device) == 0;
  if (!made && errno != EEXIST) FailOp(child, op, errno);
  bool is_null = (op.mode & S_IFMT) == S_IFCHR && op.major == 1 && op.minor == 3;
  if (!made || op.uid || op.gid || is_null) {
    int node = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (node < 0 || fstat(node, &st) < 0) FailOp(child, op, errno);
    if ((st.st_mode & S_IFMT) != (op.mode & S_IFMT) ||
        ((S_ISCHR(op.mode) || S_ISBLK(op.mode)) && st.st_rdev != device)) {
      Fail(child, 0, "make device ", child.String(op.target), ": another file is there");
    }
    if ((op.uid || op.gid) && fchownat(node, "", op.uid, op.gid, kEmpty) < 0) FailOp(child, op, errno);
    // Nothing of the container runs yet: `name` is still what was looked at.
    if (!made && (st.st_mode & 07777) != (op.mode & 07777) && fchmodat(dir, name, op.mode & 07777, 0) < 0)
      FailOp(child, op, errno);
    if (is_null && child.null < 0)
      child.null = node;
    else
      close(node);
  }
  close(dir);
}

void MakeSymlink(Child& child, const Op& op) {
  const char* name;
  int dir = OpenParent(child, child.String(op.target), op.flags & kOpNoSymlinks, &name);
  if (dir < 0) FailOp(child, op, errno);
  if (symlinkat(child.String(op.source), dir, name) < 0 && errno != EEXIST) FailOp(child, op, errno);
  close(dir);
}

}  // namespace

int OpenTarget(const Child& child, const char* path, uint64_t flags, bool no_symlinks) {
  uint64_t resolve = no_symlinks ? RESOLVE_NO_SYMLINKS : RESOLVE_NO_MAGICLINKS;
  if (child.dev >= 0 && StartsWith(path, "/dev/"))
    return static_cast<int>(OpenAt2(child.dev, path + 5, O_PATH | flags, resolve | RESOLVE_BENEATH));
  return static_cast<int>(OpenAt2(AT_FDCWD, path, O_PATH | flags, resolve));
}

int MakeTarget(const Child& child, const char* path, bool file, bool no_symlinks) {
  uint64_t kind = file ? 0 : O_DIRECTORY;
  int fd = OpenTarget(child, path, kind, no_symlinks);
  if (fd >= 0 || errno != ENOENT) return fd;

  // Component by component. The process's root is the container's, so links resolve inside it; a dangling link is
  // followed by hand, as its target is what has to be made.
  uint64_t resolve = no_symlinks ? RESOLVE_NO_SYMLINKS : RESOLVE_NO_MAGICLINKS;
  char rest[8192];
  if (strlen(path) >= 4096) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(rest, path);
  int links = 0;
  int at;
  if (child.dev >= 0 && StartsWith(rest, "/dev/")) {
    memmove(rest, rest + 5, strlen(rest + 5) + 1);
    at = fcntl(child.dev, F_DUPFD_CLOEXEC, 3);
  } else {
    at = static_cast<int>(OpenAt2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
  }
  while (at >= 0) {
    char* p = rest;
    while (*p == '/') ++p;
    if (!*p) return at;
    char* end = p;
    while (*end && *end != '/') ++end;
    char* next = end;
    while (*next == '/') ++next;
    bool last = *next == 0;
    char saved = *end;
    *end = 0;
    bool want_file = last && file;
    int found = static_cast<int>(OpenAt2(at, p, O_PATH | (want_file ? 0 : O_DIRECTORY), resolve));
    if (found < 0 && errno == ENOENT) {
      int made;
      if (want_file) {
        made = openat(at, p, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (made >= 0) close(made);
      } else {
        made = mkdirat(at, p, 0755);
      }
      if (made < 0 && errno == EEXIST) {
        char link[4096];
        ssize_t n = readlinkat(at, p, link, sizeof link - 1);
        if (n > 0 && !no_symlinks && ++links < 40) {
          link[n] = 0;
          *end = saved;
          size_t tail = strlen(end);
          if (static_cast<size_t>(n) + tail >= sizeof rest) {
            close(at);
            errno = ENAMETOOLONG;
            return -1;
          }
          memmove(rest + n, end, tail + 1);
          memcpy(rest, link, static_cast<size_t>(n));
          if (link[0] == '/') {
            close(at);
            at = static_cast<int>(OpenAt2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
          }
          continue;
        }
        if (n > 0)
          errno = ELOOP;
        else
          made = 0;  // somebody else made it meanwhile
      }
      if (made >= 0)
        found = static_cast<int>(OpenAt2(at, p, O_PATH | (want_file ? 0 : O_DIRECTORY), RESOLVE_NO_SYMLINKS));
    }
    int saved_errno = errno;
    close(at);
    errno = saved_errno;
    at = found;
    *end = saved;
    memmove(rest, next, strlen(next) + 1);
  }
  return at;
}

int ProcOf(Child& child) {
  if (child.proc >= 0) return child.proc;
  // An instance of our own, seen by nobody else: it cannot be covered or replaced.
  int fs = static_cast<int>(FsOpen("proc"));
  if (fs < 0 || FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0) Fail(child, errno, "open procfs");
  child.proc = static_cast<int>(FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (child.proc < 0) Fail(child, errno, "mount procfs");
  close(fs);
  return child.proc;
}

namespace {

void MakeEarly(Child& child) {
  const Op* ops = child.Array<Op>(child.plan->ops);
  uint32_t used = 0;
  for (uint32_t i = 0; i < child.plan->ops.count; ++i) {
    const Op& op = ops[i];
    if (!(op.flags & kOpEarly)) continue;
    if (used == Child::kMaxEarly) RefuseOp(child, op, "too many mounts of procfs and sysfs for a user namespace");
    int fs = static_cast<int>(FsOpen(child.String(op.type)));
    bool ok = fs >= 0 && FsConfig(fs, FSCONFIG_SET_STRING, "source", child.String(op.source)) == 0;
    for (const char* p = op.data ? child.String(op.data) : ""; ok && *p;) {
      const char* end = strchr(p, ',');
      size_t n = end ? static_cast<size_t>(end - p) : strlen(p);
      char word[256];
      if (n >= sizeof word) RefuseOp(child, op, "an option is too long");
      memcpy(word, p, n);
      word[n] = 0;
      char* value = strchr(word, '=');
      if (value) *value++ = 0;
      ok = FsConfig(fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, word, value) == 0;
      p += n + (end ? 1 : 0);
    }
    if (op.ms_flags & MS_RDONLY) ok = ok && FsConfig(fs, FSCONFIG_SET_FLAG, "ro", nullptr) == 0;  // as mount(2) does
    ok = ok && FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) == 0;
    // Read-only, nosuid, nodev and noexec have the same numbers in both interfaces.
    int tree = ok ? static_cast<int>(FsMount(fs, op.ms_flags & 15)) : -1;
    int err = errno;
    if (fs >= 0) close(fs);
    if (tree < 0 && err == EPERM && op.fd >= 0) tree = fcntl(child.Fd(op.fd), F_DUPFD_CLOEXEC, 3);
    if (tree < 0) FailOp(child, op, err);
    Reattribute(child, op, tree);
    child.early[used++] = tree;
  }
}

// From the working directory, a mount, to it as the root.
void PivotInto(Child& child) {
  if (child.plan->flags & (kPlanNoPivot | kPlanJoinMount | kPlanHostMounts)) {
    if (chroot(".") < 0) Fail(child, errno, "chroot into root filesystem");
  } else {
    if (PivotRoot(".", ".") < 0) Fail(child, errno, "pivot_root");
    if (Umount(".", kMntDetach) < 0) Fail(child, errno, "detach the old root");
  }
  if (chdir("/") < 0) Fail(child, errno, "enter root filesystem");
}

}  // namespace

void EnterRoot(Child& child) {
  int root = child.Fd(child.plan->rootfs);
  const uint32_t flags = child.plan->flags;
  if (flags & kPlanUserNamespace) MakeEarly(child);
  // Nothing that happens here may travel back to the namespace this one was copied from. Of a namespace that others
  // live in only the mount that is to be covered changes.
  if (!(flags & kPlanHostMounts) &&
      Mount(nullptr, "/", nullptr, (flags & kPlanJoinMount ? 0 : MS_REC) | MS_PRIVATE, nullptr) < 0)
    Fail(child, errno, "make mounts private");
  if (flags & kPlanNoPivot && !(flags & kPlanJoinMount) && !child.plan->host_root) {
    // What a chroot leaves in reach must at least not be the host's whole procfs and sysfs.
    Umount("/proc", kMntDetach);
    Umount("/sys", kMntDetach);
  }
  const char* where = child.plan->host_root ? child.String(child.plan->host_root) : "/";
  if (MoveMount(root, where) < 0) Fail(child, errno, "attach root filesystem");
  if (fchdir(root) < 0) Fail(child, errno, "enter root filesystem");
  if (child.plan->host_root) {
    // Hooks see the caller's files with the container's below them, and may change them; we ourselves look no path up
    // there any more.
    child.host = static_cast<int>(OpenAt2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
    if (child.host < 0 || chroot(".") < 0) Fail(child, errno, "enter root filesystem");
    return;
  }
  PivotInto(child);
}

void ReturnToHost(Child& child) {
  if (fchdir(child.host) < 0 || chroot(".") < 0) Fail(child, errno, "return to the caller's files");
}

void LeaveHost(Child& child) {
  if (fchdir(child.Fd(child.plan->rootfs)) < 0) Fail(child, errno, "enter root filesystem");
  close(child.host);
  child.host = -1;
  PivotInto(child);
}

void BuildTree(Child& child) {
  const Op* ops = child.Array<Op>(child.plan->ops);
  int early = 0;
  for (uint32_t i = 0; i < child.plan->ops.count; ++i) {
    const Op& op = ops[i];
    switch (op.kind) {
      case OpKind::kFilesystem:
        if (op.flags & kOpEarly)
          MountEarly(child, op, early++);
        else
          MountFilesystem(child, op);
        break;
      case OpKind::kTree:
        AttachTree(child, op);
        break;
      case OpKind::kNode:
        MakeNode(child, op);
        break;
      case OpKind::kSymlink:
        MakeSymlink(child, op);
        break;
      case OpKind::kAttributes: {
        int fd = OpenTarget(child, child.String(op.target), 0, op.flags & kOpNoSymlinks);
        if (fd < 0) FailOp(child, op, errno);
        Reattribute(child, op, fd);
        close(fd);
        break;
      }
      case OpKind::kRemount: {
        Remount(child, op);
        break;
      }
    }
  }
  if (chdir("/") < 0) Fail(child, errno, "enter root filesystem");
}

namespace {

// Covers one path. `*source` is the first attached instance; further ones are clones of it, which the kernel allows for
// what is mounted in our own namespace.
void Cover(const Child& child, const char* path, int target, int* source, bool directory) {
  int tree;
  if (directory) {
    if (*source < 0) {
      int fs = static_cast<int>(FsOpen("tmpfs"));
      if (fs < 0 || FsConfig(fs, FSCONFIG_SET_STRING, "mode", "0555") < 0 ||
          FsConfig(fs, FSCONFIG_SET_STRING, "nr_blocks", "1") < 0 ||
          FsConfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "1") < 0 ||
          FsConfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0)
        Fail(child, errno, "mask ", path, ": open tmpfs");
      tree =
          static_cast<int>(FsMount(fs, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
      close(fs);
    } else {
      tree = static_cast<int>(OpenTree(*source, "", OPEN_TREE_CLONE | kEmpty));
    }
  } else if (*source >= 0) {
    tree = static_cast<int>(OpenTree(*source, "", OPEN_TREE_CLONE | kEmpty));
  } else {
    tree = child.Fd(child.plan->null_tree);
    struct stat st;
    if (tree < 0 || fstat(tree, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != ((1 << 8) | 3))
      Fail(child, 0, "mask ", path, ": no verified null device to cover it with");
  }
  if (tree < 0 || MoveMount(tree, target) < 0) Fail(child, errno, "mask ", path);
  if (*source < 0)
    *source = tree;
  else
    close(tree);
}

}  // namespace

void SealTree(Child& child) {
  const Plan& plan = *child.plan;
  const Str* paths = child.Array<Str>(plan.readonly_paths);
  for (uint32_t i = 0; i < plan.readonly_paths.count; ++i) {
    const char* path = child.String(paths[i]);
    int target = OpenTarget(child, path, 0, false);
    if (target < 0) {
      if (errno == ENOENT || errno == ENOTDIR) continue;
      Fail(child, errno, "make read-only ", path);
    }
    int tree = static_cast<int>(OpenTree(target, "", OPEN_TREE_CLONE | kEmpty | kRecursive));
    if (tree < 0 || MountSetAttr(tree, true, MOUNT_ATTR_RDONLY, 0, 0) < 0 || MoveMount(tree, target) < 0)
      Fail(child, errno, "make read-only ", path);
    close(tree);
    close(target);
  }

  int null_source = child.null, empty_source = -1;
  paths = child.Array<Str>(plan.masked);
  for (uint32_t i = 0; i < plan.masked.count; ++i) {
    const char* path = child.String(paths[i]);
    int target = OpenTarget(child, path, 0, false);
    struct stat st;
    if (target < 0 || fstat(target, &st) < 0) {
      if (errno == ENOENT || errno == ENOTDIR || errno == EACCES) continue;
      Fail(child, errno, "mask ", path);
    }
    if (S_ISDIR(st.st_mode))
      Cover(child, path, target, &empty_source, true);
    else
      Cover(child, path, target, &null_source, false);
    close(target);
  }

  if ((plan.flags & kPlanReadonlyRoot) || plan.root_propagation) {
    int root = static_cast<int>(OpenAt2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
    if (root < 0) Fail(child, errno, "open /");
    if ((plan.flags & kPlanReadonlyRoot) && MountSetAttr(root, false, MOUNT_ATTR_RDONLY, 0, 0) < 0)
      Fail(child, errno, "make / read-only");
    if (plan.root_propagation && MountSetAttr(root, plan.root_propagation & MS_REC, 0, 0,
                                              plan.root_propagation & ~static_cast<uint64_t>(MS_REC)) < 0)
      Fail(child, errno, "set propagation of /");
    close(root);
  }
}

}  // namespace berth::init
