#pragma once
// The cgroups of a pod's containers, as the native launcher keeps track of them: run_dir/<container id>.cgroup is a symbolic
// link whose text is the cgroup's path, written before the cgroup is made.
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/unique_fd.h"

namespace berth::runtime {

class PodLink;

std::string CgroupLink(const PodLink& link, const ContainerId& id);
std::string CgroupOf(const PodLink& link, const ContainerId& id);  // empty: none was made
std::vector<ContainerId> WithCgroup(const PodLink& link);
// Kills what is left in the container's cgroup and takes it and its link away.
Result<void> RemoveCgroup(const PodLink& link, const ContainerId& id, const Deadline& until);

// The directories that a monitor asks for numbers, and which they are (shim::FactFds).
struct FactDirs {
  uint32_t which = 0;
  std::vector<unique_fd> fds;
};
FactDirs OpenFactDirs(const std::string& cgroup_path);

}  // namespace berth::runtime
