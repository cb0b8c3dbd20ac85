#include "images/content/blobs.h"

#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/atomic_file.h"
#include "images/media.h"

namespace berth::images {
namespace {

constexpr size_t kHashChunk = 1 << 20;

Result<std::vector<std::string>> Names(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
  if (!dir) return SysErr("read directory {}", path);
  std::vector<std::string> out;
  while (dirent* entry = ::readdir(dir.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(std::move(name));
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<void> Unlink(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return SysErr("remove {}", path);
  return {};
}

bool DiskFull(const Error& e) { return e.sys == ENOSPC || e.sys == EDQUOT; }

}  // namespace

Result<std::unique_ptr<Blobs>> Blobs::Open(const std::string& root) {
  TRY(MakeDirs(root + "/blobs/sha256", 0700));
  TRY(MakeDirs(root + "/ingest", 0700));
  return std::unique_ptr<Blobs>(new Blobs(root));
}

Result<void> Blobs::Put(const Digest& digest, std::string_view bytes) {
  Digest found = Digest::Of(bytes);
  if (found != digest) return Err(Code::kDataLoss, "document {}: its bytes hash to {}", digest, found);
  if (auto there = Get(digest)) return {};
  return WriteFileAtomic(Path(digest), bytes, 0600);
}

Result<std::string> Blobs::Get(const Digest& digest) const {
  std::string bytes = TRY_CTX(ReadFile(Path(digest), kMaxConfig), "document {}", digest);
  if (Digest::Of(bytes) != digest)
    return Err(Code::kDataLoss, "document {}: the file {} is damaged", digest, Path(digest));
  return bytes;
}

Result<void> Blobs::Remove(const Digest& digest) { return Unlink(Path(digest)); }
Result<void> Blobs::RemoveIngest(const Digest& digest) { return Unlink(IngestPath(digest)); }
Result<void> Blobs::RemoveIngestFile(const std::string& name) { return Unlink(root_ + "/ingest/" + name); }
Result<std::vector<std::string>> Blobs::ListIngest() const { return Names(root_ + "/ingest"); }

Result<std::vector<Digest>> Blobs::List() const {
  std::vector<Digest> out;
  for (const std::string& name : TRY(Names(root_ + "/blobs/sha256"))) {
    auto digest = Digest::Parse("sha256:" + name);
    if (digest)
      out.push_back(*digest);
    else
      TRY(Unlink(root_ + "/blobs/sha256/" + name));  // a write that a crash cut short
  }
  return out;
}

uint64_t Blobs::Bytes() const {
  uint64_t sum = 0;
  auto names = Names(root_ + "/blobs/sha256");
  if (!names) return 0;
  for (const std::string& name : *names) {
    struct stat st;
    if (::stat((root_ + "/blobs/sha256/" + name).c_str(), &st) == 0) sum += static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return sum;
}

Result<std::unique_ptr<Slots>> Slots::Make(int count) {
  auto out = std::make_unique<Slots>();
  out->tokens_.reset(::eventfd(std::max(count, 1), EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE));
  if (!out->tokens_) return SysErr("make an eventfd");
  return out;
}

Result<Slots::Held> Slots::Acquire(const Deadline& until) {
  while (true) {
    uint64_t one;
    if (::read(tokens_.get(), &one, sizeof one) == sizeof one) return Held(this);
    if (errno != EAGAIN && errno != EINTR) return SysErr("take a download slot");
    TRY(until.WaitFor(tokens_.get(), POLLIN, "a free download slot"));
  }
}

Slots::Held::~Held() {
  if (owner_ == nullptr) return;
  const uint64_t one = 1;
  (void)!::write(owner_->tokens_.get(), &one, sizeof one);
}

Result<std::shared_ptr<Board>> Board::Make() {
  auto out = std::make_shared<Board>();
  out->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!out->wake_) return SysErr("make an eventfd");
  return out;
}

void Board::Changed() {
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

Result<void> Board::Wait(const Deadline& until) {
  TRY(until.WaitFor(wake_.get(), POLLIN, "bytes of a layer"));
  uint64_t count;
  (void)!::read(wake_.get(), &count, sizeof count);
  return {};
}

Download::Download(Blobs& blobs, Digest digest, uint64_t size, std::shared_ptr<Board> board)
    : blobs_(blobs), digest_(std::move(digest)), size_(size), board_(std::move(board)) {}

void Download::Publish(uint64_t have) {
  {
    std::lock_guard lock(board_->mutex);
    have_.store(have, std::memory_order_release);
  }
  board_->Changed();
}

void Download::Settle(Result<void> outcome) {
  {
    std::lock_guard lock(board_->mutex);
    outcome_ = std::move(outcome);
  }
  board_->Changed();
}

void Download::Fail(Error error) { Settle(std::unexpected(std::move(error))); }
void Download::Skip() { Settle({}); }

Result<void> Download::Run(const Fetch& fetch, const Deadline& until) {
  auto done = Work(fetch, until);
  if (!done && (done.error().code == Code::kDataLoss || DiskFull(done.error()))) (void)blobs_.RemoveIngest(digest_);
  Settle(done);
  return done;
}

Result<void> Download::Work(const Fetch& fetch, const Deadline& until) {
  std::string path = blobs_.IngestPath(digest_);
  auto file = std::make_shared<unique_fd>(TRY(berth::Open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600)));
  const int fd = file->get();
  struct stat st;
  if (::fstat(fd, &st) != 0) return SysErr("stat {}", path);
  uint64_t at = static_cast<uint64_t>(st.st_size);
  if (at > size_) {  // not the blob that it claims to be a part of
    if (::ftruncate(fd, 0) != 0) return SysErr("truncate {}", path);
    at = 0;
  }
  // Finds out now whether the rest fits; the length stays what has really arrived.
  if (size_ > at && ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(size_ - at)) != 0 &&
      errno != EOPNOTSUPP)
    return SysErr("reserve {} bytes in {}", size_ - at, path);

  Hasher hasher;
  resumed_ = at > 0;
  if (at > 0) {
    std::vector<char> chunk(kHashChunk);
    for (uint64_t done = 0; done < at;) {
      ssize_t n = ::pread(fd, chunk.data(), std::min<uint64_t>(chunk.size(), at - done), static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return SysErr("read {}", path);
      hasher.Update(chunk.data(), static_cast<size_t>(n));
      done += static_cast<uint64_t>(n);
      TRY(until.Check("the download"));
    }
  }
  {
    std::lock_guard lock(board_->mutex);
    file_ = file;
  }
  Publish(at);
  if (at < size_) {
    auto sink = [&](std::string_view bytes) -> Result<void> {
      hasher.Update(bytes.data(), bytes.size());
      while (!bytes.empty()) {
        ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return SysErr("write {}", path);
        at += static_cast<uint64_t>(n);
        bytes.remove_prefix(static_cast<size_t>(n));
      }
      Publish(at);
      return until.Check("the download");
    };
    auto fetched = fetch(at, sink);
    if (!fetched) {
      (void)!::ftruncate(fd, static_cast<off_t>(at));  // gives back what was reserved for the rest
      return fetched;
    }
  }
  Digest found = hasher.Finish();
  if (found != digest_) return Err(Code::kDataLoss, "the {} bytes that came hash to {}", size_, found);
  return {};
}

Result<size_t> Download::ReadAt(uint64_t offset, std::span<char> into, const Deadline& until,
                                const Idle& while_waiting) {
  std::shared_ptr<unique_fd> file;
  uint64_t have = 0;
  while (!file) {
    {
      std::lock_guard lock(board_->mutex);
      have = have_.load(std::memory_order_relaxed);
      if (file_ && offset < have) {
        file = file_;
        break;
      }
      if (outcome_ && !*outcome_) return std::unexpected(outcome_->error());
      if (outcome_) return size_t{0};
    }
    TRY(board_->Wait(until));
    while_waiting();
  }
  while (true) {
    ssize_t n =
        ::pread(file->get(), into.data(), std::min<uint64_t>(into.size(), have - offset), static_cast<off_t>(offset));
    if (n > 0) return static_cast<size_t>(n);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("read {}", blobs_.IngestPath(digest_));
    return Err(Code::kDataLoss, "{} became shorter while it was read", blobs_.IngestPath(digest_));
  }
}

Result<void> Download::Finished(const Deadline& until, const Idle& while_waiting) {
  while (true) {
    {
      std::lock_guard lock(board_->mutex);
      if (outcome_) return *outcome_;
    }
    TRY(board_->Wait(until));
    while_waiting();
  }
}

}  // namespace berth::images
