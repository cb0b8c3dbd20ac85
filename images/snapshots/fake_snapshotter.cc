#include "images/snapshots/fake_snapshotter.h"

#include <sys/mman.h>

#include <cstdlib>
#include <filesystem>

namespace berth::images {

class FakeSnapshotter::Writer : public LayerWriter {
 public:
  Writer(FakeSnapshotter& home, std::vector<Digest> parents) : home_(home), parents_(std::move(parents)) {}
  ~Writer() override {
    std::lock_guard lock(home_.mutex_);
    --home_.writers_;
  }

  Result<void> Write(std::string_view bytes) override {
    std::lock_guard lock(home_.mutex_);
    TRY(home_.TakeFailure("write"));
    bytes_ += bytes;
    return {};
  }

  Result<uint64_t> Commit(const Digest& diff_id, const Deadline& until) override {
    std::lock_guard lock(home_.mutex_);
    TRY(home_.TakeFailure("commit"));
    TRY(until.Check("commit layer"));
    for (const Digest& parent : parents_)
      if (!home_.layers_.contains(parent)) return Err(Code::kNotFound, "layer {}: not committed", parent);
    Digest found = Digest::Of(bytes_);
    if (found != diff_id) return Err(Code::kDataLoss, "layer {}: its bytes hash to {}", diff_id, found);
    uint64_t size = bytes_.size();
    home_.layers_.try_emplace(diff_id, std::move(bytes_));
    return size;
  }

 private:
  FakeSnapshotter& home_;
  std::vector<Digest> parents_;
  std::string bytes_;
};

FakeSnapshotter::~FakeSnapshotter() {
  std::lock_guard lock(mutex_);
  while (!owners_.empty()) DropLocked(std::string(owners_.begin()->first));
}

Result<std::unique_ptr<LayerWriter>> FakeSnapshotter::Begin(const std::vector<Digest>& parents) {
  std::lock_guard lock(mutex_);
  TRY(TakeFailure("begin"));
  ++writers_;
  return std::unique_ptr<LayerWriter>(new Writer(*this, parents));
}

Result<std::optional<LayerInfo>> FakeSnapshotter::Find(const Digest& diff_id) {
  std::lock_guard lock(mutex_);
  auto it = layers_.find(diff_id);
  if (it == layers_.end()) return std::optional<LayerInfo>();
  return std::optional(LayerInfo{diff_id, it->second.size()});
}

Result<unique_fd> FakeSnapshotter::OpenTar(const Digest& diff_id) {
  std::lock_guard lock(mutex_);
  auto it = layers_.find(diff_id);
  if (it == layers_.end()) return Err(Code::kNotFound, "layer {}: not in the store", diff_id);
  unique_fd fd(memfd_create("layer", MFD_CLOEXEC));
  if (!fd) return SysErr("make a memory file for layer {}", diff_id);
  for (std::string_view rest = it->second; !rest.empty();) {
    ssize_t n = write(fd.get(), rest.data(), rest.size());
    if (n < 0) return SysErr("write layer {} to memory", diff_id);
    rest.remove_prefix(static_cast<size_t>(n));
  }
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return SysErr("rewind layer {}", diff_id);
  return fd;
}

Result<RootFs> FakeSnapshotter::Prepare(const std::string& owner, const std::vector<Digest>& layers, bool read_only,
                                        const Deadline& until) {
  std::lock_guard lock(mutex_);
  TRY(TakeFailure("prepare"));
  TRY(until.Check("prepare " + owner));
  for (const Digest& layer : layers)
    if (!layers_.contains(layer)) return Err(Code::kNotFound, "layer {}: not in the store", layer);
  auto it = owners_.find(owner);
  if (it == owners_.end()) {
    std::string path = (std::filesystem::temp_directory_path() / "berth-fake-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) return SysErr("make {}", path);
    it = owners_.emplace(owner, Owner{layers, read_only, path}).first;
  } else if (it->second.layers != layers || it->second.read_only != read_only) {
    return Err(Code::kConflict, "snapshot {}: exists with other layers", owner);
  }
  unique_fd fd(open(it->second.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return SysErr("open {}", it->second.directory);
  return RootFs{std::move(fd)};
}

void FakeSnapshotter::DropLocked(const std::string& owner) {
  auto it = owners_.find(owner);
  if (it == owners_.end()) return;
  std::error_code ignored;
  std::filesystem::remove_all(it->second.directory, ignored);
  owners_.erase(it);
}

Result<void> FakeSnapshotter::Drop(const std::string& owner) {
  std::lock_guard lock(mutex_);
  TRY(TakeFailure("drop"));
  DropLocked(owner);
  return {};
}

Result<Usage> FakeSnapshotter::OwnerUsage(const std::string& owner) {
  std::lock_guard lock(mutex_);
  auto it = owners_.find(owner);
  if (it == owners_.end()) return Err(Code::kNotFound, "snapshot {}: not there", owner);
  Usage usage;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(it->second.directory, error)) {
    ++usage.inodes;
    if (entry.is_regular_file(error)) usage.bytes += entry.file_size(error);
  }
  return usage;
}

Result<void> FakeSnapshotter::RemoveLayer(const Digest& diff_id) {
  std::lock_guard lock(mutex_);
  TRY(TakeFailure("remove_layer"));
  for (const auto& [name, owner] : owners_)
    if (std::ranges::find(owner.layers, diff_id) != owner.layers.end())
      return Err(Code::kConflict, "layer {}: in use by {}", diff_id, name);
  layers_.erase(diff_id);
  return {};
}

Result<void> FakeSnapshotter::Collect(const std::vector<std::string>& live_owners) {
  std::lock_guard lock(mutex_);
  std::set<std::string> live(live_owners.begin(), live_owners.end());
  std::vector<std::string> gone;
  for (const auto& [name, owner] : owners_)
    if (!live.contains(name)) gone.push_back(name);
  for (const std::string& name : gone) DropLocked(name);
  return {};
}

Result<Usage> FakeSnapshotter::LayersUsage() {
  std::lock_guard lock(mutex_);
  Usage usage;
  for (const auto& [id, bytes] : layers_) {
    usage.bytes += bytes.size();
    ++usage.inodes;
  }
  return usage;
}

void FakeSnapshotter::FailNext(const std::string& verb, Code code, const std::string& what) {
  std::lock_guard lock(mutex_);
  failures_[verb] = Error{code, what, 0, std::source_location::current()};
}

Result<void> FakeSnapshotter::TakeFailure(const std::string& verb) {
  auto it = failures_.find(verb);
  if (it == failures_.end()) return {};
  Error error = std::move(it->second);
  failures_.erase(it);
  return std::unexpected(std::move(error));
}

std::vector<std::string> FakeSnapshotter::owners() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, owner] : owners_) names.push_back(name);
  return names;
}

std::vector<Digest> FakeSnapshotter::layers() const {
  std::lock_guard lock(mutex_);
  std::vector<Digest> ids;
  for (const auto& [id, bytes] : layers_) ids.push_back(id);
  return ids;
}

int FakeSnapshotter::open_writers() const {
  std::lock_guard lock(mutex_);
  return writers_;
}

}  // namespace berth::images
