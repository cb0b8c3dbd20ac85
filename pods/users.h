#pragma once
// Who a container runs as, from the request, the image and the image's own /etc/passwd and /etc/group.
//
// The files are hostile: opened inside the root filesystem (openat2 RESOLVE_IN_ROOT, so their symbolic links cannot
// leave it), regular files only, at most a mebibyte each; lines that cannot be read are skipped, as libc does. Missing
// files are empty ones.
#include <string>

#include "base/error.h"
#include "pods/state.h"

namespace berth::pods {

struct UserRequest {
  std::string user;                 // "uid", "name", "uid:gid", "name:group", ":gid"; empty: root
  std::optional<int64_t> uid, gid;  // in place of the parts of `user`
  std::vector<int64_t> groups;      // supplemental, in addition
  bool strict_groups = false;       // only `groups`, not the memberships in /etc/group
};

struct UserAnswer {
  ResolvedUser user;  // groups: the primary gid first, then the others as found, no duplicates
  std::string home;   // of the passwd entry; "/" without one
};

// `root`: directory or mount descriptor of the root filesystem. kInvalidArgument: a name without an entry, a number out
// of range; kNotFound never.
Result<UserAnswer> ResolveUser(int root, const UserRequest& request);

// The request that a container's fields make.
UserRequest RequestOf(const ContainerSpec& spec, const std::string& image_user);

}  // namespace berth::pods
