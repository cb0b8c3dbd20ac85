#pragma once
// Writes the EROFS image that indexes a layer's tar: directories, inodes, xattrs and, for file contents, the numbers of
// the tar's own blocks (the tar is device 1). About 130 bytes an inode. The kernel parses only what is written here,
// never what came in the tar.
//
// Format: Linux fs/erofs/erofs_fs.h. Blocks of 512 bytes, because tar members start at multiples of that; extended
// inodes only, since compact ones lose times and 32-bit ids; chunk-based files, one entry for a file without holes.
// What is not addressable in blocks (parts of sparse files, files of the layers below) is copied into the index.
//
// The image is a pure function of its inputs: the same layer on the same chain gives the same bytes. Memory: the tree
// and 24 bytes an inode. No global state.
#include <array>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "images/digest.h"
#include "images/layers/tree.h"

namespace berth::images {

// Part of every index's identity: raise it with any change of the bytes written, and older indexes are made anew.
inline constexpr int kErofsWriterVersion = 1;

struct ErofsRequest {
  const Tree& tree;
  int tar = -1;                    // read where bytes have to be copied
  uint64_t tar_size = 0;           // must be the tar's size: the kernel does not check
  LowerView* lower = nullptr;      // for inodes with a lower_path
  std::array<uint8_t, 16> uuid{};  // unique among mounted layers and not zero: overlayfs compares
  std::string tag;                 // into the device slot: up to 64 bytes
};

struct ErofsResult {
  uint64_t bytes = 0;
  Digest sha256;
};

// Writes from the current offset of `out`. kInvalidArgument when the layer cannot be expressed (a tar above 2 TiB, a
// sparse file scattered so widely that its index would exceed twice the tar), kResourceExhausted on a full disk.
Result<ErofsResult> WriteErofs(const ErofsRequest& request, int out);

}  // namespace berth::images
