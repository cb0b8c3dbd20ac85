#pragma once
// berth.v1.Agent, the part that is a stream both ways.
#include "berth.grpc.pb.h"
#include "cri/door.h"

namespace berth::cri {

namespace wire = ::berth::v1;

grpc::ServerBidiReactor<wire::ExecInput, wire::ExecOutput>* ServeExec(Door& door, grpc::CallbackServerContext* context);

}  // namespace berth::cri
