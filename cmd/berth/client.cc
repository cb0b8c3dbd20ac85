#include "cmd/berth/client.h"

namespace berth::cli {
namespace {

Code CodeFromGrpc(grpc::StatusCode code) {
  for (int i = 0; i <= static_cast<int>(Code::kInternal); i++)
    if (auto c = static_cast<Code>(i); c != Code::kNotModified && GrpcStatus(c) == static_cast<int>(code)) return c;
  return Code::kInternal;
}

bool HasPrefix(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

}  // namespace

Client Connect(const std::string& socket, std::chrono::seconds timeout) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(16 << 20);
  arguments.SetMaxSendMessageSize(16 << 20);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  auto channel = grpc::CreateCustomChannel("unix://" + socket, grpc::InsecureChannelCredentials(), arguments);
  return {socket,
          timeout,
          channel,
          cri::RuntimeService::NewStub(channel),
          cri::ImageService::NewStub(channel),
          ::berth::v1::Agent::NewStub(channel)};
}

Result<void> ToResult(const grpc::Status& status, const Client& client) {
  if (status.ok()) return {};
  // An agent that answers may say UNAVAILABLE too, of a registry for example: then the connection stands.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && client.channel->GetState(false) != GRPC_CHANNEL_READY)
    return Err(Code::kUnavailable,
               "no agent answers on {}: {}. Start it with `systemctl start berthd` or `berthd`, or name another socket "
               "with --socket",
               client.socket, status.error_message());
  return Err(CodeFromGrpc(status.error_code()), "{}", status.error_message());
}

Result<cri::Container> FindContainer(const Client& client, const std::string& name) {
  auto all =
      TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListContainers, cri::ListContainersRequest()));
  std::vector<const cri::Container*> by_id, by_name, by_pod;
  std::string pod_id;
  auto pods =
      TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest()));
  for (const auto& pod : pods.items())
    if (pod.metadata().name() == name || (name.size() >= 4 && HasPrefix(pod.id(), name))) pod_id = pod.id();
  for (const auto& container : all.containers()) {
    if (!name.empty() && HasPrefix(container.id(), name)) by_id.push_back(&container);
    if (container.metadata().name() == name) by_name.push_back(&container);
    if (!pod_id.empty() && container.pod_sandbox_id() == pod_id) by_pod.push_back(&container);
  }
  for (const auto& found : {by_id, by_name, by_pod}) {
    if (found.size() == 1) return *found.front();
    if (found.size() > 1) {
      std::string ids;
      for (const auto* c : found) ids += " " + c->id().substr(0, 12);
      return Err(Code::kConflict, "'{}' names {} containers; use one of the ids{}", name, found.size(), ids);
    }
  }
  return Err(Code::kNotFound, "no container '{}'; `berth ps --all` lists what there is", name);
}

Result<cri::PodSandbox> FindPod(const Client& client, const std::string& name) {
  auto all =
      TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest()));
  const cri::PodSandbox* newest = nullptr;
  std::vector<const cri::PodSandbox*> by_id;
  for (const auto& pod : all.items()) {
    if (!name.empty() && HasPrefix(pod.id(), name)) by_id.push_back(&pod);
    if (pod.metadata().name() == name && (newest == nullptr || newest->created_at() < pod.created_at())) newest = &pod;
  }
  if (newest != nullptr) return *newest;
  if (by_id.size() == 1) return *by_id.front();
  if (by_id.size() > 1)
    return Err(Code::kConflict, "'{}' is a prefix of {} pod ids; give more digits", name, by_id.size());
  return Err(Code::kNotFound, "no pod '{}'; `berth pods` lists what there is", name);
}

Result<cri::ContainerStatus> StatusOf(const Client& client, const std::string& container_id) {
  cri::ContainerStatusRequest request;
  request.set_container_id(container_id);
  auto response = TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ContainerStatus, request));
  return response.status();
}

}  // namespace berth::cli
