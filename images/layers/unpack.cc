#include "images/layers/unpack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <unordered_map>

namespace berth::images {
namespace {

timespec ToTimespec(const Timestamp& t) { return {static_cast<time_t>(t.seconds), static_cast<long>(t.nanoseconds)}; }

class Unpacker {
 public:
  Unpacker(const Tree& tree, int tar, LowerView* lower) : tree_(tree), tar_(tar), lower_(lower) {}

  Result<UnpackResult> Run(const std::string& path) {
    // Files with several names are made here first and linked to each of them.
    std::string staging = path + ".links";
    if (mkdir(staging.c_str(), 0700) != 0) return SysErr("make {}", staging);
    staging_ = TRY(Open(staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (mkdir(path.c_str(), 0700) != 0) return SysErr("make {}", path);
    unique_fd root = TRY(Open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    auto done = Fill(root.get(), Tree::kRoot, path);
    for (const auto& [id, name] : staged_) unlinkat(staging_.get(), name.c_str(), 0);
    rmdir(staging.c_str());
    TRY(std::move(done));
    return result_;
  }

 private:
  // Recursion is bounded by the depth that Tree::Build lets through.
  Result<void> Fill(int directory, InodeId id, const std::string& path) {
    const Inode& inode = tree_.inode(id);
    for (const auto& [name, child] : inode.directory->children) {
      std::string below = path + "/" + name;
      if (tree_.inode(child).directory) {
        if (mkdirat(directory, name.c_str(), 0700) != 0) return SysErr("make {}", below);
        unique_fd fd = TRY(OpenAt(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        TRY(Fill(fd.get(), child, below));
      } else if (tree_.inode(child).nlink > 1) {
        TRY(Link(directory, name, child, below));
      } else {
        TRY(Make(directory, name, child, below));
      }
    }
    // Last, since each child made has changed its time.
    return Describe(directory, ".", directory, inode, path);
  }

  Result<void> Link(int directory, const std::string& name, InodeId id, const std::string& path) {
    auto staged = staged_.find(id);
    if (staged == staged_.end()) {
      staged = staged_.emplace(id, std::to_string(id)).first;
      TRY(Make(staging_.get(), staged->second, id, path));
    }
    if (linkat(staging_.get(), staged->second.c_str(), directory, name.c_str(), 0) != 0) return SysErr("link {}", path);
    return {};
  }

  Result<void> Make(int directory, const std::string& name, InodeId id, const std::string& path) {
    const Inode& inode = tree_.inode(id);
    switch (inode.type) {
      case EntryType::kSymlink:
        if (symlinkat(inode.target.c_str(), directory, name.c_str()) != 0) return SysErr("make symbolic link {}", path);
        break;
      case EntryType::kFifo:
        if (mknodat(directory, name.c_str(), S_IFIFO | 0600, 0) != 0) return SysErr("make fifo {}", path);
        break;
      case EntryType::kCharDevice:
      case EntryType::kBlockDevice: {
        mode_t type = inode.type == EntryType::kCharDevice ? S_IFCHR : S_IFBLK;
        if (mknodat(directory, name.c_str(), type | (inode.whiteout ? 0 : 0600), makedev(inode.major, inode.minor)) !=
            0)
          return SysErr("make device {} {}:{}", path, inode.major, inode.minor);
        break;
      }
      default: {
        unique_fd file =
            TRY_CTX(OpenAt(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600), "make {}", path);
        TRY_CTX(FillFile(file.get(), inode), "{}", path);
        return Describe(directory, name, file.get(), inode, path);
      }
    }
    return Describe(directory, name, -1, inode, path);
  }

  Result<void> FillFile(int file, const Inode& inode) {
    uint64_t written = inode.extents.empty() ? 0 : inode.extents.back().offset + inode.extents.back().length;
    if (inode.size > written && ftruncate(file, static_cast<off_t>(inode.size)) != 0)
      return SysErr("set size {}", inode.size);
    for (const Extent& e : inode.extents) TRY(Copy(tar_, e.source, file, e.offset, e.length));
    if (inode.lower_path.empty()) return {};
    unique_fd from = TRY(lower_->Open(inode.lower_path));
    for (off_t at = 0; at < static_cast<off_t>(inode.size);) {
      off_t data = lseek(from.get(), at, SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data < 0) return SysErr("find data in {}", inode.lower_path);
      off_t hole = lseek(from.get(), data, SEEK_HOLE);
      if (hole < 0) return SysErr("find the end of data in {}", inode.lower_path);
      hole = std::min(hole, static_cast<off_t>(inode.size));
      TRY(Copy(from.get(), static_cast<uint64_t>(data), file, static_cast<uint64_t>(data),
               static_cast<uint64_t>(hole - data)));
      at = hole;
    }
    return {};
  }

  // copy_file_range(2) for large pieces, where a filesystem may share blocks; a buffer for small ones, which is faster.
  Result<void> Copy(int from, uint64_t source, int to, uint64_t offset, uint64_t length) {
    while (length > kBufferSize && ranges_work_) {
      loff_t in = static_cast<loff_t>(source), out = static_cast<loff_t>(offset);
      ssize_t n = copy_file_range(from, &in, to, &out, std::min<uint64_t>(length, 1 << 30), 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
        return SysErr("copy data");
      if (n < 0) {
        ranges_work_ = false;
        break;
      }
      if (n == 0) return Err(Code::kDataLoss, "layer data ends at {}", source);
      source += static_cast<uint64_t>(n);
      offset += static_cast<uint64_t>(n);
      length -= static_cast<uint64_t>(n);
    }
    buffer_.resize(kBufferSize);
    while (length > 0) {
      ssize_t n = pread(from, buffer_.data(), std::min<uint64_t>(length, kBufferSize), static_cast<off_t>(source));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("read layer data at {}", source);
      if (n == 0) return Err(Code::kDataLoss, "layer data ends at {}", source);
      for (ssize_t done = 0; done < n;) {
        ssize_t put =
            pwrite(to, buffer_.data() + done, static_cast<size_t>(n - done), static_cast<off_t>(offset) + done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return SysErr("write at {}", offset);
        done += put;
      }
      source += static_cast<uint64_t>(n);
      offset += static_cast<uint64_t>(n);
      length -= static_cast<uint64_t>(n);
    }
    return {};
  }

  // Owner first: chown takes away set-id bits and capabilities. Times last. `fd` is the object if it could be opened.
  Result<void> Describe(int directory, const std::string& name, int fd, const Inode& inode, const std::string& path) {
    ++result_.inodes;
    if (fchownat(directory, name.c_str(), inode.uid, inode.gid, AT_SYMLINK_NOFOLLOW) != 0)
      return SysErr("set owner {}:{} of {}", inode.uid, inode.gid, path);
    bool link = inode.type == EntryType::kSymlink;
    if (!link && !inode.whiteout) {
      int r = fd >= 0 ? fchmod(fd, inode.mode) : fchmodat(directory, name.c_str(), inode.mode, 0);
      if (r != 0) return SysErr("set mode {:o} of {}", inode.mode, path);
    }
    Xattrs xattrs = tree_.OnDisk(inode);
    if (!xattrs.empty()) {
      // Below /proc/self/fd the kernel enters the directory that is open, whatever its path is by now.
      std::string via = fmt::format("/proc/self/fd/{}/{}", directory, name);
      for (const auto& [key, value] : xattrs) {
        if (lsetxattr(via.c_str(), key.c_str(), value.data(), value.size(), 0) != 0)
          return SysErr("set attribute {} ({} bytes) of {}", key, value.size(), path);
      }
    }
    timespec times[2] = {ToTimespec(inode.mtime), ToTimespec(inode.mtime)};
    if (utimensat(directory, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return SysErr("set time of {}", path);
    struct stat st;
    if (fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return SysErr("read metadata of {}", path);
    result_.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    return {};
  }

  static constexpr size_t kBufferSize = 256 << 10;
  const Tree& tree_;
  int tar_;
  LowerView* lower_;
  unique_fd staging_;
  std::unordered_map<InodeId, std::string> staged_;
  std::string buffer_;
  bool ranges_work_ = true;
  UnpackResult result_;
};

}  // namespace

Result<UnpackResult> Unpack(const Tree& tree, int tar, LowerView* lower, const std::string& path) {
  return Unpacker(tree, tar, lower).Run(path);
}

}  // namespace berth::images
