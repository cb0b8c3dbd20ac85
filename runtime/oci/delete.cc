#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include "base/deadline.h"
#include "runtime/linux/cgroup.h"
#include "runtime/oci/launch.h"
#include "runtime/oci/scope.h"

namespace berth::runtime::oci {

Result<void> Delete(const RuntimeHost& host, const std::string& id, bool force) {
  auto found = ContainerDir::Find(host.root, id);
  if (!found) {
    if (force && found.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(found).error());
  }
  ContainerDir& dir = *found;
  auto read = dir.ReadState();
  if (!read) {
    // A creation that was interrupted left no record of a process; the cgroup is where its config says.
    if (!force) return std::unexpected(std::move(read).error());
    StateRecord half;
    half.id = id;
    if (auto spec = dir.ReadConfig(); spec && spec->linux) {
      if (auto path = CgroupPath(host, *spec, id)) {
        half.cgroup = *path;
        if (host.systemd_cgroup) half.scope = path->substr(path->rfind('/') + 1);
      }
      half.ociVersion = spec->ociVersion;
      half.annotations = spec->annotations;
      if (spec->hooks) half.hooks.emplace().poststop = spec->hooks->poststop;
    }
    return TearDown(host, dir, half);
  }
  StateRecord& state = *read;
  Status status = TRY(StatusOf(dir, state));
  if (status != Status::kStopped) {
    if (status != Status::kCreated && !force)
      return Err(Code::kConflict, "cannot delete container {} that is not stopped: {}", id, StatusName(status));
    if (auto process = OpenProcess(state)) {
      if (status == Status::kPaused) TRY(Pause(host, id, false));
      ::syscall(SYS_pidfd_send_signal, process->get(), SIGKILL, nullptr, 0);
      TRY(Deadline::After(std::chrono::seconds(10)).WaitFor(process->get(), POLLIN, "the container's process to end"));
    }
  }
  return TearDown(host, dir, state);
}

Result<void> Pause(const RuntimeHost& host, const std::string& id, bool paused) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  Status status = TRY(StatusOf(dir, state));
  if (paused && status != Status::kRunning && status != Status::kCreated)
    return Err(Code::kConflict, "container not running or created: {}", StatusName(status));
  if (!paused && status != Status::kPaused) return Err(Code::kConflict, "container not paused");
  if (state.cgroup.empty())
    return Err(Code::kFailedPrecondition, "container {} has no cgroup: it cannot be paused or resumed", id);
  return cgroup::Freeze(*TRY(cgroup::Host()), cgroup::Group{state.cgroup}, paused,
                        Deadline::After(std::chrono::seconds(10)));
}

Result<void> Update(const RuntimeHost& host, const std::string& id, const Resources& resources) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  if (TRY(StatusOf(dir, state)) == Status::kStopped) return Err(Code::kConflict, "container not running");
  if (state.cgroup.empty())
    return Err(Code::kFailedPrecondition, "container {} has no cgroup: it has no limits to update", id);
  if (!state.scope.empty()) TRY(UpdateScope(state.scope, resources, Deadline::After(std::chrono::seconds(30))));
  return cgroup::Update(*TRY(cgroup::Host()), cgroup::Group{state.cgroup}, resources);
}

Result<void> UpdateSchemata(const RuntimeHost& host, const std::string& id, const std::vector<std::string>& lines) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  if (!state.resctrl || !state.resctrl->made)
    return Err(Code::kConflict, "container {} has no class of its own in linux.intelRdt", id);
  return resctrl::WriteSchemata(TRY(resctrl::Mount()), state.resctrl->dir, lines);
}

}  // namespace berth::runtime::oci
