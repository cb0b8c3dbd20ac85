// What a start of the agent finds and puts right, and the removal of files that no record explains.
#include <dirent.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/mount.h"

namespace berth::images {
namespace {

std::vector<std::string> List(const std::string& path) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (!directory) return names;
  while (dirent* entry = readdir(directory.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  return names;
}

void Remove(const std::string& path, std::string_view why) {
  auto removed = RemoveTree(path);
  if (removed)
    log::Info("layer.leftover_removed", {{"path", path}, {"why", why}});
  else
    log::Warn("layer.leftover_stays", {{"path", path}, {"error", removed.error()}});
}

}  // namespace

Result<void> LayerSnapshotter::Collect(const std::vector<std::string>& live_owners) {
  const std::set<std::string> live(live_owners.begin(), live_owners.end());
  std::vector<std::string> dead;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, owner] : owners_)
      if (!live.contains(name)) dead.push_back(name);
  }
  Result<void> first;
  for (const std::string& name : dead) {
    log::Info("snapshot.dropped", {{"owner", name}, {"why", "nobody owns it"}});
    if (auto dropped = DropOwner(name, Deadline::After(std::chrono::seconds(60))); !dropped && first)
      first = std::move(dropped);
  }
  SweepTemporaries(config_.layout.Snapshots(), kNewOwner);
  SweepTemporaries(config_.layout.Snapshots(), kGoneOwner);
  SweepTemporaries(config_.layout.Layers(), kTemporary);
  SweepTemporaries(config_.layout.Trees(), kTemporary);
  for (const std::string& name : List(config_.layout.Trees())) {
    if (!name.starts_with(kOverlayPoint)) continue;
    (void)DetachMount(config_.layout.Trees() + "/" + name);
    Remove(config_.layout.Trees() + "/" + name, "left by a mount");
  }
  SweepLayers();
  SweepUnrecorded();
  DetachUnexplained();
  DetachIdle(std::chrono::milliseconds(0));

  std::set<std::string> used;
  std::vector<std::string> unused;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, owner] : owners_) used.insert(owner.chain);
    for (const std::string& chain : chains_)
      if (!used.contains(chain)) unused.push_back(chain);
    for (const std::string& chain : unused) chains_.erase(chain);
  }
  for (const std::string& chain : unused)
    if (auto dropped = table_.DropChain(chain); !dropped && first) first = std::move(dropped);
  return first;
}

void LayerSnapshotter::SweepTemporaries(const std::string& directory, std::string_view prefix) {
  for (const std::string& name : List(directory)) {
    if (!name.starts_with(prefix)) continue;
    std::string path = directory + "/" + name;
    {
      std::lock_guard lock(mutex_);
      // A tree being unpacked has a companion with a longer name.
      if (std::ranges::any_of(temporaries_, [&](const std::string& busy) { return path.starts_with(busy); })) continue;
    }
    Remove(path, "half made or half removed");
  }
}

// A layer must have its tar, of its size. Views are only looked at: the next use makes what is damaged anew.
void LayerSnapshotter::SweepLayers() {
  std::vector<Digest> all;
  std::vector<ViewRow> views;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [diff_id, layer] : layers_) all.push_back(diff_id);
    for (const auto& [id, view] : views_) views.push_back(view.row);
  }
  for (const Digest& diff_id : all) {
    auto held = layer_locks_.Acquire(diff_id.hex(), Deadline::After(std::chrono::seconds(10)), "layer");
    if (!held) continue;
    auto checked = CheckTar(diff_id);
    if (checked || (checked.error().code != Code::kDataLoss)) continue;
    log::Warn("layer.removed", {{"layer", diff_id}, {"why", checked.error()}});
    if (auto forgotten = ForgetLayer(diff_id); !forgotten)
      log::Warn("layer.remove_failed", {{"layer", diff_id}, {"error", forgotten.error()}});
  }
  for (const ViewRow& row : views) {
    auto held = layer_locks_.Acquire(row.id.diff_id.hex(), Deadline::After(std::chrono::seconds(10)), "layer");
    if (!held) continue;
    {
      std::lock_guard lock(mutex_);
      if (!views_.contains(row.id)) continue;
    }
    auto checked = kind_->Check(row);
    if (checked) continue;
    log::Warn("layer.view_damaged", {{"layer", row.id.diff_id}, {"error", checked.error()}});
    // Detached and forgotten as attached, so that its next use verifies it, and makes it again from the tar.
    bool attached = false;
    {
      std::lock_guard lock(mutex_);
      View& view = views_[row.id];
      attached = std::exchange(view.attached, false);
    }
    if (attached)
      if (auto detached = kind_->Detach(row); !detached)
        log::Warn("layer.detach_failed", {{"layer", row.id.diff_id}, {"error", detached.error()}});
  }
}

void LayerSnapshotter::SweepUnrecorded() {
  for (const std::string& directory : {config_.layout.Layers(), config_.layout.Trees()}) {
    for (const std::string& name : List(directory)) {
      if (name.starts_with('.')) continue;
      auto diff_id = Digest::Parse("sha256:" + name.substr(0, name.find('.')));
      std::string path = directory + "/" + name;
      if (!diff_id) {
        Remove(path, "not a layer's name");
        continue;
      }
      auto held = layer_locks_.Acquire(diff_id->hex(), Deadline::After(std::chrono::seconds(10)), "layer");
      if (!held) continue;
      {
        std::lock_guard lock(mutex_);
        if (layers_.contains(*diff_id)) continue;
      }
      Remove(path, "no record");
    }
  }
}

// Every file of a layer, whoever of the two kinds made it.
void LayerSnapshotter::RemoveLayerFiles(const Digest& diff_id) {
  std::string prefix = diff_id.hex() + ".";
  for (const std::string& directory : {config_.layout.Layers(), config_.layout.Trees()})
    for (const std::string& name : List(directory))
      if (name.starts_with(prefix))
        if (auto removed = RemoveTree(directory + "/" + name); !removed)
          log::Warn("layer.leftover_stays", {{"path", directory + "/" + name}, {"error", removed.error()}});
}

// Mounts that an earlier agent left and this one has no use for: of a writer of another version, or of layers now gone.
// What runs on them keeps them alive.
void LayerSnapshotter::DetachUnexplained() {
  std::set<std::string> known;
  std::vector<std::pair<std::string, std::string>> found;
  {
    std::lock_guard lock(mutex_);
    found.swap(found_attached_);
    for (const auto& [id, view] : views_)
      if (view.attached) known.insert(kind_->LowerPath(view.row));
  }
  for (const auto& [path, source] : found) {
    if (known.contains(path)) continue;
    if (auto detached = kind_->DetachPath(path); !detached)
      log::Warn("layer.detach_failed", {{"path", path}, {"error", detached.error()}});
  }
}

}  // namespace berth::images
