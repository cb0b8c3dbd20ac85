// Reading: everything from memory.
#include "pods/core.h"
#include "pods/exits.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"

namespace berth::pods {

Result<PodState> FindPod(Core& core, const std::string& pod) {
  auto found = TRY(core.registry.FindPod(pod));
  if (found->phase == PodPhase::kCreating) return Err(Code::kNotFound, "pod {}: no such pod", pod);
  return *found;
}

std::vector<PodState> ListPods(Core& core) {
  std::vector<PodState> out;
  for (const auto& pod : core.registry.Pods()) out.push_back(*pod);
  return out;
}

Result<ContainerState> FindContainer(Core& core, const std::string& container) {
  auto found = TRY(core.registry.FindContainer(container));
  if (found->phase == ContainerPhase::kCreating)
    return Err(Code::kNotFound, "container {}: no such container", container);
  return *found;
}

std::vector<ContainerState> ListContainers(Core& core) {
  std::vector<ContainerState> out;
  for (const auto& c : core.registry.Containers()) out.push_back(*c);
  return out;
}

Result<runtime::oci::Spec> FindOciSpec(Core& core, const std::string& container) {
  auto c = TRY(FindContainer(core, container));
  return core.table.OciSpec(c.id);
}

Result<ContainerState> WaitContainer(Core& core, const std::string& container, const Deadline& until) {
  auto c = TRY(FindContainer(core, container));
  Operation op(core, "wait", c.id.str());
  TRY(AwaitExit(core, c, until));
  auto state = core.registry.Container(c.id);
  if (!state) return Err(Code::kNotFound, "container {}: was removed", c.id.Short());
  return *state;
}

}  // namespace berth::pods
