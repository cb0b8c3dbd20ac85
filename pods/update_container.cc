#include "base/log.h"
#include "pods/core.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"

namespace berth::pods {
namespace {

Resources Merged(const Resources& old, const Resources& change) {
  Resources out = old;
  auto take = [](auto& to, const auto& from) {
    if (from != std::remove_cvref_t<decltype(from)>{}) to = from;
  };
  take(out.cpu_period, change.cpu_period);
  take(out.cpu_quota, change.cpu_quota);
  take(out.cpu_shares, change.cpu_shares);
  take(out.memory_limit, change.memory_limit);
  take(out.memory_swap, change.memory_swap);
  take(out.pids_limit, change.pids_limit);
  take(out.cpuset_cpus, change.cpuset_cpus);
  take(out.cpuset_mems, change.cpuset_mems);
  for (const auto& [size, limit] : change.hugepages) out.hugepages[size] = limit;
  for (const auto& [file, value] : change.unified) out.unified[file] = value;
  return out;
}

// What the cgroup needs to be told: the limits that the change names, with their values after the merge.
Result<runtime::oci::Resources> Delta(const Resources& merged, const Resources& change, bool cgroup_v2) {
  Resources named = change;
  if (change.memory_limit == 0 && change.memory_swap != 0) named.memory_limit = merged.memory_limit;
  // Period and quota mean something together only.
  if (change.cpu_period != 0 || change.cpu_quota != 0) named.cpu_period = merged.cpu_period, named.cpu_quota = merged.cpu_quota;
  runtime::oci::Resources out;
  TRY(SetLimits(named, cgroup_v2, out));
  if (out.memory) out.memory->checkBeforeUpdate = true;
  return out;
}

}  // namespace

Result<void> UpdateContainer(Core& core, const std::string& container, const Resources& change, const Deadline& until) {
  auto found = TRY(core.registry.FindContainer(container));
  if (found->phase == ContainerPhase::kCreating) return Err(Code::kNotFound, "container {}: no such container", container);
  Operation op(core, "update_container", found->id.str());
  auto verb = TRY(core.registry.LockVerb(found->id.str(), until));
  auto c = core.registry.Container(found->id);
  if (!c) return Err(Code::kNotFound, "container {}: no such container", container);
  const bool v2 = core.cgroups != nullptr && core.cgroups->unified();
  ContainerState next = *c;
  next.spec.resources = Merged(c->spec.resources, change);
  auto spec = TRY(core.table.OciSpec(c->id));
  runtime::oci::Resources whole = spec.linux && spec.linux->resources ? *spec.linux->resources : runtime::oci::Resources();
  TRY(SetLimits(next.spec.resources, v2, whole));
  if (!spec.linux) spec.linux.emplace();
  spec.linux->resources = whole;

  const bool live = c->phase != ContainerPhase::kExited;
  if (live) {
    TRY(op.Stage("update", "change the cgroup's limits"));
    auto updated = op.In(core.launcher.Update(c->pod, c->id, TRY(Delta(next.spec.resources, change, v2)), until));
    // Ended in between: then only the record is left to change.
    if (!updated && !(updated.error().code == Code::kConflict && core.registry.Container(c->id) == nullptr)) return updated;
  }
  TRY(op.Stage("record", "write the row"));
  auto recorded = [&]() -> Result<void> {
    auto lock = TRY(core.registry.LockPod(c->pod, until));
    auto now = core.registry.Container(c->id);
    if (!now) return Err(Code::kNotFound, "container {}: no such container", container);
    ContainerState state = *now;  // it may have started or ended since
    state.spec.resources = next.spec.resources;
    TRY(core.table.UpdateSpec(state, spec));
    core.registry.Put(std::move(state));
    return {};
  }();
  if (recorded || !live) return recorded;
  // As it was: what the status tells and what the kernel does must be the same.
  runtime::oci::Resources old;
  if (auto set = SetLimits(c->spec.resources, v2, old); set)
    if (auto back = core.launcher.Update(c->pod, c->id, old, Deadline::After(std::chrono::seconds(10))); !back)
      log::Fail("container.limits_not_restored", {{"container", c->id}, {"error", back.error()}});
  return recorded;
}

}  // namespace berth::pods
