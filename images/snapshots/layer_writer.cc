// LayerWriter: one pass over the stream. The caller's thread scans headers and writes the file; another one hashes what
// the file holds, through the page cache, starts its way to the disk early and syncs it at the end.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/undo.h"
#include "images/snapshots/layer_snapshotter.h"

namespace berth::images {
namespace {

constexpr size_t kBufferSize = 256 << 10;
constexpr uint64_t kHashPiece = 1 << 20;
constexpr uint64_t kWritebackPiece = 16 << 20;

// Hashes a file while it grows. Told of the growth by Grow and of the end by Finish, from one other thread.
class FileHasher {
 public:
  FileHasher(int fd, const std::string& path) : fd_(fd), path_(path), thread_([this] { Run(); }) {}
  ~FileHasher() {
    Stop(true);
    if (thread_.joinable()) thread_.join();
  }

  void Grow(uint64_t size) {
    {
      std::lock_guard lock(mutex_);
      size_ = size;
    }
    changed_.notify_one();
  }

  struct Outcome {
    Digest digest;
    Result<void> synced;
  };
  Outcome Finish() {
    thread_.join();
    return {std::move(digest_), std::move(result_)};
  }
  void End() { Stop(false); }  // no more growth; the sync begins as soon as the hash is there

 private:
  void Stop(bool abandon) {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
      abandoned_ |= abandon;
    }
    changed_.notify_one();
  }

  void Run() {
    std::string buffer(kHashPiece, '\0');
    uint64_t at = 0, started = 0;
    Hasher hasher;
    for (;;) {
      uint64_t until;
      bool ended;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ended_ || size_ >= at + kHashPiece; });
        if (abandoned_) return;
        until = size_;
        ended = ended_;
      }
      while (at < until) {
        ssize_t n = pread(fd_, buffer.data(), std::min(kHashPiece, until - at), static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
          if (n == 0) errno = EIO;
          result_ = SysErr("read {} at {}", path_, at);
          return;
        }
        hasher.Update(buffer.data(), static_cast<size_t>(n));
        at += static_cast<uint64_t>(n);
        if (at - started >= kWritebackPiece) {
          sync_file_range(fd_, static_cast<off_t>(started), static_cast<off_t>(at - started), SYNC_FILE_RANGE_WRITE);
          started = at;
        }
      }
      if (!ended) continue;
      digest_ = hasher.Finish();
      if (fsync(fd_) != 0) result_ = SysErr("sync {}", path_);
      return;
    }
  }

  int fd_;
  std::string path_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t size_ = 0;
  bool ended_ = false, abandoned_ = false;
  Digest digest_;
  Result<void> result_;
  std::thread thread_;
};

}  // namespace

class TarLayerWriter : public LayerWriter {
 public:
  TarLayerWriter(LayerSnapshotter& home, std::vector<Digest> parents)
      : home_(home), parents_(std::move(parents)), scanner_([this](TarEntry&& entry) -> Result<void> {
          entries_.push_back(std::move(entry));
          return {};
        }) {}

  ~TarLayerWriter() override {
    hasher_.reset();
    if (!path_.empty()) {
      unlink(path_.c_str());
      home_.ForgetTemporary(path_);
    }
  }

  Result<void> Create() {
    path_ = home_.TemporaryName(home_.layout().Layers(), ".tar");
    auto fd = Open(path_, O_RDWR | O_CREAT | O_EXCL, 0400);
    if (!fd) return std::unexpected(fd.error());
    fd_ = std::move(*fd);
    return {};
  }

  Result<void> Write(std::string_view bytes) override {
    if (failed_) return std::unexpected(*failed_);
    auto done = [&]() -> Result<void> {
      if (!fd_) return Err(Code::kConflict, "layer is committed already");
      TRY(scanner_.Feed(bytes));
      size_ += bytes.size();
      if (bytes.size() < kBufferSize) {
        buffer_ += bytes;
        return buffer_.size() < kBufferSize ? Result<void>() : Flush();
      }
      TRY(Flush());
      TRY_CTX(WriteAll(fd_.get(), bytes), "write {}", path_);
      Flushed(bytes.size());
      return {};
    }();
    if (!done) failed_ = done.error();
    return done;
  }

  Result<uint64_t> Commit(const Digest& diff_id, const Deadline& until) override {
    if (failed_) return std::unexpected(*failed_);
    auto done = CommitOnce(diff_id, until);
    failed_ =
        done ? Error{Code::kConflict, "layer is committed already", 0, std::source_location::current()} : done.error();
    hasher_.reset();
    if (!path_.empty()) {
      unlink(path_.c_str());
      home_.ForgetTemporary(path_);
      path_.clear();
    }
    fd_.reset();
    entries_ = {};
    return done;
  }

 private:
  Result<void> Flush() {
    if (buffer_.empty()) return {};
    TRY_CTX(WriteAll(fd_.get(), buffer_), "write {}", path_);
    Flushed(buffer_.size());
    buffer_.clear();
    return {};
  }

  void Flushed(size_t count) {
    flushed_ += count;
    if (!hasher_) hasher_ = std::make_unique<FileHasher>(fd_.get(), path_);
    hasher_->Grow(flushed_);
  }

