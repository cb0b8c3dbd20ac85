#pragma once
// An elastic pool of threads for blocking work: one request, one thread. Submit reuses an idle thread or starts one up to
// the cap; past it the answer is kResourceExhausted and the task is not queued. Idle threads end after some seconds.
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"

namespace berth {

class WorkerPool {  // thread-safe
 public:
  explicit WorkerPool(std::string name, size_t cap = 512, std::chrono::milliseconds idle = std::chrono::seconds(10));
  ~WorkerPool();  // waits for running tasks
  WorkerPool(const WorkerPool&) = delete;
  Result<void> Submit(std::function<void()> task);
  size_t busy() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace berth
