#include "images/snapshots/table.h"

namespace berth::images {
namespace {

Result<void> PutView(Db::Txn& t, std::string_view kind, const ViewRow& v) {
  TRY(
      t.Exec("INSERT OR REPLACE INTO layer_views(diff_id, kind, key, version, bytes, inodes, empty, sha256) "
             "VALUES(?,?,?,?,?,?,?,?)",
             v.id.diff_id.str(), kind, v.id.key, v.version, v.bytes, v.inodes, v.empty, v.sha256));
  return {};
}

std::vector<Digest> ParseLayers(std::string_view text) {
  std::vector<Digest> layers;
  while (!text.empty()) {
    size_t end = text.find(' ');
    auto digest = Digest::Parse(text.substr(0, end));
    if (!digest) return {};
    layers.push_back(std::move(*digest));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return layers;
}

}  // namespace

Result<void> LayerTable::Migrate() {
  return db_.Migrate("snapshots",
                     {"CREATE TABLE layers(diff_id TEXT PRIMARY KEY, tar_size INTEGER NOT NULL) WITHOUT ROWID;"
                      "CREATE TABLE layer_views(diff_id TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, version "
                      "INTEGER NOT NULL,"
                      " bytes INTEGER NOT NULL, inodes INTEGER NOT NULL, empty INTEGER NOT NULL, sha256 TEXT NOT NULL,"
                      " PRIMARY KEY(diff_id, kind, key)) WITHOUT ROWID;"
                      "CREATE TABLE layer_chains(id TEXT PRIMARY KEY, layers TEXT NOT NULL) WITHOUT ROWID;"});
}

Result<std::vector<LayerRow>> LayerTable::Layers() {
  std::vector<LayerRow> rows;
  TRY(db_.Each("SELECT diff_id, tar_size FROM layers", [&](const Db::Row& r) {
    if (auto diff_id = Digest::Parse(r.Text(0))) rows.push_back({*diff_id, static_cast<uint64_t>(r.Int(1))});
  }));
  return rows;
}

Result<std::vector<ViewRow>> LayerTable::Views(std::string_view kind) {
  std::vector<ViewRow> rows;
  TRY(db_.Each(
      "SELECT diff_id, key, version, bytes, inodes, empty, sha256 FROM layer_views WHERE kind = ?",
      [&](const Db::Row& r) {
        auto diff_id = Digest::Parse(r.Text(0));
        if (!diff_id) return;
        rows.push_back({{*diff_id, r.Text(1)},
                        static_cast<int>(r.Int(2)),
                        static_cast<uint64_t>(r.Int(3)),
                        static_cast<uint64_t>(r.Int(4)),
                        r.Int(5) != 0,
                        r.Text(6)});
      },
      kind));
  return rows;
}

Result<std::map<std::string, std::vector<Digest>>> LayerTable::Chains() {
  std::map<std::string, std::vector<Digest>> chains;
  TRY(db_.Each("SELECT id, layers FROM layer_chains",
               [&](const Db::Row& r) { chains[r.Text(0)] = ParseLayers(r.Text(1)); }));
  return chains;
}

Result<void> LayerTable::Put(const LayerRow& layer, std::string_view kind, const ViewRow& view) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT OR REPLACE INTO layers(diff_id, tar_size) VALUES(?, ?)", layer.diff_id.str(), layer.tar_size));
    return PutView(t, kind, view);
  });
}

Result<void> LayerTable::Put(std::string_view kind, const ViewRow& view) {
  return db_.Transact([&](Db::Txn& t) { return PutView(t, kind, view); });
}

Result<void> LayerTable::PutChain(const std::string& id, const std::vector<Digest>& layers) {
  std::string text;
  for (const Digest& layer : layers) text += (text.empty() ? "" : " ") + layer.str();
  TRY(db_.Exec("INSERT OR IGNORE INTO layer_chains(id, layers) VALUES(?, ?)", id, text));
  return {};
}

Result<void> LayerTable::Drop(const Digest& diff_id) {
  return db_.Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("DELETE FROM layer_views WHERE diff_id = ?", diff_id.str()));
    TRY(t.Exec("DELETE FROM layers WHERE diff_id = ?", diff_id.str()));
    return {};
  });
}

Result<void> LayerTable::Drop(std::string_view kind, const ViewId& view) {
  TRY(db_.Exec("DELETE FROM layer_views WHERE diff_id = ? AND kind = ? AND key = ?", view.diff_id.str(), kind,
               view.key));
  return {};
}

Result<void> LayerTable::DropChain(const std::string& id) {
  TRY(db_.Exec("DELETE FROM layer_chains WHERE id = ?", id));
  return {};
}

}  // namespace berth::images
