#pragma once
// The connection of the `berth` command to the agent, and what every command shares: ids by name, exit codes.
//
// One thread. Calls have the deadline that the user gave with --timeout (default 60 s) unless they wait by nature.
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "api.grpc.pb.h"
#include "base/error.h"
#include "berth.grpc.pb.h"

namespace berth::cli {

namespace cri = ::runtime::v1;

struct Client {
  std::string socket;
  std::chrono::seconds timeout{60};
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<cri::RuntimeService::Stub> runtime;
  std::unique_ptr<cri::ImageService::Stub> images;
  std::unique_ptr<::berth::v1::Agent::Stub> agent;
};

// Connects lazily; the first call finds out whether an agent answers.
Client Connect(const std::string& socket, std::chrono::seconds timeout);

// A gRPC status as our error. When no agent answers, the text says how to start it.
Result<void> ToResult(const grpc::Status& status, const Client& client);

// TRY(Call(client, *client.runtime, &Stub::Version, request)): one unary call with the client's deadline.
template <class Stub, class Request, class Response>
Result<Response> Call(const Client& client, Stub& stub,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request, std::optional<std::chrono::seconds> timeout = std::nullopt) {
  grpc::ClientContext context;
  std::chrono::seconds limit = timeout.value_or(client.timeout);
  if (limit.count() > 0) context.set_deadline(std::chrono::system_clock::now() + limit);
  Response response;
  TRY(ToResult((stub.*method)(&context, request, &response), client));
  return response;
}

// By id, unique id prefix, container name, or name of a pod that has one container.
Result<cri::Container> FindContainer(const Client& client, const std::string& name);
// By id, unique id prefix, or name (of the newest pod of that name).
Result<cri::PodSandbox> FindPod(const Client& client, const std::string& name);
Result<cri::ContainerStatus> StatusOf(const Client& client, const std::string& container_id);

}  // namespace berth::cli
