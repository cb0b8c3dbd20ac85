// Pull: resolve, documents, layers, commit.
//
// Layers are downloaded by a few threads into ingest files, in the order of the image, while this thread follows behind
// them in the same order: inflates what has arrived and hands it to the snapshotter. A layer is committed after the
// digest of its compressed bytes and that of its content were both right.
#include <thread>

#include "base/failpoint.h"
#include "base/log.h"
#include "images/content/inflate.h"
#include "images/store_impl.h"

namespace berth::images {
namespace {

constexpr int kMaxNesting = 4;  // indexes within indexes
constexpr size_t kChunk = 512 << 10;
constexpr std::chrono::milliseconds kProgressEvery{100};

std::string Short(const Digest& digest) { return digest.hex().substr(0, 12); }

}  // namespace

class Puller {
 public:
  Puller(StoreImpl& store, const Reference& reference, const PullRequest& request, Platform platform, bool any_platform,
         const PullFlights::Progress& progress, const Deadline& until)
      : store_(store),
        reference_(reference),
        request_(request),
        platform_(std::move(platform)),
        chosen_(any_platform),
        progress_(progress),
        until_(until) {}

  Result<ImagePtr> Run();

 private:
  struct Coming {      // a layer that is not here yet
    size_t index = 0;  // in the manifest
    std::unique_ptr<Download> download;
    uint64_t shown = 0;
    bool complete_shown = false;
    std::chrono::steady_clock::time_point shown_at;
  };

  Result<std::optional<ImagePtr>> Unchanged();
  Result<void> FetchDocuments();
  Result<void> FetchConfig();
  Result<void> FetchLayers();
  Result<ImagePtr> Store();
  void GiveUp(const Error& why);
  Result<void> BringLayers(const std::vector<size_t>& missing, bool* resumed);
  void DownloadOne(Coming& coming, const Deadline& until);
  Result<void> ApplyLayer(Coming& coming);
  void ShowDownloads();
  void Say(const std::string& layer, const std::string& status, uint64_t current = 0, uint64_t total = 0) {
    progress_({layer, status, current, total});
  }
  std::vector<std::string> Names() const;
  Error Where(Error e, size_t index) const {
    return Wrap(std::move(e), "layer {} of {} ({})", index + 1, manifest_.layers.size(), manifest_.layers[index].digest)
        .error();
  }

  StoreImpl& store_;
  const Reference& reference_;
  const PullRequest& request_;
  const Platform platform_;
  const bool chosen_;  // the caller named the platform
  const PullFlights::Progress& progress_;
  const Deadline& until_;

