// How a layer becomes mountable: finding, making, attaching its view.
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/id.h"
#include "base/log.h"
#include "base/undo.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/lower_view.h"
#include "images/snapshots/mount.h"

namespace berth::images {
namespace {

constexpr std::string_view kAnyKey = "any", kBaseKey = "base", kUpperKey = "upper";

std::string KeyFor(const Tree& tree, const std::vector<Digest>& below) {
  bool empty = tree.reachable() == 1 && tree.dependence() == Tree::Dependence::kChain;
  if (empty || tree.dependence() == Tree::Dependence::kNone) return std::string(kAnyKey);
  if (below.empty()) return std::string(kBaseKey);
  return tree.dependence() == Tree::Dependence::kPosition ? std::string(kUpperKey) : ChainId(below);
}

}  // namespace

Result<void> LayerSnapshotter::Pin(Use& use, const std::vector<Digest>& layers) {
  std::lock_guard lock(mutex_);
  for (const Digest& diff_id : layers)
    if (!layers_.contains(diff_id)) return Err(Code::kNotFound, "layer {}: not in the store", diff_id);
  for (const Digest& diff_id : layers) {
    ++layers_[diff_id].pins;
    use.pinned.push_back(diff_id);
  }
  return {};
}

const LayerSnapshotter::View* LayerSnapshotter::FindViewLocked(const Digest& diff_id,
                                                               const std::vector<Digest>& below) const {
  auto find = [&](std::string key) -> const View* {
    auto it = views_.find({diff_id, std::move(key)});
    return it == views_.end() ? nullptr : &it->second;
  };
  if (const View* view = find(std::string(kAnyKey))) return view;
  if (below.empty()) return find(std::string(kBaseKey));
  if (const View* view = find(std::string(kUpperKey))) return view;
  return find(ChainId(below));
}

Result<std::vector<std::string>> LayerSnapshotter::UseChain(Use& use, const std::vector<Digest>& layers,
                                                            const Deadline& until) {
  std::vector<Digest> below;
  std::vector<std::string> lowers;
  std::vector<Digest> of_lower;
  for (const Digest& diff_id : layers) {
    ViewRow row = TRY(UseView(use, diff_id, below, lowers, until));
    below.push_back(diff_id);
    if (row.empty) continue;
    // overlayfs refuses one directory twice, and the lower of two equal layers adds nothing to what the upper one
    // shows.
    if (auto twin = std::ranges::find(of_lower, diff_id); twin != of_lower.end()) {
      lowers.erase(lowers.begin() + (twin - of_lower.begin()));
      of_lower.erase(twin);
    }
    lowers.push_back(kind_->LowerPath(row));
    of_lower.push_back(diff_id);
  }
  return lowers;
}

Result<ViewRow> LayerSnapshotter::UseView(Use& use, const Digest& diff_id, const std::vector<Digest>& below,
                                          const std::vector<std::string>& lowers, const Deadline& until) {
  auto take = [&]() -> std::optional<ViewRow> {  // wants mutex_
    const View* found = FindViewLocked(diff_id, below);
    if (found == nullptr || !(found->attached || found->row.empty)) return std::nullopt;
    ++views_[found->row.id].holds;
    use.held.push_back(found->row.id);
    return found->row;
  };
  {
    std::lock_guard lock(mutex_);
    if (auto row = take()) return std::move(*row);
  }
  auto held = TRY(layer_locks_.Acquire(diff_id.hex(), until, "layer"));
  bool rebuilt = false;
  for (;;) {
    std::optional<ViewRow> row;
    {
      std::lock_guard lock(mutex_);
      if (auto ready = take()) return std::move(*ready);
      if (const View* found = FindViewLocked(diff_id, below)) row = found->row;
    }
    TRY(CheckTar(diff_id));
    if (row) {
      if (auto verified = kind_->Verify(*row); !verified) {
        if (rebuilt) return Wrap(verified.error(), "layer {}: just made anew", diff_id);
        log::Warn("layer.view_damaged", {{"layer", diff_id}, {"error", verified.error()}});
        row.reset();
      }
    }
    if (!row) {
      TRY(until.Check(fmt::format("layer {}", diff_id)));
      TRY_CTX(RebuildView(diff_id, below, lowers), "layer {}", diff_id);
      rebuilt = true;
      continue;
    }
    TRY_CTX(kind_->Attach(*row, config_.layout.Tar(diff_id)), "layer {}", diff_id);
    std::lock_guard lock(mutex_);
    views_[row->id].attached = true;
  }
}

// The kernel reads past a short tar without telling what is missing, so its size is compared before every mount.
Result<void> LayerSnapshotter::CheckTar(const Digest& diff_id) const {
  uint64_t recorded = 0;
  {
    auto& self = const_cast<LayerSnapshotter&>(*this);
    std::lock_guard lock(self.mutex_);
    auto it = layers_.find(diff_id);
    if (it == layers_.end()) return Err(Code::kNotFound, "layer {}: not in the store", diff_id);
    recorded = it->second.tar_size;
  }
  std::string path = config_.layout.Tar(diff_id);
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT)
      return Err(Code::kDataLoss, "layer {}: {} is gone; remove the image and pull it again", diff_id, path);
    return SysErr("layer {}: {}", diff_id, path);
  }
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != recorded)
    return Err(Code::kDataLoss, "layer {}: {} has {} bytes, the record says {}; remove the image and pull it again",
               diff_id, path, st.st_size, recorded);
  return {};
}

