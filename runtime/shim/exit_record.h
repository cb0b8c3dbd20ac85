#pragma once
// How a container ended, on disk (format: protocol.h). Part of berth-shim.
#include "runtime/shim/protocol.h"

namespace berth::shim {

// Writes <id>.exit below the directory so that it survives a power cut. False: errno says why, nothing usable is left.
bool WriteExitRecord(int state_dir, const ExitEvent& exit);
void RemoveExitRecord(int state_dir, const char* id);

}  // namespace berth::shim
