#include "base/log.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/exits.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/teardown.h"

namespace berth::pods {

namespace {

std::string_view PhaseName(ContainerPhase phase) {
  switch (phase) {
    case ContainerPhase::kCreating:
      return "being created";
    case ContainerPhase::kCreated:
      return "created";
    case ContainerPhase::kRunning:
      return "running";
    case ContainerPhase::kExited:
      return "exited";
  }
  return "unknown";
}

// Did the process not come to be, or does nobody know?
bool Unknown(Code code) {
  return code == Code::kDeadlineExceeded || code == Code::kCancelled || code == Code::kUnavailable;
}

// From created to running, or to exited with StartError.
void Record(Core& core, const ContainerState& c, const Result<int64_t>& started) {
  // The process is there or gone whatever the caller's time says.
  auto lock = core.registry.LockPod(c.pod, Deadline::After(kUndoTime));
  auto now = core.registry.Container(c.id);
  if (!now || now->phase != ContainerPhase::kCreated) return;
  ContainerState next = *now;
  if (started) {
    next.phase = ContainerPhase::kRunning;
    next.started_at = *started;
  } else {
    next.phase = ContainerPhase::kExited;
    next.exit_code = kExitStartError;
    next.reason = kStartError;
    next.message = started.error().what;
    next.started_at = 0;
    next.finished_at = core.clock.UnixNanos();
    next.pid = -1;
  }
  // A row that could not be written is written by recovery, which asks the monitor.
  if (auto r = core.table.Update(next); !r)
    log::Fail("container.start_row", {{"container", c.id}, {"error", r.error()}});
  core.registry.Put(next);
  core.events.Publish(started ? EventKind::kContainerStarted : EventKind::kContainerExited, core.registry.Pod(c.pod),
                      core.registry.Container(c.id));
}

}  // namespace

Result<void> StartContainer(Core& core, const std::string& container, const Deadline& until) {
  auto c = TRY(core.registry.FindContainer(container));
  Operation op(core, "start_container", c->id.str());
  op.Blocker("an earlier operation on this container");
  auto verb = TRY(core.registry.LockVerb(c->id.str(), until));
  c = core.registry.Container(c->id);
  if (!c || c->phase == ContainerPhase::kCreating)
    return Err(Code::kNotFound, "container {}: no such container", container);
  if (c->phase != ContainerPhase::kCreated)
    return Err(Code::kConflict, "container {}: is {}; only a created container can be started", c->id.Short(),
               PhaseName(c->phase));
  auto pod = core.registry.Pod(c->pod);
  if (!pod || pod->phase != PodPhase::kReady) return Err(Code::kConflict, "pod {}: is not ready", c->pod.Short());

  TRY(op.Stage("exec", "let the process run"));
  if (c->reason == kStartError) {  // found when the process was made
    Result<int64_t> failed = Err(Code::kInvalidArgument, "{}", c->message);
    Record(core, *c, failed);
    return Wrap(std::move(failed).error(), "start container {}", c->id.Short());
  }
  core.registry.BeginStart(c->id);
  auto started = core.launcher.StartContainer(c->pod, c->id, until);
  if (started) (void)op.Stage("running", "record that the container runs");
  if (started || !Unknown(started.error().code)) Record(core, *c, started);
  if (auto early = core.registry.EndStart(c->id)) ApplyExit(core, c->pod, *early);
  if (!started) return Wrap(std::move(started).error(), "start container {}", c->id.Short());
  log::Info("container.started", {{"container", c->id}, {"pod", c->pod}, {"name", c->spec.name}});
  return {};
}

}  // namespace berth::pods
