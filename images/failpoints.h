#pragma once
// The failpoints of this folder (base/failpoint.h), for `berthd failpoints` and the recovery tests.
#include <string_view>

namespace berth::images {

inline constexpr std::string_view kFailpoints[] = {
    "pull_image.held",        // the rows that own the coming layers are written, no layer yet
    "pull_image.downloaded",  // a layer's blob is complete in ingest/, not yet committed
    "pull_image.layer",       // a layer is committed
    "pull_image.documents",   // manifest and config are on disk, the image row is not written
    "pull_image.committed",   // the image row is written, memory does not know it
    "remove_image.row",       // the image row is gone, its documents and layers are not
};

}  // namespace berth::images
