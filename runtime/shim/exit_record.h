#pragma once
// How a container ended, on disk (format: protocol.h). Part of berth-shim.
#include <cstdint>

namespace berth::shim {

// Writes <id>.exit below the directory so that it survives a power cut. False: errno says why, nothing usable is left.
bool WriteExitRecord(int state_dir, const char* id, int exit_code, int64_t finished_at);
void RemoveExitRecord(int state_dir, const char* id);

}  // namespace berth::shim
