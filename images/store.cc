#include "images/store_impl.h"

#include "base/failpoint.h"
#include "base/log.h"
#include "images/registry/http_transport.h"

namespace berth::images {
namespace {

constexpr size_t kShortestPrefix = 4;

bool IsHex(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// "docker.io/library/nginx" of both forms of a canonical name.
std::string_view RepositoryOf(std::string_view name) {
  size_t at = name.find('@');
  return at != std::string_view::npos ? name.substr(0, at) : name.substr(0, name.rfind(':'));
}
bool IsDigestName(std::string_view name) { return name.find('@') != std::string_view::npos; }

}  // namespace

StoreImpl::StoreImpl(const Options& options, Db& db, Snapshotter& snapshotter, std::unique_ptr<Transport> transport)
    : options_(options),
      table_(db),
      snapshotter_(snapshotter),
      transport_(std::move(transport)),
      registry_(*transport_, options.registries) {}

StoreImpl::~StoreImpl() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (background_.joinable()) background_.join();
}

Result<std::unique_ptr<StoreImpl>> OpenStoreWith(const Options& options, Db& db, Snapshotter& snapshotter,
                                                 std::unique_ptr<Transport> transport) {
  auto store = std::make_unique<StoreImpl>(options, db, snapshotter, std::move(transport));
  TRY_CTX(store->Open(), "image store {}", options.root);
  return store;
}

Result<std::unique_ptr<Store>> OpenStore(const Options& options, Db& db, Snapshotter& snapshotter) {
  return std::unique_ptr<Store>(TRY(OpenStoreWith(options, db, snapshotter, std::make_unique<HttpTransport>())));
}

Result<void> StoreImpl::Open() {
  blobs_ = TRY(Blobs::Open(options_.root));
  slots_ = TRY(Slots::Make(options_.parallel_downloads));
  for (const std::string& text : options_.pinned) {
    if (text.starts_with("sha256:") || (text.size() == 64 && IsHex(text))) {
      pinned_.insert(
          TRY_CTX(Digest::Parse(text.starts_with("sha256:") ? text : "sha256:" + text), "images.pinned").str());
    } else {
      pinned_.insert(TRY_CTX(Reference::Parse(text), "images.pinned").Canonical());
    }
  }
  TRY(table_.Migrate());
  auto rows = TRY(table_.LoadImages());
  for (const ImageRow& row : rows) {
    std::string why;
    auto config = blobs_->Get(row.id);
    Result<ParsedConfig> parsed =
        config ? ParseConfig(*config, "config of " + row.id.str()) : std::unexpected(config.error());
    if (!parsed) why = parsed.error().what;
    for (const LayerRow& layer : row.layers) {
      if (!why.empty()) break;
      auto found = TRY(snapshotter_.Find(layer.diff_id));
      if (!found) why = fmt::format("layer {} is not in the {} snapshotter", layer.diff_id, snapshotter_.name());
    }
    std::lock_guard lock(mutex_);
    if (!why.empty()) {
      log::Warn("image.incomplete",
                {{"image", row.id}, {"names", fmt::format("{}", fmt::join(row.names, " "))}, {"reason", why}});
      hidden_[row.id] = row;
    } else {
      ReplaceLocked({MakeImage(row, std::move(*config), parsed->config), row});
    }
  }
  TRY(CollectAtOpen(rows));
  try {
    background_ = std::thread([this] { Background(); });
  } catch (const std::system_error& e) {
    return SysErrOf(e.code().value(), "start the image store's thread");
  }
  return {};
}

ImagePtr StoreImpl::MakeImage(const ImageRow& row, std::string raw_config, const ImageConfig& config) const {
  auto image = std::make_shared<Image>();
  image->id = row.id;
  image->config = config;
  for (const LayerRow& layer : row.layers) image->diff_ids.push_back(layer.diff_id);
  image->pinned = pinned_.contains(row.id.str());
  for (const std::string& name : row.names) {
    (IsDigestName(name) ? image->repo_digests : image->repo_tags).push_back(name);
    image->pinned = image->pinned || pinned_.contains(name);
  }
  image->size = row.size;
  image->raw_config = std::move(raw_config);
  return image;
}

void StoreImpl::ReplaceLocked(Record record) {
  std::sort(record.row.names.begin(), record.row.names.end());
  const Digest id = record.image->id;
  auto old = records_.find(id);
  if (old != records_.end())
    for (const std::string& name : old->second.row.names) {
      auto it = names_.find(name);
      if (it != names_.end() && it->second == id) names_.erase(it);
    }
  for (const std::string& name : record.row.names) names_[name] = id;
  records_.insert_or_assign(id, std::move(record));
  hidden_.erase(id);
}

void StoreImpl::TakeNameLocked(const std::string& name, const Digest& taker) {
  for (auto& [id, row] : hidden_)
    if (id != taker) std::erase(row.names, name);
  auto owner = names_.find(name);
  if (owner == names_.end() || owner->second == taker) return;
  Record record = records_.at(owner->second);
  std::erase(record.row.names, name);
  record.image = MakeImage(record.row, record.image->raw_config, record.image->config);
  ReplaceLocked(std::move(record));
}

Result<StoreImpl::Found> StoreImpl::ResolveLocked(const std::string& text) const {
  const bool prefixed = text.starts_with("sha256:");
  const std::string hex = prefixed ? text.substr(7) : text;
  const bool idlike = IsHex(hex) && hex.size() >= kShortestPrefix && hex.size() <= 64;
  auto by_prefix = [&]() -> Result<Found> {
    const std::string prefix = "sha256:" + hex;
    auto first = records_.lower_bound(std::string_view(prefix));
    if (first == records_.end() || !first->first.str().starts_with(prefix))
      return Err(Code::kNotFound, "image {}: not in the store", text);
    auto second = std::next(first);
    if (second != records_.end() && second->first.str().starts_with(prefix))
      return Err(Code::kConflict, "image id {}: several images begin with it; give more digits", text);
    return Found{first->first, ""};
  };
  if (idlike && (prefixed || hex.size() == 64)) {
    auto found = by_prefix();
    if (found || found.error().code != Code::kNotFound || hex.size() == 64) return found;
  }
  auto reference = Reference::Parse(text);
  if (reference) {
    auto name = names_.find(reference->Canonical());
    if (name != names_.end()) return Found{name->second, name->first};
  }
  if (idlike) return by_prefix();
  if (!reference) return std::unexpected(std::move(reference).error());
  return Err(Code::kNotFound, "image {}: not in the store", reference->Familiar());
}

Result<ImagePtr> StoreImpl::Find(const std::string& reference_or_id) const {
  std::lock_guard lock(mutex_);
  return records_.at(TRY(ResolveLocked(reference_or_id)).id).image;
}

std::vector<ImagePtr> StoreImpl::List() const {
  std::lock_guard lock(mutex_);
  std::vector<ImagePtr> out;
  out.reserve(records_.size());
  for (const auto& [_, record] : records_) out.push_back(record.image);
  return out;
}

ImagePtr StoreImpl::ByDocument(const Digest& digest, const Platform& platform) const {
  std::lock_guard lock(mutex_);
  for (const auto& [_, record] : records_) {
    const auto& documents = record.row.documents;
    bool named =
        std::any_of(documents.begin(), documents.end(), [&](const DocumentRow& d) { return d.digest == digest; });
    if (named && Fits(record.image->config, platform)) return record.image;
  }
  return nullptr;
}

Result<ImagePtr> StoreImpl::Commit(NewImage image) {
  std::lock_guard commit(commit_mutex_);
  ImageRow row{image.id, image.size, std::move(image.names), {}, std::move(image.layers)};
  // An archive does not know how the layers were compressed; what a pull once said stays true.
  std::vector<Document> documents = std::move(image.documents);
  {
    std::lock_guard lock(mutex_);
    auto whole = records_.find(image.id);
    auto hidden = hidden_.find(image.id);
    const ImageRow* old = whole != records_.end()   ? &whole->second.row
                          : hidden != hidden_.end() ? &hidden->second
                                                    : nullptr;
    if (old != nullptr) {
      for (const std::string& name : old->names)
        if (std::find(row.names.begin(), row.names.end(), name) == row.names.end()) row.names.push_back(name);
      row.documents = old->documents;
      bool unknown =
          std::any_of(row.layers.begin(), row.layers.end(), [](const LayerRow& l) { return l.blob.empty(); });
      if (unknown) {
        row.layers = old->layers;
        row.size = old->size;
      }
    }
  }
  auto undo = [&](Error e) -> std::unexpected<Error> {
    std::vector<Digest> unused;
    {
      std::lock_guard lock(mutex_);
      unused = UnusedDocumentsLocked({image.id, 0, {}, row.documents, {}});
    }
    for (const Digest& digest : unused) (void)blobs_->Remove(digest);
    return std::unexpected(std::move(e));
  };
  for (const Document& d : documents)
    if (std::none_of(row.documents.begin(), row.documents.end(),
                     [&](const DocumentRow& r) { return r.digest == d.digest; }))
      row.documents.push_back({d.digest, d.media_type});
  auto config_written = blobs_->Put(image.id, image.raw_config);
  if (!config_written) return undo(std::move(config_written).error());
  for (const Document& d : documents) {
    auto put = blobs_->Put(d.digest, d.bytes);
    if (!put) return undo(std::move(put).error());
  }
  Failpoint("pull_image.documents");
  auto saved = table_.Save(row);
  if (!saved) return undo(std::move(saved).error());
  Failpoint("pull_image.committed");

  std::lock_guard lock(mutex_);
  for (const std::string& name : row.names) TakeNameLocked(name, image.id);
  std::sort(row.names.begin(), row.names.end());
  ImagePtr made = MakeImage(row, std::move(image.raw_config), image.parsed.config);
  ReplaceLocked({made, std::move(row)});
  return made;
}

Result<void> StoreImpl::AddNames(const Digest& id, const std::vector<std::string>& names) {
  std::lock_guard commit(commit_mutex_);
  {
    std::lock_guard lock(mutex_);
    if (!records_.contains(id)) return Err(Code::kNotFound, "image {}: it was removed meanwhile", id);
    bool all = std::all_of(names.begin(), names.end(), [&](const std::string& n) {
      auto it = names_.find(n);
      return it != names_.end() && it->second == id;
    });
    if (all) return {};
  }
  TRY(table_.AddNames(id, names));
  std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    TakeNameLocked(name, id);
    Record mine = records_.at(id);
    if (std::find(mine.row.names.begin(), mine.row.names.end(), name) == mine.row.names.end())
      mine.row.names.push_back(name);
    std::sort(mine.row.names.begin(), mine.row.names.end());
    mine.image = MakeImage(mine.row, mine.image->raw_config, mine.image->config);
    ReplaceLocked(std::move(mine));
  }
  return {};
}

