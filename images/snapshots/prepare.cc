// Root filesystems for owners.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <set>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/id.h"
#include "base/undo.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/mount.h"

namespace berth::images {
namespace {

Result<void> CheckOwnerName(const std::string& owner) {
  auto good = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'; };
  if (owner.empty() || owner.size() > 128 || owner[0] == '.' || !std::ranges::all_of(owner, good))
    return Err(Code::kInvalidArgument,
               "snapshot owner {:?}: want 1 to 128 letters, digits, '-', '_' or '.', not beginning with '.'",
               std::string_view(owner).substr(0, 140));
  return {};
}

// The root of an overlay shows the upper directory's own metadata, so it takes over those of the layer below.
Result<void> CopyRootMetadata(const std::string& lower, const std::string& upper) {
  struct stat st;
  if (lstat(lower.c_str(), &st) != 0) return SysErr("read metadata of {}", lower);
  if (chown(upper.c_str(), st.st_uid, st.st_gid) != 0) return SysErr("set owner of {}", upper);
  if (chmod(upper.c_str(), st.st_mode & 07777) != 0) return SysErr("set mode of {}", upper);
  ssize_t size = llistxattr(lower.c_str(), nullptr, 0);
  if (size < 0 && errno != EOPNOTSUPP) return SysErr("list attributes of {}", lower);
  if (size > 0) {
    std::string names(65536, '\0'), value(65536, '\0');
    size = llistxattr(lower.c_str(), names.data(), names.size());
    if (size < 0) return SysErr("list attributes of {}", lower);
    for (std::string_view rest(names.data(), static_cast<size_t>(size)); !rest.empty();) {
      std::string name(rest.data());
      rest.remove_prefix(name.size() + 1);
      if (name.starts_with("trusted.overlay.")) continue;
      ssize_t n = lgetxattr(lower.c_str(), name.c_str(), value.data(), value.size());
      if (n < 0) return SysErr("read attribute {} of {}", name, lower);
      if (lsetxattr(upper.c_str(), name.c_str(), value.data(), static_cast<size_t>(n), 0) != 0)
        return SysErr("set attribute {} of {}", name, upper);
    }
  }
  timespec times[2] = {st.st_mtim, st.st_mtim};
  if (utimensat(AT_FDCWD, upper.c_str(), times, 0) != 0) return SysErr("set time of {}", upper);
  return {};
}

// Adds up a directory without following anything out of it. Directories are reopened by name below their parent's
// descriptor.
Result<void> AddUsage(int parent, const std::string& name, const std::string& path,
                      std::set<std::pair<dev_t, ino_t>>& seen, Usage& usage, int depth) {
  if (depth > 1024) return Err(Code::kResourceExhausted, "{}: more than 1024 directories deep", path);
  unique_fd fd = TRY(OpenAt(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  std::unique_ptr<DIR, int (*)(DIR*)> directory(fdopendir(fd.get()), closedir);
  if (!directory) return SysErr("list {}", path);
  int at = fd.release();
  for (;;) {
    errno = 0;
    dirent* entry = readdir(directory.get());
    if (entry == nullptr && errno != 0) return SysErr("list {}", path);
    if (entry == nullptr) return {};
    std::string child = entry->d_name;
    if (child == "." || child == "..") continue;
    struct stat st;
    if (fstatat(at, child.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;  // the container is at work in it
      return SysErr("read metadata of {}/{}", path, child);
    }
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !seen.insert({st.st_dev, st.st_ino}).second) continue;
    usage.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    ++usage.inodes;
    if (!S_ISDIR(st.st_mode)) continue;
    auto below = AddUsage(at, child, path + "/" + child, seen, usage, depth + 1);
    if (!below && below.error().sys != ENOENT) return below;
  }
}

}  // namespace

Result<RootFs> LayerSnapshotter::Prepare(const std::string& owner, const std::vector<Digest>& layers, bool read_only,
                                         const Deadline& until) {
  TRY(CheckOwnerName(owner));
  if (layers.size() > kMaxLowers)
    return Err(Code::kInvalidArgument, "snapshot {}: {} layers, at most {} can be stacked", owner, layers.size(),
               kMaxLowers);
  auto held = TRY(owner_locks_.Acquire(owner, until, "snapshot"));
  Use use(*this);
  TRY(Pin(use, layers));
  bool fresh = false;
  {
    std::lock_guard lock(mutex_);
    auto known = owners_.find(owner);
    fresh = known == owners_.end();
    if (!fresh) {
      const Owner& old = known->second;
      bool same = old.chain.empty() || old.layers.empty() ? old.chain.empty() || old.chain == ChainId(layers)
                                                          : old.layers == layers;
      if (!same || old.read_only != read_only)
        return Err(Code::kConflict, "snapshot {}: exists on other layers or with other access", owner);
    }
  }
  std::vector<std::string> lowers = TRY_CTX(UseChain(use, layers, until), "snapshot {}", owner);
  if (lowers.empty()) lowers.push_back(config_.layout.Empty());
  Undo undo;
  if (fresh) {
    undo.Add("remove snapshot directory", [&] { return RemoveTree(config_.layout.Owner(owner)); });
    TRY_CTX(MakeOwner(owner, layers, read_only), "snapshot {}", owner);
    Failpoint("prepare.named");
  }
  RootFs root;
  if (read_only) {
    root.mount = TRY_CTX(MountReadOnly(lowers), "snapshot {}", owner);
  } else {
    std::string directory = config_.layout.Owner(owner);
    if (fresh) TRY_CTX(CopyRootMetadata(lowers.back(), directory + "/upper"), "snapshot {}", owner);
    root.mount = TRY_CTX(MountOverlay({lowers, directory + "/upper", directory + "/work"}), "snapshot {}", owner);
  }
  Failpoint("prepare.mounted");
  undo.Keep();
  std::lock_guard lock(mutex_);
  Owner& record = owners_[owner];
  // What the owner held before goes back when `use` ends, and it keeps what this call took.
  Owner before = std::exchange(record, Owner{ChainId(layers), layers, read_only, use.held});
  use.pinned.clear();
  use.held.clear();
  if (!fresh) {
    for (const Digest& diff_id : before.layers) use.pinned.push_back(diff_id);
    use.held = before.held;
  }
  return root;
}

Result<void> LayerSnapshotter::MakeOwner(const std::string& owner, const std::vector<Digest>& layers, bool read_only) {
  std::string chain = ChainId(layers);
  bool recorded;
  {
    std::lock_guard lock(mutex_);
    recorded = chains_.contains(chain);
  }
  if (!recorded) {
    TRY(table_.PutChain(chain, layers));
    std::lock_guard lock(mutex_);
    chains_.insert(chain);
  }
  std::string temporary = fmt::format("{}/{}{}", config_.layout.Snapshots(), kNewOwner, RandomHex(16));
  Undo undo;
  {
    std::lock_guard lock(mutex_);
    temporaries_.insert(temporary);
  }
  undo.Add("remove temporary snapshot", [&] {
    ForgetTemporary(temporary);
    return RemoveTree(temporary);
  });
  if (mkdir(temporary.c_str(), 0700) != 0) return SysErr("make {}", temporary);
  if (symlink(chain.c_str(), (temporary + "/chain").c_str()) != 0) return SysErr("make {}/chain", temporary);
  if (!read_only) {
    for (const char* name : {"/upper", "/work"})
      if (mkdir((temporary + name).c_str(), 0755) != 0) return SysErr("make {}{}", temporary, name);
  }
  Failpoint("prepare.directory");
  std::string path = config_.layout.Owner(owner);
  if (rename(temporary.c_str(), path.c_str()) != 0) return SysErr("rename {} to {}", temporary, path);
  undo.Keep();
  ForgetTemporary(temporary);
  return {};
}

Result<void> LayerSnapshotter::Drop(const std::string& owner) {
  TRY(CheckOwnerName(owner));
  return DropOwner(owner, Deadline::After(std::chrono::seconds(60)));
}

// Gone for everybody after one rename; the files may take their time.
Result<void> LayerSnapshotter::DropOwner(const std::string& owner, const Deadline& until) {
  auto held = TRY(owner_locks_.Acquire(owner, until, "snapshot"));
  std::string path = config_.layout.Owner(owner);
  std::string gone = fmt::format("{}/{}{}", config_.layout.Snapshots(), kGoneOwner, RandomHex(16));
  bool there = rename(path.c_str(), gone.c_str()) == 0;
  if (!there && errno != ENOENT) return SysErr("rename {} to {}", path, gone);
  Failpoint("drop.renamed");
  Use use(*this);
  {
    std::lock_guard lock(mutex_);
    if (auto it = owners_.find(owner); it != owners_.end()) {
      use.pinned = it->second.layers;
      use.held = it->second.held;
      owners_.erase(it);
    }
  }
  use.Release();
  held.Unlock();
  if (there) TRY(RemoveTree(gone));
  return {};
}

Result<Usage> LayerSnapshotter::OwnerUsage(const std::string& owner) {
  TRY(CheckOwnerName(owner));
  {
    std::lock_guard lock(mutex_);
    auto it = owners_.find(owner);
    if (it == owners_.end()) return Err(Code::kNotFound, "snapshot {}: not there", owner);
    if (it->second.read_only) return Usage{};
  }
  Usage usage;
  std::set<std::pair<dev_t, ino_t>> seen;
  std::string upper = config_.layout.Owner(owner) + "/upper";
  struct stat st;
  if (lstat(upper.c_str(), &st) != 0) return SysErr("snapshot {}: read metadata of {}", owner, upper);
  usage.bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  usage.inodes = 1;
  TRY_CTX(AddUsage(AT_FDCWD, upper, upper, seen, usage, 0), "snapshot {}", owner);
  return usage;
}

}  // namespace berth::images
