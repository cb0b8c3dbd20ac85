#include "base/json.h"
#include "base/log.h"
#include "images/archive.h"
#include "images/store_impl.h"

namespace berth::images {
namespace {

struct WireArchiveImage {
  std::string Config;
  std::vector<std::string> RepoTags, Layers;
};
BOOST_DESCRIBE_STRUCT(WireArchiveImage, (), (Config, RepoTags, Layers))

struct WireLayout {
  std::string imageLayoutVersion;
};
BOOST_DESCRIBE_STRUCT(WireLayout, (), (imageLayoutVersion))

constexpr int kMaxNesting = 4;

std::string BlobEntry(const Digest& digest) { return "blobs/sha256/" + digest.hex(); }

}  // namespace

class Importer {
 public:
  Importer(StoreImpl& store, const ArchiveReader& archive, std::string fallback, const Deadline& until)
      : store_(store), archive_(archive), fallback_(std::move(fallback)), until_(until) {}
  Result<std::vector<ImagePtr>> Run();

 private:
  struct Planned {
    NewImage image;
    std::vector<std::string> entries;  // of the layers, bottom first
  };
  Result<void> PlanDocker();
  Result<void> PlanLayout();
  Result<void> PlanDescriptor(const Descriptor& top);
  Result<void> AddImage(Planned planned);
  Result<std::string> Document(const Descriptor& d, size_t limit) const;
  Result<void> Apply(const Planned& planned, size_t index);
  Result<std::vector<ImagePtr>> Work();

