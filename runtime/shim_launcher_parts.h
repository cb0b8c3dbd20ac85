#pragma once
// What the files of ShimLauncher share. Internal to runtime/.
#include <chrono>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/unique_fd.h"
#include "runtime/shim/pod_link.h"

namespace berth::runtime {

Deadline UndoDeadline();  // to take back what a failed call has made
Result<std::string> ContainerBody(const ContainerId& id);
// Below a directory that the pod may have mounted: never through a link, never anything but a regular file.
Result<unique_fd> OpenLog(const std::string& path);

// The cgroup's path beside the socket: what exists can always be found.
std::string CgroupLink(const PodLink& link, const ContainerId& id);
std::string CgroupOf(const PodLink& link, const ContainerId& id);  // empty: none was made
// Kills what is left in the container's cgroup and takes it and its link away.
Result<void> RemoveCgroup(const PodLink& link, const ContainerId& id, const Deadline& until);
// A mount of the pod's shared memory for one container; invalid: the pod uses the host's.
Result<unique_fd> ShmFor(PodLink& link, const Deadline& until, const std::string& what);

}  // namespace berth::runtime
