#include "pods/exits.h"

#include <signal.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "pods/events.h"
#include "pods/layout.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "runtime/linux/cgroup_oom.h"

namespace berth::pods {

using std::chrono::seconds;

namespace {

// A lock on a pod's state is never held over a wait; a minute means the disk hangs.
constexpr seconds kLockWait{60};

std::string ReasonOf(int exit_code, bool oom) {
  if (oom) return "OOMKilled";
  return exit_code == 0 ? "Completed" : "Error";
}

// Monitors of 1.0 do not say it.
bool SawOom(Core& core, const ContainerState& c, const runtime::ExitFacts& facts) {
  if (facts.oom_kills > 0) return facts.oom_killed;
  if (core.cgroups == nullptr || c.cgroup.empty()) return false;
  auto oom = runtime::cgroup::ReadOom(*core.cgroups, {c.cgroup});
  return oom && oom->kills > 0;
}

// With the pod's lock held. Reason empty: from code and cgroup.
void Finish(Core& core, const ContainerPtr& c, const runtime::ExitFacts& facts, std::string_view reason,
            std::string_view message) {
  ContainerState next = *c;
  const bool oom = reason.empty() && SawOom(core, next, facts);
  next.phase = ContainerPhase::kExited;
  next.exit_code = facts.exit_code;
  next.finished_at = facts.finished_at != 0 ? facts.finished_at : core.clock.UnixNanos();
  next.reason = reason.empty() ? ReasonOf(facts.exit_code, oom) : std::string(reason);
  next.message = message;
  next.pid = -1;
  // The record on disk stays until the container is deleted, so a row that cannot be written now is written by
  // recovery.
  if (auto r = core.table.Update(next); !r)
    log::Fail("container.exit_row", {{"container", next.id}, {"error", r.error()}});
  core.registry.Put(next);
  auto pod = core.registry.Pod(next.pod);
  auto state = core.registry.Container(next.id);
  if (oom) core.events.Publish(EventKind::kContainerOom, pod, state);
  core.events.Publish(EventKind::kContainerExited, pod, state);
  log::Info("container.exited",
            {{"container", next.id}, {"pod", next.pod}, {"code", next.exit_code}, {"reason", next.reason}});
  // Without a PID namespace of its own nothing ends the rest when the first process does.
  if (next.spec.namespaces.pid != Namespace::kContainer && pod && pod->phase == PodPhase::kReady)
    (void)core.registry.InBackground(
        [&core, pod_id = next.pod, id = next.id](const Deadline& until) {
          (void)core.launcher.Signal(pod_id, id, SIGKILL, true, until);
        },
        seconds(10));
}

}  // namespace

void Listen(Core& core) {
  core.launcher.OnExit([&core](const PodId& pod, const runtime::ExitFacts& facts) { ApplyExit(core, pod, facts); });
  core.launcher.OnLost([&core](const PodId& pod) { ApplyLost(core, pod); });
}

void ApplyExit(Core& core, const PodId& pod, const runtime::ExitFacts& facts) {
  if (core.registry.DeferExit(facts)) return;
  auto lock = core.registry.LockPod(pod, Deadline::After(kLockWait));
  if (!lock) {
    log::Fail("container.exit_lost", {{"container", facts.id}, {"error", lock.error()}});
    return;
  }
  auto c = core.registry.Container(facts.id);
  // One in creation is undone by its creator.
  if (!c || c->pod != pod || c->phase == ContainerPhase::kExited || c->phase == ContainerPhase::kCreating) return;
  Finish(core, c, facts, "", "");
}

void EndContainers(Core& core, const PodId& pod, int code, std::string_view reason, std::string_view message) {
  Layout layout{core.root, core.run};
  std::map<ContainerId, runtime::ExitFacts> records;
  if (auto read = core.launcher.ReadExitRecords(layout.PodState(pod)))
    for (auto& facts : *read) records[facts.id] = facts;
  else
    log::Warn("pod.exit_records", {{"pod", pod}, {"error", read.error()}});
  auto lock = core.registry.LockPod(pod, Deadline::After(kLockWait));
  if (!lock) {
    log::Fail("pod.exits_lost", {{"pod", pod}, {"error", lock.error()}});
    return;
  }
  for (const auto& c : core.registry.ContainersOf(pod)) {
    if (c->phase == ContainerPhase::kExited || c->phase == ContainerPhase::kCreating) continue;
    if (auto known = records.find(c->id); known != records.end()) {
      Finish(core, c, known->second, "", "");
    } else if (c->phase == ContainerPhase::kCreated) {
      Finish(core, c, {.id = c->id, .exit_code = 128 + SIGKILL}, "Error",
             "the pod ended before the container was started");
    } else {
      Finish(core, c, {.id = c->id, .exit_code = code}, reason, message);
    }
  }
}

void ApplyLost(Core& core, const PodId& pod) {
  {
    auto lock = core.registry.LockPod(pod, Deadline::After(kLockWait));
    auto state = core.registry.Pod(pod);
    if (!state || state->phase == PodPhase::kStopped) return;
    core.registry.MarkLost(pod);
    if (state->phase == PodPhase::kCreating) return;  // its creation sees the mark
  }
  log::Warn("pod.monitor_lost", {{"pod", pod}});
  auto finish = [&core, pod](const Deadline& until) {
    EndContainers(core, pod, kExitUnknown, "Unknown", "the pod's monitor died");
    if (auto r = StopPod(core, pod.str(), until); !r) log::Fail("pod.stop_lost", {{"pod", pod}, {"error", r.error()}});
  };
  // Should too much be going on, the containers are told of at least, and the next stop does the rest.
  if (auto r = core.registry.InBackground(finish, std::chrono::minutes(2)); !r)
    EndContainers(core, pod, kExitUnknown, "Unknown", "the pod's monitor died");
}

std::string WhyAlive(pid_t pid) {
  if (pid <= 0) return "";
  auto status = ReadFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!status) return "";
  // The name in parentheses may itself hold parentheses and spaces: the state follows the last one.
  size_t end = status->rfind(')');
  char state = end != std::string::npos && end + 2 < status->size() ? (*status)[end + 2] : '?';
  std::string where = ReadFile(fmt::format("/proc/{}/wchan", pid), 256).value_or("");
  if (where == "0") where.clear();
  std::string_view words = state == 'D'   ? "in uninterruptible sleep"
                           : state == 'T' ? "stopped"
                           : state == 'Z' ? "dead, not yet reaped"
                                          : "alive";
  return fmt::format("pid {} {}{}", pid, words, where.empty() ? "" : " (" + where + ")");
}

Result<void> AwaitExit(Core& core, const ContainerState& container, const Deadline& until) {
  auto latch = core.registry.ExitLatch(container.id);
  if (!latch) return {};
  return Await(*latch, until, fmt::format("the exit of container {}", container.id.Short()));
}

Result<void> KillAndAwait(Core& core, const ContainerState& container, const Deadline& until) {
  while (true) {
    auto sent = core.launcher.Signal(container.pod, container.id, SIGKILL, true, until.Sooner(seconds(10)));
    // Not there any more: the news of its exit is on the way.
    if (!sent && sent.error().code != Code::kNotFound && sent.error().code != Code::kConflict)
      return Wrap(std::move(sent).error(), "kill container {}", container.id.Short());
    auto waited = AwaitExit(core, container, until.Sooner(seconds(2)));
    if (waited) return {};
    if (until.expired()) {
      Error e = std::move(waited).error();
      if (std::string why = WhyAlive(container.pid); !why.empty()) e.what += ": " + why;
      return std::unexpected(std::move(e));
    }
    if (waited.error().code != Code::kDeadlineExceeded) return waited;
  }
}

}  // namespace berth::pods
