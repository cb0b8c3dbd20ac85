#include <signal.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "base/undo.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/exits.h"
#include "pods/files.h"
#include "pods/host_paths.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/rootfs.h"
#include "pods/security.h"
#include "pods/table.h"
#include "pods/teardown.h"
#include "pods/users.h"
#include "pods/validate.h"

namespace berth::pods {

namespace {

Result<void> CheckReady(const PodPtr& pod) {
  if (!pod) return Err(Code::kNotFound, "pod: no such pod any more");
  if (pod->phase != PodPhase::kReady)
    return Err(Code::kConflict, "pod {}: is not ready; a container needs a ready pod", pod->id.Short());
  return {};
}

Result<int> StopSignal(const ContainerSpec& spec, const images::Image& image) {
  if (!spec.stop_signal.empty()) return SignalNumber(spec.stop_signal, "stop_signal");
  if (image.config.stop_signal.empty()) return SIGTERM;
  return SignalNumber(image.config.stop_signal, "image: StopSignal");
}

// The container whose PID namespace is joined.
Result<ContainerId> Target(Core& core, const PodId& pod, const ContainerSpec& spec) {
  if (spec.namespaces.pid != Namespace::kTarget) return ContainerId();
  auto found = core.registry.FindContainer(spec.namespaces.target);
  if (!found || (*found)->pod != pod)
    return Err(Code::kInvalidArgument, "namespaces.target: {}: no such container in this pod", spec.namespaces.target);
  if ((*found)->phase != ContainerPhase::kRunning)
    return Err(Code::kConflict, "namespaces.target: container {} is not running", (*found)->id.Short());
  return (*found)->id;
}

// The launcher looks for the program when it makes the process: it is not there, or may not be executed (launcher.h).
bool CannotRun(const Error& e) { return e.code == Code::kInvalidArgument && (e.sys == ENOENT || e.sys == EACCES); }

Result<void> Attempt(Core& core, Operation& op, ContainerState c, Undo& undo, const Deadline& until) {
  const ContainerId id = c.id;
  const PodId pod_id = c.pod;
  Layout layout{core.root, core.run};

  auto image = TRY_CTX(core.images.Find(c.spec.image), "image {}", c.spec.image);
  c.image_id = image->id.str();
  c.image_name = image->repo_tags.empty() ? c.spec.image : image->repo_tags.front();
  c.image_ref = image->repo_digests.empty() ? c.image_id : image->repo_digests.front();
  c.stop_signal = TRY(StopSignal(c.spec, *image));

  TRY(op.Stage("row", "record the container"));
  PodPtr pod;
  {
    auto lock = TRY(op.In(core.registry.LockPod(pod_id, until)));
    pod = core.registry.Pod(pod_id);
    TRY(CheckReady(pod));
    c.cgroup = pod->cgroup + "/" + id.str();
    if (!pod->spec.log_directory.empty() && !c.spec.log_path.empty())
      c.log_path = pod->spec.log_directory + "/" + c.spec.log_path;
    TRY(op.In(core.table.Insert(c)));
    core.registry.Put(c);
  }
  undo.Last("drop container row", [&core, id]() -> Result<void> {
    TRY(core.table.Drop(id));
    core.registry.Erase(id);
    return {};
  });

  TRY(op.Stage("snapshot", "prepare the root filesystem"));
  undo.Add("drop snapshot", [&core, id] { return core.images.snapshotter().Drop(id.str()); });
  // Writable also when the container may not write: mount points are made in it first.
  auto root = TRY(op.In(core.images.snapshotter().Prepare(id.str(), image->diff_ids, false, until)));

  TRY(op.Stage("spec", "make the container's specification"));
  OciInput in{.pod = *pod,
              .container = c.spec,
              .image = *image,
              .user = {},
              .home = {},
              .pod_dir = layout.PodEtc(pod_id),
              .cgroup = c.cgroup,
              .cgroup_v2 = core.cgroups != nullptr && core.cgroups->unified(),
              .devices = {},
              .hostname = {},
              .seccomp = {}};
  auto who = TRY(op.In(ResolveUser(root.mount.get(), RequestOf(c.spec, image->config.user))));
  in.user = c.user = who.user;
  in.home = who.home;
  in.hostname = Hostname(pod->spec, NodeName());
  in.devices = TRY(op.In(FindDevices(c.spec.devices, c.spec.privileged)));
  TRY(op.In(CheckAppArmor(c.spec.apparmor, "/sys")));
  in.seccomp = TRY(op.In(LoadSeccomp(c.spec, core.runtime_options.seccomp_profile)));
  // Only the mounts of the specification get real paths: status echoes those that were asked for.
  ContainerSpec resolved = c.spec;
  resolved.mounts = TRY(op.In(ResolveMounts(c.spec.mounts)));
  OciInput with_paths{.pod = in.pod,
                      .container = resolved,
                      .image = in.image,
                      .user = in.user,
                      .home = in.home,
                      .pod_dir = in.pod_dir,
                      .cgroup = in.cgroup,
                      .cgroup_v2 = in.cgroup_v2,
                      .devices = in.devices,
                      .hostname = in.hostname,
                      .seccomp = in.seccomp};
  auto spec = TRY(op.In(MakeOciSpec(with_paths)));
  TRY(op.In(MakeDirInRoot(root.mount.get(), spec.process->cwd)));
  if (!c.log_path.empty()) TRY(op.In(MakeDirs(c.log_path.substr(0, c.log_path.rfind('/')))));

  TRY(op.Stage("launch", "make the container's process"));
  undo.Add("remove container cgroup",
           [&core, c] { return RemoveContainerCgroup(core, c, Deadline::After(kUndoTime)); });
  undo.Add("delete container", [&core, c]() -> Result<void> {
    auto r = core.launcher.DeleteContainer(c.pod, c.id, Deadline::After(kUndoTime));
    if (!r && r.error().code == Code::kNotFound) return {};
    return r;
  });
  runtime::ContainerLaunch launch;
  launch.pod = pod_id;
  launch.id = id;
  launch.spec = &spec;
  launch.rootfs = root.mount.get();
  launch.log.path = c.log_path;
  launch.tty = c.spec.tty;
  launch.keep_stdin = c.spec.keep_stdin;
  launch.stdin_once = c.spec.stdin_once;
  launch.pid = static_cast<runtime::NamespaceMode>(c.spec.namespaces.pid);
  launch.target = TRY(Target(core, pod_id, c.spec));
  if (pod->spec.runtime_handler != kNativeHandler) launch.handler = pod->spec.runtime_handler;
  auto made = core.launcher.CreateContainer(launch, until);
  if (made) {
    c.pid = *made;
  } else if (CannotRun(made.error())) {
    // To the caller that is the start's failure: it then sees an exited container with this reason, and may restart it.
    c.reason = kStartError;
    c.message = made.error().what;
  } else {
    return op.Explain(std::move(made).error());
  }

  TRY(op.Stage("created", "record that the container is created"));
  auto lock = TRY(op.In(core.registry.LockPod(pod_id, until)));
  pod = core.registry.Pod(pod_id);
  TRY(CheckReady(pod));
  c.phase = ContainerPhase::kCreated;
  TRY(op.In(core.table.Update(c, &spec)));
  core.registry.Put(c);
  core.events.Publish(EventKind::kContainerCreated, pod, core.registry.Container(id));
  return {};
}

}  // namespace

Result<ContainerId> CreateContainer(Core& core, const std::string& pod_id, const ContainerSpec& spec,
                                    const Deadline& until) {
  auto pod = TRY(core.registry.FindPod(pod_id));
  if (pod->phase == PodPhase::kCreating) return Err(Code::kNotFound, "pod {}: no such pod", pod_id);
  TRY(CheckContainerSpec(spec, pod->spec));
  auto claim = TRY(core.registry.ClaimContainer(pod->id, spec, until));
  if (!claim.first()) {
    if (!claim.answer()) return std::unexpected(claim.answer().error());
    return ContainerId(*claim.answer());
  }

  ContainerState c;
  c.id = NewContainerId();
  c.pod = pod->id;
  c.spec = spec;
  c.created_at = core.registry.NextCreatedAt();

  Operation op(core, "create_container", c.id.str());
  Undo undo;
  auto made = Attempt(core, op, c, undo, until);
  if (!made) {
    Error error = std::move(made).error();
    error.what = fmt::format("create container {}: {}", spec.name, error.what);
    if (!undo.Run()) Abandon(core, c.id, error);
    claim.Finish(std::unexpected(error));
    return std::unexpected(std::move(error));
  }
  undo.Keep();
  claim.Finish(c.id.str());
  log::Info("container.created", {{"container", c.id}, {"pod", c.pod}, {"name", spec.name}, {"image", spec.image}});
  return c.id;
}

}  // namespace berth::pods
