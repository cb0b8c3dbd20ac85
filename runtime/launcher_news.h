#pragma once
// For tests: listens to a launcher and lets them wait for what it tells.
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "runtime/launcher.h"

namespace berth::runtime {

class LauncherNews {
 public:
  void Listen(Launcher& launcher) {
    launcher.OnExit([this](const PodId&, const ExitFacts& facts) {
      std::lock_guard lock(mutex_);
      exits_[facts.id].push_back(facts);
      changed_.notify_all();
    });
    launcher.OnLost([this](const PodId& pod) {
      std::lock_guard lock(mutex_);
      lost_.insert(pod);
      changed_.notify_all();
    });
  }
  void Clear() {
    std::lock_guard lock(mutex_);
    exits_.clear();
    lost_.clear();
  }
  std::optional<ExitFacts> AwaitExit(const ContainerId& id) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return exits_.contains(id); })) return std::nullopt;
    return exits_[id].front();
  }
  int Told(const ContainerId& id) {
    std::lock_guard lock(mutex_);
    auto it = exits_.find(id);
    return it == exits_.end() ? 0 : static_cast<int>(it->second.size());
  }
  bool AwaitLost(const PodId& id) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return lost_.contains(id); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<ContainerId, std::vector<ExitFacts>> exits_;
  std::set<PodId> lost_;
};

}  // namespace berth::runtime
