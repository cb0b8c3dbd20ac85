#pragma once
// Files that are there whole or not at all, also after a power cut.
#include <string>
#include <string_view>

#include "base/error.h"

namespace berth {

// Writes <path>.tmp-<random>, fsyncs, renames over path, fsyncs the directory.
Result<void> WriteFileAtomic(const std::string& path, std::string_view bytes, unsigned mode = 0644);
// Whole file; refuses more than `limit` bytes with kInvalidArgument.
Result<std::string> ReadFile(const std::string& path, size_t limit = 64 << 20);
Result<std::string> ReadFileAt(int dir, const std::string& path, size_t limit = 64 << 20);
// One write(2) to an existing file (sysctl, cgroup); the error names path and value.
Result<void> WriteExisting(const std::string& path, std::string_view value);
Result<void> MakeDirs(const std::string& path, unsigned mode = 0755);   // mkdir -p
// rm -rf, however deep; never follows symlinks; missing = success. What is mounted below (or at) path is not entered:
// kConflict, and the rest may be gone by then.
Result<void> RemoveTree(const std::string& path);
Result<void> SyncDirectory(const std::string& path);
bool Exists(const std::string& path);                                   // lstat
Result<void> WriteAll(int fd, std::string_view bytes);                  // repeats short writes and EINTR

}  // namespace berth
