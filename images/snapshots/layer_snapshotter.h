#pragma once
// Snapshotter over layers that are kept as tars, and a ViewKind that makes them mountable.
//
// What survives what:
//   - a layer is named only when its bytes are on disk (tar synced, view synced, both renamed, directory synced, then
//   the record);
//     whatever a power cut leaves without a record is removed by Collect, in that order no record can lack its files
//   - a view (index or tree) can be made anew from the tar at any time and is, when it is missing, damaged or of an
//   older writer
//   - an owner is a directory that appears by one rename and whose `chain` link names its layers through a row written
//   before
//     it; no database write, no sync in the way of a container start
//   - mounts of layers outlive the agent; a new one finds them in its mount table and goes on with them
//
// Locks: `mutex_` guards the maps and is never held over a system call that can wait. One KeyedMutex entry a layer
// covers making, attaching and removing; one an owner covers Prepare and Drop. Order: owner, then one layer at a time,
// then mutex_.
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/keyed_mutex.h"
#include "images/layers/tar.h"
#include "images/snapshots/layout.h"
#include "images/snapshots/snapshotter.h"
#include "images/snapshots/table.h"
#include "images/snapshots/view_kind.h"

namespace berth::images {

class LayerSnapshotter : public Snapshotter {
 public:
  struct Config {
    Layout layout;
    // A layer nobody uses stays mounted so long, with its cached pages: the next container of an image starts warm.
    std::chrono::milliseconds idle_mount = std::chrono::seconds(10);
  };
  static Result<std::unique_ptr<LayerSnapshotter>> Open(Config config, Db& db, std::unique_ptr<ViewKind> kind);
  ~LayerSnapshotter() override;

  std::string_view name() const override { return kind_->name(); }
  Result<std::unique_ptr<LayerWriter>> Begin(const std::vector<Digest>& parents) override;
  Result<std::optional<LayerInfo>> Find(const Digest& diff_id) override;
  Result<unique_fd> OpenTar(const Digest& diff_id) override;
  Result<RootFs> Prepare(const std::string& owner, const std::vector<Digest>& layers, bool read_only,
                         const Deadline& until) override;
  Result<void> Drop(const std::string& owner) override;
  Result<Usage> OwnerUsage(const std::string& owner) override;
  Result<void> RemoveLayer(const Digest& diff_id) override;
  Result<void> Collect(const std::vector<std::string>& live_owners) override;
  Result<Usage> LayersUsage() override;

  // Detaches what has been idle for `age` or longer; what cannot be is logged and tried again.
  void DetachIdle(std::chrono::milliseconds age);
  const Layout& layout() const { return config_.layout; }

 private:
  friend class TarLayerWriter;
  struct Layer {
    uint64_t tar_size = 0;
    int pins = 0;  // owners and operations that need it
  };
  struct View {
    ViewRow row;
    int holds = 0;  // owners and operations that need it attached
    bool attached = false;
    std::chrono::steady_clock::time_point idle_since;
  };
  struct Owner {
    std::string chain;
    std::vector<Digest> layers;
    bool read_only = false;
    std::vector<ViewId> held;
  };
  // Keeps layers from being removed and views from being detached while an operation needs them; Keep hands both to an
  // owner.
  class Use {
   public:
    explicit Use(LayerSnapshotter& home) : home_(home) {}
    Use(const Use&) = delete;
    ~Use() { Release(); }
    void Release();
    void Keep() { pinned.clear(), held.clear(); }
    std::vector<Digest> pinned;
    std::vector<ViewId> held;

   private:
    LayerSnapshotter& home_;
  };
  struct BuiltView {
    ViewRow row;
    std::string temporary;
  };

  LayerSnapshotter(Config config, Db& db, std::unique_ptr<ViewKind> kind);
  Result<void> Load();
  Result<void> LoadOwners(const std::map<std::string, std::vector<Digest>>& chains);
  void RunJanitor(std::stop_token stop);

  // views.cc
  Result<void> Pin(Use& use, const std::vector<Digest>& layers);
  const View* FindViewLocked(const Digest& diff_id, const std::vector<Digest>& below) const;
  // Makes the layers' views and attaches them, in order; the lower paths of those that say something, bottom first.
  Result<std::vector<std::string>> UseChain(Use& use, const std::vector<Digest>& layers, const Deadline& until);
  Result<ViewRow> UseView(Use& use, const Digest& diff_id, const std::vector<Digest>& below,
                          const std::vector<std::string>& lowers, const Deadline& until);
  Result<BuiltView> BuildView(const Digest& diff_id, int tar, uint64_t tar_size, std::vector<TarEntry> entries,
                              const std::vector<Digest>& below, const std::function<Result<unique_fd>()>& mount_below);
  Result<void> RebuildView(const Digest& diff_id, const std::vector<Digest>& below,
                           const std::vector<std::string>& lowers);
  Result<void> PublishView(const BuiltView& built);
  Result<void> CheckTar(const Digest& diff_id) const;
  static Result<unique_fd> MountReadOnly(const std::vector<std::string>& lowers);
  std::string TemporaryName(const std::string& directory, std::string_view suffix);
  void ForgetTemporary(const std::string& path);

  // layer_writer.cc
  Result<void> PublishLayer(const Digest& diff_id, uint64_t size, const std::string& tar, const BuiltView& built,
                            const Deadline& until);

  // prepare.cc
  Result<void> MakeOwner(const std::string& owner, const std::vector<Digest>& layers, bool read_only);
  Result<void> DropOwner(const std::string& owner, const Deadline& until);

  // collect.cc
  void SweepTemporaries(const std::string& directory, std::string_view prefix);
  void SweepUnrecorded();
  void SweepLayers();
  void RemoveLayerFiles(const Digest& diff_id);
  void DetachUnexplained();
  Result<void> ForgetLayer(const Digest& diff_id);

  Config config_;
  std::unique_ptr<ViewKind> kind_;
  LayerTable table_;
  KeyedMutex layer_locks_, owner_locks_;

  std::mutex mutex_;
  std::map<Digest, Layer> layers_;
  std::map<ViewId, View> views_;
  std::map<std::string, Owner> owners_;
  std::set<std::string> chains_;                                     // ids that have a row
  std::set<std::string> temporaries_;                                // being written by this process
  std::vector<std::pair<std::string, std::string>> found_attached_;  // of an earlier agent; until Collect
  std::condition_variable_any idle_;
  std::jthread janitor_;  // last: stops before what it uses goes
};

// 32 hex digits of a hash over the diffIDs, bottom first.
std::string ChainId(const std::vector<Digest>& layers);

}  // namespace berth::images
