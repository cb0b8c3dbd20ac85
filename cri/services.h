#pragma once
// The three services of the socket. In each .cc an RPC is one line that names its body.
#include <memory>

#include "cri/door.h"

namespace grpc {
class Service;
}

namespace berth::cri {

std::unique_ptr<grpc::Service> MakeRuntimeService(Door& door);  // the door outlives it
std::unique_ptr<grpc::Service> MakeImageService(Door& door);
std::unique_ptr<grpc::Service> MakeAgentService(Door& door);

}  // namespace berth::cri