  std::unique_ptr<Repository> repository_;
  std::vector<Document> documents_;  // outermost first
  Manifest manifest_;
  std::string raw_config_;
  ParsedConfig parsed_;
  std::vector<HeldRow> held_;  // layers that this pull makes
  std::vector<std::unique_ptr<Coming>> coming_;
};

Result<ImagePtr> StoreImpl::Pull(const PullRequest& request, const Deadline& until) {
  Reference reference = TRY(Reference::Parse(request.reference));
  const bool chosen = !request.platform.empty();
  Platform platform = chosen ? TRY(Platform::Parse(request.platform)) : Platform::Machine();
  TRY(until.Check("pull of " + reference.Canonical()));
  // Callers with other credentials do not ride along: they may not be allowed to.
  std::string key = fmt::format("{} {} {}", reference.Canonical(), platform.str(), Fingerprint(request.credentials));
  return flights_.Run(key, request.progress, until, [&](const PullFlights::Progress& progress) -> Result<ImagePtr> {
    Puller puller(*this, reference, request, platform, chosen, progress, until);
    return TRY_CTX(puller.Run(), "pull {}", reference.Familiar());
  });
}

std::vector<std::string> Puller::Names() const {
  std::vector<std::string> names{fmt::format("{}@{}", reference_.repository(), documents_.front().digest)};
  if (reference_.digest.empty()) names.push_back(reference_.Canonical());
  return names;
}

Result<ImagePtr> Puller::Run() {
  repository_ = TRY(store_.registry_.Open(reference_, request_.credentials));
  Say("", fmt::format("Pulling from {}", reference_.repository()));
  if (auto same = TRY(Unchanged())) {
    Say("", "Image is up to date");
    return *same;
  }
  TRY(FetchDocuments());
  TRY(FetchConfig());
  if (!chosen_ && !Fits(parsed_.config, platform_))
    return Err(Code::kNotFound, "no image for {}; available: {}/{}", platform_.str(), parsed_.config.os,
               parsed_.config.architecture);

  std::optional<StoreImpl::Busy> busy(std::in_place, store_, parsed_.diff_ids);
  auto done = FetchLayers();
  Result<ImagePtr> stored;
  if (done) stored = Store();
  if (done && stored) {
    Say("", "Downloaded newer image");
    return stored;
  }
  Error why = done ? std::move(stored).error() : std::move(done).error();
  busy.reset();
  GiveUp(why);
  return std::unexpected(std::move(why));
}

Result<ImagePtr> Puller::Store() {
  NewImage image;
  image.id = manifest_.config.digest;
  image.raw_config = std::move(raw_config_);
  image.names = Names();
  image.size = manifest_.config.size;
  for (size_t i = 0; i < manifest_.layers.size(); ++i) {
    image.layers.push_back(
        {parsed_.diff_ids[i], manifest_.layers[i].digest, manifest_.layers[i].size, manifest_.layers[i].media_type});
    image.size += manifest_.layers[i].size;
  }
  image.parsed = std::move(parsed_);
  image.documents = std::move(documents_);
  return store_.Commit(std::move(image));
}

// A question that costs the registry little: is what we have what it has?
Result<std::optional<ImagePtr>> Puller::Unchanged() {
  const std::string asked = reference_.digest.empty() ? reference_.tag : reference_.digest.str();
  auto digest = TRY(repository_->ResolveTag(asked, until_));
  if (!digest) return std::optional<ImagePtr>();
  ImagePtr image = store_.ByDocument(*digest, platform_);
  if (!image) return std::optional<ImagePtr>();
  documents_.push_back({*digest, "", ""});
  auto named = store_.AddNames(image->id, Names());
  documents_.clear();
  if (!named && named.error().code == Code::kNotFound) return std::optional<ImagePtr>();  // removed meanwhile
  TRY(std::move(named));
  return std::optional(TRY(store_.Find(image->id.str())));
}

Result<void> Puller::FetchDocuments() {
  std::string wanted = reference_.digest.empty() ? reference_.tag : reference_.digest.str();
  for (int depth = 0; depth <= kMaxNesting; ++depth) {
    auto fetched = TRY(repository_->GetManifest(wanted, until_));
    std::string where = fmt::format("manifest {}", fetched.digest);
    auto parsed = TRY(ParseManifest(fetched.bytes, fetched.media_type, where));
    std::string type = std::holds_alternative<Index>(parsed) ? std::get<Index>(parsed).media_type
                                                             : std::get<Manifest>(parsed).media_type;
    documents_.push_back({fetched.digest, std::move(type), std::move(fetched.bytes)});
    if (auto* manifest = std::get_if<Manifest>(&parsed)) {
      manifest_ = std::move(*manifest);
      return {};
    }
    wanted = TRY(ChoosePlatform(std::get<Index>(parsed), platform_, where)).digest.str();
  }
  return Err(Code::kInvalidArgument, "manifest {}: indexes nested more than {} deep", documents_.front().digest,
             kMaxNesting);
}

Result<void> Puller::FetchConfig() {
  const Descriptor& config = manifest_.config;
  std::string where = fmt::format("config {}", config.digest);
  auto kept = store_.blobs_->Get(config.digest);
  if (kept) {
    raw_config_ = std::move(*kept);
  } else {
    do {
      raw_config_.clear();
      TRY(repository_->GetBlob(
          config.digest, config.size, 0,
          [&](std::string_view bytes) -> Result<void> {
            raw_config_ += bytes;
            return {};
          },
          until_));
    } while (Digest::Of(raw_config_) != config.digest && repository_->DistrustMirrors());
    Digest found = Digest::Of(raw_config_);
    if (found != config.digest) return Err(Code::kDataLoss, "{}: the bytes that came hash to {}", where, found);
  }
  parsed_ = TRY(ParseConfig(raw_config_, where));
  if (parsed_.diff_ids.size() != manifest_.layers.size())
    return Err(Code::kInvalidArgument, "{}: rootfs.diff_ids names {} layers, the manifest has {}", where,
               parsed_.diff_ids.size(), manifest_.layers.size());
  return {};
}

Result<void> Puller::FetchLayers() {
  std::vector<size_t> missing;
  std::set<Digest> seen;
  for (size_t i = 0; i < parsed_.diff_ids.size(); ++i) {
    const Digest& diff_id = parsed_.diff_ids[i];
    const Digest& blob = manifest_.layers[i].digest;
    if (!seen.insert(diff_id).second) continue;
    if (TRY(store_.snapshotter_.Find(diff_id))) {
      Say(Short(blob), "Already exists");
      continue;
    }
    Say(Short(blob), "Pulling fs layer");
    missing.push_back(i);
    held_.push_back({diff_id, blob, 0});
  }
  if (missing.empty()) return {};
  TRY(store_.Remember(held_));
  Failpoint("pull_image.held");

  bool resumed = false;
  auto brought = BringLayers(missing, &resumed);
  // What an earlier attempt left may have been damaged (a power cut does that), and mirrors may be wrong: once more,
  // from the first byte and from the registry itself.
  if (!brought && brought.error().code == Code::kDataLoss) {
    const bool mirrors = repository_->DistrustMirrors();
    if (mirrors || resumed) brought = BringLayers(missing, &resumed);
  }
  coming_.clear();

  if (brought)
    for (const HeldRow& row : held_)
      (void)store_.blobs_->RemoveIngest(row.blob);  // of layers that another pull committed first
  return brought;
}

void Puller::GiveUp(const Error& e) {
  const bool wanted_again =
      e.code == Code::kCancelled || e.code == Code::kDeadlineExceeded || e.code == Code::kUnavailable;
  if (!wanted_again) {
    std::reverse(held_.begin(), held_.end());  // top first
    store_.CollectLayers(held_);
  }
  std::lock_guard lock(store_.mutex_);
  store_.garbage_ = store_.garbage_ || wanted_again;
  store_.wake_.notify_all();
}

Result<void> Puller::BringLayers(const std::vector<size_t>& missing, bool* resumed) {
  auto board = TRY(Board::Make());
  coming_.clear();
  for (size_t index : missing) {
    auto one = std::make_unique<Coming>();
    one->index = index;
    one->download =
        std::make_unique<Download>(*store_.blobs_, manifest_.layers[index].digest, manifest_.layers[index].size, board);
    coming_.push_back(std::move(one));
  }
  // The workers stop with this call, whatever ends it.
  auto stop = std::make_shared<CancelToken>();
  auto remaining = until_.remaining();
  Deadline work_until = remaining ? Deadline::After(*remaining, stop) : Deadline::Never(stop);
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < coming_.size();) DownloadOne(*coming_[i], work_until);
  };
  std::vector<std::thread> workers;
  const size_t count = std::min<size_t>(coming_.size(), std::max(1, store_.options_.parallel_downloads));
  Result<void> outcome;
  try {
    while (workers.size() < count) workers.emplace_back(work);
  } catch (const std::system_error& e) {
    if (workers.empty()) outcome = SysErrOf(e.code().value(), "start a download thread");
  }
  for (size_t i = 0; i < coming_.size() && outcome; ++i) {
    outcome = ApplyLayer(*coming_[i]);
    if (!outcome) outcome = std::unexpected(Where(std::move(outcome).error(), coming_[i]->index));
  }
  if (!outcome) stop->Cancel();
  for (std::thread& t : workers) t.join();
  *resumed = std::any_of(coming_.begin(), coming_.end(), [](const auto& c) { return c->download->resumed(); });
  if (!outcome && outcome.error().code == Code::kCancelled && !until_.cancelled() && until_.expired())
    outcome.error().code = Code::kDeadlineExceeded;
  return outcome;
}

