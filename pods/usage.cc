#include "pods/core.h"
#include "pods/registry.h"
#include "pods/samples.h"
#include "runtime/linux/cgroup_stats.h"

namespace berth::pods {

namespace {

Result<ContainerUsage> Read(Core& core, const ContainerState& c) {
  ContainerUsage u;
  u.id = c.id;
  u.pod = c.pod;
  u.at = core.clock.UnixNanos();
  if (auto writable = core.samples.Writable(c.id)) {
    u.writable_bytes = writable->bytes;
    u.writable_inodes = writable->inodes;
  }
  if (c.phase != ContainerPhase::kRunning || core.cgroups == nullptr) return u;
  auto s = TRY_CTX(runtime::cgroup::ReadStats(*core.cgroups, {c.cgroup}), "container {}", c.id.Short());
  u.cpu_ns = s.cpu_usage_ns;
  u.cpu_user_ns = s.cpu_user_ns;
  u.cpu_system_ns = s.cpu_system_ns;
  u.nano_cores = core.samples.Rate(c.id, s.cpu_usage_ns);
  u.memory_usage = s.memory_usage;
  u.memory_working_set = s.memory_working_set;
  u.memory_rss = s.memory_rss;
  u.memory_cache = s.memory_cache;
  u.memory_limit = s.memory_limit;
  u.page_faults = s.page_faults;
  u.major_page_faults = s.major_page_faults;
  u.oom_kills = s.oom_kills;
  u.swap_usage = s.memory_swap;
  u.pids = s.pids;
  u.pids_limit = s.pids_limit;
  return u;
}

}  // namespace

Result<ContainerUsage> Usage(Core& core, const std::string& container) {
  auto c = TRY(FindContainer(core, container));
  return Read(core, c);
}

std::vector<ContainerUsage> ListUsage(Core& core) {
  std::vector<ContainerUsage> out;
  for (const auto& c : core.registry.Containers({.id = {}, .pod = {}, .labels = {}, .phase = ContainerPhase::kRunning}))
    if (auto u = Read(core, *c)) out.push_back(std::move(*u));  // one that ended meanwhile is passed over
  return out;
}

Result<cni::InterfaceStats> NetworkUsage(Core& core, const std::string& pod) {
  auto p = TRY(FindPod(core, pod));
  if (p.spec.namespaces.network == Namespace::kNode)
    return Err(Code::kFailedPrecondition, "pod {}: has the host's network", p.id.Short());
  if (p.phase != PodPhase::kReady) return Err(Code::kConflict, "pod {}: is not ready", p.id.Short());
  return core.network.Stats(p.id);
}

}  // namespace berth::pods