  StoreImpl& store_;
  const ArchiveReader& archive_;
  const std::string fallback_;  // canonical, or empty
  const Deadline& until_;
  std::vector<Planned> images_;
  std::vector<std::string> elsewhere_;  // platforms passed over
  std::vector<HeldRow> held_;
};

Result<std::vector<ImagePtr>> StoreImpl::Import(int fd, const std::string& name_if_untagged, const Deadline& until) {
  std::string fallback;
  if (!name_if_untagged.empty()) {
    auto reference = TRY(Reference::Parse(name_if_untagged));
    if (!reference.digest.empty())
      return Err(Code::kInvalidArgument, "reference \"{}\": a name for an imported image is a tag, not a digest",
                 name_if_untagged);
    fallback = reference.Canonical();
  }
  auto archive = TRY_CTX(ArchiveReader::Open(fd, options_.root + "/ingest", until), "import");
  Importer importer(*this, archive, fallback, until);
  return TRY_CTX(importer.Run(), "import");
}

Result<std::vector<ImagePtr>> Importer::Run() {
  if (archive_.Has("manifest.json"))
    TRY(PlanDocker());
  else if (archive_.Has("index.json"))
    TRY(PlanLayout());
  else
    return Err(Code::kInvalidArgument,
               "archive: neither manifest.json (docker-archive) nor index.json (OCI layout) is in it");
  if (images_.empty())
    return Err(Code::kNotFound, "archive: no image for {} in it; available: {}", Platform::Machine().str(),
               elsewhere_.empty() ? "none" : fmt::format("{}", fmt::join(elsewhere_, ", ")));
  // The name given by the caller is for the one image that has none.
  auto nameless = [](const Planned& p) { return p.image.names.empty(); };
  if (!fallback_.empty() && std::count_if(images_.begin(), images_.end(), nameless) == 1)
    std::find_if(images_.begin(), images_.end(), nameless)->image.names.push_back(fallback_);

  std::vector<Digest> all;
  for (const Planned& p : images_)
    all.insert(all.end(), p.image.parsed.diff_ids.begin(), p.image.parsed.diff_ids.end());
  std::optional<StoreImpl::Busy> busy(std::in_place, store_, all);
  auto done = Work();
  if (done) return done;
  busy.reset();
  std::reverse(held_.begin(), held_.end());
  store_.CollectLayers(held_);
  return done;
}

Result<std::vector<ImagePtr>> Importer::Work() {
  std::set<Digest> seen;
  for (const Planned& p : images_)
    for (const Digest& d : p.image.parsed.diff_ids)
      if (seen.insert(d).second && !TRY(store_.snapshotter_.Find(d))) held_.push_back({d, Digest(), 0});
  TRY(store_.Remember(held_));
  for (const Planned& p : images_)
    for (size_t i = 0; i < p.entries.size(); ++i)
      TRY_CTX(Apply(p, i), "layer {} of {} ({})", i + 1, p.entries.size(), p.image.parsed.diff_ids[i]);
  std::vector<ImagePtr> out;
  std::vector<Digest> fresh;
  for (Planned& p : images_) {
    // A docker-archive does not say how large its layers are; as in `docker images`, their uncompressed size counts.
    for (size_t i = 0; i < p.entries.size(); ++i)
      if (p.image.layers[i].blob.empty())
        if (auto layer = TRY(store_.snapshotter_.Find(p.image.parsed.diff_ids[i]))) p.image.size += layer->bytes;
    const Digest id = p.image.id;
    if (!store_.Find(id.str())) fresh.push_back(id);
    auto image = store_.Commit(std::move(p.image));
    if (!image) {
      for (const Digest& made : fresh) (void)store_.Remove(made.str());
      return std::unexpected(std::move(image).error());
    }
    out.push_back(*image);
  }
  return out;
}

Result<void> Importer::AddImage(Planned planned) {
  if (planned.image.parsed.diff_ids.size() != planned.entries.size())
    return Err(Code::kInvalidArgument, "config {}: rootfs.diff_ids names {} layers, the archive lists {}",
               planned.image.id, planned.image.parsed.diff_ids.size(), planned.entries.size());
  if (images_.size() >= ArchiveLimits().images)
    return Err(Code::kInvalidArgument, "archive: more than {} images in it", images_.size());
  images_.push_back(std::move(planned));
  return {};
}

Result<void> Importer::PlanDocker() {
  std::string text = TRY(archive_.Read("manifest.json", kMaxManifest));
  auto list = TRY(json::Parse<std::vector<WireArchiveImage>>(text, "manifest.json"));
  for (size_t i = 0; i < list.size(); ++i) {
    const WireArchiveImage& wire = list[i];
    if (wire.Config.empty()) return Err(Code::kInvalidArgument, "manifest.json: [{}].Config is missing", i);
    Planned planned;
    planned.image.raw_config = TRY_CTX(archive_.Read(wire.Config, kMaxConfig), "manifest.json: [{}].Config", i);
    planned.image.id = Digest::Of(planned.image.raw_config);
    planned.image.parsed = TRY(ParseConfig(planned.image.raw_config, wire.Config));
    planned.entries = wire.Layers;
    for (size_t j = 0; j < wire.RepoTags.size(); ++j) {
      auto name = TRY_CTX(Reference::Parse(wire.RepoTags[j]), "manifest.json: [{}].RepoTags[{}]", i, j);
      if (name.digest.empty()) planned.image.names.push_back(name.Canonical());
    }
    planned.image.size = planned.image.raw_config.size();
    for (const Digest& d : planned.image.parsed.diff_ids) planned.image.layers.push_back({d, Digest(), 0, ""});
    TRY(AddImage(std::move(planned)));
  }
  return {};
}

Result<void> Importer::PlanLayout() {
  if (archive_.Has("oci-layout")) {
    auto layout = TRY(json::Parse<WireLayout>(TRY(archive_.Read("oci-layout", 4096)), "oci-layout"));
    if (!layout.imageLayoutVersion.starts_with("1."))
      return Err(Code::kUnimplemented, "oci-layout: imageLayoutVersion is \"{}\", expected 1.0.0",
                 layout.imageLayoutVersion);
  }
  std::string text = TRY(archive_.Read("index.json", kMaxManifest));
  auto parsed = TRY(ParseManifest(text, media::kOciIndex, "index.json"));
  for (const Descriptor& entry : std::get<Index>(parsed).manifests) {
    bool ours = !entry.platform || entry.platform->os.empty();
    if (!ours) {
      Index one{"", {entry}};
      ours = ChoosePlatform(one, Platform::Machine(), "").has_value();
      if (!ours && entry.platform->os != "unknown") elsewhere_.push_back(entry.platform->str());
    }
    if (ours) TRY(PlanDescriptor(entry));
  }
  return {};
}

Result<std::string> Importer::Document(const Descriptor& d, size_t limit) const {
  std::string bytes = TRY(archive_.Read(BlobEntry(d.digest), limit));
  Digest found = Digest::Of(bytes);
  if (found != d.digest)
    return Err(Code::kDataLoss, "archive: {} has bytes that hash to {}", BlobEntry(d.digest), found);
  if (bytes.size() != d.size)
    return Err(Code::kDataLoss, "archive: {} has {} bytes, its descriptor says {}", BlobEntry(d.digest), bytes.size(),
               d.size);
  return bytes;
}

Result<void> Importer::PlanDescriptor(const Descriptor& top) {
  Planned planned;
  Descriptor at = top;
  std::optional<Manifest> manifest;
  for (int depth = 0; !manifest; ++depth) {
    if (depth > kMaxNesting)
      return Err(Code::kInvalidArgument, "manifest {}: indexes nested more than {} deep", top.digest, kMaxNesting);
    std::string where = fmt::format("manifest {}", at.digest);
    std::string bytes = TRY(Document(at, kMaxManifest));
    auto parsed = TRY(ParseManifest(bytes, at.media_type, where));
    std::string type = std::holds_alternative<Index>(parsed) ? std::get<Index>(parsed).media_type
                                                             : std::get<Manifest>(parsed).media_type;
    planned.image.documents.push_back({at.digest, std::move(type), std::move(bytes)});
    if (auto* found = std::get_if<Manifest>(&parsed))
      manifest = std::move(*found);
    else
      at = TRY(ChoosePlatform(std::get<Index>(parsed), Platform::Machine(), where));
  }
  planned.image.id = manifest->config.digest;
  planned.image.raw_config = TRY(Document(manifest->config, kMaxConfig));
  planned.image.parsed = TRY(ParseConfig(planned.image.raw_config, fmt::format("config {}", planned.image.id)));
  planned.image.size = manifest->config.size;
  for (size_t i = 0; i < manifest->layers.size(); ++i) {
    const Descriptor& layer = manifest->layers[i];
    planned.entries.push_back(BlobEntry(layer.digest));
    planned.image.size += layer.size;
    if (i < planned.image.parsed.diff_ids.size())
      planned.image.layers.push_back({planned.image.parsed.diff_ids[i], layer.digest, layer.size, layer.media_type});
  }

  // The full name if there is one; a bare tag goes with the name that the caller gave.
  auto note = [&](const char* key) {
    auto it = top.annotations.find(key);
    return it == top.annotations.end() ? std::string() : it->second;
  };
  std::string name = note("io.containerd.image.name");
  std::string tag = note("org.opencontainers.image.ref.name");
  if (name.empty() && tag.find_first_of("/:") != std::string::npos) name = tag;
  if (name.empty() && !tag.empty() && !fallback_.empty()) {
    auto base = TRY(Reference::Parse(fallback_));
    name = base.repository() + ":" + tag;
  }
  if (!name.empty()) {
    auto reference = TRY_CTX(Reference::Parse(name), "index.json: the name of manifest {}", top.digest);
    if (reference.digest.empty()) planned.image.names.push_back(reference.Canonical());
    // The very documents of a registry were verified above, so the digest form is true too.
    planned.image.names.push_back(fmt::format("{}@{}", reference.repository(), top.digest));
  }
  return AddImage(std::move(planned));
}

Result<void> Importer::Apply(const Planned& planned, size_t index) {
  const Digest& diff_id = planned.image.parsed.diff_ids[index];
  auto lock = TRY(store_.layer_locks_.Acquire(diff_id.str(), until_, "layer"));
  if (TRY(store_.snapshotter_.Find(diff_id))) return {};
  std::vector<Digest> parents(planned.image.parsed.diff_ids.begin(),
                              planned.image.parsed.diff_ids.begin() + static_cast<ptrdiff_t>(index));
  auto writer = TRY(store_.snapshotter_.Begin(parents));
  Inflater inflater([&](std::string_view bytes) { return writer->Write(bytes); });
  const Digest& blob = planned.image.layers[index].blob;
  std::optional<Hasher> hasher;
  if (!blob.empty()) hasher.emplace();
  std::optional<Error> broken;  // kept until the digest has had its word
  TRY(archive_.Stream(
      planned.entries[index],
      [&](std::string_view bytes) -> Result<void> {
        if (hasher) hasher->Update(bytes.data(), bytes.size());
        if (broken) return {};
        auto fed = inflater.Feed(bytes);
        if (fed) return fed;
        if (!hasher || fed.error().sys != 0) return fed;
        broken = std::move(fed).error();
        return {};
      },
      until_));
  if (hasher) {
    Digest found = hasher->Finish();
    if (found != blob)
      return Err(Code::kDataLoss, "archive: {} has bytes that hash to {}", planned.entries[index], found);
  }
  if (broken) return std::unexpected(std::move(*broken));
  TRY(inflater.Finish());
  TRY(writer->Commit(diff_id, until_));
  return {};
}

}  // namespace berth::images
