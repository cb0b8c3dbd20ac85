#include "pods/teardown.h"

#include "base/atomic_file.h"
#include "base/log.h"
#include "pods/events.h"
#include "pods/files.h"
#include "pods/layout.h"
#include "pods/registry.h"
#include "pods/table.h"

namespace berth::pods {

namespace cgroup = runtime::cgroup;

runtime::PodLaunch LaunchOf(Core& core, const PodState& pod) {
  Layout layout{core.root, core.run};
  const Namespaces& n = pod.spec.namespaces;
  runtime::PodLaunch launch;
  launch.id = pod.id;
  launch.host_network = n.network == Namespace::kNode;
  launch.host_ipc = n.ipc == Namespace::kNode;
  launch.shared_pid = n.pid == Namespace::kPod;
  if (!launch.host_network) {
    launch.hostname = Hostname(pod.spec, "");
    // Ports below 1024 and ping need no privilege inside a pod's own network: as other CRI servers do by default.
    launch.sysctls = {{"net.ipv4.ip_unprivileged_port_start", "0"}, {"net.ipv4.ping_group_range", "0 2147483647"}};
  }
  for (const auto& [asked, value] : pod.spec.sysctls) {
    std::string name = asked;
    if (name.find('/') != std::string::npos)  // the slash form: net/ipv4/conf/eth0.1/forwarding
      for (char& c : name) c = c == '/' ? '.' : c == '.' ? '/' : c;
    launch.sysctls[name] = value;
  }
  launch.state_dir = layout.PodState(pod.id);
  launch.run_dir = layout.PodRun(pod.id);
  return launch;
}

static Result<void> RemoveCgroup(Core& core, const std::string& path, const Deadline& until) {
  if (core.cgroups == nullptr || path.empty()) return {};
  cgroup::Group group{path};
  TRY_CTX(cgroup::KillAll(*core.cgroups, group), "cgroup {}", path);
  TRY_CTX(cgroup::WaitEmpty(*core.cgroups, group, until), "cgroup {}", path);
  return cgroup::Remove(*core.cgroups, group, until);
}

Result<void> RemovePodCgroup(Core& core, const PodState& pod, const Deadline& until) {
  return RemoveCgroup(core, pod.cgroup, until);
}

Result<void> RemoveContainerCgroup(Core& core, const ContainerState& container, const Deadline& until) {
  return RemoveCgroup(core, container.cgroup, until);
}

Result<void> RemovePodDirs(Core& core, const PodId& pod) {
  Layout layout{core.root, core.run};
  TRY(RemoveTree(layout.PodRun(pod)));
  return RemoveTree(layout.PodDir(pod));
}

void Abandon(Core& core, const PodId& pod, const Error& why) {
  auto lock = core.registry.LockPod(pod, Deadline::After(kUndoTime));
  auto state = core.registry.Pod(pod);
  if (!state) return;
  PodState next = *state;
  next.phase = PodPhase::kStopping;
  next.stuck = "creation failed and could not be undone: " + why.what;
  if (auto r = core.table.Update(next); !r) log::Fail("pod.abandon", {{"pod", pod}, {"error", r.error()}});
  core.registry.Put(next);
  core.events.Publish(EventKind::kPodStopped, core.registry.Pod(pod));
}

void Abandon(Core& core, const ContainerId& container, const Error& why) {
  auto state = core.registry.Container(container);
  if (!state) return;
  auto lock = core.registry.LockPod(state->pod, Deadline::After(kUndoTime));
  ContainerState next = *state;
  next.phase = ContainerPhase::kExited;
  next.exit_code = 255;
  next.reason = "Error";
  next.message = "creation failed and could not be undone: " + why.what;
  next.finished_at = core.clock.UnixNanos();
  if (auto r = core.table.Update(next); !r)
    log::Fail("container.abandon", {{"container", container}, {"error", r.error()}});
  core.registry.Put(next);
  core.events.Publish(EventKind::kContainerExited, core.registry.Pod(next.pod), core.registry.Container(container));
}

}  // namespace berth::pods
