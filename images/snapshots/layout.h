#pragma once
// Where layers and root filesystems are on disk. The only place that joins these paths.
//
//   <root>/                               Options::root
//     layers/                             0700
//       <diffID>.tar                      the layer: bytes whose SHA-256 is its name; 0400
//       <diffID>.<key>.erofs              its index (erofs); 0400
//       .tmp-<random>                     being written
//     trees/<diffID>.<key>/               the layer unpacked (directory)
//     snapshots/
//       <owner>/chain -> <chain id>       symbolic link that leads nowhere: names the layers below, a row in berth.db
//       <owner>/upper, work               writable directory, absent when read-only
//       .new-<random>, .gone-<random>     being made, being removed
//       .empty/                           stands below an owner without layers
//     erofs-probe                         what the kernel answered, see probe.h
//   <run>/layers/<index id>/              mounts of indexes in use; private mount point
//
// <key> tells apart what one tar means on different layers: "any" when it does not matter, "base" and "upper" when only
// the position does, else the id of the chain below.
#include <string>

#include "images/digest.h"

namespace berth::images {

inline constexpr std::string_view kTemporary = ".tmp-", kNewOwner = ".new-", kGoneOwner = ".gone-";

struct Layout {
  std::string root, run;
  std::string Layers() const { return root + "/layers"; }
  std::string Trees() const { return root + "/trees"; }
  std::string Snapshots() const { return root + "/snapshots"; }
  std::string Empty() const { return root + "/snapshots/.empty"; }
  std::string Probe() const { return root + "/erofs-probe"; }
  std::string Mounts() const { return run + "/layers"; }
  std::string Tar(const Digest& diff_id) const { return fmt::format("{}/layers/{}.tar", root, diff_id.hex()); }
  std::string Owner(std::string_view owner) const { return fmt::format("{}/snapshots/{}", root, owner); }
};

}  // namespace berth::images
