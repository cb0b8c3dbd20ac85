#pragma once
// Content by digest on disk: manifests and configs for good, compressed layers while they are on their way.
//
//   <root>/blobs/sha256/<hex>      a document, whole and synced, written by rename
//   <root>/ingest/<hex>.part       the first bytes of a compressed layer; a later download goes on from there
//
// Which of them belong to an image is the store's knowledge (its tables); what no row names is removed when it opens.
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "images/digest.h"

namespace berth::images {

class Blobs {  // thread-safe
 public:
  static Result<std::unique_ptr<Blobs>> Open(const std::string& root);
  // kDataLoss unless the bytes hash to `digest`. Present already: success.
  Result<void> Put(const Digest& digest, std::string_view bytes);
  // kNotFound; kDataLoss when the file does not hash to its name.
  Result<std::string> Get(const Digest& digest) const;
  Result<void> Remove(const Digest& digest);  // missing = success
  Result<std::vector<Digest>> List() const;
  uint64_t Bytes() const;  // of all documents

  std::string IngestPath(const Digest& digest) const { return root_ + "/ingest/" + digest.hex() + ".part"; }
  Result<void> RemoveIngest(const Digest& digest);      // missing = success
  Result<std::vector<std::string>> ListIngest() const;  // file names
  Result<void> RemoveIngestFile(const std::string& name);
  const std::string& root() const { return root_; }

 private:
  explicit Blobs(std::string root) : root_(std::move(root)) {}
  std::string Path(const Digest& digest) const { return root_ + "/blobs/sha256/" + digest.hex(); }
  std::string root_;
};

// At most so many downloads at a time. Thread-safe; waits with a deadline.
class Slots {
 public:
  static Result<std::unique_ptr<Slots>> Make(int count);
  class [[nodiscard]] Held {
   public:
    explicit Held(Slots* owner) : owner_(owner) {}
    Held(Held&& o) noexcept : owner_(std::exchange(o.owner_, nullptr)) {}
    ~Held();

   private:
    Slots* owner_;
  };
  Result<Held> Acquire(const Deadline& until);

 private:
  unique_fd tokens_;  // eventfd in semaphore mode
};

// How the downloading threads of one pull wake the one thread that reads. An eventfd, so that waiting knows deadlines
// and cancellation.
class Board {
 public:
  static Result<std::shared_ptr<Board>> Make();
  std::mutex mutex;
  void Changed();  // any thread
  Result<void> Wait(
      const Deadline& until);  // the reader; returns after each change, or at once for a change since the last
 private:
  unique_fd wake_;
};

// One compressed layer on its way: written by one thread, read by another while it grows. The writer hashes what it
// writes; the reader must not use the content for good before Finished() says that the digest was right.
class Download {
 public:
  Download(Blobs& blobs, Digest digest, uint64_t size, std::shared_ptr<Board> board);
  const Digest& digest() const { return digest_; }
  uint64_t size() const { return size_; }

  // For the writer. Takes up what the ingest file holds already, then asks `fetch` for the rest, from an offset. Ends
  // with the digest checked: a wrong one is kDataLoss, and the file is removed. A full disk removes it too; after any
  // other error it stays for the next attempt. The outcome also goes to the readers.
  using Sink = std::function<Result<void>(std::string_view)>;
  using Fetch = std::function<Result<void>(uint64_t offset, const Sink& sink)>;
  Result<void> Run(const Fetch& fetch, const Deadline& until);
  void Fail(Error error);  // instead of Run
  void Skip();             // instead of Run: nobody needs it any more; reads as empty

  // For the reader. Bytes at `offset`, at least one; 0 at the end of a complete and verified blob. Waits while there
  // are none yet, calling `while_waiting` at each change on the board; the writer's failure comes back here.
  using Idle = std::function<void()>;
  Result<size_t> ReadAt(uint64_t offset, std::span<char> into, const Deadline& until, const Idle& while_waiting);
  Result<void> Finished(const Deadline& until, const Idle& while_waiting);  // waits for the outcome
  uint64_t have() const { return have_.load(std::memory_order_acquire); }
  bool resumed() const { return resumed_.load(); }  // part of it was there before

 private:
  Result<void> Work(const Fetch& fetch, const Deadline& until);
  void Publish(uint64_t have);
  void Settle(Result<void> outcome);

  Blobs& blobs_;
  const Digest digest_;
  const uint64_t size_;
  std::shared_ptr<Board> board_;
  std::atomic<uint64_t> have_ = 0;
  std::atomic<bool> resumed_ = false;
  std::shared_ptr<unique_fd> file_;      // under board_->mutex
  std::optional<Result<void>> outcome_;  // under board_->mutex
};

}  // namespace berth::images
