#pragma once
// A mutex per key, made on first use and dropped with its last user. Lock with a deadline; the error names the key.
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace berth {

class KeyedMutex {  // thread-safe
 public:
  class [[nodiscard]] Lock {
   public:
    Lock() = default;
    Lock(Lock&& o) noexcept : owner_(std::exchange(o.owner_, nullptr)), key_(std::move(o.key_)) {}
    Lock& operator=(Lock&& o) noexcept;
    ~Lock() { Unlock(); }
    void Unlock();

   private:
    friend class KeyedMutex;
    Lock(KeyedMutex* owner, std::string key) : owner_(owner), key_(std::move(key)) {}
    KeyedMutex* owner_ = nullptr;
    std::string key_;
  };
  // First come, first served. `what` is the kind of thing, used in the error: "waiting 3.0 s for pod 1234" from what
  // "pod", key "1234". kDeadlineExceeded, kCancelled.
  Result<Lock> Acquire(const std::string& key, const Deadline& until, std::string_view what);

 private:
  struct Waiter {
    unique_fd event;       // written when the lock is handed over
    bool granted = false;
  };
  void Release(const std::string& key);
  void HandOver(const std::string& key);  // mutex_ held

  std::mutex mutex_;
  std::unordered_map<std::string, std::list<Waiter*>> held_;  // present: held; the list waits for it
};

}  // namespace berth
