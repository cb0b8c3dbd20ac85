#pragma once
// The image store: names, manifests, configs and layers; pulls, imports, exports, removes. One per agent.
//
// Thread-safe. Find and List answer from memory. A pull of what is being pulled joins it. What an interrupted pull (cut
// connection, cancelled, agent killed) brought so far stays for an hour: verified layers, and the first bytes of others below
// <root>/ingest, each owned by a row; the next pull goes on from there. A pull that failed for good (full disk, bytes that do
// not match) leaves nothing.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/db.h"
#include "base/deadline.h"
#include "base/secret.h"
#include "images/image.h"
#include "images/options.h"
#include "images/snapshots/snapshotter.h"

namespace berth::images {

using ImagePtr = std::shared_ptr<const Image>;

struct Credentials {
  std::string username;
  Secret password;
  Secret identity_token;                   // OAuth refresh token
  Secret registry_token;                   // bearer token, used as it is
  bool empty() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

struct PullProgress {                      // called from the pulling thread
  std::string layer;                       // short digest, empty for messages about the whole
  std::string status;                      // "Downloading", "Extracting", "Already exists", "Pull complete", ...
  uint64_t current = 0, total = 0;
};

struct PullRequest {
  std::string reference;                   // as the user wrote it
  Credentials credentials;
  std::string platform;                    // "linux/arm64/v8"; empty: the machine's own
  std::function<void(const PullProgress&)> progress;
};

class Store {
 public:
  virtual ~Store() = default;
  // By id, id without "sha256:", unique prefix of an id (at least 4 digits), tag reference, digest reference.
  // kNotFound when absent, kConflict when a prefix is ambiguous, kInvalidArgument for a malformed reference.
  virtual Result<ImagePtr> Find(const std::string& reference_or_id) const = 0;
  virtual std::vector<ImagePtr> List() const = 0;
  virtual Result<ImagePtr> Pull(const PullRequest& request, const Deadline& until) = 0;
  // An id (or prefix) removes the image with all its names; a tag removes that name, and the image with its last name.
  // Layers go when no image and no snapshot uses them. kNotFound when absent.
  virtual Result<void> Remove(const std::string& reference_or_id) = 0;
  virtual Result<ImagePtr> Tag(const std::string& source, const std::string& reference) = 0;
  // docker-archive or OCI layout in one tar stream, gzip or plain; returns every image in it.
  virtual Result<std::vector<ImagePtr>> Import(int fd, const std::string& name_if_untagged, const Deadline& until) = 0;
  enum class Archive { kDocker, kOci };
  virtual Result<void> Export(const std::vector<std::string>& references, Archive form, int fd, const Deadline& until) = 0;

  virtual Snapshotter& snapshotter() = 0;
  // Space on disk: layers, blobs and writable directories, from records refreshed in the background.
  virtual Usage DiskUsage() const = 0;
  virtual std::string root() const = 0;    // an existing directory on the disk that holds it
};

// Opens what is below options.root and in `db`, removes what no row owns, and starts the thread that keeps DiskUsage fresh
// and collects layers that nothing uses any more. An image with missing layers (the snapshotter was changed, say) is not
// shown, but its rows stay, and a pull completes it. `db` and `snapshotter` must outlive the store; the snapshotter's
// Collect must have run.
Result<std::unique_ptr<Store>> OpenStore(const Options& options, Db& db, Snapshotter& snapshotter);

}  // namespace berth::images
