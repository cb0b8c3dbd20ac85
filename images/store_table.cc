#include "images/store_table.h"

namespace berth::images {
namespace {

// A digest from our own database; a value that is none means that somebody else wrote there.
Result<Digest> Stored(const std::string& text, std::string_view where) {
  if (text.empty()) return Digest();
  auto digest = Digest::Parse(text);
  if (!digest) return Err(Code::kDataLoss, "berth.db: table {}: \"{}\" is no digest", where, text);
  return digest;
}

}  // namespace

Result<void> StoreTable::Migrate() {
  return db_.Migrate(
      "images", {"CREATE TABLE images(id TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;"
                 "CREATE TABLE image_names(name TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;"
                 "CREATE INDEX image_names_image ON image_names(image);"
                 "CREATE TABLE image_documents(image TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
                 "  PRIMARY KEY(image, digest)) WITHOUT ROWID;"
                 "CREATE TABLE image_layers(image TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL, "
                 "blob TEXT NOT NULL,"
                 "  blob_size INTEGER NOT NULL, media_type TEXT NOT NULL, PRIMARY KEY(image, position)) WITHOUT ROWID;"
                 "CREATE TABLE held_layers(diff_id TEXT PRIMARY KEY, blob TEXT NOT NULL, since INTEGER NOT NULL) "
                 "WITHOUT ROWID;"});
}

Result<std::vector<ImageRow>> StoreTable::LoadImages() {
  std::vector<ImageRow> out;
  std::map<std::string, size_t> at;
  std::optional<Error> bad;
  auto digest = [&](const std::string& text, std::string_view where) {
    auto parsed = Stored(text, where);
    if (!parsed && !bad) bad = parsed.error();
    return parsed ? *parsed : Digest();
  };
  TRY(db_.Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Each("SELECT id, size FROM images", [&](const Db::Row& r) {
      at[r.Text(0)] = out.size();
      out.push_back({digest(r.Text(0), "images"), static_cast<uint64_t>(r.Int(1)), {}, {}, {}});
    }));
    auto row = [&](const std::string& image) {
      auto it = at.find(image);
      return it == at.end() ? nullptr : &out[it->second];
    };
    TRY(t.Each("SELECT image, name FROM image_names ORDER BY name", [&](const Db::Row& r) {
      if (ImageRow* i = row(r.Text(0))) i->names.push_back(r.Text(1));
    }));
    TRY(t.Each("SELECT image, digest, media_type FROM image_documents", [&](const Db::Row& r) {
      if (ImageRow* i = row(r.Text(0))) i->documents.push_back({digest(r.Text(1), "image_documents"), r.Text(2)});
    }));
    return t.Each("SELECT image, diff_id, blob, blob_size, media_type FROM image_layers ORDER BY image, position",
                  [&](const Db::Row& r) {
                    if (ImageRow* i = row(r.Text(0)))
                      i->layers.push_back({digest(r.Text(1), "image_layers"), digest(r.Text(2), "image_layers"),
                                           static_cast<uint64_t>(r.Int(3)), r.Text(4)});
                  });
  }));
  if (bad) return std::unexpected(*bad);
  return out;
}

Result<void> StoreTable::Save(const ImageRow& row) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO images(id, size) VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET size = excluded.size", row.id,
               row.size));
    for (const std::string& name : row.names)
      TRY(t.Exec("INSERT OR REPLACE INTO image_names(name, image) VALUES(?, ?)", name, row.id));
    for (const DocumentRow& d : row.documents)
      TRY(t.Exec("INSERT OR REPLACE INTO image_documents(image, digest, media_type) VALUES(?, ?, ?)", row.id, d.digest,
                 d.media_type));
    TRY(t.Exec("DELETE FROM image_layers WHERE image = ?", row.id));
    for (size_t i = 0; i < row.layers.size(); ++i) {
      const LayerRow& l = row.layers[i];
      TRY(t.Exec(
          "INSERT INTO image_layers(image, position, diff_id, blob, blob_size, media_type) VALUES(?, ?, ?, ?, ?, ?)",
          row.id, i, l.diff_id, l.blob, l.blob_size, l.media_type));
    }
    return {};
  });
}

Result<void> StoreTable::AddNames(const Digest& image, const std::vector<std::string>& names) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    for (const std::string& name : names)
      TRY(t.Exec("INSERT OR REPLACE INTO image_names(name, image) VALUES(?, ?)", name, image));
    return {};
  });
}

Result<void> StoreTable::RemoveNames(const std::vector<std::string>& names) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    for (const std::string& name : names) TRY(t.Exec("DELETE FROM image_names WHERE name = ?", name));
    return {};
  });
}

Result<void> StoreTable::RemoveImage(const Digest& image) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("DELETE FROM image_names WHERE image = ?", image));
    TRY(t.Exec("DELETE FROM image_documents WHERE image = ?", image));
    TRY(t.Exec("DELETE FROM image_layers WHERE image = ?", image));
    TRY(t.Exec("DELETE FROM images WHERE id = ?", image));
    return {};
  });
}

Result<std::vector<HeldRow>> StoreTable::LoadHeld() {
  std::vector<HeldRow> out;
  std::optional<Error> bad;
  TRY(db_.Each("SELECT diff_id, blob, since FROM held_layers", [&](const Db::Row& r) {
    auto diff_id = Stored(r.Text(0), "held_layers");
    auto blob = Stored(r.Text(1), "held_layers");
    if (!diff_id || !blob)
      bad = !diff_id ? diff_id.error() : blob.error();
    else
      out.push_back({*diff_id, *blob, r.Int(2)});
  }));
  if (bad) return std::unexpected(*bad);
  return out;
}

Result<void> StoreTable::Hold(const std::vector<HeldRow>& rows) {
  if (rows.empty()) return {};
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    for (const HeldRow& row : rows)
      TRY(t.Exec("INSERT OR REPLACE INTO held_layers(diff_id, blob, since) VALUES(?, ?, ?)", row.diff_id, row.blob,
                 row.since));
    return {};
  });
}

Result<void> StoreTable::Unhold(const Digest& diff_id) {
  TRY(db_.Exec("DELETE FROM held_layers WHERE diff_id = ?", diff_id));
  return {};
}

}  // namespace berth::images
