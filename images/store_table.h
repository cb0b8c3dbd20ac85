#pragma once
// The store's rows in berth.db. SQL lives here only.
//
//   images           one row an image; its config is blobs/sha256/<id>
//   image_names      canonical tag and digest references, each of one image
//   image_documents  manifests and indexes that belong to an image, in blobs/
//   image_layers     the chain, bottom first, and what each layer was compressed as where it came from
//   held_layers      layers (and parts of their blobs in ingest/) that pulls and imports made. Written before the thing
//                    itself; a row that no image names any more is garbage after a while.
#include <string>
#include <vector>

#include "base/db.h"
#include "images/digest.h"

namespace berth::images {

struct LayerRow {
  Digest diff_id;
  Digest blob;              // empty: unknown, the image came as an archive
  uint64_t blob_size = 0;
  std::string media_type;
};

struct DocumentRow {
  Digest digest;
  std::string media_type;
};

struct ImageRow {
  Digest id;
  uint64_t size = 0;
  std::vector<std::string> names;
  std::vector<DocumentRow> documents;
  std::vector<LayerRow> layers;
};

struct HeldRow {
  Digest diff_id;
  Digest blob;              // empty for imports
  int64_t since = 0;        // seconds since 1970
};

class StoreTable {   // thread-safe, as Db is
 public:
  explicit StoreTable(Db& db) : db_(db) {}
  Result<void> Migrate();
  Result<std::vector<ImageRow>> LoadImages();
  // Inserts or replaces; `names` move here from other images, names of this image that are not listed stay.
  Result<void> Save(const ImageRow& row);
  Result<void> AddNames(const Digest& image, const std::vector<std::string>& names);
  Result<void> RemoveNames(const std::vector<std::string>& names);
  Result<void> RemoveImage(const Digest& image);

  Result<std::vector<HeldRow>> LoadHeld();
  Result<void> Hold(const std::vector<HeldRow>& rows);   // a row that is there gets the new time
  Result<void> Unhold(const Digest& diff_id);

 private:
  Db& db_;
};

}  // namespace berth::images
