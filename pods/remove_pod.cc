#include "base/log.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/teardown.h"

namespace berth::pods {

Result<void> RemovePod(Core& core, const std::string& pod_id, const Deadline& until) {
  auto found = core.registry.FindPod(pod_id);
  if (!found) {
    if (found.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(found).error());
  }
  const PodId id = (*found)->id;
  Operation op(core, "remove_pod", id.str());
  TRY(op.Stage("stop", "stop the pod"));
  TRY(StopPod(core, id.str(), until));

  auto verb = TRY(op.In(core.registry.LockVerb(id.str(), until)));
  auto state = core.registry.Pod(id);
  if (!state) return {};
  TRY(op.Stage("mark", "record that the pod is being removed"));
  TRY(op.In(core.table.MarkRemoving(id)));

  TRY(op.Stage("containers", "remove the containers"));
  std::optional<Error> first;
  for (const auto& c : core.registry.ContainersOf(id))
    if (auto r = RemoveContainer(core, c->id.str(), until); !r && !first) first = std::move(r).error();
  if (first) return op.Explain(std::move(*first));

  TRY(op.Stage("dirs", "remove the pod's directories"));
  TRY(op.In(RemovePodDirs(core, id)));

  TRY(op.Stage("drop", "drop the pod's record"));
  auto lock = TRY(op.In(core.registry.LockPod(id, until)));
  TRY(op.In(core.table.Drop(id)));
  core.registry.Erase(id);
  core.events.Publish(EventKind::kPodRemoved, state);
  log::Info("pod.removed", {{"pod", id}, {"name", state->spec.name}, {"namespace", state->spec.name_space}});
  return {};
}

}  // namespace berth::pods
