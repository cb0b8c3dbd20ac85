#pragma once
// Precompiled for cri/ only: the generated headers are 2.5 MB and gRPC's are as slow, everything here needs both.
#include "cmake/pch.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "api.grpc.pb.h"
#include "berth.grpc.pb.h"
