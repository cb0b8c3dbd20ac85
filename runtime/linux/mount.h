#pragma once
// Detached mounts: trees that no path leads to yet, to be handed to an executor as descriptors.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace berth::runtime::mount {

// What mount option words mean (OCI runtime-spec, mounts; mount(8)). Words that are not flags go to the filesystem.
struct Options {
  uint64_t ms_flags = 0;                  // MS_* for mount(2), of a new filesystem
  uint64_t attr_set = 0, attr_clear = 0;  // MOUNT_ATTR_* of this mount alone
  uint64_t tree_set = 0, tree_clear = 0;  // of the whole tree: rro, rnosuid, ...
  uint64_t propagation = 0;               // MS_PRIVATE, MS_SLAVE, ...; 0: none asked for
  bool propagation_recursive = false;
  bool bind = false, recursive = false, remount = false;
  bool copy_up = false, idmap = false, idmap_recursive = false;
  std::string data;  // "size=65536k,mode=755"
};
Options ParseOptions(const std::vector<std::string>& words);

// A private copy of what is at `path` (AT_FDCWD or dir fd); recursive: with everything mounted below.
Result<unique_fd> CloneTree(int dir, const std::string& path, bool recursive);
Result<unique_fd> CloneTree(const std::string& path, bool recursive);
// A copy of a tree that may be attached nowhere. Kernels before 6.15 cannot clone what is not mounted: there the
// caller's own tree is handed on (a second descriptor of it), and attaching it uses it up.
Result<unique_fd> CloneOrTake(int tree, bool recursive);
// Options onto a detached tree: attributes of the top mount, of the tree, propagation (private unless asked otherwise).
// single: it is one mount without others below, which takes one call less.
Result<void> Configure(int tree, const Options& options, bool single = false);
// Makes a detached tree show the ids of its files as `user_namespace` maps them (Linux 5.12; EINVAL: a filesystem in it
// cannot do that). Before Configure: an id-mapped mount can still be configured, an attached one not be mapped.
Result<void> MapIds(int tree, int user_namespace, bool recursive);
// A new tmpfs, not yet mounted anywhere: "size=64m,mode=1777".
Result<unique_fd> NewTmpfs(std::string_view options, bool readonly = false);

}  // namespace berth::runtime::mount
