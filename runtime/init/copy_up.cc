// tmpcopyup: a tmpfs that begins with what it covers.
#include <dirent.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

constexpr int kMaxDepth = 64;  // directories; each holds a descriptor and a buffer of the stack

struct Entry {  // linux_dirent64
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[1];
};

struct Copier {
  Child& child;
  const char* path;

  [[noreturn]] void Stop(int sys, const char* name) { Fail(child, sys, "copy ", name, " up into ", path); }

  // From the O_PATH or open descriptor of a file to the new one; a filesystem without attributes has none.
  void Attributes(int from, int to) {
    char names[1024], value[4096];
    ssize_t n = flistxattr(from, names, sizeof names);
    for (ssize_t at = 0; at < n; at += static_cast<ssize_t>(strlen(names + at)) + 1) {
      ssize_t size = fgetxattr(from, names + at, value, sizeof value);
      if (size >= 0) (void)fsetxattr(to, names + at, value, static_cast<size_t>(size), 0);
    }
  }

  void Finish(const struct stat& st, int to, const char* name) {
    // The owner first: chown clears set-uid bits.
    if (fchown(to, st.st_uid, st.st_gid) < 0 && errno != EPERM && errno != EINVAL) Stop(errno, name);
    if (fchmod(to, st.st_mode & 07777) < 0) Stop(errno, name);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    (void)futimens(to, times);
  }

  void File(int from_dir, int to_dir, const char* name, const struct stat& st) {
    int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (from < 0 || to < 0) Stop(errno, name);
    for (ssize_t n; (n = sendfile(to, from, nullptr, 1 << 20)) != 0;)
      if (n < 0 && errno != EINTR) Stop(errno, name);
    Attributes(from, to);
    Finish(st, to, name);
    close(from);
    close(to);
  }

  void Other(int from_dir, int to_dir, const char* name, const struct stat& st) {
    if (S_ISLNK(st.st_mode)) {
      char target[4096];
      ssize_t n = readlinkat(from_dir, name, target, sizeof target - 1);
      if (n < 0) Stop(errno, name);
      target[n] = 0;
      if (symlinkat(target, to_dir, name) < 0) Stop(errno, name);
    } else if (mknodat(to_dir, name, st.st_mode, st.st_rdev) < 0) {
      if (errno == EPERM) return Warn(child, 0, "tmpcopyup: a device cannot be made here: ", name);
      Stop(errno, name);
    }
    if (fchownat(to_dir, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM && errno != EINVAL)
      Stop(errno, name);
  }

  void Directory(int from, int to, int depth) {
    if (depth > kMaxDepth) Stop(ELOOP, "a directory");
    alignas(8) char buffer[4096];
    for (;;) {
      long n = syscall(SYS_getdents64, from, buffer, sizeof buffer);
      if (n < 0) Stop(errno, "a directory");
      if (n == 0) return;
      for (long at = 0; at < n;) {
        const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
        at += entry->length;
        const char* name = entry->name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        struct stat st;
        if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0) Stop(errno, name);
        if (S_ISREG(st.st_mode)) {
          File(from, to, name, st);
        } else if (S_ISDIR(st.st_mode)) {
          int inner = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
          if (inner < 0 || mkdirat(to, name, 0700) < 0) Stop(errno, name);
          int made = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
          if (made < 0) Stop(errno, name);
          Directory(inner, made, depth + 1);
          Attributes(inner, made);
          Finish(st, made, name);
          close(inner);
          close(made);
        } else {
          Other(from, to, name, st);
        }
      }
    }
  }
};

}  // namespace

void CopyUp(Child& child, int from, int to, const char* path) {
  Copier copier{child, path};
  int source = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
      target = openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat st;
  if (source < 0 || target < 0 || fstat(source, &st) < 0) copier.Stop(errno, "the directory");
  copier.Directory(source, target, 0);
  if (fchown(target, st.st_uid, st.st_gid) < 0 && errno != EPERM && errno != EINVAL)
    copier.Stop(errno, "the directory");
  close(source);
  close(target);
}

}  // namespace berth::init
