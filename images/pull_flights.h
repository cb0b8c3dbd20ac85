#pragma once
// Joins callers that want the same at the same time: the first one works, the others wait for its answer.
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/deadline.h"
#include "images/store.h"

namespace berth::images {

class PullFlights {   // thread-safe
 public:
  using Progress = std::function<void(const PullProgress&)>;
  using Work = std::function<Result<ImagePtr>(const Progress&)>;
  // Runs `work` in this thread, or waits for the caller who does so under the same key. Each caller's `progress` (may be
  // empty) is called from its own thread. When the working caller gave up (its deadline, its cancellation), one of those
  // who wait goes on in its place.
  Result<ImagePtr> Run(const std::string& key, const Progress& progress, const Deadline& until, const Work& work);
  size_t waiting(const std::string& key) const;   // callers that wait; for tests

 private:
  struct Flight;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Flight>> flights_;
};

}  // namespace berth::images
