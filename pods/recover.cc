// Start-up is recovery. The rows say what was meant to be, the monitors what is; what half-made operations left is
// taken away, what was half taken away goes entirely, and what no row owns is collected. May run any number of times.
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <set>
#include <thread>

#include "base/atomic_file.h"
#include "base/log.h"
#include "pods/core.h"
#include "pods/exits.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/teardown.h"

namespace berth::pods {

namespace {

using std::chrono::seconds;

// A monitor that does not answer in this time is left alone; its pod stays listed, others go on.
constexpr seconds kAdoptTime{3};
constexpr size_t kThreads = 16;

bool IsId(std::string_view name) {
  return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::vector<std::string> Entries(const std::string& path) {
  std::vector<std::string> out;
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return out;
  while (const dirent* e = ::readdir(dir))
    if (std::string_view name = e->d_name; name != "." && name != "..") out.emplace_back(name);
  ::closedir(dir);
  return out;
}

void Note(std::string_view event, const std::string& id, const Result<void>& r) {
  if (!r) log::Fail(event, {{"id", id}, {"error", r.error()}});
}

// A monitor of the pod answers: the launcher knows it now. False: there is none. An error: there may be one.
Result<std::optional<runtime::AdoptedPod>> Adopt(Core& core, const PodState& pod, const Deadline& until) {
  auto adopted = core.launcher.Adopt(LaunchOf(core, pod), until);
  if (adopted) return std::optional(std::move(*adopted));
  if (adopted.error().code == Code::kNotFound) return std::nullopt;
  return std::unexpected(std::move(adopted).error());
}

// What a creation of a container had made when the agent died, in the order in which it would have been undone.
Result<void> UndoContainer(Core& core, const ContainerState& c) {
  auto until = Deadline::After(kUndoTime);
  auto pod = core.registry.Pod(c.pod);
  if (pod && pod->phase == PodPhase::kReady) {
    auto deleted = core.launcher.DeleteContainer(c.pod, c.id, until);
    if (!deleted && deleted.error().code != Code::kNotFound) return deleted;
  }
  TRY(RemoveContainerCgroup(core, c, until));
  TRY(core.images.snapshotter().Drop(c.id.str()));
  TRY(RemoveTree(Layout{core.root, core.run}.ExitRecord(c.pod, c.id)));
  TRY(core.table.Drop(c.id));
  core.registry.Erase(c.id);
  return {};
}

Result<void> UndoPod(Core& core, const PodState& pod) {
  auto until = Deadline::After(kUndoTime);
  TRY(core.network.Detach(pod.id, until));
  TRY(core.launcher.StopPod(pod.id, until));
  TRY(RemovePodCgroup(core, pod, until));
  TRY(RemovePodDirs(core, pod.id));
  TRY(core.table.Drop(pod.id));
  core.registry.Erase(pod.id);
  return {};
}

// What the monitor says of a container, into the row.
void ApplyFacts(Core& core, const ContainerId& id, const PodId& pod, const runtime::ContainerFacts& facts) {
  {
    auto lock = core.registry.LockPod(pod, Deadline::After(kUndoTime));
    auto c = core.registry.Container(id);
    if (!c || c->phase == ContainerPhase::kExited) return;
    ContainerState next = *c;
    if (facts.started && next.phase == ContainerPhase::kCreated) {
      next.phase = ContainerPhase::kRunning;
      next.started_at = facts.started_at;
    }
    if (facts.pid > 0) next.pid = facts.pid;
    if (next.phase != c->phase || next.pid != c->pid) {
      Note("container.recover_row", id.str(), core.table.Update(next));
      core.registry.Put(next);
    }
  }
  if (facts.exit) ApplyExit(core, pod, *facts.exit);
}

void RecoverReady(Core& core, const PodState& pod, runtime::AdoptedPod adopted) {
  {
    auto lock = core.registry.LockPod(pod.id, Deadline::After(kUndoTime));
    auto now = core.registry.Pod(pod.id);
    if (!now || now->phase != PodPhase::kReady) return;
    PodState next = *now;
    next.monitor = adopted.handle.monitor;
    next.netns_path = adopted.handle.netns_path;
    next.stuck.clear();
    if (next.monitor != now->monitor || next.netns_path != now->netns_path || !now->stuck.empty()) {
      Note("pod.recover_row", pod.id.str(), core.table.Update(next));
      core.registry.Put(next);
    }
  }
  std::map<ContainerId, runtime::ContainerFacts> facts;
  for (auto& f : adopted.containers) facts[f.id] = f;
  for (const auto& c : core.registry.ContainersOf(pod.id)) {
    auto it = facts.find(c->id);
    if (c->phase == ContainerPhase::kCreating) continue;  // undone by the caller
    if (it != facts.end()) {
      ApplyFacts(core, c->id, pod.id, it->second);
      facts.erase(it);
    } else if (c->phase == ContainerPhase::kCreated && c->reason == kStartError) {
      continue;  // never was a process
    } else if (c->phase != ContainerPhase::kExited) {
      // The monitor forgot it: deleted, but the row had not followed.
      ApplyExit(core, pod.id, {.id = c->id, .exit_code = kExitUnknown, .finished_at = 0});
    }
  }
  for (const auto& [id, f] : facts) {
    auto c = core.registry.Container(id);
    if (c) continue;
    log::Warn("container.without_row", {{"container", id}, {"pod", pod.id}});
    auto until = Deadline::After(kUndoTime);
    (void)core.launcher.Signal(pod.id, id, SIGKILL, true, until);
    Note("container.collect", id.str(), core.launcher.DeleteContainer(pod.id, id, until));
  }
}

// A hung monitor may go on one day.
constexpr seconds kAskAgain{5};

void AskAgain(Core& core, const PodId& pod) {
  (void)core.registry.InBackground(
      [&core, pod](const Deadline& until) {
        while (core.registry.Unadopted(pod) && until.Sleep(kAskAgain, "a monitor that does not answer"))
          (void)AdoptLate(core, pod, until.Sooner(kAdoptTime));
      },
      std::chrono::hours(24 * 365));
}

// One pod with all its containers. Pods are independent of each other.
void RecoverPod(Core& core, const PodRow& row, const std::set<ContainerId>& removing, bool rebooted) {
  const PodState& pod = row.state;
  Result<std::optional<runtime::AdoptedPod>> adopted = std::nullopt;
  if (!rebooted) adopted = Adopt(core, pod, Deadline::After(kAdoptTime));
  if (!adopted) {
    log::Fail("pod.adopt", {{"pod", pod.id}, {"error", adopted.error()}});
    for (const auto& c : core.registry.ContainersOf(pod.id))
      if (c->phase == ContainerPhase::kCreating) Abandon(core, c->id, adopted.error());
    if (pod.phase == PodPhase::kCreating) {
      Abandon(core, pod.id, adopted.error());
    } else {
      PodState next = pod;
      next.stuck = "its monitor does not answer: " + adopted.error().what;
      core.registry.Put(next);
    }
    core.registry.MarkUnadopted(pod.id, true);
    return AskAgain(core, pod.id);
  }
  if (pod.phase == PodPhase::kCreating) {
    if (auto r = UndoPod(core, pod); !r) Abandon(core, pod.id, r.error());
    return;
  }
  if (*adopted && pod.phase == PodPhase::kReady)
    RecoverReady(core, pod, std::move(**adopted));
  else if (pod.phase != PodPhase::kStopped)
    EndContainers(core, pod.id, kExitUnknown, "Unknown",
                  rebooted ? "the machine was restarted" : "the pod's monitor died");

  for (const auto& c : core.registry.ContainersOf(pod.id))
    if (c->phase == ContainerPhase::kCreating)
      if (auto r = UndoContainer(core, *c); !r) Abandon(core, c->id, r.error());
  if (pod.phase == PodPhase::kStopping || (pod.phase == PodPhase::kReady && !*adopted))
    Note("pod.recover_stop", pod.id.str(), StopPod(core, pod.id.str(), Deadline::After(seconds(60))));
  for (const auto& c : core.registry.ContainersOf(pod.id))
    if (removing.contains(c->id))
      Note("container.recover_remove", c->id.str(), RemoveContainer(core, c->id.str(), Deadline::After(seconds(60))));
  if (row.removing)
    Note("pod.recover_remove", pod.id.str(), RemovePod(core, pod.id.str(), Deadline::After(seconds(60))));
}

// Directories, monitors and cgroups named by the id of a pod that has no row.
void CollectStrays(Core& core) {
  Layout layout{core.root, core.run};
  std::set<std::string> strays;
  for (const auto& dir : {layout.Pods(), layout.RunPods()})
    for (auto& name : Entries(dir))
      if (IsId(name) && !core.registry.Pod(PodId(name))) strays.insert(name);
  if (core.cgroups != nullptr) {
    std::vector<std::string> mounts;
    for (const auto& h : core.cgroups->v1) mounts.push_back(h.mount);
    if (!core.cgroups->v2.empty()) mounts.push_back(core.cgroups->v2);
    // Below our own root only: elsewhere such names may be another runtime's.
    for (const auto& mount : mounts)
      for (auto& name : Entries(mount + core.runtime_options.cgroup_root))
        if (IsId(name) && !core.registry.Pod(PodId(name))) strays.insert(name);
  }
  for (const auto& name : strays) {
    log::Warn("pod.without_row", {{"pod", name}});
    PodState pod;
    pod.id = PodId(name);
    pod.cgroup = core.runtime_options.cgroup_root + "/" + name;
    auto until = Deadline::After(kUndoTime);
    if (Exists(layout.PodRun(pod.id))) {
      // Whatever that answers: without its monitor, a pod may still have mounts.
      (void)core.launcher.Adopt(LaunchOf(core, pod), Deadline::After(kAdoptTime));
      Note("pod.collect", name, core.launcher.StopPod(pod.id, until));
    }
    Note("pod.collect", name, RemovePodCgroup(core, pod, until));
    Note("pod.collect", name, RemovePodDirs(core, pod.id));
  }
}

}  // namespace

Result<void> AdoptLate(Core& core, const PodId& id, const Deadline& until) {
  auto verb = TRY(core.registry.LockVerb("adopt " + id.str(), until));
  if (!core.registry.Unadopted(id)) return {};
  auto pod = core.registry.Pod(id);
  auto adopted =
      TRY_CTX(Adopt(core, *pod, until), "pod {}: its monitor (pid {}) does not answer", id.Short(), pod->monitor);
  core.registry.MarkUnadopted(id, false);
  log::Info("pod.adopted_late", {{"pod", id}, {"found", adopted.has_value()}});
  if (!adopted)
    ApplyLost(core, id);
  else if (pod->phase == PodPhase::kReady)
    RecoverReady(core, *pod, std::move(*adopted));
  return {};
}

Result<void> Recover(Core& core) {
  Operation op(core, "recover", "all");
  auto began = std::chrono::steady_clock::now();
  (void)op.Stage("rows", "read the records");
  auto rows = TRY(op.In(core.table.Load()));
  std::string boot_id = TRY(op.In(ReadFile("/proc/sys/kernel/random/boot_id", 256)));
  while (!boot_id.empty() && boot_id.back() == '\n') boot_id.pop_back();
  const bool rebooted = !rows.boot_id.empty() && rows.boot_id != boot_id;

  core.registry.RaiseCreatedFloor(rows.created_floor);
  for (const auto& row : rows.pods) core.registry.Put(row.state);
  std::set<ContainerId> removing;
  std::vector<ContainerState> orphans;
  for (const auto& row : rows.containers) {
    if (!core.registry.Pod(row.state.pod)) {
      orphans.push_back(row.state);
      continue;
    }
    core.registry.Put(row.state);
    if (row.removing) removing.insert(row.state.id);
  }
  Listen(core);

  (void)op.Stage("pods", "adopt the pods");
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < rows.pods.size();) RecoverPod(core, rows.pods[i], removing, rebooted);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kThreads, rows.pods.size()); ++i) threads.emplace_back(work);
  work();
  for (auto& t : threads) t.join();
  for (const auto& c : orphans) Note("container.without_pod", c.id.str(), UndoContainer(core, c));

  // Only now is it known which are left.
  (void)op.Stage("collect", "collect what no record owns");
  std::vector<PodId> live;
  std::vector<std::string> owners;
  for (const auto& pod : core.registry.EveryPod()) {
    if (pod->phase != PodPhase::kStopped) live.push_back(pod->id);
    for (const auto& c : core.registry.ContainersOf(pod->id)) owners.push_back(c->id.str());
  }
  Note("network.collect", "all", core.network.Collect(live, Deadline::After(seconds(60))));
  Note("snapshots.collect", "all", core.images.snapshotter().Collect(owners));
  CollectStrays(core);
  TRY(op.In(core.table.SetBootId(boot_id)));

  auto took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
  log::Info("core.recovered", {{"pods", core.registry.EveryPod().size()},
                               {"containers", core.registry.Containers().size()},
                               {"rebooted", rebooted},
                               {"took_ms", fmt::format("{:.1f}", took)}});
  return {};
}

}  // namespace berth::pods
