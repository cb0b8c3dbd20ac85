#include "images/snapshots/lower_view.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace berth::images {
namespace {

constexpr size_t kPathPiece = 4000;  // below PATH_MAX; what a tar names can be longer

std::optional<EntryType> TypeOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return EntryType::kFile;
    case S_IFDIR:
      return EntryType::kDirectory;
    case S_IFLNK:
      return EntryType::kSymlink;
    case S_IFCHR:
      return EntryType::kCharDevice;
    case S_IFBLK:
      return EntryType::kBlockDevice;
    case S_IFIFO:
      return EntryType::kFifo;
    default:
      return std::nullopt;
  }
}

// By the descriptor's link in /proc, since O_PATH descriptors answer no f*xattr call.
Result<Xattrs> ReadXattrs(int fd, const std::string& path) {
  std::string link = fmt::format("/proc/self/fd/{}", fd);
  std::string names(65536, '\0');
  ssize_t size = listxattr(link.c_str(), names.data(), names.size());
  if (size < 0) return SysErr("list attributes of {}", path);
  Xattrs xattrs;
  std::string value(65536, '\0');
  for (std::string_view rest(names.data(), static_cast<size_t>(size)); !rest.empty();) {
    std::string name(rest.data());
    rest.remove_prefix(name.size() + 1);
    ssize_t n = getxattr(link.c_str(), name.c_str(), value.data(), value.size());
    if (n < 0 && errno == ENODATA) continue;
    if (n < 0) return SysErr("read attribute {} of {}", name, path);
    xattrs.emplace_back(std::move(name), value.substr(0, static_cast<size_t>(n)));
  }
  return xattrs;
}

}  // namespace

Result<unique_fd> MountedLowerView::Find(const std::string& path, int flags) {
  if (!root_) root_ = TRY(mounter_());
  unique_fd directory;
  std::string_view rest = path;
  for (;;) {
    bool last = rest.size() <= kPathPiece;
    size_t length = last ? rest.size() : rest.rfind('/', kPathPiece);
    if (length > kPathPiece) return unique_fd();  // a component that long exists nowhere
    std::string piece = length == 0 ? std::string(".") : std::string(rest.substr(0, length));
    if (!last) rest.remove_prefix(length + 1);
    open_how how{};
    how.flags = static_cast<uint64_t>(O_CLOEXEC | O_NOFOLLOW | (last ? flags : O_PATH | O_DIRECTORY));
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    int fd = static_cast<int>(
        syscall(SYS_openat2, directory ? directory.get() : root_.get(), piece.c_str(), &how, sizeof how));
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG)) return unique_fd();
    if (fd < 0) return SysErr("open {} in the layers below", path);
    directory = unique_fd(fd);
    if (last) return directory;
  }
}

Result<std::optional<LowerNode>> MountedLowerView::Lookup(const std::string& path) {
  unique_fd fd = TRY(Find(path, O_PATH));
  if (!fd) return std::optional<LowerNode>();
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return SysErr("read metadata of {} in the layers below", path);
  auto type = TypeOf(st.st_mode);
  if (!type)
    return Err(Code::kInvalidArgument, "{} in the layers below is neither file, directory, link, device nor fifo",
               path);
  LowerNode node;
  node.type = *type;
  node.mode = st.st_mode & 07777;
  node.uid = st.st_uid;
  node.gid = st.st_gid;
  node.mtime = {st.st_mtim.tv_sec, static_cast<uint32_t>(st.st_mtim.tv_nsec)};
  node.size = static_cast<uint64_t>(st.st_size);
  if (*type == EntryType::kCharDevice || *type == EntryType::kBlockDevice) {
    node.major = major(st.st_rdev);
    node.minor = minor(st.st_rdev);
  }
  if (*type == EntryType::kSymlink) {
    node.target.resize(4096);
    ssize_t n = readlinkat(fd.get(), "", node.target.data(), node.target.size());
    if (n < 0) return SysErr("read symbolic link {} in the layers below", path);
    node.target.resize(static_cast<size_t>(n));
  }
  node.xattrs = TRY(ReadXattrs(fd.get(), path));
  return std::optional(std::move(node));
}

Result<unique_fd> MountedLowerView::Open(const std::string& path) {
  unique_fd fd = TRY(Find(path, O_RDONLY | O_NONBLOCK));
  if (!fd) return Err(Code::kNotFound, "{} is not in the layers below", path);
  return fd;
}

}  // namespace berth::images
