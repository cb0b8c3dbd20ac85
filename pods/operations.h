#pragma once
// What the agent is doing: every verb registers itself with its stage and, when it waits long, with what it waits for.
// The same words stand in errors, in `berth debug ops` and in metrics.
//
//   Operation op(core, "run_pod", id.str());
//   TRY(op.Stage("network", "attach network"));        // also the failpoint run_pod.network
//   auto net = TRY(op.In(core.network.Attach(...)));   // "attach network: ..." and, past the deadline, for how long
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"

namespace berth::pods {

struct Core;

struct OperationInfo {
  uint64_t id = 0;
  std::string verb, subject, stage, words, blocker;
  std::chrono::steady_clock::time_point since, stage_since;
};

class Operations {  // thread-safe
 public:
  using Hook = std::function<Result<void>(std::string_view)>;
  std::vector<OperationInfo> List() const;  // oldest first
  size_t running() const;
  // Called at each stage with "<verb>.<stage>"; an error makes the verb fail there. For tests.
  void SetHook(Hook hook);

 private:
  friend class Operation;
  mutable std::mutex mutex_;
  uint64_t next_ = 1;
  std::map<uint64_t, OperationInfo> running_;
  std::shared_ptr<const Hook> hook_;
};

class Operation {
 public:
  Operation(Core& core, std::string_view verb, std::string subject);
  Operation(Operations& operations, std::string_view verb, std::string subject);
  ~Operation();
  Operation(const Operation&) = delete;

  // `stage`: short name, known to failpoints.h. `words`: what it does, for people.
  Result<void> Stage(std::string_view stage, std::string_view words);
  void Blocker(std::string what);

  // Puts the stage's words before an error.
  template <class T>
  Result<T> In(Result<T> r) const {
    if (!r.has_value()) return Explain(std::move(r).error());
    return r;
  }
  std::unexpected<Error> Explain(Error e) const;

 private:
  Operations& all_;
  uint64_t id_ = 0;
  std::string verb_, words_;
  std::chrono::steady_clock::time_point stage_since_;
};

}  // namespace berth::pods
