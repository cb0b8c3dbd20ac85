#pragma once
// One agent a directory: a lock that the kernel lets go of with the process.
#include <string>

#include "base/unique_fd.h"

namespace berth {

// Holds <path> until the descriptor is closed. kConflict names the process that has it. `what` is the directory in
// words.
Result<unique_fd> LockFile(const std::string& path, const std::string& what);

}  // namespace berth
