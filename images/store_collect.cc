// What nobody names any more goes, and the sizes on disk are known without walking.
#include <fts.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/log.h"
#include "images/store_impl.h"

namespace berth::images {
namespace {

constexpr int64_t kKeepInterrupted = 3600;  // seconds that an interrupted pull's layers wait for the next attempt
constexpr std::chrono::seconds kCollectEvery{30};  // while there is something that could not go yet
constexpr std::chrono::seconds kUsageEvery{10};
constexpr int kUsageShare = 20;  // walking takes at most one part in so many of the time

int64_t NowSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Disk space below a directory, on its own filesystem; names that vanish meanwhile are passed over.
Usage Walk(const std::string& path) {
  Usage sum;
  std::string copy = path;
  char* roots[] = {copy.data(), nullptr};
  FTS* tree = ::fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr);
  if (tree == nullptr) return sum;
  std::set<std::pair<dev_t, ino_t>> linked;
  while (FTSENT* entry = ::fts_read(tree)) {
    if (entry->fts_info == FTS_DP || entry->fts_info == FTS_NS || entry->fts_info == FTS_ERR ||
        entry->fts_info == FTS_DNR)
      continue;
    const struct stat& st = *entry->fts_statp;
    if (entry->fts_info != FTS_D && st.st_nlink > 1 && !linked.emplace(st.st_dev, st.st_ino).second) continue;
    sum.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    ++sum.inodes;
  }
  ::fts_close(tree);
  return sum;
}

}  // namespace

StoreImpl::Busy::Busy(StoreImpl& store, std::vector<Digest> diff_ids) : store_(store), diff_ids_(std::move(diff_ids)) {
  std::lock_guard collect(store_.collect_mutex_);
  std::lock_guard lock(store_.mutex_);
  for (const Digest& d : diff_ids_) ++store_.busy_[d];
}

StoreImpl::Busy::~Busy() {
  std::lock_guard lock(store_.mutex_);
  for (const Digest& d : diff_ids_) {
    auto it = store_.busy_.find(d);
    if (--it->second == 0) store_.busy_.erase(it);
  }
}

bool StoreImpl::LayerUsedLocked(const Digest& diff_id) const {
  if (busy_.contains(diff_id)) return true;
  auto has = [&](const ImageRow& row) {
    return std::any_of(row.layers.begin(), row.layers.end(), [&](const LayerRow& l) { return l.diff_id == diff_id; });
  };
  for (const auto& [_, record] : records_)
    if (has(record.row)) return true;
  for (const auto& [_, row] : hidden_)
    if (has(row)) return true;
  return false;
}

Result<void> StoreImpl::Remember(const std::vector<HeldRow>& rows) {
  std::vector<HeldRow> stamped = rows;
  for (HeldRow& row : stamped) row.since = NowSeconds();
  return table_.Hold(stamped);
}

void StoreImpl::CollectLayers(const std::vector<HeldRow>& rows, bool kept) {
  for (const HeldRow& row : rows) {
    std::lock_guard collect(collect_mutex_);
    {
      std::lock_guard lock(mutex_);
      if (LayerUsedLocked(row.diff_id)) continue;
    }
    if (!row.blob.empty()) (void)blobs_->RemoveIngest(row.blob);
    auto removed = snapshotter_.RemoveLayer(row.diff_id);
    if (!removed && removed.error().code != Code::kNotFound) {
      // In use by a container, or a passing failure: the row keeps it known.
      bool in_use = removed.error().code == Code::kConflict;
      if (!in_use) log::Warn("layer.not_removed", {{"layer", row.diff_id}, {"error", removed.error()}});
      if (!kept || row.since != 0) (void)table_.Hold({{row.diff_id, row.blob, 0}});
      std::lock_guard lock(mutex_);
      garbage_ = true;
      continue;
    }
    if (auto gone = table_.Unhold(row.diff_id); !gone)
      log::Warn("layer.row_not_removed", {{"layer", row.diff_id}, {"error", gone.error()}});
  }
  wake_.notify_all();
}

Result<void> StoreImpl::CollectAtOpen(const std::vector<ImageRow>& rows) {
  std::set<Digest> documents;
  std::set<std::string> ingest;
  for (const ImageRow& row : rows) {
    documents.insert(row.id);
    for (const DocumentRow& d : row.documents) documents.insert(d.digest);
  }
  for (const Digest& digest : TRY(blobs_->List()))
    if (!documents.contains(digest)) TRY(blobs_->Remove(digest));
  for (const HeldRow& row : TRY(table_.LoadHeld())) {
    std::lock_guard lock(mutex_);
    if (!row.blob.empty() && !LayerUsedLocked(row.diff_id)) ingest.insert(row.blob.hex() + ".part");
  }
  for (const std::string& name : TRY(blobs_->ListIngest()))
    if (!ingest.contains(name)) TRY(blobs_->RemoveIngestFile(name));
  CollectNow();
  Usage first = TRY(snapshotter_.LayersUsage());
  std::lock_guard lock(mutex_);
  usage_ = first;
  usage_.bytes += blobs_->Bytes();
  usage_wanted_ = true;
  return {};
}

void StoreImpl::CollectNow() {
  auto held = table_.LoadHeld();
  if (!held) {
    log::Warn("layer.rows_unreadable", {{"error", held.error()}});
    return;
  }
  const int64_t now = NowSeconds();
  std::vector<HeldRow> due;
  {
    std::lock_guard lock(mutex_);
    garbage_ = false;
    for (const HeldRow& row : *held) {
      if (LayerUsedLocked(row.diff_id)) continue;
      if (row.since + kKeepInterrupted > now && row.since <= now + 60)
        garbage_ = true;  // not yet; a clock that jumped does not keep it for ever
      else
        due.push_back(row);
    }
  }
  CollectLayers(due, true);
}

void StoreImpl::RefreshUsage() {
  Usage sum;
  if (auto layers = snapshotter_.LayersUsage()) sum = *layers;
  sum.bytes += blobs_->Bytes();
  Usage writable = Walk(options_.root + "/snapshots");
  sum.bytes += writable.bytes;
  sum.inodes += writable.inodes;
  std::lock_guard lock(mutex_);
  usage_ = sum;
}

Usage StoreImpl::DiskUsage() const {
  std::lock_guard lock(mutex_);
  if (!usage_wanted_) {
    usage_wanted_ = true;
    wake_.notify_all();
  }
  return usage_;
}

void StoreImpl::Background() {
  using std::chrono::steady_clock;
  auto usage_due = steady_clock::now();
  auto collect_due = steady_clock::now() + kCollectEvery;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto now = steady_clock::now();
    if (usage_wanted_ && now >= usage_due) {
      usage_wanted_ = false;
      lock.unlock();
      RefreshUsage();
      lock.lock();
      const auto took = steady_clock::now() - now;
      usage_due = steady_clock::now() + std::max<steady_clock::duration>(kUsageEvery, took * kUsageShare);
      continue;
    }
    if (garbage_ && now >= collect_due) {
      lock.unlock();
      CollectNow();
      lock.lock();
      collect_due = steady_clock::now() + kCollectEvery;
      continue;
    }
    if (usage_wanted_ && garbage_)
      wake_.wait_until(lock, std::min(usage_due, collect_due));
    else if (usage_wanted_)
      wake_.wait_until(lock, usage_due);
    else if (garbage_)
      wake_.wait_until(lock, collect_due);
    else
      wake_.wait(lock);
  }
}

}  // namespace berth::images
