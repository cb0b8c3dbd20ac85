#include "base/atomic_file.h"
#include "base/log.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/exits.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/samples.h"
#include "pods/table.h"
#include "pods/teardown.h"

namespace berth::pods {

Result<void> RemoveContainer(Core& core, const std::string& container, const Deadline& until) {
  auto found = core.registry.FindContainer(container);
  if (!found) {
    if (found.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(found).error());
  }
  const ContainerId id = (*found)->id;
  Operation op(core, "remove_container", id.str());
  op.Blocker("an earlier operation on this container");
  auto verb = TRY(core.registry.LockVerb(id.str(), until));
  auto c = core.registry.Container(id);
  if (!c) return {};
  if (c->phase == ContainerPhase::kCreating) return Err(Code::kConflict, "container {}: is being created", id.Short());

  if (c->phase == ContainerPhase::kRunning) {
    TRY(op.Stage("kill", "kill the container"));
    TRY(op.In(KillAndAwait(core, *c, until)));
  }
  TRY(op.Stage("mark", "record that the container is being removed"));
  TRY(op.In(core.table.MarkRemoving(id)));

  TRY(op.Stage("delete", "delete the container's process and cgroup"));
  auto pod = core.registry.Pod(c->pod);
  if (pod && pod->phase != PodPhase::kStopped) {
    auto deleted = core.launcher.DeleteContainer(c->pod, id, until);
    if (!deleted && deleted.error().code != Code::kNotFound) return op.Explain(std::move(deleted).error());
  }
  TRY(op.In(RemoveContainerCgroup(core, *c, until)));

  TRY(op.Stage("snapshot", "drop the root filesystem"));
  TRY(op.In(core.images.snapshotter().Drop(id.str())));

  TRY(op.Stage("drop", "drop the container's record"));
  TRY(op.In(RemoveTree(Layout{core.root, core.run}.ExitRecord(c->pod, id))));
  auto lock = TRY(op.In(core.registry.LockPod(c->pod, until)));
  c = core.registry.Container(id);  // its last state
  TRY(op.In(core.table.Drop(id)));
  core.registry.Erase(id);
  core.samples.Forget(id);
  core.events.Publish(EventKind::kContainerRemoved, core.registry.Pod(c->pod), c);
  log::Info("container.removed", {{"container", id}, {"pod", c->pod}, {"name", c->spec.name}});
  return {};
}

}  // namespace berth::pods
