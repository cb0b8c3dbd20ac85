#pragma once
// Work inside a container's root filesystem from outside: nothing here follows a link out of it.
#include <string>

#include "base/error.h"

namespace berth::pods {

// Makes `path` with its parents inside the root, 0755, owned by root. An existing file in the way is left alone: the
// container's start then says so.
Result<void> MakeDirInRoot(int root, const std::string& path);

}  // namespace berth::pods
