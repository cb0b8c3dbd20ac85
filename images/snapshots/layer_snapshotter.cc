#include "images/snapshots/layer_snapshotter.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/log.h"

namespace berth::images {

std::string ChainId(const std::vector<Digest>& layers) {
  std::string text;
  for (const Digest& layer : layers) text += layer.str() + "\n";
  return Digest::Of(text).hex().substr(0, 32);
}

LayerSnapshotter::LayerSnapshotter(Config config, Db& db, std::unique_ptr<ViewKind> kind)
    : config_(std::move(config)), kind_(std::move(kind)), table_(db) {}

Result<std::unique_ptr<LayerSnapshotter>> LayerSnapshotter::Open(Config config, Db& db,
                                                                 std::unique_ptr<ViewKind> kind) {
  std::unique_ptr<LayerSnapshotter> made(new LayerSnapshotter(std::move(config), db, std::move(kind)));
  TRY(made->Load());
  made->janitor_ = std::jthread([home = made.get()](std::stop_token stop) { home->RunJanitor(stop); });
  return made;
}

LayerSnapshotter::~LayerSnapshotter() {
  janitor_.request_stop();
  idle_.notify_all();
  if (janitor_.joinable()) janitor_.join();
  DetachIdle(std::chrono::milliseconds(0));
  bool attached = std::ranges::any_of(views_, [](const auto& view) { return view.second.attached; });
  if (!attached) kind_->LetGo();
}

Result<void> LayerSnapshotter::Load() {
  TRY(table_.Migrate());
  TRY(MakeDirs(config_.layout.Layers(), 0700));
  TRY(MakeDirs(config_.layout.Snapshots(), 0700));
  TRY(MakeDirs(config_.layout.Empty(), 0755));
  TRY(MakeDirs(kind_->directory(), 0700));
  for (const LayerRow& row : TRY(table_.Layers())) layers_[row.diff_id] = Layer{row.tar_size, 0};
  found_attached_ = TRY(kind_->Attached());
  std::map<std::string, std::string> attached(found_attached_.begin(), found_attached_.end());
  for (ViewRow& row : TRY(table_.Views(kind_->name()))) {
    if (row.version != kind_->version() || !layers_.contains(row.id.diff_id)) continue;
    auto at = attached.find(kind_->LowerPath(row));
    View& view = views_[row.id];
    view.attached = at != attached.end() && at->second == kind_->Path(row.id);
    view.idle_since = std::chrono::steady_clock::now();
    view.row = std::move(row);
  }
  auto chains = TRY(table_.Chains());
  for (const auto& [id, layers] : chains) chains_.insert(id);
  return LoadOwners(chains);
}

// Every directory below snapshots/ without a leading dot is an owner.
Result<void> LayerSnapshotter::LoadOwners(const std::map<std::string, std::vector<Digest>>& chains) {
  std::string path = config_.layout.Snapshots();
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (!directory) return SysErr("list {}", path);
  for (;;) {
    errno = 0;
    dirent* entry = readdir(directory.get());
    if (entry == nullptr && errno != 0) return SysErr("list {}", path);
    if (entry == nullptr) return {};
    std::string name = entry->d_name;
    if (name.starts_with('.')) continue;
    std::string target(128, '\0');
    ssize_t n = readlink((config_.layout.Owner(name) + "/chain").c_str(), target.data(), target.size());
    Owner owner;
    owner.chain = n > 0 ? target.substr(0, static_cast<size_t>(n)) : "";
    owner.read_only = !Exists(config_.layout.Owner(name) + "/upper");
    auto chain = chains.find(owner.chain);
    if (chain == chains.end()) {
      // Nothing says what it stood on. It keeps its files, and works again if its next Prepare names the same chain.
      log::Warn("snapshot.chain_unknown", {{"owner", name}, {"chain", owner.chain}});
    } else {
      owner.layers = chain->second;
      std::vector<Digest> below;
      for (const Digest& diff_id : owner.layers) {
        if (auto layer = layers_.find(diff_id); layer != layers_.end()) ++layer->second.pins;
        if (const View* view = FindViewLocked(diff_id, below)) {
          ++views_[view->row.id].holds;
          owner.held.push_back(view->row.id);
        }
        below.push_back(diff_id);
      }
    }
    owners_[name] = std::move(owner);
  }
}

Result<std::optional<LayerInfo>> LayerSnapshotter::Find(const Digest& diff_id) {
  std::lock_guard lock(mutex_);
  auto it = layers_.find(diff_id);
  if (it == layers_.end()) return std::optional<LayerInfo>();
  return std::optional(LayerInfo{diff_id, it->second.tar_size});
}

Result<unique_fd> LayerSnapshotter::OpenTar(const Digest& diff_id) {
  if (!TRY(Find(diff_id))) return Err(Code::kNotFound, "layer {}: not in the store", diff_id);
  TRY(CheckTar(diff_id));
  return berth::Open(config_.layout.Tar(diff_id), O_RDONLY | O_NOFOLLOW);
}

Result<Usage> LayerSnapshotter::LayersUsage() {
  std::lock_guard lock(mutex_);
  Usage usage;
  for (const auto& [diff_id, layer] : layers_) {
    usage.bytes += (layer.tar_size + 4095) & ~uint64_t{4095};
    ++usage.inodes;
  }
  for (const auto& [id, view] : views_) {
    usage.bytes += view.row.bytes;
    usage.inodes += view.row.inodes;
  }
  return usage;
}

Result<void> LayerSnapshotter::RemoveLayer(const Digest& diff_id) {
  auto held = TRY(layer_locks_.Acquire(diff_id.hex(), Deadline::After(std::chrono::seconds(30)), "layer"));
  {
    std::lock_guard lock(mutex_);
    auto it = layers_.find(diff_id);
    if (it == layers_.end()) return {};
    if (it->second.pins > 0) {
      std::string user = "an operation";
      for (const auto& [name, owner] : owners_)
        if (std::ranges::find(owner.layers, diff_id) != owner.layers.end()) user = name;
      return Err(Code::kConflict, "layer {}: in use by {}", diff_id, user);
    }
  }
  return ForgetLayer(diff_id);
}

// The record goes first: files without one are rubbish, a record without files is a lie. Wants the layer's lock.
Result<void> LayerSnapshotter::ForgetLayer(const Digest& diff_id) {
  std::vector<ViewRow> attached;
  Layer layer;
  {
    std::lock_guard lock(mutex_);
    auto it = layers_.find(diff_id);
    if (it == layers_.end()) return {};
    layer = it->second;
    layers_.erase(it);  // no Prepare may begin with it from here on
  }
  auto dropped = table_.Drop(diff_id);
  if (!dropped) {
    std::lock_guard lock(mutex_);
    layers_[diff_id] = layer;
    return dropped;
  }
  {
    std::lock_guard lock(mutex_);
    Failpoint("remove_layer.forgotten");
    for (auto view = views_.begin(); view != views_.end();) {
      if (view->first.diff_id != diff_id) {
        ++view;
        continue;
      }
      if (view->second.attached) attached.push_back(view->second.row);
      view = views_.erase(view);
    }
  }
  for (const ViewRow& row : attached)
    if (auto detached = kind_->Detach(row); !detached)
      log::Warn("layer.detach_failed", {{"layer", diff_id}, {"error", detached.error()}});
  RemoveLayerFiles(diff_id);
  return {};
}

void LayerSnapshotter::Use::Release() {
  if (pinned.empty() && held.empty()) return;
  bool idle = false;
  {
    std::lock_guard lock(home_.mutex_);
    for (const Digest& diff_id : pinned)
      if (auto it = home_.layers_.find(diff_id); it != home_.layers_.end() && it->second.pins > 0) --it->second.pins;
    for (const ViewId& id : held) {
      auto it = home_.views_.find(id);
      if (it == home_.views_.end() || --it->second.holds > 0) continue;
      it->second.idle_since = std::chrono::steady_clock::now();
      idle = true;
    }
  }
  pinned.clear();
  held.clear();
  if (idle) home_.idle_.notify_all();
}

void LayerSnapshotter::DetachIdle(std::chrono::milliseconds age) {
  std::vector<ViewId> candidates;
  auto idle = [&](const View& view) {
    return view.attached && view.holds == 0 && std::chrono::steady_clock::now() - view.idle_since >= age;
  };
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, view] : views_)
      if (idle(view)) candidates.push_back(id);
  }
  for (const ViewId& id : candidates) {
    // Under the layer's lock nobody attaches at the same place meanwhile. Who holds it needs the layer: leave it alone.
    auto held = layer_locks_.Acquire(id.diff_id.hex(), Deadline::After(std::chrono::seconds(0)), "layer");
    if (!held) continue;
    ViewRow row;
    {
      std::lock_guard lock(mutex_);
      auto it = views_.find(id);
      if (it == views_.end() || !idle(it->second)) continue;
      it->second.attached = false;
      row = it->second.row;
    }
    if (auto detached = kind_->Detach(row); !detached) {
      log::Warn("layer.detach_failed", {{"layer", id.diff_id}, {"error", detached.error()}});
      std::lock_guard lock(mutex_);
      if (auto it = views_.find(id); it != views_.end()) {
        it->second.attached = true;
        it->second.idle_since = std::chrono::steady_clock::now();
      }
    }
  }
}

void LayerSnapshotter::RunJanitor(std::stop_token stop) {
  while (!stop.stop_requested()) {
    std::optional<std::chrono::steady_clock::time_point> first;
    {
      std::unique_lock lock(mutex_);
      for (const auto& [id, view] : views_)
        if (view.attached && view.holds == 0 && (!first || view.idle_since < *first)) first = view.idle_since;
      // Woken by Release and by the end; a view that became idle before the wait began was seen above.
      // Not sooner than a moment from now: what is due but busy must not be tried in a loop.
      if (first) {
        auto moment = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
        idle_.wait_until(lock, stop, std::max(*first + config_.idle_mount, moment), [] { return false; });
      } else {
        idle_.wait(lock, stop, [this] {
          return std::ranges::any_of(views_,
                                     [](const auto& view) { return view.second.attached && view.second.holds == 0; });
        });
      }
    }
    if (!stop.stop_requested() && first) DetachIdle(config_.idle_mount);
  }
}

}  // namespace berth::images
