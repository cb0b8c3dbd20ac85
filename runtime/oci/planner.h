#pragma once
// From an OCI specification to a start plan (runtime/init/plan.h).
//
// The planner runs where the host's paths mean something (berthd, berth-oci). It opens everything the executor needs
// and returns it as descriptors, in the order in which the plan counts them, so the executor looks up no path of the
// host. It validates: a bad value is kInvalidArgument naming the member ("mounts[3].destination: must be absolute"),
// and what is deliberately not there is kUnimplemented. Any thread may call; no shared state but the seccomp cache.
//
//   auto prepared = TRY(oci::MakePlan({.spec = &spec, .id = id, .rootfs = fd, .cgroup_path = "/berth/p/c"}));
//   send prepared.plan and prepared.fds to the shim, which calls init::Create(plan, size, fds, count, stdio, ...)
//   when that fails, or at deletion:  cgroup::Remove(prepared.cgroup)
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/linux/cgroup.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

// Namespaces follow spec.linux.namespaces: listed without path, a new one; listed with path, that one; not listed, the
// one of the process that executes the plan. Without `mount` the tree is attached at root.path of the caller's own
// namespace, for the caller to unmount; of one with a path the container gets a chroot,
// for others live there. New user and time namespaces are made here. The members below come on top.
struct PlanInput {
  const Spec* spec = nullptr;  // spec.process may be absent: then a start fails
  std::string id;              // container id: names the session keyring and messages
  int rootfs = -1;             // detached mount (fsmount, open_tree) or directory; borrowed. It stays usable for a
                               // second plan when the kernel can clone detached mounts (6.15); else it is used up.
                               // -1: spec.root.path, relative to `bundle`
  std::string bundle;          // absolute; base of relative mount sources and root.path
  int shm = -1;                // tmpfs of the pod: attached on /dev/shm in place of the tmpfs that spec.mounts asks for
                               // there; a bind mount stays. Borrowed; cloned for each container as `rootfs` is
  int pid_namespace = -1;      // join this PID namespace (namespace fd or a pidfd), whatever the spec says
  bool caller_pid = false;     // the same, but the descriptor comes with init::Options::pid_namespace
  std::string cgroup_path;     // absolute, below every hierarchy's mount ("/berth/<pod>/<container>"); empty: the
                               // executor's cgroups are kept and spec.linux.resources must be empty
  bool adopt_cgroup = false;   // systemd has made it and a process of the caller's is in it: used as it is, and left
                               // there when planning fails
  int user_namespace = -1;     // join this user namespace (a pod's), whatever the spec says; borrowed
  bool user_entered = false;   // the calling process, which executes the plan too, has entered the user namespace that
                              // the spec asks for (rootless): nothing is left to be done for it
  bool nested = false;  // it is in a user namespace other than the host's first one: no device nodes can be made
  bool cgroup_optional = false;  // rootless: where no cgroup may be made the container does without, with a warning
                                 // when that loses limits
  bool terminal = false;  // or-ed with spec.process.terminal
  bool new_keyring = true;
  bool no_pivot = false;
  uint32_t preserve_fds = 0;
  bool listen_pid = false;    // LISTEN_PID with the process's id joins its environment
  std::vector<int> tasks;     // further files to which the process writes 0 to enter (resctrl); borrowed
  bool attended = false;      // the caller runs hooks (init::Observer) and hands a seccomp listener over
                              // (init::Observer): without it what needs them is kUnimplemented
  int listen = -1;            // listening AF_UNIX socket on which `start` may come from another process; borrowed
  std::string seccomp_cache;  // directory for compiled programs; empty: memory only
};

// What init::Create takes, and what it leaves behind on the host.
struct Prepared {
  std::string plan;                   // bytes
  std::vector<unique_fd> fds;         // all O_CLOEXEC; plan.h's FdIndex counts into this
  cgroup::Group cgroup;               // made, limits written; path empty when none was asked for
  bool notifies = false;              // the seccomp filter has a listener that must be handed over (init::Observer)
  // Delegation (runtime-spec, "Cgroup ownership"): host uid that is to own the cgroup, by cgroup::Delegate once the process
  // exists.
  std::optional<uint32_t> cgroup_owner;
  std::vector<std::string> warnings;  // what was asked for and cannot be given (unknown capabilities, ...)
  std::vector<int> RawFds() const {
    std::vector<int> raw;
    for (const unique_fd& fd : fds) raw.push_back(fd.get());
    return raw;
  }
};

// Makes the cgroup, opens everything, writes the plan. When it fails nothing is left (the cgroup is removed again).
// kInvalidArgument, kUnimplemented, kFailedPrecondition (host lacks a controller that a limit needs), kConflict (the
// cgroup exists and has processes), kNotFound (a bind source).
Result<Prepared> MakePlan(const PlanInput& input);

// A further process in a running container: joins its namespaces and cgroup, then the same last steps.
struct ExecInput {
  const Process* process = nullptr;
  const Spec* spec = nullptr;  // the container's: seccomp, namespaces. May be null: no seccomp, all namespaces joined
  std::string id;
  int root = -1;            // of a container without a mount namespace: its root directory, to chroot into; borrowed
  int target = -1;          // pidfd of the container's first process; -1: init::Options::target supplies it
  std::string cgroup_path;  // of the container; empty: the executor's cgroups are kept
  bool terminal = false;
  uint16_t rows = 0, columns = 0;
  std::vector<std::pair<std::string, std::string>> subgroups;  // {controller, or "" for all; path below cgroup_path}
  std::string v2_path;        // where to be on version 2 instead of cgroup_path; relative to its mount
  std::vector<int> tasks;     // as in PlanInput
  uint32_t preserve_fds = 0;
  bool listen_pid = false;
  bool attended = false;  // as in PlanInput
  std::string seccomp_cache;
};
Result<Prepared> MakeExecPlan(const ExecInput& input);  // result's cgroup is empty: nothing was made

}  // namespace berth::runtime::oci
