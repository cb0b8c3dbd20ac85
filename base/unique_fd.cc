#include "base/unique_fd.h"

namespace berth {

Result<unique_fd> OpenAt(int dir, const std::string& path, int flags, unsigned mode) {
  int fd;
  do fd = ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) return SysErr("open {}", path);
  return unique_fd(fd);
}

Result<unique_fd> Open(const std::string& path, int flags, unsigned mode) { return OpenAt(AT_FDCWD, path, flags, mode); }

Result<std::pair<unique_fd, unique_fd>> Pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return SysErr("make a pipe");
  return std::pair(unique_fd(ends[0]), unique_fd(ends[1]));
}

}  // namespace berth
