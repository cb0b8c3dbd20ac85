#include "cmd/berthd/lock_file.h"

#include <sys/file.h>

#include "base/atomic_file.h"

namespace berth {

Result<unique_fd> LockFile(const std::string& path, const std::string& what) {
  auto fd = TRY(Open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return SysErr("lock {}", path);
    std::string pid = ReadFile(path, 64).value_or("");
    while (!pid.empty() && pid.back() == '\n') pid.pop_back();
    return Err(Code::kConflict, "another berthd{} works on {}; stop it first, or give this one directories of its own",
               pid.empty() ? "" : " (pid " + pid + ")", what);
  }
  // For people and the message above only; the lock is the truth.
  if (::ftruncate(fd.get(), 0) < 0) return SysErr("write {}", path);
  TRY(WriteAll(fd.get(), fmt::format("{}\n", ::getpid())));
  return fd;
}

}  // namespace berth
