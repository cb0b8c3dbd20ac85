#pragma once
// What stands behind the streaming server: the core.
#include <memory>

#include "cri/streaming/server.h"
#include "pods/core.h"

namespace berth::cri {

// The core outlives it.
std::unique_ptr<streaming::Backend> MakeStreamBackend(pods::Core& core);

}  // namespace berth::cri
