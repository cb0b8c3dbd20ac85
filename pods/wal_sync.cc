#include "pods/wal_sync.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/unique_fd.h"

namespace berth::pods {

WalSync::WalSync(std::string database, std::chrono::milliseconds every)
    : path_(std::move(database) + "-wal"), every_(every) {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "wal-sync");
    Loop();
  });
}

WalSync::~WalSync() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void WalSync::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    bool last = wake_.wait_for(lock, every_, [&] { return stop_; });
    lock.unlock();
    SyncIfChanged();
    lock.lock();
    if (last) return;
  }
}

bool WalSync::SyncIfChanged() {
  struct stat st;
  if (::stat(path_.c_str(), &st) < 0) return false;  // closed, or checkpointed away
  int64_t changed = st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
  if (changed == synced_) return true;
  // SQLite keeps no locks on this file, so closing a descriptor of it takes none away.
  auto fd = Open(path_, O_RDONLY);
  if (!fd) return false;
  if (::fdatasync(fd->get()) < 0) {
    log::Fail("records.sync", {{"file", path_}, {"error", ErrnoText(errno)}});
    return false;
  }
  synced_ = changed;  // a write since the stat shows in the next one
  return true;
}

}  // namespace berth::pods
