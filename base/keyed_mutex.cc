#include "base/keyed_mutex.h"

#include <poll.h>
#include <sys/eventfd.h>

namespace berth {

KeyedMutex::Lock& KeyedMutex::Lock::operator=(Lock&& o) noexcept {
  if (this != &o) {
    Unlock();
    owner_ = std::exchange(o.owner_, nullptr);
    key_ = std::move(o.key_);
  }
  return *this;
}

void KeyedMutex::Lock::Unlock() {
  if (KeyedMutex* owner = std::exchange(owner_, nullptr)) owner->Release(key_);
}

void KeyedMutex::Release(const std::string& key) {
  std::lock_guard lock(mutex_);
  HandOver(key);
}

void KeyedMutex::HandOver(const std::string& key) {
  auto entry = held_.find(key);
  if (entry->second.empty()) {
    held_.erase(entry);
    return;
  }
  Waiter* next = entry->second.front();
  entry->second.pop_front();
  next->granted = true;
  const uint64_t one = 1;
  (void)!::write(next->event.get(), &one, sizeof one);  // cannot fail: an eventfd below its maximum
}

Result<KeyedMutex::Lock> KeyedMutex::Acquire(const std::string& key, const Deadline& until, std::string_view what) {
  const auto since = std::chrono::steady_clock::now();
  Waiter self;
  {
    std::lock_guard lock(mutex_);
    auto [entry, free] = held_.try_emplace(key);
    if (free) return Lock(this, key);
    self.event.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!self.event) return SysErr("wait for {} {}", what, key);
    entry->second.push_back(&self);
  }
  auto waited = until.WaitFor(self.event.get(), POLLIN, what);
  std::lock_guard lock(mutex_);
  if (waited) return Lock(this, key);
  if (self.granted) HandOver(key);
  else held_.find(key)->second.remove(&self);
  Error e = waited.error();
  e.what = fmt::format("waiting {:.1f} s for {} {}{}",
                       std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count(), what, key,
                       e.code == Code::kCancelled ? ": the caller went away" : "");
  return std::unexpected(std::move(e));
}

}  // namespace berth
