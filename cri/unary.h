#pragma once
// The one way a unary RPC runs: gRPC's reactor hops to the worker pool; there the request's shape is checked, the body
// converts and calls the core, the error becomes a status, the metric and the log line are written.
//
//   return Unary(door, {"stop_pod_sandbox", Rpc::kChange}, context, request, response, &StopPodSandbox);
//
// where the body is Result<void>(Door&, const Request&, Response&, Call&) and may block until call.until.
#include "cri/door.h"

namespace berth::cri {

template <class Request, class Response>
using UnaryBody = Result<void> (*)(Door&, const Request&, Response&, Call&);

template <class Request, class Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context) : frame_(door, rpc, context) {}

  // gRPC deletes the call after Finish (OnDone), so nothing may touch `this` afterwards.
  void Start(const Request* request, Response* response, UnaryBody<Request, Response> body) {
    auto submitted = frame_.door().pool.Submit([this, request, response, body] {
      Finish(frame_.Run(request, [&](Call& call) { return body(frame_.door(), *request, *response, call); }));
    });
    if (!submitted) Finish(frame_.Refuse(submitted.error()));
  }
  void OnCancel() override { frame_.Cancelled(); }
  void OnDone() override { delete this; }

 private:
  CallFrame frame_;
};

template <class Request, class Response>
grpc::ServerUnaryReactor* Unary(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context,
                                const Request* request, Response* response, UnaryBody<Request, Response> body) {
  auto* call = new UnaryCall<Request, Response>(door, rpc, context);
  call->Start(request, response, body);
  return call;
}

// What is not there: UNIMPLEMENTED with the capability it needs. Counted and logged like any other call.
inline grpc::Status NotThere(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context, std::string_view needs) {
  return CallFrame(door, rpc, context)
      .Refuse(Error{Code::kUnimplemented, fmt::format("{}: {}", rpc.name, needs), 0, {}});
}

inline grpc::ServerUnaryReactor* RefuseUnary(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context,
                                             std::string_view needs) {
  auto* reactor = context->DefaultReactor();
  reactor->Finish(NotThere(door, rpc, context, needs));
  return reactor;
}

template <class Response>
grpc::ServerWriteReactor<Response>* RefuseStream(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context,
                                                 std::string_view needs) {
  class Refused final : public grpc::ServerWriteReactor<Response> {
   public:
    void OnDone() override { delete this; }
  };
  auto* reactor = new Refused;
  reactor->Finish(NotThere(door, rpc, context, needs));
  return reactor;
}

}  // namespace berth::cri
