#pragma once
// For tests with privileges: a filesystem of their own to keep layers on, and what a root filesystem looks like in
// text.
#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <map>

#include "base/testing.h"
#include "images/layers/testing.h"
#include "images/snapshots/snapshotter.h"

namespace berth::images {

// From here on mounts of this process are seen by nobody else. Empty, or why it is not possible.
inline std::string EnterMountNamespace() {
  static std::string why = [] {
    if (geteuid() != 0) return std::string("needs root");
    if (unshare(CLONE_NEWNS) != 0) return "unshare(CLONE_NEWNS): " + ErrnoText(errno);
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return "make mounts private: " + ErrnoText(errno);
    return std::string();
  }();
  return why;
}

// An ext4 filesystem in memory, mounted. EROFS cannot read its image from tmpfs or overlayfs, which /tmp may be.
class LoopDisk {
 public:
  explicit LoopDisk(int megabytes) { Make(megabytes); }
  ~LoopDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  const std::string& path() const { return path_; }
  const std::string& error() const { return error_; }

 private:
  void Make(int megabytes) {
    path_ = directory_ / "disk";
    mkdir(path_.c_str(), 0755);
    unique_fd file(memfd_create("disk", MFD_CLOEXEC));
    std::string image = fmt::format("/proc/{}/fd/{}", getpid(), file.get());
    if (ftruncate(file.get(), static_cast<off_t>(megabytes) << 20) != 0) return Fail("size the image");
    std::string make = fmt::format(
        "mkfs.ext4 -q -F -m 0 -b 4096 -N 16384 -O ^has_journal -E lazy_itable_init=0,nodiscard '{}' >/dev/null 2>&1",
        image);
    if (system(make.c_str()) != 0) return Fail("run mkfs.ext4");
    unique_fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control) return Fail("open /dev/loop-control");
    for (int attempt = 0; attempt < 20; ++attempt) {
      int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return Fail("get a free loop device");
      std::string device = fmt::format("/dev/loop{}", number);
      unique_fd loop(open(device.c_str(), O_RDWR | O_CLOEXEC));
      if (!loop) return Fail("open a loop device");
      loop_config config{};
      config.fd = static_cast<uint32_t>(file.get());
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (ioctl(loop.get(), LOOP_CONFIGURE, &config) != 0) {
        if (errno == EBUSY) continue;  // somebody else took it meanwhile
        return Fail("set up a loop device");
      }
      if (mount(device.c_str(), path_.c_str(), "ext4", MS_NOATIME, nullptr) != 0) return Fail("mount the loop device");
      mounted_ = true;
      return;
    }
    Fail("get a free loop device");
  }
  void Fail(const std::string& what) { error_ = what + ": " + ErrnoText(errno); }
  berth::testing::TempDir directory_;
  std::string path_, error_;
  bool mounted_ = false;
};

inline Result<Digest> Import(Snapshotter& snapshotter, std::string_view tar, const std::vector<Digest>& parents = {},
                             size_t chunk = 100'000) {
  Digest diff_id = Digest::Of(tar);
  auto writer = TRY(snapshotter.Begin(parents));
  for (std::string_view rest = tar; !rest.empty();) {
    std::string_view part = rest.substr(0, chunk);
    rest.remove_prefix(part.size());
    TRY(writer->Write(part));
  }
  TRY(writer->Commit(diff_id, Deadline::Never()));
  return diff_id;
}

struct LookOptions {
  bool metadata = false;  // owner, time, xattrs and link count of everything, and contents as digests
};

// Every path below `root`, with what is there: "f 644 \"content\"", "d 755", "l target", "c 600 1:3", "p 644".
inline void LookInto(int parent, const std::string& name, const std::string& prefix, const LookOptions& options,
                     std::map<std::string, std::string>& out) {
  unique_fd fd(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  ASSERT_TRUE(fd) << prefix << ErrnoText(errno);
  int at = fd.get();
  std::unique_ptr<DIR, int (*)(DIR*)> directory(fdopendir(fd.release()), closedir);
  auto describe = [&](const std::string& child, const std::string& path) -> bool {
    struct stat st;
    if (fstatat(at, child.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      out[path] = "? " + ErrnoText(errno);
      return false;
    }
    std::string text;
    std::string via = fmt::format("/proc/self/fd/{}/{}", at, child);
    if (S_ISREG(st.st_mode)) {
      std::string content(static_cast<size_t>(st.st_size), '\0');
      unique_fd file(openat(at, child.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
      for (size_t done = 0; done < content.size();) {
        ssize_t n = read(file.get(), content.data() + done, content.size() - done);
        if (n <= 0) {
          content = "unreadable: " + ErrnoText(errno);
          break;
        }
        done += static_cast<size_t>(n);
      }
      text = fmt::format("f {:o} {:?}", st.st_mode & 07777, options.metadata ? Digest::Of(content).hex() : content);
      if (options.metadata) text += fmt::format(" {}", st.st_size);
    } else if (S_ISDIR(st.st_mode)) {
      text = fmt::format("d {:o}", st.st_mode & 07777);
    } else if (S_ISLNK(st.st_mode)) {
      std::string target(5000, '\0');
      ssize_t n = readlinkat(at, child.c_str(), target.data(), target.size());
      text = "l " + target.substr(0, n < 0 ? 0 : static_cast<size_t>(n));
    } else if (S_ISFIFO(st.st_mode)) {
      text = fmt::format("p {:o}", st.st_mode & 07777);
    } else {
      text = fmt::format("{} {:o} {}:{}", S_ISCHR(st.st_mode) ? 'c' : 'b', st.st_mode & 07777, major(st.st_rdev),
                         minor(st.st_rdev));
    }
    if (options.metadata) {
      text += fmt::format(" {}:{} {}.{:09}", st.st_uid, st.st_gid, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
      if (!S_ISDIR(st.st_mode)) text += fmt::format(" n{}", st.st_nlink);
      static thread_local std::string names(65536, '\0'), value(65536, '\0');
      ssize_t size = llistxattr(via.c_str(), names.data(), names.size());
      std::map<std::string, std::string> xattrs;
      for (std::string_view rest(names.data(), size < 0 ? 0 : static_cast<size_t>(size)); !rest.empty();) {
        std::string key(rest.data());
        rest.remove_prefix(key.size() + 1);
        if (key.starts_with("trusted.overlay.")) continue;
        ssize_t n = lgetxattr(via.c_str(), key.c_str(), value.data(), value.size());
        xattrs[key] = n < 0 ? "?" : value.substr(0, static_cast<size_t>(n));
      }
      for (const auto& [key, v] : xattrs) text += fmt::format(" {}={:?}", key, v.size() > 64 ? Digest::Of(v).hex() : v);
    }
    out[path] = text;
    return S_ISDIR(st.st_mode);
  };
  if (prefix.empty()) describe(".", ".");
  while (dirent* entry = readdir(directory.get())) {
    std::string child = entry->d_name;
    if (child == "." || child == "..") continue;
    std::string path = prefix.empty() ? child : prefix + "/" + child;
    if (describe(child, path)) LookInto(at, child, path, options, out);
  }
}

inline std::map<std::string, std::string> Look(int root, LookOptions options = {}) {
  std::map<std::string, std::string> out;
  LookInto(root, ".", "", options, out);
  return out;
}

}  // namespace berth::images
