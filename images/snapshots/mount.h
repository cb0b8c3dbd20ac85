#pragma once
// The mounts that layers and root filesystems need, through the descriptor-based mount API (Linux 5.2). What these
// calls make is detached: it is nowhere in a mount table until AttachMount, and gone when its descriptor closes. Errors
// carry what the kernel wrote into the context's log. All paths are absolute and at most 255 bytes, the limit of
// fsconfig(2) values.
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace berth::images {

inline constexpr size_t kMaxMountPath = 255;
inline constexpr size_t kMaxLowers = 500;  // overlayfs, OVL_MAX_STACK

// An EROFS image in a file with one further device, as the kernel reads them without loop devices (Linux 6.12).
Result<unique_fd> MountErofs(const std::string& image, const std::string& device);

struct OverlayRequest {
  std::vector<std::string> lowers;  // bottom first
  std::string upper, work;          // both empty: read-only, and then at least two lowers
};
// Whiteouts, opaque directories and copy-up as usual; what a layer brings cannot redirect names or share data
// (redirect_dir=nofollow, metacopy=off), the writable directory stays usable without these lowers (index=off), and
// everything below one root has one st_dev (xino=auto), as find -xdev and du -x expect.
Result<unique_fd> MountOverlay(const OverlayRequest& request);
// The same as kernels before 6.5 need it, all lowers in one string of at most a page; MountOverlay comes here by
// itself. Mounts for a moment beside the first lower, at a name that begins with kOverlayPoint.
Result<unique_fd> MountOverlayByString(const OverlayRequest& request);
inline constexpr std::string_view kOverlayPoint = ".overlay-";

Result<unique_fd> CloneMount(const std::string& path, bool read_only);  // of the tree at path, not recursive
Result<void> AttachMount(const unique_fd& mount, const std::string& path);
Result<void> DetachMount(const std::string& path);  // users of it keep it; not mounted = success

// Makes `path` a mount of its own whose submounts stay in this mount namespace. Does nothing when it is one already.
Result<void> MakePrivateMountPoint(const std::string& path);

struct MountLine {  // of /proc/self/mountinfo
  std::string path, type, source;
};
Result<std::vector<MountLine>> MountsAt(const std::string& directory);  // the directory itself and all below it

}  // namespace berth::images
