#include "cri/bodies.h"
#include "cri/check.h"
#include "cri/convert.h"
#include "pods/registry.h"

namespace berth::cri {
namespace {

constexpr int64_t kLongest = 365 * 24 * 3600;  // seconds; more would overflow nanoseconds and means "no limit" anyway

// Both streams and the framing fit 16 MiB, which clients accept at most.
constexpr size_t kStreamLimit = 8 * 1000 * 1000;

std::vector<pods::ContainerPtr> Matching(Door& door, const std::string& id, const std::string& pod,
                                         const LabelSelector& selector) {
  pods::ContainerFilter filter;
  filter.id = id;
  filter.pod = pod;
  for (const auto& [key, value] : selector) filter.labels[key] = value;
  return door.core.registry.Containers(filter);
}

Result<void> CheckContainerId(const std::string& id, Call& call) {
  call.object = id.substr(0, 64);
  return CheckName("container_id", id);
}

}  // namespace

Result<void> CreateContainer(Door& door, const api::CreateContainerRequest& request,
                             api::CreateContainerResponse& response, Call& call) {
  call.object = fmt::format("{} {}", request.pod_sandbox_id(), request.config().metadata().name()).substr(0, 128);
  ContainerRequest wanted = TRY(ToContainerSpec(request, door.host, call.kubelet_text));
  const pods::ContainerSpec& spec = wanted.spec;
  pods::PodState pod = TRY(pods::FindPod(door.core, request.pod_sandbox_id()));
  if (spec.privileged && !pod.spec.privileged)
    return Bad("config.linux.security_context.privileged",
               "needs a sandbox made with linux.security_context.privileged");
  if (spec.namespaces.pid == pods::Namespace::kPod && pod.spec.namespaces.pid != pods::Namespace::kPod)
    return Bad(
        "config.linux.security_context.namespace_options.pid",
        "POD (0) needs a sandbox made with pid POD; this one has no shared PID namespace, ask for CONTAINER (1)");
  if (!wanted.image_ref.empty()) {
    images::ImagePtr image = TRY_CTX(door.images.Find(spec.image), "config.image.image");
    if (image->id.str() != wanted.image_ref && image->id.hex() != wanted.image_ref)
      return Bad("config.image.image_ref",
                 fmt::format("{} is image {}, not {}", Quote(spec.image), image->id, Quote(wanted.image_ref)));
  }
  ContainerId id = TRY(pods::CreateContainer(door.core, pod.id.str(), spec, call.until));
  call.object = fmt::format("{} {}", id.Short(), spec.name);
  response.set_container_id(id.str());
  return {};
}

Result<void> StartContainer(Door& door, const api::StartContainerRequest& request, api::StartContainerResponse&,
                            Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  return pods::StartContainer(door.core, request.container_id(), call.until);
}

Result<void> StopContainer(Door& door, const api::StopContainerRequest& request, api::StopContainerResponse&,
                           Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  std::chrono::seconds grace(std::clamp<int64_t>(request.timeout(), 0, kLongest));
  return pods::StopContainer(door.core, request.container_id(), grace, call.until);
}

Result<void> RemoveContainer(Door& door, const api::RemoveContainerRequest& request, api::RemoveContainerResponse&,
                             Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  return pods::RemoveContainer(door.core, request.container_id(), call.until);
}

Result<void> ContainerStatus(Door& door, const api::ContainerStatusRequest& request,
                             api::ContainerStatusResponse& response, Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  pods::ContainerState container = TRY(pods::FindContainer(door.core, request.container_id()));
  FillContainerStatus(container, *response.mutable_status());
  if (request.verbose()) {
    auto spec = pods::FindOciSpec(door.core, container.id.str());
    (*response.mutable_info())["info"] = ContainerInfo(container, spec ? &*spec : nullptr);
  }
  return {};
}

Result<void> ListContainers(Door& door, const api::ListContainersRequest& request,
                            api::ListContainersResponse& response, Call&) {
  const auto& filter = request.filter();
  for (const auto& container : Matching(door, filter.id(), filter.pod_sandbox_id(), filter.label_selector()))
    if (Selects(filter, *container)) FillContainer(*container, *response.add_containers());
  return {};
}

Result<void> ExecSync(Door& door, const api::ExecSyncRequest& request, api::ExecSyncResponse& response, Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  if (request.cmd_size() == 0 || request.cmd(0).empty()) return Bad("cmd", "must name a program, then its arguments");
  if (request.timeout() < 0)
    return Bad("timeout", fmt::format("must be seconds, 0 for none, got {}", request.timeout()));
  std::vector<std::string> argv(request.cmd().begin(), request.cmd().end());
  std::chrono::seconds timeout(std::min(request.timeout(), kLongest));
  pods::ExecResult result = TRY(pods::ExecSync(door.core, request.container_id(), argv, timeout, call.until));
  if (result.out.size() > kStreamLimit) result.out.resize(kStreamLimit);
  if (result.err.size() > kStreamLimit) result.err.resize(kStreamLimit);
  response.set_stdout(std::move(result.out));
  response.set_stderr(std::move(result.err));
  response.set_exit_code(result.exit_code);
  return {};
}

Result<void> ReopenContainerLog(Door& door, const api::ReopenContainerLogRequest& request,
                                api::ReopenContainerLogResponse&, Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  return pods::ReopenLog(door.core, request.container_id(), call.until);
}

Result<void> ContainerStats(Door& door, const api::ContainerStatsRequest& request,
                            api::ContainerStatsResponse& response, Call& call) {
  TRY(CheckContainerId(request.container_id(), call));
  pods::ContainerState container = TRY(pods::FindContainer(door.core, request.container_id()));
  if (container.phase != pods::ContainerPhase::kRunning) {
    FillStats(container, nullptr, door.images.root(), *response.mutable_stats());
    return {};
  }
  pods::ContainerUsage usage = TRY(pods::Usage(door.core, container.id.str()));
  FillStats(container, &usage, door.images.root(), *response.mutable_stats());
  return {};
}

Result<void> ListContainerStats(Door& door, const api::ListContainerStatsRequest& request,
                                api::ListContainerStatsResponse& response, Call&) {
  const auto& filter = request.filter();
  auto containers = Matching(door, filter.id(), filter.pod_sandbox_id(), filter.label_selector());
  std::erase_if(containers, [&](const auto& container) { return !Selects(filter, *container); });
  const std::string mountpoint = door.images.root();
  std::unordered_map<std::string, pods::ContainerUsage> usages;
  if (containers.size() > 4) {
    for (auto& usage : pods::ListUsage(door.core)) usages.emplace(usage.id.str(), std::move(usage));
  } else {
    // Reading every cgroup to answer for a few containers would be the longer way.
    for (const auto& container : containers)
      if (container->phase == pods::ContainerPhase::kRunning)
        if (auto usage = pods::Usage(door.core, container->id.str()))
          usages.emplace(container->id.str(), std::move(*usage));
  }
  for (const auto& container : containers) {
    auto usage = usages.find(container->id.str());
    FillStats(*container, usage == usages.end() ? nullptr : &usage->second, mountpoint, *response.add_stats());
  }
  return {};
}

Result<void> UpdateContainerResources(Door& door, const api::UpdateContainerResourcesRequest& request,
                                      api::UpdateContainerResourcesResponse&, Call& call) {
  call.object = request.container_id().substr(0, 64);
  TRY(CheckName("container_id", request.container_id()));
  if (!request.has_linux()) return Bad("linux", "must be given");
  pods::Resources change = TRY(ToResources("linux", request.linux()));
  return pods::UpdateContainer(door.core, request.container_id(), change, call.until);
}

}  // namespace berth::cri