void Puller::DownloadOne(Coming& coming, const Deadline& until) {
  Download& download = *coming.download;
  auto lock = store_.blob_locks_.Acquire(download.digest().str(), until, "blob");
  if (!lock) return download.Fail(std::move(lock).error());
  // While we waited, the one before us may have brought it all the way.
  auto found = store_.snapshotter_.Find(parsed_.diff_ids[coming.index]);
  if (!found) return download.Fail(std::move(found).error());
  if (*found) return download.Skip();
  auto slot = store_.slots_->Acquire(until);
  if (!slot) return download.Fail(std::move(slot).error());
  (void)download.Run(
      [&](uint64_t offset, const Download::Sink& sink) {
        return repository_->GetBlob(download.digest(), download.size(), offset, sink, until);
      },
      until);
}

void Puller::ShowDownloads() {
  const auto now = std::chrono::steady_clock::now();
  for (auto& coming : coming_) {
    const uint64_t have = coming->download->have(), size = coming->download->size();
    const std::string id = Short(coming->download->digest());
    if (have == size && size > 0) {
      if (!std::exchange(coming->complete_shown, true)) Say(id, "Download complete");
    } else if (have != coming->shown && now - coming->shown_at >= kProgressEvery) {
      coming->shown = have;
      coming->shown_at = now;
      Say(id, "Downloading", have, size);
    }
  }
}

