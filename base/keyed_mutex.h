#pragma once
// A mutex per key, made on first use and dropped with its last user. Lock with a deadline; the error names the key.
#include <condition_variable>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/deadline.h"
#include "base/error.h"

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
  // `what` is used in the error: "waiting 3.0 s for pod 1234".
  Result<Lock> Acquire(const std::string& key, const Deadline& until, std::string_view what);

 private:
  struct Entry {
    int users = 0;
    bool held = false;
  };
  std::mutex mutex_;
  std::condition_variable released_;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace berth
