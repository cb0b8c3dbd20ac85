#pragma once
// The failpoints of this folder (base/failpoint.h), for `berthd failpoints` and the recovery tests.
#include <string_view>

namespace berth::images {

inline constexpr std::string_view kSnapshotFailpoints[] = {
    "commit_layer.synced",     // tar and view are on disk under temporary names
    "commit_layer.tar_named",  // the tar has its name
    "commit_layer.named",      // so has the view; no record yet
    "commit_layer.recorded",   // the record is written
    "prepare.directory",       // the owner's directory is complete under a temporary name
    "prepare.named",           // it has its name
    "prepare.mounted",         // the root filesystem is mounted, detached
    "drop.renamed",            // the owner is gone, its files are not
    "remove_layer.forgotten",  // the record is gone, the files are not
};

}  // namespace berth::images
