#include "api.grpc.pb.h"
#include "base/json.h"
#include "cri/bodies.h"
#include "cri/services.h"
#include "cri/streams.h"
#include "cri/unary.h"

namespace berth::cri {

Result<void> Version(Door& door, const api::VersionRequest&, api::VersionResponse& response, Call&) {
  response.set_version("0.1.0");
  response.set_runtime_name("berth");
  response.set_runtime_version(door.identity.version);
  response.set_runtime_api_version("v1");
  return {};
}

Result<void> Status(Door& door, const api::StatusRequest& request, api::StatusResponse& response, Call&) {
  auto condition = [&](std::string_view type, bool status, const std::string& reason, const std::string& message) {
    auto& out = *response.mutable_status()->add_conditions();
    out.set_type(std::string(type));
    out.set_status(status);
    out.set_reason(reason);
    out.set_message(message);
  };
  // An agent that answers has recovered its state and can reach its monitors: both come before the socket.
  condition("RuntimeReady", true, "", "");
  cni::NetworkStatus network = door.network.Status();
  condition("NetworkReady", network.ready,
            network.ready            ? ""
            : network.reason.empty() ? "NetworkPluginNotReady"
                                     : network.reason,
            network.message);
  for (const auto& [name, facts] : door.host.handlers) {
    auto& handler = *response.add_runtime_handlers();
    handler.set_name(name);
    handler.mutable_features()->set_recursive_read_only_mounts(facts.recursive_read_only);
    handler.mutable_features()->set_user_namespaces(false);
  }
  response.mutable_features()->set_supplemental_groups_policy(true);
  if (!request.verbose()) return {};
  json::Object config;
  if (auto tree = json::ParseTree(door.identity.config.empty() ? "{}" : door.identity.config, "configuration");
      tree && tree->is_object())
    config = std::move(tree->as_object());
  config["stateDir"] = door.core.run;  // critest and others look for it
  config["rootDir"] = door.core.root;
  config["snapshotter"] = std::string(door.images.snapshotter().name());
  (*response.mutable_info())["config"] = json::Serialize(config);
  return {};
}

Result<void> RuntimeConfig(Door&, const api::RuntimeConfigRequest&, api::RuntimeConfigResponse& response, Call&) {
  response.mutable_linux()->set_cgroup_driver(api::CGROUPFS);
  return {};
}

namespace {

using Rpcs = api::RuntimeService::CallbackService;
using Context = grpc::CallbackServerContext;

// One line an RPC; the body has the RPC's name.
#define BERTH_RPC(Name, label, kind)                                                                                 \
  grpc::ServerUnaryReactor* Name(Context* context, const api::Name##Request* request, api::Name##Response* response) \
      override {                                                                                                     \
    return Unary(door_, {label, Rpc::kind}, context, request, response, &cri::Name);                                 \
  }
#define BERTH_STREAM(Name, label)                                                                                          \
  grpc::ServerWriteReactor<api::Name##Response>* Name(Context* context, const api::Name##Request* request) override { \
    auto* call = new AnswerStream<api::Name##Response>(door_, {label}, context);                                      \
    call->Start(request, &cri::Name);                                                                                 \
    return call;                                                                                                      \
  }
// Not there: the text says what it needs.
#define BERTH_REFUSED(Name, label, needs)                                                                      \
  grpc::ServerUnaryReactor* Name(Context* context, const api::Name##Request*, api::Name##Response*) override { \
    return RefuseUnary(door_, {label}, context, needs);                                                        \
  }
#define BERTH_REFUSED_STREAM(Name, Request, Response, label, needs)                               \
  grpc::ServerWriteReactor<api::Response>* Name(Context* context, const api::Request*) override { \
    return RefuseStream<api::Response>(door_, {label}, context, needs);                           \
  }

constexpr std::string_view kPodStats =
    "needs statistics of pods, which are not there yet; ContainerStats and the metrics page are";
constexpr std::string_view kMetrics = "needs metrics over CRI, which are not there yet; the Prometheus page has them";
constexpr std::string_view kResize = "needs resizing of limits in place, which is not there yet";
constexpr std::string_view kCheckpoint = "needs checkpoints, which are not there yet";

class RuntimeService final : public Rpcs {
 public:
  explicit RuntimeService(Door& door) : door_(door) {}

