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
// from the parent (version 1). An existing group is taken when it has no processes, else kConflict. When it fails, what
// it made is removed. `path` must be absolute and clean (no "..", no empty components): kInvalidArgument.
Result<Group> Create(const Layout& layout, const std::string& path);
// For inner groups (a pod's): may exist and have children.
Result<Group> Ensure(const Layout& layout, const std::string& path);

// Writes limits; absent members are left alone. kInvalidArgument names the member; kFailedPrecondition when the host
// has no such controller. Device rules replace all earlier ones.
Result<void> Apply(const Layout& layout, const Group& group, const oci::Resources& resources);

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

Result<void> Freeze(const Layout& layout, const Group& group, bool frozen, const Deadline& until);

struct Stats {
  uint64_t cpu_usage_ns = 0, cpu_user_ns = 0, cpu_system_ns = 0;
  uint64_t cpu_periods = 0, cpu_throttled_periods = 0, cpu_throttled_ns = 0;
  uint64_t memory_usage = 0;        // bytes, with page cache
  uint64_t memory_working_set = 0;  // usage minus inactive file pages, as cAdvisor counts
  uint64_t memory_limit = 0;        // 0: none
  uint64_t memory_rss = 0, memory_cache = 0, memory_mapped_file = 0, memory_swap = 0;
  uint64_t page_faults = 0, major_page_faults = 0;
  uint64_t oom_kills = 0;
  uint64_t pids = 0, pids_limit = 0;  // 0: none
};
Result<Stats> ReadStats(const Layout& layout, const Group& group);  // controllers that are not there leave zeros
Result<uint64_t> OomKills(const Layout& layout, const Group& group);

// The conversions of the OCI specification's version 1 numbers, as runc 1.3 and crun do them.
uint64_t WeightFromShares(uint64_t shares);  // cpu.shares 2..262144 -> cpu.weight 1..10000; 0 stays 0 (unset)
// memory+swap limit of version 1 to memory.swap.max; -1: max. Errors when swap is below limit or limit is unknown.
Result<std::optional<int64_t>> SwapMax(const oci::Memory& memory);

}  // namespace berth::runtime::cgroup
