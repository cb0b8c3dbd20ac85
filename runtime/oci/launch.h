#pragma once
// What create, run and exec share. Internal to runtime/oci.
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/init/executor.h"
#include "runtime/oci/planner.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {

struct Created {
  ContainerDir dir;
  StateRecord state;
  init::Process process;  // pidfd and terminal are owned by whoever holds this
  bool terminal = false;
};
// Everything of `create`; listen: the process waits on start.sock, else on process.sync. When it fails nothing is left.
Result<Created> Launch(const RuntimeHost& host, const CreateRequest& request, bool listen, int* failed_code);

// Removes what Launch made, after the process is gone, then runs the poststop hooks.
Result<void> TearDown(const RuntimeHost& host, const ContainerDir& dir, const StateRecord& state);
// What follows the exec of the container's process: poststart hooks. When one fails the container is ended and torn
// down, as the specification has it since 1.3.
Result<void> Started(const RuntimeHost& host, const ContainerDir& dir, const StateRecord& state, int pidfd);
// Ends the process by its descriptor and waits; reaps it when it is our child.
void EndProcess(pid_t pid, int pidfd);

// Of a container without a mount namespace: takes the mount at its root away again, if it is still `id`. 0: nothing to do.
Result<void> UnmountRoot(const std::string& rootfs, uint64_t id);
uint64_t MountIdOf(const std::string& path);  // 0 when it cannot be told

std::unexpected<Error> FromFailure(const init::Failure& failure, int* failed_code);
Result<void> WritePidFile(const std::string& path, pid_t pid);
Result<void> SendTerminal(const std::string& socket_path, int master);
// One message with `fd` and the text `name` to the AF_UNIX stream socket at `path`; `option` names it in errors.
Result<void> SendDescriptor(std::string_view option, const std::string& path, int fd, std::string_view name);
// LISTEN_FDS and LISTEN_FDNAMES into the environment.
void Activate(Process& process, const Activation& activation);
// Waits for the child and relays: signals of ours to it, and bytes between our streams and `terminal` when it is one.
Result<int> Attend(pid_t pid, int pidfd, int terminal);
// rootless.cc. A process without root enters the container's user namespace itself, and a mount namespace with it,
// before it plans: only there may it mount. Its rights outside stay those of its user. Sets in->user_entered, nested,
// cgroup_optional.
Result<void> Unprivilege(const RuntimeHost& host, const Spec& spec, PlanInput* in);
// "/berth-oci-<id>" by default; cgroupsPath as it is when absolute, "/berth-oci-<cgroupsPath>" when relative.
Result<std::string> CgroupPath(const RuntimeHost& host, const Spec& spec, const std::string& id);

}  // namespace berth::runtime::oci