  BERTH_RPC(Version, "version", kRead)
  BERTH_RPC(Status, "status", kRead)
  BERTH_RPC(RuntimeConfig, "runtime_config", kRead)
  BERTH_RPC(RunPodSandbox, "run_pod_sandbox", kChange)
  BERTH_RPC(StopPodSandbox, "stop_pod_sandbox", kChange)
  BERTH_RPC(RemovePodSandbox, "remove_pod_sandbox", kChange)
  BERTH_RPC(PodSandboxStatus, "pod_sandbox_status", kRead)
  BERTH_RPC(ListPodSandbox, "list_pod_sandbox", kRead)
  BERTH_RPC(CreateContainer, "create_container", kChange)
  BERTH_RPC(StartContainer, "start_container", kChange)
  BERTH_RPC(StopContainer, "stop_container", kChange)
  BERTH_RPC(RemoveContainer, "remove_container", kChange)
  BERTH_RPC(ContainerStatus, "container_status", kRead)
  BERTH_RPC(ListContainers, "list_containers", kRead)
  BERTH_RPC(ExecSync, "exec_sync", kRead)
  BERTH_RPC(UpdateContainerResources, "update_container_resources", kChange)
  BERTH_RPC(Exec, "exec", kRead)
  BERTH_RPC(Attach, "attach", kRead)
  BERTH_RPC(PortForward, "port_forward", kRead)
  BERTH_RPC(ReopenContainerLog, "reopen_container_log", kChange)
  BERTH_RPC(ContainerStats, "container_stats", kRead)
  BERTH_RPC(ListContainerStats, "list_container_stats", kRead)

  BERTH_REFUSED(UpdatePodSandboxResources, "update_pod_sandbox_resources", kResize)
  BERTH_REFUSED(PodSandboxStats, "pod_sandbox_stats", kPodStats)
  BERTH_REFUSED(ListPodSandboxStats, "list_pod_sandbox_stats", kPodStats)
  BERTH_REFUSED(
      UpdateRuntimeConfig, "update_runtime_config",
      "needs pod networks made from the node's CIDR, which are not there yet; the network comes from the CNI conflist")
  BERTH_REFUSED(CheckpointContainer, "checkpoint_container", kCheckpoint)
  BERTH_REFUSED(CheckpointPod, "checkpoint_pod", kCheckpoint)
  BERTH_REFUSED(RestorePod, "restore_pod", kCheckpoint)
  BERTH_REFUSED(ListMetricDescriptors, "list_metric_descriptors", kMetrics)
  BERTH_REFUSED(ListPodSandboxMetrics, "list_pod_sandbox_metrics", kMetrics)
  grpc::ServerWriteReactor<api::ContainerEventResponse>* GetContainerEvents(Context* context,
                                                                            const api::GetEventsRequest* request) override {
    auto* call = new AnswerStream<api::ContainerEventResponse>(door_, {"get_container_events", Rpc::kRead, /*endless=*/true}, context);
    call->Start(request, &cri::GetContainerEvents);
    return call;
  }
  BERTH_STREAM(StreamPodSandboxes, "stream_pod_sandboxes")
  BERTH_STREAM(StreamContainers, "stream_containers")
  BERTH_STREAM(StreamContainerStats, "stream_container_stats")
  BERTH_REFUSED_STREAM(StreamPodSandboxStats, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
                       "stream_pod_sandbox_stats", kPodStats)
  BERTH_REFUSED_STREAM(StreamPodSandboxMetrics, StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse,
                       "stream_pod_sandbox_metrics", kMetrics)

 private:
  Door& door_;
};

#undef BERTH_RPC
#undef BERTH_STREAM
#undef BERTH_REFUSED
#undef BERTH_REFUSED_STREAM

}  // namespace

std::unique_ptr<grpc::Service> MakeRuntimeService(Door& door) { return std::make_unique<RuntimeService>(door); }

}  // namespace berth::cri
