#pragma once
// Brings the write-ahead log of a database to the disk, once a second while it changes.
//
// Rows of pods, containers and addresses commit without a sync (Db::TransactUnsynced). With this beside them a power
// cut takes back at most the last second.
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.h"

namespace berth::pods {

class WalSync {
 public:
  explicit WalSync(std::string database, std::chrono::milliseconds every = std::chrono::seconds(1));
  ~WalSync();  // a last time

 private:
  void Loop();
  bool SyncIfChanged();  // false: the file cannot be read
  std::string path_;
  std::chrono::milliseconds every_;
  int64_t synced_ = 0;  // modification time of what is on the disk
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace berth::pods
