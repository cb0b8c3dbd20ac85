#pragma once
// The native launcher: pods live under berth-shim monitors, containers are start plans that a monitor executes.
//
// What it leaves on the machine for a pod: the monitor process and what it owns (namespaces, /dev/shm), run_dir/shim.sock,
// run_dir/<container id>.cgroup (a symbolic link whose text is the cgroup's path, so that even the next agent can kill a
// container whose monitor hangs), run_dir/<container id>.bundle with two mounts for a container of another runtime
// (foreign_bundle.h), state_dir/<container id>.exit, and the containers' cgroups. StopPod takes all of it away
// but the exit records, which go with DeleteContainer or with the caller's state_dir.
//
// Two threads listen to monitors and call back (shim/pod_link.h); calls run in the caller's thread. Destroying the launcher
// leaves every pod running for Adopt.
#include <memory>
#include <string>

#include "runtime/launcher.h"
#include "runtime/options.h"

namespace berth::runtime {

class Links;
class PodLink;
class SpawnerClient;

class ShimLauncher final : public Launcher {
 public:
  // Starts the spawner. kFailedPrecondition when berth-shim is not where `options` or the running program say.
  static Result<std::unique_ptr<ShimLauncher>> Make(const Options& options, const Deadline& until);
  ~ShimLauncher() override;

  void OnExit(ExitCallback callback) override;
  void OnLost(LostCallback callback) override;
  Result<AdoptedPod> Adopt(const PodLaunch& pod, const Deadline& until) override;
  Result<std::vector<ExitFacts>> ReadExitRecords(const std::string& state_dir) override;
  Result<PodHandle> StartPod(const PodLaunch& pod, const Deadline& until) override;
  Result<void> StopPod(const PodId& pod, const Deadline& until) override;
  Result<pid_t> CreateContainer(const ContainerLaunch& launch, const Deadline& until) override;
  Result<int64_t> StartContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  Result<void> Signal(const PodId& pod, const ContainerId& id, int signal, bool all, const Deadline& until) override;
  Result<void> DeleteContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  Result<ExecHandle> Exec(const ExecLaunch& launch, const Deadline& until) override;
  Result<void> SignalExec(const PodId& pod, uint64_t exec, int signal, const Deadline& until) override;
  Result<void> ReopenLog(const PodId& pod, const ContainerId& id, const std::string& path, const Deadline& until) override;

  Result<AttachHandle> Attach(const AttachLaunch& launch, const Deadline& until) override;
  Result<void> Detach(const PodId& pod, uint64_t attach, const Deadline& until) override;
  Result<void> CloseStdin(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  Result<unique_fd> Socket(const PodId& pod, int family, const Deadline& until) override;
  Result<void> Resize(const PodId& pod, const ContainerId& id, uint16_t rows, uint16_t columns, const Deadline& until) override;
  Result<void> ResizeExec(const PodId& pod, uint64_t exec, uint16_t rows, uint16_t columns, const Deadline& until) override;
  Result<void> Pause(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  Result<void> Resume(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  Result<void> Update(const PodId& pod, const ContainerId& id, const oci::Resources& resources, const Deadline& until) override;
  Result<ContainerUsage> Usage(const PodId& pod, const ContainerId& id, const Deadline& until) override;
  pid_t spawner() const;  // of the spawner process; -1: none now

 private:
  ShimLauncher(const Options& options, std::string program);

  // Containers of other runtimes (shim_foreign.cc).
  Result<pid_t> CreateForeign(const std::shared_ptr<PodLink>& link, const ContainerLaunch& launch, const Deadline& until);
  Result<int64_t> StartForeign(PodLink& link, const ContainerId& id, const Deadline& until);
  Result<void> SignalForeign(PodLink& link, const ContainerId& id, int signal, bool all, const Deadline& until);
  Result<void> DeleteForeign(PodLink& link, const ContainerId& id, const Deadline& until);
  Result<ExecHandle> ExecForeign(PodLink& link, const ExecLaunch& launch, const Deadline& until);

  Result<PodHandle> Spawn(const std::shared_ptr<PodLink>& link, const PodLaunch& pod, const Deadline& until);
  Result<std::shared_ptr<PodLink>> Need(const PodId& pod) const;
  Result<void> Freeze(const PodId& pod, const ContainerId& id, bool frozen, const Deadline& until);

  const std::map<std::string, Handler> handlers_;
  std::unique_ptr<Links> links_;
  std::unique_ptr<SpawnerClient> spawner_;
};

}  // namespace berth::runtime
