#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "base/undo.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/files.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/teardown.h"
#include "pods/validate.h"

namespace berth::pods {

namespace {

// Made for the kubelet's and crictl's sake; a failed creation takes back what it made.
Result<void> MakeLogDirectory(const std::string& path, Undo& undo) {
  if (path.empty() || Exists(path)) return {};
  TRY_CTX(MakeDirs(path), "log_directory");
  undo.Add("remove log directory", [path]() -> Result<void> {
    ::rmdir(path.c_str());  // not empty: somebody else's files are in it by now
    return {};
  });
  return {};
}

cni::Attachment AttachmentOf(const PodState& pod, const runtime::PodHandle& handle) {
  cni::Attachment a;
  a.pod = pod.id;
  a.name = pod.spec.name;
  a.name_space = pod.spec.name_space;
  a.uid = pod.spec.uid;
  a.netns = handle.netns.get();
  a.netlink = handle.netlink.get();
  a.netns_path = handle.netns_path;
  for (const Port& p : pod.spec.ports)
    if (p.host_port != 0)
      a.ports.push_back(
          {.protocol = p.protocol, .host_port = p.host_port, .container_port = p.container_port, .host_ip = p.host_ip});
  return a;
}

// A runtime that is not there fails the pod, not each of its containers.
Result<void> CheckHandler(const runtime::Options& options, const std::string& name) {
  if (name.empty() || name == kNativeHandler) return {};
  auto handler = options.handlers.find(name);
  if (handler == options.handlers.end()) {
    std::string known;
    for (const auto& [other, _] : options.handlers) known += (known.empty() ? "" : ", ") + other;
    return Err(Code::kInvalidArgument, "runtime_handler: {}: no such handler; {}leave it empty for the native runtime",
               name, known.empty() ? "" : "there is " + known + "; ");
  }
  const std::string& program = handler->second.path;
  if (::access(program.c_str(), X_OK) < 0) return SysErr("runtime_handler: {}: {}", name, program);
  return {};
}

Result<void> Attempt(Core& core, Operation& op, PodState pod, Undo& undo, const Deadline& until) {
  Layout layout{core.root, core.run};
  const PodId id = pod.id;

  TRY(op.Stage("row", "record the pod"));
  TRY(op.In(core.table.Insert(pod)));
  core.registry.Put(pod);
  undo.Last("drop pod row", [&core, id]() -> Result<void> {
    TRY(core.table.Drop(id));
    core.registry.Erase(id);
    return {};
  });

  TRY(op.Stage("dirs", "make the pod's directories"));
  undo.Add("remove pod directories", [&core, id] { return RemovePodDirs(core, id); });
  for (const auto& dir : {layout.PodDir(id), layout.PodState(id), layout.PodRun(id)}) TRY(op.In(MakeDirs(dir, 0700)));
  // Containers read these files as any user.
  TRY(op.In(MakeDirs(layout.PodEtc(id), 0755)));
  TRY(op.In(MakeLogDirectory(pod.spec.log_directory, undo)));

  TRY(op.Stage("monitor", "start the pod's monitor"));
  undo.Add("remove pod cgroup", [&core, pod] { return RemovePodCgroup(core, pod, Deadline::After(kUndoTime)); });
  undo.Add("stop pod monitor", [&core, id] { return core.launcher.StopPod(id, Deadline::After(kUndoTime)); });
  auto handle = TRY(op.In(core.launcher.StartPod(LaunchOf(core, pod), until)));
  pod.monitor = handle.monitor;
  pod.netns_path = handle.netns_path;

  TRY(op.Stage("network", "attach the pod to its network"));
  if (pod.spec.namespaces.network != Namespace::kNode) {
    undo.Add("detach network", [&core, id] { return core.network.Detach(id, Deadline::After(kUndoTime)); });
    pod.network = TRY(op.In(core.network.Attach(AttachmentOf(pod, handle), until)));
  }

  TRY(op.Stage("files", "write the pod's files"));
  TRY(op.In(WritePodFiles(layout.PodEtc(id), pod)));

  TRY(op.Stage("ready", "record that the pod is ready"));
  TRY(op.In(until.Check("the pod")));
  auto lock = TRY(op.In(core.registry.LockPod(id, until)));
  if (core.registry.Lost(id)) return op.Explain(Err(Code::kUnavailable, "the pod's monitor died").error());
  pod.phase = PodPhase::kReady;
  TRY(op.In(core.table.Update(pod)));
  core.registry.Put(pod);
  core.events.Publish(EventKind::kPodReady, core.registry.Pod(id));
  return {};
}

}  // namespace

Result<PodId> RunPod(Core& core, const PodSpec& spec, const Deadline& until) {
  TRY(CheckPodSpec(spec));
  if (auto usable = CheckHandler(core.runtime_options, spec.runtime_handler); !usable) {
    Error error = std::move(usable).error();
    if (error.sys != 0) error.code = Code::kFailedPrecondition;
    return std::unexpected(std::move(error));
  }
  std::string parent = TRY(CleanCgroupPath(
      spec.cgroup_parent.empty() ? core.runtime_options.cgroup_root : spec.cgroup_parent, "cgroup_parent"));
  auto claim = TRY(core.registry.ClaimPod(spec, until));
  if (!claim.first()) {
    if (!claim.answer()) return std::unexpected(claim.answer().error());
    return PodId(*claim.answer());
  }

  PodState pod;
  pod.id = NewPodId();
  pod.spec = spec;
  pod.created_at = core.registry.NextCreatedAt();
  pod.cgroup = parent + "/" + pod.id.str();

  Operation op(core, "run_pod", pod.id.str());
  auto began = std::chrono::steady_clock::now();
  Undo undo;
  auto made = Attempt(core, op, pod, undo, until);
  if (!made) {
    Error error = std::move(made).error();
    error.what = fmt::format("run pod {}/{}: {}", spec.name_space, spec.name, error.what);
    // What could not be taken back stays listed, as a pod whose stop is unfinished.
    if (!undo.Run()) Abandon(core, pod.id, error);
    claim.Finish(std::unexpected(error));
    return std::unexpected(std::move(error));
  }
  undo.Keep();
  claim.Finish(pod.id.str());
  auto took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
  log::Info(
      "pod.ready",
      {{"pod", pod.id}, {"name", spec.name}, {"namespace", spec.name_space}, {"took_ms", fmt::format("{:.1f}", took)}});
  return pod.id;
}

}  // namespace berth::pods
