#pragma once
// The memory index of pods and containers: what List and Status answer from, rebuilt from the table at start.
//
// Readers get shared pointers to states that never change; a change puts a new state in place of the old one. Ownership
// of a change: who holds the pod's lock writes the row, then puts the state. Thread-safe; its mutex is held for map
// operations only, never for input or output.
//
// Joins: at most one creation of an identity runs at a time. A second caller waits for the first and takes its answer,
// also its error. When the first failed only because its own caller went away or ran out of time, the second caller
// starts over.
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/deadline.h"
#include "base/keyed_mutex.h"
#include "base/worker_pool.h"
#include "pods/state.h"
#include "runtime/launcher.h"

namespace berth::pods {

using PodPtr = std::shared_ptr<const PodState>;
using ContainerPtr = std::shared_ptr<const ContainerState>;

struct PodFilter {
  std::string id;  // a unique prefix or whole; empty: any
  Labels labels;   // all must match
  std::optional<PodPhase> phase;
};
struct ContainerFilter {
  std::string id, pod;  // prefixes or whole
  Labels labels;
  std::optional<ContainerPhase> phase;
};

// An event that happens once and wakes everybody who waits for it.
using Latch = CancelToken;
// Returns once it has happened; what was written before it is then seen. Errors of `until`.
Result<void> Await(const Latch& latch, const Deadline& until, std::string_view what);

class Registry {
 public:
  explicit Registry(const Clock& clock);
  ~Registry();
  Registry(const Registry&) = delete;

  // --- reading. Objects in creation are seen by id, never listed by the filters.
  PodPtr Pod(const PodId& id) const;  // null: none
  ContainerPtr Container(const ContainerId& id) const;
  // By id or unique prefix of at least one digit. kNotFound, or kConflict naming two candidates.
  Result<PodPtr> FindPod(std::string_view id) const;
  Result<ContainerPtr> FindContainer(std::string_view id) const;
  std::vector<PodPtr> Pods(const PodFilter& filter = {}) const;  // newest first
  std::vector<ContainerPtr> Containers(const ContainerFilter& filter = {}) const;
  std::vector<ContainerPtr> ContainersOf(const PodId& pod) const;  // also those in creation; oldest first
  std::vector<PodPtr> EveryPod() const;                            // also those in creation

  // --- changing
  // Held over a change of phase (row and state), never over a wait.
  Result<KeyedMutex::Lock> LockPod(const PodId& pod, const Deadline& until);
  // Held over a start or removal of one container, or the stop of one pod: the second caller waits for the first.
  Result<KeyedMutex::Lock> LockVerb(const std::string& id, const Deadline& until);
  void Put(PodState state);
  void Put(ContainerState state);
  void Erase(const PodId& id);
  void Erase(const ContainerId& id);
  // Nanoseconds since 1970 for a new object: later than every one before, also when the wall clock stepped back.
  int64_t NextCreatedAt();
  void RaiseCreatedFloor(int64_t floor);

  // --- exits
  // Fires when the container is exited or gone; null when it already is.
  std::shared_ptr<Latch> ExitLatch(const ContainerId& id);
  // A container being started: its exit is put aside until the start is recorded, so that the order is always started,
  // then exited. DeferExit: true when the exit was put aside. EndStart gives it back.
  void BeginStart(const ContainerId& id);
  bool DeferExit(const runtime::ExitFacts& facts);
  std::optional<runtime::ExitFacts> EndStart(const ContainerId& id);

  // The monitor of a pod in creation died: the creation finds out when it is about to say ready.
  void MarkLost(const PodId& id);
  bool Lost(const PodId& id) const;
  // The monitor of a pod did not answer when the agent started: the launcher does not know it yet.
  void MarkUnadopted(const PodId& id, bool unadopted);
  bool Unadopted(const PodId& id) const;

  // --- joins
  class [[nodiscard]] Claim {
   public:
    Claim(Claim&&) noexcept = default;
    Claim& operator=(Claim&&) = delete;
    ~Claim();
    bool first() const { return registry_ != nullptr; }
    const Result<std::string>& answer() const { return answer_; }  // unless first
    // What the callers that wait get. Without it they get kInternal.
    void Finish(Result<std::string> answer);

   private:
    friend class Registry;
    struct Disown {
      void operator()(Registry*) const {}
    };
    Claim() = default;
    std::unique_ptr<Registry, Disown> registry_;  // null once finished or moved from
    std::string key_;
    Result<std::string> answer_ = std::string();
  };
  // Error: the deadline passed while waiting, or the identity is taken by an object that is no longer ready
  // (kAlreadyExists). `what` names the identity in errors.
  Result<Claim> ClaimPod(const PodSpec& spec, const Deadline& until);
  Result<Claim> ClaimContainer(const PodId& pod, const ContainerSpec& spec, const Deadline& until);
  // Waits until no container of the pod is being created.
  Result<void> AwaitCreations(const PodId& pod, const Deadline& until);

  // Work that goes on when its caller is gone: a kill after a grace period. kResourceExhausted: too much of it;
  // kUnavailable: after EndBackground.
  Result<void> InBackground(std::function<void(const Deadline&)> task, std::chrono::nanoseconds at_most);
  // Cancels such work and waits for it. Before anything that it uses goes away.
  void EndBackground();

 private:
  struct Flight {
    Latch done;
    Result<std::string> answer = std::string();
    std::string pod;  // of a container's creation
  };
  struct PodEntry {
    PodPtr state;
    std::set<std::string> containers;
    bool lost = false, unadopted = false;
  };
  struct ContainerEntry {
    ContainerPtr state;
    std::shared_ptr<Latch> exit;
    bool starting = false;
    std::optional<runtime::ExitFacts> early_exit;
  };
  using Index = std::unordered_map<std::string, std::set<std::string>>;  // "key=value" of a label -> ids

  Result<Claim> Join(const std::string& key, const std::string& what, const std::string& pod, const Deadline& until,
                     const std::function<std::optional<Result<std::string>>()>& existing);

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::map<std::string, PodEntry> pods_;
  std::map<std::string, ContainerEntry> containers_;
  std::unordered_map<std::string, std::string> identities_;  // pod or container identity -> id
  Index pod_labels_, container_labels_;
  std::unordered_map<std::string, std::shared_ptr<Flight>> flights_;
  int64_t created_floor_ = 0;
  KeyedMutex locks_, verbs_;
  std::shared_ptr<CancelToken> ending_ = std::make_shared<CancelToken>();
  std::unique_ptr<WorkerPool> background_;
};

// Identity of a pod, of a container within its pod: index keys and texts for errors.
std::string PodIdentity(const PodSpec& spec);
std::string ContainerIdentity(const PodId& pod, const ContainerSpec& spec);

}  // namespace berth::pods
