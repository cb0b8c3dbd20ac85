#pragma once
// Control groups, version 1, 2 and both at once.
//
// A group has one path ("/berth/p/c") below the mount of every hierarchy. Each mounted version 1 hierarchy is used,
// named ones too; version 2 serves the controllers that are not mounted as version 1, `cgroup.kill` and `populated`.
// Nothing here ever writes a pid into cgroup.procs (7 to 15 ms, an RCU grace period each): processes enter by
// CLONE_INTO_CGROUP or by writing 0 to `tasks` themselves. Free functions without state; any thread.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::cgroup {

struct Hierarchy {
  std::string mount;                     // "/sys/fs/cgroup/memory"
  std::vector<std::string> controllers;  // {"cpu", "cpuacct"}; {"name=systemd"}
};

struct Layout {
  std::vector<Hierarchy> v1;
  std::string v2;                           // mount of cgroup2; empty: none
  std::vector<std::string> v2_controllers;  // of its root: cgroup.controllers
  bool unified() const { return v1.empty() && !v2.empty(); }
  // "/sys/fs/cgroup/memory" when the controller is version 1; nullopt otherwise.
  const Hierarchy* V1(std::string_view controller) const;
  bool V2(std::string_view controller) const;
};

Result<Layout> DetectLayout(std::string_view mountinfo, const std::string& v2_root_for_test = "");
Result<Layout> Detect();  // from /proc/self/mountinfo of the calling thread's namespace
// Detect() once per process. berthd's mounts of cgroupfs do not change while it runs.
Result<const Layout*> Host();

struct Group {
  std::string path;  // empty: no group
};

// Makes the directories in every hierarchy, parents too, enables controllers on the way down (version 2), fills cpuset
// from the parent (version 1). An existing group is taken when it has no processes (in it or below) and is not frozen,
// else kConflict; a new one below a frozen parent is kConflict too, since nothing could start in it. When it fails,
// what it made is removed. `path` must be absolute and clean (no "..", no empty components): kInvalidArgument.
Result<Group> Create(const Layout& layout, const std::string& path);
// For inner groups (a pod's) and those that systemd made: may exist, have children and processes.
Result<Group> Ensure(const Layout& layout, const std::string& path);

// The limits of a group that was just made; absent members are left alone. kInvalidArgument names the member;
// kFailedPrecondition names member and controller when the host has no such controller or the controller has no such
// file. Device rules replace all earlier ones. What was written before a failure stays: the caller removes the group.
Result<void> Apply(const Layout& layout, const Group& group, const oci::Resources& resources);
// The same for a group with processes in it: all of it or nothing. When a write fails, those before it are taken back
// and the error says so; kConflict when a limit is below what is in use (memory.checkBeforeUpdate, or the kernel's
// word). Device rules change without a moment in which a device of both sets is refused. Serialise calls for one group.
Result<void> Update(const Layout& layout, const Group& group, const oci::Resources& resources);

struct Entry {
  std::vector<unique_fd> tasks;  // version 1: `tasks`, write only
  unique_fd v2;                  // directory, for CLONE_INTO_CGROUP
};
Result<Entry> OpenEntry(const Layout& layout, const Group& group);

Result<std::vector<pid_t>> Processes(const Layout& layout, const Group& group);  // subtree, host pids, sorted, unique
// SIGKILL to everything in the subtree; returns when the kernel has been told, not when they are dead.
Result<void> KillAll(const Layout& layout, const Group& group);
Result<void> SignalAll(const Layout& layout, const Group& group, int signal);
// Waits until no process is left in the subtree.
Result<void> WaitEmpty(const Layout& layout, const Group& group, const Deadline& until);
// Removes the group and its children from every hierarchy; a group that is not there is success. Repeats while the
// kernel says EBUSY, as long as the deadline allows. Parents stay.
Result<void> Remove(const Layout& layout, const Group& group, const Deadline& until);
Result<void> Remove(const Group& group);  // Host(), at most 2 s
// After Remove: what became empty above it, as far up as the path begins with `prefix`. Best effort.
void RemoveEmptyParents(const Layout& layout, const Group& group, std::string_view prefix);

// The calling process's own group ("/user.slice/...") in the hierarchy that is mounted there; "" when it is the root.
std::string OwnPath(const std::string& mount);
// Makes `uid` the owner of the group's directory and of the files that the kernel allows to be delegated
// (/sys/kernel/cgroup/delegate). Version 2 only; files that are not there are passed over.
Result<void> Delegate(const Layout& layout, const Group& group, uint32_t uid);

// Stops or continues every process of the subtree; returns when the kernel says that it is done. When stopping takes longer
// than the deadline allows (a process in uninterruptible sleep, version 1 while it forks without end), all go on and the
// error is the deadline's. kNotFound: no such group.
Result<void> Freeze(const Layout& layout, const Group& group, bool frozen, const Deadline& until);
Result<bool> IsFrozen(const Layout& layout, const Group& group);  // by itself: a frozen parent is not looked at

// runtime/linux/cgroup_stats.h: usage. runtime/linux/cgroup_oom.h: what the OOM killer did.

// The conversions of the OCI specification's version 1 numbers, as runc 1.3 and crun do them (more: cgroup_settings.h).
uint64_t WeightFromShares(uint64_t shares);  // cpu.shares 2..262144 -> cpu.weight 1..10000; 0 stays 0 (unset)
// memory+swap limit of version 1 to memory.swap.max; -1: max. Errors when swap is below limit or limit is unknown.
Result<std::optional<int64_t>> SwapMax(const oci::Memory& memory);

}  // namespace berth::runtime::cgroup
