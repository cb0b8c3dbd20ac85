#pragma once
// The one Store. What it keeps in memory is the tables' content plus the configs; all changes go row first, then memory.
//
// Locks, in this order: commit_mutex_ (one change of the set of images at a time: documents, rows, memory), collect_mutex_ (one
// layer removed at a time), mutex_ (memory; held for look-ups only, never across I/O). A running pull or import marks its
// layers busy before it looks which are there; the collector removes no busy layer.
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/keyed_mutex.h"
#include "images/content/blobs.h"
#include "images/media.h"
#include "images/options.h"
#include "images/pull_flights.h"
#include "images/reference.h"
#include "images/registry/client.h"
#include "images/store.h"
#include "images/store_table.h"

namespace berth::images {

struct Document {
  Digest digest;
  std::string media_type, bytes;
};

// An image about to be stored; its layers are committed.
struct NewImage {
  Digest id;
  std::string raw_config;
  ParsedConfig parsed;
  std::vector<Document> documents;
  std::vector<LayerRow> layers;
  uint64_t size = 0;
  std::vector<std::string> names;   // canonical
};

// Orders digests so that those with a common beginning stand together and can be looked up by it.
struct ByDigestText {
  using is_transparent = void;
  static std::string_view Text(const Digest& d) { return d.str(); }
  static std::string_view Text(std::string_view t) { return t; }
  template <class A, class B>
  bool operator()(const A& a, const B& b) const { return Text(a) < Text(b); }
};

class StoreImpl : public Store {
 public:
  StoreImpl(const Options& options, Db& db, Snapshotter& snapshotter, std::unique_ptr<Transport> transport);
  ~StoreImpl() override;
  Result<void> Open();

  Result<ImagePtr> Find(const std::string& reference_or_id) const override;
  std::vector<ImagePtr> List() const override;
  Result<ImagePtr> Pull(const PullRequest& request, const Deadline& until) override;
  Result<void> Remove(const std::string& reference_or_id) override;
  Result<ImagePtr> Tag(const std::string& source, const std::string& reference) override;
  Result<std::vector<ImagePtr>> Import(int fd, const std::string& name_if_untagged, const Deadline& until) override;
  Result<void> Export(const std::vector<std::string>& references, Archive form, int fd, const Deadline& until) override;
  Snapshotter& snapshotter() override { return snapshotter_; }
  Usage DiskUsage() const override;
  std::string root() const override { return options_.root; }

  RegistryClient& registry() { return registry_; }          // tests shorten its pauses
  PullFlights& flights() { return flights_; }
  void CollectNow();                                         // what the background thread does, at once

 private:
  friend class Puller;
  friend class Importer;
  struct Record {
    ImagePtr image;
    ImageRow row;
  };
  struct Found {
    Digest id;
    std::string name;       // the canonical name that matched; empty when it was an id
  };
  // Keeps layers from the collector. A layer marked is either there and stays, or is not there.
  class [[nodiscard]] Busy {
   public:
    Busy(StoreImpl& store, std::vector<Digest> diff_ids);
    ~Busy();
    Busy(const Busy&) = delete;

   private:
    StoreImpl& store_;
    std::vector<Digest> diff_ids_;
  };

  Result<Found> ResolveLocked(const std::string& text) const;   // mutex_ held
  ImagePtr MakeImage(const ImageRow& row, std::string raw_config, const ImageConfig& config) const;
  void ReplaceLocked(Record record);                             // mutex_ held
  void TakeNameLocked(const std::string& name, const Digest& taker);   // from whoever has it; mutex_ held
  bool LayerUsedLocked(const Digest& diff_id) const;
  std::vector<Digest> UnusedDocumentsLocked(const ImageRow& gone) const;
  // Writes documents, rows and memory. Names move here from other images.
  Result<ImagePtr> Commit(NewImage image);
  Result<void> AddNames(const Digest& id, const std::vector<std::string>& names);
  // The image that a manifest or index digest stands for, if it is here and runs on `platform`.
  ImagePtr ByDocument(const Digest& digest, const Platform& platform) const;
  Result<void> Remember(const std::vector<HeldRow>& rows);
  // Removes those of the layers that nothing uses, with their parts of blobs; what cannot go yet stays for the collector.
  // `kept`: the rows are in the table as given.
  void CollectLayers(const std::vector<HeldRow>& rows, bool kept = false);
  Result<void> CollectAtOpen(const std::vector<ImageRow>& rows);
  void Background();
  void RefreshUsage();

  const Options options_;
  StoreTable table_;
  Snapshotter& snapshotter_;
  std::unique_ptr<Blobs> blobs_;
  std::unique_ptr<Slots> slots_;
  std::unique_ptr<Transport> transport_;
  RegistryClient registry_;
  PullFlights flights_;
  KeyedMutex layer_locks_;     // by diffID: one thread makes a layer
  KeyedMutex blob_locks_;      // by digest: one thread downloads a blob; never waits for anything but the network meanwhile
  std::set<std::string> pinned_;

  std::mutex commit_mutex_;
  std::mutex collect_mutex_;
  mutable std::mutex mutex_;
  std::map<Digest, Record, ByDigestText> records_;
  std::map<std::string, Digest> names_;
  std::map<Digest, ImageRow> hidden_;      // rows of images that are not whole
  std::map<Digest, int> busy_;
  Usage usage_;
  mutable bool usage_wanted_ = false;      // somebody asked since the last walk
  bool garbage_ = false;                   // held rows that nothing uses exist
  bool stop_ = false;
  mutable std::condition_variable wake_;
  std::thread background_;
};

// With a transport of the test's choice.
Result<std::unique_ptr<StoreImpl>> OpenStoreWith(const Options& options, Db& db, Snapshotter& snapshotter, std::unique_ptr<Transport> transport);

}  // namespace berth::images
