#pragma once
// Layers on disk, and root filesystems made of them.
//
// The life of a layer: its compressed blob arrives as a stream; `Begin` gives a LayerWriter that takes the
// *uncompressed* tar bytes; `Commit(diffID)` checks the digest, makes the layer durable (power cut included) and
// records it. A layer is shared by all images that name its diffID. `Prepare` makes a writable root filesystem on a
// chain of layers for one owner and returns it as a detached overlay mount; nothing appears in the host's mount table
// but one mount per layer in use. `Drop` removes the owner's writable directory and lets go of the layers.
// `RemoveLayer` deletes one that nobody uses.
//
// Two kinds, chosen by OpenSnapshotter (probe.h): "erofs" (the layer is its own tar plus an EROFS index) and
// "directory" (unpacked trees, with the tar beside them). Both pass snapshotter_contract.h. Thread-safe. Layers are
// rows in berth.db (`layers` and what was made of them, `layer_views`); an owner is a directory below snapshots/, which
// names its chain (`layer_chains`).
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/db.h"
#include "base/deadline.h"
#include "base/unique_fd.h"
#include "images/digest.h"

namespace berth::images {

// Takes a tar stream in order. Dropped without Commit: everything it wrote is removed. One thread at a time.
class LayerWriter {
 public:
  virtual ~LayerWriter() = default;
  virtual Result<void> Write(std::string_view bytes) = 0;
  // kDataLoss when the bytes do not hash to diff_id; kInvalidArgument naming the entry when the tar is malformed or
  // would escape the root. Returns the uncompressed size. Committing a layer that exists already is success.
  virtual Result<uint64_t> Commit(const Digest& diff_id, const Deadline& until) = 0;
};

struct RootFs {
  unique_fd mount;  // detached mount: move_mount it, or openat relative to it
};

struct Usage {
  uint64_t bytes = 0, inodes = 0;
};

struct LayerInfo {
  Digest diff_id;
  uint64_t bytes = 0;  // of the uncompressed tar
};

class Snapshotter {
 public:
  virtual ~Snapshotter() = default;
  virtual std::string_view name() const = 0;  // "erofs", "directory"

  // `parents`: the chain below, bottom first (hard links into lower layers and implicit parent directories take their
  // facts from there). They have to be committed by the time of Commit, so layers may stream side by side and commit in
  // order.
  virtual Result<std::unique_ptr<LayerWriter>> Begin(const std::vector<Digest>& parents) = 0;
  virtual Result<std::optional<LayerInfo>> Find(const Digest& diff_id) = 0;
  // The layer's uncompressed tar, byte for byte as it was committed, for push and save.
  virtual Result<unique_fd> OpenTar(const Digest& diff_id) = 0;

  // `owner`: a container id or another unique key. `layers` bottom first. A second Prepare for the same owner gives the
  // same writable directory again.
  virtual Result<RootFs> Prepare(const std::string& owner, const std::vector<Digest>& layers, bool read_only,
                                 const Deadline& until) = 0;
  virtual Result<void> Drop(const std::string& owner) = 0;         // missing = success
  virtual Result<Usage> OwnerUsage(const std::string& owner) = 0;  // of the writable directory; walks it
  virtual Result<void> RemoveLayer(const Digest& diff_id) = 0;  // kConflict while an owner uses it; missing = success
  // Called once at start: drops owners not in `live`, removes half-made layers and unused layer mounts, repairs
  // indexes.
  virtual Result<void> Collect(const std::vector<std::string>& live_owners) = 0;
  virtual Result<Usage> LayersUsage() = 0;  // from records, cheap
};

}  // namespace berth::images