Result<ImagePtr> StoreImpl::Tag(const std::string& source, const std::string& reference) {
  auto name = TRY(Reference::Parse(reference));
  if (!name.digest.empty())
    return Err(Code::kInvalidArgument, "reference \"{}\": a new name is a tag, a digest cannot be given to an image",
               reference);
  ImagePtr image = TRY(Find(source));
  TRY(AddNames(image->id, {name.Canonical()}));
  return Find(image->id.str());
}

std::vector<Digest> StoreImpl::UnusedDocumentsLocked(const ImageRow& gone) const {
  std::set<Digest> candidates{gone.id};
  for (const DocumentRow& d : gone.documents) candidates.insert(d.digest);
  auto keep = [&](const ImageRow& row) {
    candidates.erase(row.id);
    for (const DocumentRow& d : row.documents) candidates.erase(d.digest);
  };
  for (const auto& [_, record] : records_) keep(record.row);
  for (const auto& [_, row] : hidden_) keep(row);
  return {candidates.begin(), candidates.end()};
}

Result<void> StoreImpl::Remove(const std::string& reference_or_id) {
  std::vector<HeldRow> layers;
  {
    std::lock_guard commit(commit_mutex_);
    ImageRow row;
    std::vector<std::string> dropped;
    {
      std::lock_guard lock(mutex_);
      auto resolved = ResolveLocked(reference_or_id);
      if (!resolved) {
        // What is not whole is not shown, but it can be got rid of.
        auto parsed = Reference::Parse(reference_or_id);
        std::string name = parsed ? parsed->Canonical() : "";
        auto it = std::find_if(hidden_.begin(), hidden_.end(), [&](const auto& h) {
          return h.first.str() == reference_or_id || h.first.hex() == reference_or_id ||
                 std::find(h.second.names.begin(), h.second.names.end(), name) != h.second.names.end();
        });
        if (it == hidden_.end()) return std::unexpected(std::move(resolved).error());
        resolved = Found{it->first, ""};
      }
      Found found = *resolved;
      auto whole = records_.find(found.id);
      row = whole != records_.end() ? whole->second.row : hidden_.at(found.id);
      if (!found.name.empty()) {
        dropped.push_back(found.name);
        // With the last tag of a repository go the digests that were pulled under it.
        auto same = [&](const std::string& n) {
          return n != found.name && RepositoryOf(n) == RepositoryOf(found.name);
        };
        bool tags_left = std::any_of(row.names.begin(), row.names.end(),
                                     [&](const std::string& n) { return same(n) && !IsDigestName(n); });
        if (!IsDigestName(found.name) && !tags_left)
          for (const std::string& n : row.names)
            if (same(n)) dropped.push_back(n);
      }
    }
    if (!dropped.empty() && dropped.size() < row.names.size()) {
      TRY(table_.RemoveNames(dropped));
      std::lock_guard lock(mutex_);
      Record record = records_.at(row.id);
      for (const std::string& name : dropped) std::erase(record.row.names, name);
      record.image = MakeImage(record.row, record.image->raw_config, record.image->config);
      ReplaceLocked(std::move(record));
      return {};
    }
    TRY(table_.RemoveImage(row.id));
    Failpoint("remove_image.row");
    std::vector<Digest> documents;
    {
      std::lock_guard lock(mutex_);
      for (const std::string& name : row.names) names_.erase(name);
      records_.erase(row.id);
      hidden_.erase(row.id);
      documents = UnusedDocumentsLocked(row);
    }
    for (const Digest& digest : documents)
      if (auto removed = blobs_->Remove(digest); !removed)
        log::Warn("document.not_removed", {{"digest", digest}, {"error", removed.error()}});
    // Top first: a layer goes before those that it was made upon.
    for (auto layer = row.layers.rbegin(); layer != row.layers.rend(); ++layer)
      layers.push_back({layer->diff_id, layer->blob, 0});
  }
  CollectLayers(layers);
  return {};
}

}  // namespace berth::images
