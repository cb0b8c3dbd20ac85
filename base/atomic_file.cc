#include "base/atomic_file.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/id.h"
#include "base/unique_fd.h"

namespace berth {
namespace {

std::string ParentOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<std::string> ReadAll(int fd, const std::string& path, size_t limit) {
  struct stat st{};
  std::string out;
  // Files of procfs and sysfs say 0 or a page: the size is only a hint.
  if (::fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) out.reserve(std::min<size_t>(st.st_size, limit) + 1);
  size_t used = 0;
  for (;;) {
    if (out.size() - used < 4096) out.resize(std::max(out.capacity(), used + 4096));
    const ssize_t n = ::read(fd, out.data() + used, out.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("read {}", path);
    if (n == 0) break;
    used += n;
    if (used > limit) return Err(Code::kInvalidArgument, "read {}: larger than the {} bytes that are accepted", path, limit);
  }
  out.resize(used);
  return out;
}

// Directories below this depth are first moved up to the top, so that neither stack nor descriptors grow with a tree
// somebody else made deep.
constexpr int kMaxDepth = 48;

class Remover {
 public:
  Remover(int top, const std::string& path) : top_(top), path_(path) {}

  Result<void> Empty(int dir_fd, int depth) {
    const int copy = ::fcntl(dir_fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("remove {}", path_);
    DIR* stream = ::fdopendir(copy);
    if (!stream) {
      ::close(copy);
      return SysErr("remove {}", path_);
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(stream, ::closedir);
    // Removing while reading may make readdir miss entries, so again until a pass finds nothing.
    for (bool found = true; found;) {
      found = false;
      ::rewinddir(dir.get());
      while (const dirent* entry = (errno = 0, ::readdir(dir.get()))) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        TRY(Remove(dir_fd, name, depth));
        found = true;
      }
      if (errno != 0) return SysErr("read directory in {}", path_);
    }
    return {};
  }

  Result<void> Remove(int parent, const std::string& name, int depth) {
    if (::unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return {};
    if (errno != EISDIR && errno != EPERM) return SysErr("remove {} in {}", name, path_);
    const int why = errno;
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;
    unique_fd dir(static_cast<int>(::syscall(SYS_openat2, parent, name.c_str(), &how, sizeof how)));
    if (!dir) {
      if (errno == ENOENT) return {};
      if (errno == ENOTDIR) return SysErrOf(why, "remove {} in {}", name, path_);
      if (errno == EXDEV) return Err(Code::kConflict, "remove {}: {} in it is a mount point", path_, name);
      return SysErr("remove {} in {}", name, path_);
    }
    if (depth >= kMaxDepth && top_ >= 0) {
      const std::string moved = ".berth-remove-" + RandomHex(16);
      if (::renameat(parent, name.c_str(), top_, moved.c_str()) == 0) return {};  // a later pass over the top finds it
    }
    for (int attempt = 0;; ++attempt) {
      TRY(Empty(dir.get(), depth + 1));
      if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return {};
      if (errno != ENOTEMPTY || attempt == 3) return SysErr("remove {} in {}", name, path_);  // somebody keeps writing
    }
  }

 private:
  int top_;
  const std::string& path_;
};

}  // namespace

Result<void> WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(n);
    } else if (errno == EAGAIN) {
      pollfd p = {fd, POLLOUT, 0};
      if (::poll(&p, 1, -1) < 0 && errno != EINTR) return SysErr("poll descriptor {}", fd);
    } else if (errno != EINTR) {
      return SysErr("write {} bytes", bytes.size());
    }
  }
  return {};
}

Result<void> SyncDirectory(const std::string& path) {
  const unique_fd dir = TRY(Open(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(dir.get()) < 0) return SysErr("fsync {}", path);
  return {};
}

Result<void> WriteFileAtomic(const std::string& path, std::string_view bytes, unsigned mode) {
  const std::string temporary = path + ".tmp-" + RandomHex(16);
  auto write = [&]() -> Result<void> {
    unique_fd file = TRY(Open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
    if (::fchmod(file.get(), mode) < 0) return SysErr("chmod {}", temporary);  // whatever the umask
    TRY_CTX(WriteAll(file.get(), bytes), "{}", temporary);
    if (::fsync(file.get()) < 0) return SysErr("fsync {}", temporary);
    if (::rename(temporary.c_str(), path.c_str()) < 0) return SysErr("rename {} to {}", temporary, path);
    return {};
  };
  if (auto written = write(); !written) {
    ::unlink(temporary.c_str());
    return written;
  }
  return SyncDirectory(ParentOf(path));
}

Result<std::string> ReadFileAt(int dir, const std::string& path, size_t limit) {
  const unique_fd file = TRY(OpenAt(dir, path, O_RDONLY));
  return ReadAll(file.get(), path, limit);
}

Result<std::string> ReadFile(const std::string& path, size_t limit) { return ReadFileAt(AT_FDCWD, path, limit); }

Result<void> WriteExisting(const std::string& path, std::string_view value) {
  const unique_fd file = TRY_CTX(Open(path, O_WRONLY), "write \"{}\"", value);
  ssize_t n;
  do n = ::write(file.get(), value.data(), value.size());
  while (n < 0 && errno == EINTR);
  if (n < 0) return SysErr("write \"{}\" to {}", value, path);
  if (static_cast<size_t>(n) != value.size())
    return Err(Code::kInternal, "write \"{}\" to {}: only {} of {} bytes were taken", value, path, n, value.size());
  return {};
}

Result<void> MakeDirs(const std::string& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) == 0) return {};
  if (errno == ENOENT) {
    const std::string parent = ParentOf(path.substr(0, path.find_last_not_of('/') + 1));
    if (parent == "." || parent == path) return SysErr("make directory {}", path);
    TRY(MakeDirs(parent, mode));
    if (::mkdir(path.c_str(), mode) == 0) return {};
  }
  if (errno != EEXIST) return SysErr("make directory {}", path);
  struct stat st{};
  if (::stat(path.c_str(), &st) < 0) return SysErr("make directory {}", path);
  if (!S_ISDIR(st.st_mode)) return SysErrOf(ENOTDIR, "make directory {}", path);
  return {};
}

Result<void> RemoveTree(const std::string& path) {
  std::string trimmed = path.substr(0, path.find_last_not_of('/') + 1);
  const std::string name = trimmed.substr(trimmed.find_last_of('/') + 1);
  if (name.empty() || name == "." || name == "..")
    return Err(Code::kInvalidArgument, "remove {}: the path must end in a name", path);
  auto parent = Open(ParentOf(trimmed), O_RDONLY | O_DIRECTORY);
  if (!parent) {
    if (parent.error().sys == ENOENT || parent.error().sys == ENOTDIR) return {};
    return Wrap(parent.error(), "remove {}", path);
  }
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
  const unique_fd top(static_cast<int>(::syscall(SYS_openat2, parent->get(), name.c_str(), &how, sizeof how)));
  return Remover(top.get(), path).Remove(parent->get(), name, 0);
}

bool Exists(const std::string& path) {
  struct stat st{};
  return ::lstat(path.c_str(), &st) == 0;
}

}  // namespace berth
