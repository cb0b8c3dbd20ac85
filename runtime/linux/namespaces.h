#pragma once
// Namespaces that exist before the container does: user and time namespaces are made here, by a process that lives just
// long enough to be given its mappings, so that a plan carries them as descriptors like any that is joined by path. The
// caller needs /proc. Forks: not for the daemon's hot paths.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::namespaces {

// CLONE_NEW* of "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"; 0 for any other word.
uint64_t Flag(std::string_view type);
// Opens `path` and checks that it is a namespace of that type (NS_GET_NSTYPE). kInvalidArgument when it is not.
Result<unique_fd> OpenAt(const std::string& path, std::string_view type);
// Whether the descriptor is the namespace of that type in which the calling process is.
bool IsOwn(int ns, std::string_view type);
// The user namespace of the calling process is the host's first one (its inode number is fixed,
// include/linux/proc_ns.h).
bool InInitialUser();

// A new user namespace with these mappings. Without CAP_SETUID and CAP_SETGID the kernel takes only the caller's own
// two ids (then with setgroups denied); for more the helpers newuidmap and newgidmap are run, which /etc/subuid and
// /etc/subgid must allow. kFailedPrecondition: a helper is missing; kPermissionDenied: refused.
Result<unique_fd> MakeUser(const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids);
// A new time namespace, owned by `user` (-1: the caller's own user namespace), with offsets of linux.timeOffsets.
Result<unique_fd> MakeTime(int user, const std::map<std::string, oci::TimeOffset>& offsets);

}  // namespace berth::runtime::namespaces
