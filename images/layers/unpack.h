#pragma once
// Makes a layer's tree as files in a directory, for machines whose kernel cannot mount the tar's index. The result is
// what overlayfs wants of a lower layer: whiteouts are character devices 0:0, opaque directories carry
// trusted.overlay.opaque.
//
// Everything a tar can say is kept: owner, mode with set-id bits, times to the nanosecond, xattrs, hard links, holes,
// device nodes. Symbolic links of the layer are never followed: each directory is made here and entered by descriptor.
// Wants CAP_CHOWN, CAP_MKNOD, CAP_FOWNER and, for trusted xattrs, CAP_SYS_ADMIN.
#include <string>

#include "base/error.h"
#include "images/layers/tree.h"

namespace berth::images {

struct UnpackResult {
  uint64_t bytes = 0;  // as the filesystem counts blocks
  uint64_t inodes = 0;
};

// `path` must not exist; it becomes the layer's root. Files come from the descriptor `tar` by offset. Nothing is
// synced. On failure what was made stays, for the caller to remove. kResourceExhausted on a full disk.
Result<UnpackResult> Unpack(const Tree& tree, int tar, LowerView* lower, const std::string& path);

}  // namespace berth::images