Result<void> Puller::ApplyLayer(Coming& coming) {
  Download& download = *coming.download;
  const Digest& diff_id = parsed_.diff_ids[coming.index];
  const std::string id = Short(download.digest());
  auto show = [this] { ShowDownloads(); };
  auto lock = TRY(store_.layer_locks_.Acquire(diff_id.str(), until_, "layer"));
  if (TRY(store_.snapshotter_.Find(diff_id))) {
    Say(id, "Already exists");
    return {};
  }
  std::vector<Digest> parents(parsed_.diff_ids.begin(),
                              parsed_.diff_ids.begin() + static_cast<ptrdiff_t>(coming.index));
  auto writer = TRY(store_.snapshotter_.Begin(parents));
  Inflater inflater([&](std::string_view bytes) { return writer->Write(bytes); });
  // Content that makes no sense may be the fault of the transfer: the digest of the whole has the first word.
  auto blame = [&](Error e) -> Error {
    if (e.code != Code::kInvalidArgument && e.code != Code::kUnimplemented && e.code != Code::kDataLoss) return e;
    auto verdict = download.Finished(until_, show);
    return verdict ? std::move(e) : verdict.error();
  };
  std::vector<char> chunk(kChunk);
  uint64_t at = 0;
  auto shown_at = std::chrono::steady_clock::now();
  while (true) {
    size_t n = TRY(download.ReadAt(at, chunk, until_, show));
    if (n == 0) break;
    at += n;
    auto fed = inflater.Feed({chunk.data(), n});
    if (!fed) return std::unexpected(blame(std::move(fed).error()));
    TRY(until_.Check("the layer"));
    ShowDownloads();
    if (auto now = std::chrono::steady_clock::now(); coming.complete_shown && now - shown_at >= kProgressEvery) {
      shown_at = now;
      Say(id, "Extracting", at, download.size());
    }
  }
  Failpoint("pull_image.downloaded");
  if (at == 0 && download.size() > 0 && TRY(store_.snapshotter_.Find(diff_id)))
    return {};  // skipped: somebody else made it
  TRY(inflater.Finish());
  TRY(writer->Commit(diff_id, until_));
  Failpoint("pull_image.layer");
  (void)store_.blobs_->RemoveIngest(download.digest());
  Say(id, "Pull complete");
  return {};
}

}  // namespace berth::images
