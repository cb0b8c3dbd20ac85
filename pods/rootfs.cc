#include "pods/rootfs.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace berth::pods {

static unique_fd OpenDir(int root, const std::string& path) {
  open_how how = {};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  unique_fd fd;
  do fd.reset(static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how)));
  while (!fd && (errno == EINTR || errno == EAGAIN));
  return fd;
}

Result<void> MakeDirInRoot(int root, const std::string& path) {
  if (OpenDir(root, path)) return {};
  std::string have = ".";
  for (size_t at = 0; at < path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return Err(Code::kInvalidArgument, "working_dir: {}: must not contain \"..\"", path);
    // Each parent is looked up anew inside the root, so that links in it are followed as the container will.
    unique_fd parent = OpenDir(root, have);
    if (!parent) return SysErr("working_dir: {}: open {} in the root filesystem", path, have);
    if (::mkdirat(parent.get(), part.c_str(), 0755) < 0 && errno != EEXIST)
      return SysErr("working_dir: {}: make {}/{} in the root filesystem", path, have, part);
    have += "/" + part;
  }
  return {};
}

}  // namespace berth::pods