Result<unique_fd> LayerSnapshotter::MountReadOnly(const std::vector<std::string>& lowers) {
  if (lowers.size() == 1) return CloneMount(lowers.front(), true);
  return MountOverlay({lowers, {}, {}});
}

std::string LayerSnapshotter::TemporaryName(const std::string& directory, std::string_view suffix) {
  std::string path = fmt::format("{}/{}{}{}", directory, kTemporary, RandomHex(16), suffix);
  std::lock_guard lock(mutex_);
  temporaries_.insert(path);
  return path;
}

void LayerSnapshotter::ForgetTemporary(const std::string& path) {
  std::lock_guard lock(mutex_);
  temporaries_.erase(path);
}

Result<LayerSnapshotter::BuiltView> LayerSnapshotter::BuildView(const Digest& diff_id, int tar, uint64_t tar_size,
                                                                std::vector<TarEntry> entries,
                                                                const std::vector<Digest>& below,
                                                                const std::function<Result<unique_fd>()>& mount_below) {
  MountedLowerView lower(mount_below);
  Tree tree = TRY(Tree::Build(std::move(entries), below.empty() ? nullptr : &lower));
  BuiltView built;
  built.temporary = TemporaryName(kind_->directory(), ".view");
  BuildRequest request{tree, {diff_id, KeyFor(tree, below)}, tar, tar_size, &lower};
  auto row = kind_->Build(request, built.temporary);
  if (!row) {
    (void)kind_->Remove(built.temporary);
    ForgetTemporary(built.temporary);
    return std::unexpected(row.error());
  }
  built.row = std::move(*row);
  built.row.empty = tree.reachable() == 1 && tree.dependence() == Tree::Dependence::kChain;
  return built;
}

// Wants the layer's lock. The old view of the same name, if any, is detached and replaced.
Result<void> LayerSnapshotter::RebuildView(const Digest& diff_id, const std::vector<Digest>& below,
                                           const std::vector<std::string>& lowers) {
  unique_fd tar = TRY(berth::Open(config_.layout.Tar(diff_id), O_RDONLY | O_NOFOLLOW));
  struct stat st;
  if (fstat(tar.get(), &st) != 0) return SysErr("read metadata of {}", config_.layout.Tar(diff_id));
  uint64_t size = static_cast<uint64_t>(st.st_size);
  std::vector<TarEntry> entries = TRY(ScanTarFile(tar.get(), size));
  BuiltView built = TRY(BuildView(diff_id, tar.get(), size, std::move(entries), below, [&]() -> Result<unique_fd> {
    if (lowers.empty()) return berth::Open(config_.layout.Empty(), O_RDONLY | O_DIRECTORY);
    return MountReadOnly(lowers);
  }));
  Undo undo;
  undo.Add("remove temporary view", [&] {
    ForgetTemporary(built.temporary);
    return kind_->Remove(built.temporary);
  });
  TRY(PublishView(built));
  TRY(table_.Put(kind_->name(), built.row));
  std::lock_guard lock(mutex_);
  View& view = views_[built.row.id];
  view.row = built.row;
  view.attached = false;
  view.idle_since = std::chrono::steady_clock::now();
  return {};
}

// Gives the view its name, durably. On failure the temporary is still there under one of both names.
Result<void> LayerSnapshotter::PublishView(const BuiltView& built) {
  std::optional<ViewRow> old;
  {
    std::lock_guard lock(mutex_);
    if (auto it = views_.find(built.row.id); it != views_.end()) {
      if (it->second.attached) old = it->second.row;
      it->second.attached = false;
    }
  }
  if (old) TRY(kind_->Detach(*old));
  std::string path = kind_->Path(built.row.id);
  TRY(kind_->Remove(path));  // a directory cannot be renamed over
  if (rename(built.temporary.c_str(), path.c_str()) != 0) return SysErr("rename {} to {}", built.temporary, path);
  ForgetTemporary(built.temporary);
  return SyncDirectory(kind_->directory());
}

}  // namespace berth::images
