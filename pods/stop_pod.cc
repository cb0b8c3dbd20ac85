#include <signal.h>

#include "base/log.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/exits.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/teardown.h"

namespace berth::pods {

namespace {

using std::chrono::seconds;

// Runs every step whatever the others answer; the first error is the answer.
class Errors {
 public:
  void Keep(Result<void> r) {
    if (!r && !first_) first_ = std::move(r).error();
  }
  const std::optional<Error>& first() const { return first_; }

 private:
  std::optional<Error> first_;
};

Result<void> KillContainers(Core& core, const PodId& id, const Deadline& until) {
  Errors errors;
  std::vector<ContainerPtr> running;
  for (const auto& c : core.registry.ContainersOf(id))
    if (c->phase == ContainerPhase::kRunning) running.push_back(c);
  // All at once, then one wait for all.
  for (const auto& c : running) {
    auto sent = core.launcher.Signal(id, c->id, SIGKILL, true, until.Sooner(seconds(10)));
    if (!sent && sent.error().code != Code::kNotFound && sent.error().code != Code::kConflict)
      errors.Keep(std::move(sent));
  }
  // A monitor that does not answer is dealt with by its own end, next: no use in waiting for what it would say.
  if (errors.first()) return std::unexpected(*errors.first());
  Deadline soon = until.Sooner(seconds(10));
  for (const auto& c : running) errors.Keep(AwaitExit(core, *c, soon));
  if (errors.first()) return std::unexpected(*errors.first());
  return {};
}

}  // namespace

Result<void> StopPod(Core& core, const std::string& pod_id, const Deadline& until) {
  auto found = core.registry.FindPod(pod_id);
  if (!found) {
    if (found.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(found).error());
  }
  const PodId id = (*found)->id;
  Operation op(core, "stop_pod", id.str());
  op.Blocker("an earlier stop or removal of this pod");
  auto verb = TRY(core.registry.LockVerb(id.str(), until));

  TRY(op.Stage("row", "record that the pod is stopping"));
  PodState pod;
  {
    auto lock = TRY(op.In(core.registry.LockPod(id, until)));
    auto state = core.registry.Pod(id);
    if (!state || state->phase == PodPhase::kStopped) return {};
    if (state->phase == PodPhase::kCreating) return Err(Code::kConflict, "pod {}: is being created", id.Short());
    pod = *state;
    if (pod.phase == PodPhase::kReady) {
      pod.phase = PodPhase::kStopping;
      // A full disk must not keep a pod from being stopped: without the row, recovery finds the monitor gone.
      if (auto r = core.table.Update(pod); !r) log::Warn("pod.stop_row", {{"pod", id}, {"error", r.error()}});
      core.registry.Put(pod);
    }
  }

  // From here every step is tried, in this order, and what failed is tried again by the next stop.
  Errors errors;
  auto step = [&](std::string_view stage, std::string_view words, auto&& act) {
    if (auto go = op.Stage(stage, words); !go)
      errors.Keep(std::move(go));
    else
      errors.Keep(op.In(act()));
  };
  step("kill", "kill the containers", [&]() -> Result<void> {
    if (core.registry.Unadopted(id)) return AdoptLate(core, id, until.Sooner(seconds(10)));
    return {};
  });
  if (!core.registry.Unadopted(id))
    if (auto killed = KillContainers(core, id, until); !killed)
      log::Warn("pod.kill", {{"pod", id}, {"error", killed.error()}});  // the monitor's end kills what is left
  step("network", "detach the pod from its network", [&] { return core.network.Detach(id, until); });
  step("monitor", "end the pod's monitor", [&]() -> Result<void> {
    // Ending it unseen would take its containers' cgroups from below a monitor that still runs.
    if (core.registry.Unadopted(id)) return Err(Code::kUnavailable, "the pod's monitor does not answer");
    TRY(core.launcher.StopPod(id, until));
    TRY(core.registry.AwaitCreations(id, until));
    EndContainers(core, id, 128 + SIGKILL, "Error", "killed with its pod");
    return {};
  });
  step("cgroup", "remove the pod's cgroup", [&]() -> Result<void> {
    if (core.registry.Unadopted(id)) return {};  // said already
    return RemovePodCgroup(core, pod, until);
  });
  if (!errors.first()) errors.Keep(op.Stage("stopped", "record that the pod is stopped"));

  auto lock = TRY(core.registry.LockPod(id, Deadline::After(kUndoTime)));
  if (errors.first()) {
    Error error = *errors.first();
    error.what = fmt::format("stop pod {}: {}", id.Short(), error.what);
    pod.stuck = error.what;
    if (auto r = core.table.Update(pod); !r) log::Fail("pod.stop_row", {{"pod", id}, {"error", r.error()}});
    core.registry.Put(pod);
    return std::unexpected(std::move(error));
  }
  pod.phase = PodPhase::kStopped;
  pod.stuck.clear();
  pod.monitor = -1;
  pod.netns_path.clear();
  pod.network.addresses.clear();
  TRY(op.In(core.table.Update(pod)));
  core.registry.Put(pod);
  core.events.Publish(EventKind::kPodStopped, core.registry.Pod(id));
  log::Info("pod.stopped", {{"pod", id}, {"name", pod.spec.name}, {"namespace", pod.spec.name_space}});
  return {};
}

}  // namespace berth::pods
