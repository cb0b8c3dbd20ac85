#pragma once
// An owned file descriptor. Closing reports nothing: who needs to know about write errors calls fsync first.
#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"

namespace berth {

class [[nodiscard]] unique_fd {
 public:
  unique_fd() = default;
  explicit unique_fd(int fd) : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(other.release()) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  unique_fd(const unique_fd&) = delete;
  unique_fd& operator=(const unique_fd&) = delete;
  ~unique_fd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    int old = std::exchange(fd_, fd);
    if (old >= 0 && old != fd) ::close(old);
  }
  Result<unique_fd> Duplicate() const {  // O_CLOEXEC
    int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) return SysErr("duplicate descriptor {}", fd_);
    return unique_fd(fd);
  }

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC added and EINTR repeated; the error names the path.
Result<unique_fd> Open(const std::string& path, int flags, unsigned mode = 0);
Result<unique_fd> OpenAt(int dir, const std::string& path, int flags, unsigned mode = 0);
Result<std::pair<unique_fd, unique_fd>> Pipe();  // read end, write end; O_CLOEXEC

}  // namespace berth
