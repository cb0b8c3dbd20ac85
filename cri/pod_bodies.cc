#include "cri/bodies.h"
#include "cri/check.h"
#include "cri/convert.h"
#include "pods/registry.h"

namespace berth::cri {

Result<void> RunPodSandbox(Door& door, const api::RunPodSandboxRequest& request, api::RunPodSandboxResponse& response,
                           Call& call) {
  const auto& metadata = request.config().metadata();
  call.object = fmt::format("{}/{}", metadata.namespace_(), metadata.name()).substr(0, 128);
  pods::PodSpec spec = TRY(ToPodSpec(request, door.host));
  PodId id = TRY(pods::RunPod(door.core, spec, call.until));
  call.object = fmt::format("{} {}", id.Short(), call.object);
  response.set_pod_sandbox_id(id.str());
  return {};
}

Result<void> StopPodSandbox(Door& door, const api::StopPodSandboxRequest& request, api::StopPodSandboxResponse&,
                            Call& call) {
  call.object = request.pod_sandbox_id().substr(0, 64);
  TRY(CheckName("pod_sandbox_id", request.pod_sandbox_id()));
  return pods::StopPod(door.core, request.pod_sandbox_id(), call.until);
}

Result<void> RemovePodSandbox(Door& door, const api::RemovePodSandboxRequest& request, api::RemovePodSandboxResponse&,
                              Call& call) {
  call.object = request.pod_sandbox_id().substr(0, 64);
  TRY(CheckName("pod_sandbox_id", request.pod_sandbox_id()));
  return pods::RemovePod(door.core, request.pod_sandbox_id(), call.until);
}

Result<void> PodSandboxStatus(Door& door, const api::PodSandboxStatusRequest& request,
                              api::PodSandboxStatusResponse& response, Call& call) {
  call.object = request.pod_sandbox_id().substr(0, 64);
  TRY(CheckName("pod_sandbox_id", request.pod_sandbox_id()));
  pods::PodState pod = TRY(pods::FindPod(door.core, request.pod_sandbox_id()));
  FillPodStatus(pod, *response.mutable_status());
  if (request.verbose()) (*response.mutable_info())["info"] = PodInfo(pod);
  return {};
}

Result<void> ListPodSandbox(Door& door, const api::ListPodSandboxRequest& request,
                            api::ListPodSandboxResponse& response, Call&) {
  pods::PodFilter filter;
  filter.id = request.filter().id();
  for (const auto& [key, value] : request.filter().label_selector()) filter.labels[key] = value;
  for (const auto& pod : door.core.registry.Pods(filter))
    if (Selects(request.filter(), *pod)) FillPod(*pod, *response.add_items());
  return {};
}

}  // namespace berth::cri