  Result<uint64_t> CommitOnce(const Digest& diff_id, const Deadline& until) {
    TRY(until.Check(fmt::format("layer {}", diff_id)));
    TRY(Flush());
    if (!hasher_) hasher_ = std::make_unique<FileHasher>(fd_.get(), path_);
    hasher_->End();
    // While the rest is hashed and synced, the view is made of what the scanner found.
    bool known = home_.CheckTar(diff_id).has_value();
    Result<void> scanned = scanner_.Finish();
    std::optional<LayerSnapshotter::BuiltView> built;
    LayerSnapshotter::Use use(home_);
    Undo undo;
    undo.Add("remove temporary view", [&]() -> Result<void> {
      if (!built) return {};
      home_.ForgetTemporary(built->temporary);
      return home_.kind_->Remove(built->temporary);
    });
    Result<void> made;
    if (scanned && !known) {
      made = [&]() -> Result<void> {
        TRY(home_.Pin(use, parents_));
        built = TRY(home_.BuildView(diff_id, fd_.get(), size_, std::move(entries_), parents_,
                                    [&] { return MountParents(use, until); }));
        return {};
      }();
    }
    FileHasher::Outcome outcome = hasher_->Finish();
    // Wrong bytes are wrong bytes, whatever else they may be; but a disk that failed has not answered that question.
    if (outcome.digest.empty()) TRY(std::move(outcome.synced));
    if (outcome.digest != diff_id)
      return Err(Code::kDataLoss, "layer {}: its bytes hash to {}", diff_id, outcome.digest);
    TRY_CTX(std::move(scanned), "layer {}", diff_id);
    TRY_CTX(std::move(made), "layer {}", diff_id);
    TRY(std::move(outcome.synced));
    if (known) return size_;
    Failpoint("commit_layer.synced");
    TRY_CTX(home_.PublishLayer(diff_id, size_, path_, *built, until), "layer {}", diff_id);
    return size_;
  }

  Result<unique_fd> MountParents(LayerSnapshotter::Use& use, const Deadline& until) {
    std::vector<std::string> lowers = TRY(home_.UseChain(use, parents_, until));
    if (lowers.empty()) return Open(home_.layout().Empty(), O_RDONLY | O_DIRECTORY);
    return LayerSnapshotter::MountReadOnly(lowers);
  }

  LayerSnapshotter& home_;
  std::vector<Digest> parents_;
  std::vector<TarEntry> entries_;
  TarScanner scanner_;
  std::string path_;
  unique_fd fd_;
  std::string buffer_;
  uint64_t size_ = 0, flushed_ = 0;
  std::unique_ptr<FileHasher> hasher_;
  std::optional<Error> failed_;
};

Result<std::unique_ptr<LayerWriter>> LayerSnapshotter::Begin(const std::vector<Digest>& parents) {
  if (parents.size() >= 500)
    return Err(Code::kInvalidArgument, "a layer on {} others: at most 500 can be stacked", parents.size());
  auto writer = std::make_unique<TarLayerWriter>(*this, parents);
  TRY(writer->Create());
  return writer;
}

// The order of crash safety: both files are synced; tar, then view get their names, for a view must never outlive its
// tar; the record comes last.
Result<void> LayerSnapshotter::PublishLayer(const Digest& diff_id, uint64_t size, const std::string& tar,
                                            const BuiltView& built, const Deadline& until) {
  auto held = TRY(layer_locks_.Acquire(diff_id.hex(), until, "layer"));
  auto there = CheckTar(diff_id);
  if (there) return {};  // another writer was faster with the same bytes
  if (there.error().code == Code::kDataLoss) {
    log::Warn("layer.replaced", {{"layer", diff_id}, {"why", there.error()}});
    TRY(ForgetLayer(diff_id));
  } else if (there.error().code != Code::kNotFound) {
    return there;
  }
  TRY(until.Check("its turn"));
  std::string named = config_.layout.Tar(diff_id);
  Undo undo;
  undo.Add("remove layer files", [&]() -> Result<void> {
    RemoveLayerFiles(diff_id);
    return {};
  });
  if (rename(tar.c_str(), named.c_str()) != 0) return SysErr("rename {} to {}", tar, named);
  Failpoint("commit_layer.tar_named");
  TRY(PublishView(built));
  if (kind_->directory() != config_.layout.Layers()) TRY(SyncDirectory(config_.layout.Layers()));
  Failpoint("commit_layer.named");
  TRY(table_.Put({diff_id, size}, kind_->name(), built.row));
  Failpoint("commit_layer.recorded");
  undo.Keep();
  std::lock_guard lock(mutex_);
  Layer& layer = layers_[diff_id];
  layer.tar_size = size;
  layer.pins = 0;
  for (const auto& [name, owner] : owners_) layer.pins += static_cast<int>(std::ranges::count(owner.layers, diff_id));
  View& view = views_[built.row.id];
  view.row = built.row;
  view.attached = false;
  view.idle_since = std::chrono::steady_clock::now();
  return {};
}

}  // namespace berth::images
