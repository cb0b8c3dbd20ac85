#pragma once
// A Snapshotter in memory, for unit tests above the seam: no root, no mounts. Layers are kept whole and checked against
// their digest; the tar inside is not read, so anything hashes to a layer. A root filesystem is an empty temporary
// directory per owner, removed by Drop and by the destructor. Thread-safe.
#include <map>
#include <mutex>
#include <set>

#include "images/snapshots/snapshotter.h"

namespace berth::images {

class FakeSnapshotter : public Snapshotter {
 public:
  ~FakeSnapshotter() override;
  std::string_view name() const override { return "fake"; }
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

  // The next call of `verb` ("begin", "write", "commit", "prepare", "drop", "remove_layer") answers this error, once.
  void FailNext(const std::string& verb, Code code, const std::string& what);
  std::vector<std::string> owners() const;
  std::vector<Digest> layers() const;
  int open_writers() const;  // begun, neither committed nor dropped

 private:
  struct Owner {
    std::vector<Digest> layers;
    bool read_only = false;
    std::string directory;
  };
  class Writer;
  Result<void> TakeFailure(const std::string& verb);
  void DropLocked(const std::string& owner);

  mutable std::mutex mutex_;
  std::map<Digest, std::string> layers_;  // diffID to tar bytes
  std::map<std::string, Owner> owners_;
  std::map<std::string, Error> failures_;
  int writers_ = 0;
};

}  // namespace berth::images
