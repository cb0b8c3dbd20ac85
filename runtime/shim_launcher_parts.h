#pragma once
// What the files of ShimLauncher share. Internal to runtime/.
#include <chrono>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/unique_fd.h"
#include "runtime/shim/pod_link.h"
#include "runtime/shim_cgroups.h"

namespace berth::runtime {

Deadline UndoDeadline();  // to take back what a failed call has made
// Below a directory that the pod may have mounted: never through a link, never anything but a regular file.
Result<unique_fd> OpenLog(const std::string& path);

// Can the monitor do what is asked of the log? `newer`: it speaks 1.1.
Result<void> CheckLog(const LogTarget& log, bool newer, const std::string& what);
// What a monitor is told beside the process (shim::ContainerPolicy), with the descriptors that go with it.
struct PolicyParts {
  shim::ContainerPolicy policy;
  uint32_t flags = 0;            // shim::CreateFlags
  std::vector<unique_fd> fds;
};
Result<PolicyParts> DescribePolicy(const ContainerLaunch& launch, const std::string& cgroup_path);
// A mount of the pod's shared memory for one container; invalid: the pod uses the host's.
Result<unique_fd> ShmFor(PodLink& link, const Deadline& until, const std::string& what);

}  // namespace berth::runtime
