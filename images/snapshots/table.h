#pragma once
// The rows that say which layers exist, what was made of them, and which layers a chain id stands for.
#include <map>
#include <vector>

#include "base/db.h"
#include "images/digest.h"

namespace berth::images {

struct ViewId {  // a layer in a form that can be mounted: see layout.h for the key
  Digest diff_id;
  std::string key;
  auto operator<=>(const ViewId&) const = default;
};

struct ViewRow {
  ViewId id;
  int version = 0;      // of the writer
  uint64_t bytes = 0;   // on disk
  uint64_t inodes = 0;  // on disk: 1 for an index, all of a tree
  bool empty = false;   // the layer says nothing at all
  std::string sha256;   // of an index; empty for a tree
};

struct LayerRow {
  Digest diff_id;
  uint64_t tar_size = 0;
};

class LayerTable {  // thread-safe, as Db is
 public:
  explicit LayerTable(Db& db) : db_(db) {}
  Result<void> Migrate();
  // `kind` ("erofs", "directory") keeps the views of two snapshotters apart; layers belong to both.
  Result<std::vector<LayerRow>> Layers();
  Result<std::vector<ViewRow>> Views(std::string_view kind);
  Result<std::map<std::string, std::vector<Digest>>> Chains();
  Result<void> Put(const LayerRow& layer, std::string_view kind, const ViewRow& view);
  Result<void> Put(std::string_view kind, const ViewRow& view);
  Result<void> PutChain(const std::string& id, const std::vector<Digest>& layers);
  Result<void> Drop(const Digest& diff_id);  // the layer and all views of it
  Result<void> Drop(std::string_view kind, const ViewId& view);
  Result<void> DropChain(const std::string& id);

 private:
  Db& db_;
};

}  // namespace berth::images
