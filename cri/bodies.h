#pragma once
// Bodies of the runtime service's RPCs: convert, call the core, convert back. They run on a worker and may block until
// call.until.
#include "api.pb.h"
#include "cri/door.h"

namespace berth::cri {

namespace api = ::runtime::v1;

// runtime_service.cc
Result<void> Version(Door&, const api::VersionRequest&, api::VersionResponse&, Call&);
Result<void> Status(Door&, const api::StatusRequest&, api::StatusResponse&, Call&);
Result<void> RuntimeConfig(Door&, const api::RuntimeConfigRequest&, api::RuntimeConfigResponse&, Call&);

// pod_bodies.cc
Result<void> RunPodSandbox(Door&, const api::RunPodSandboxRequest&, api::RunPodSandboxResponse&, Call&);
Result<void> StopPodSandbox(Door&, const api::StopPodSandboxRequest&, api::StopPodSandboxResponse&, Call&);
Result<void> RemovePodSandbox(Door&, const api::RemovePodSandboxRequest&, api::RemovePodSandboxResponse&, Call&);
Result<void> PodSandboxStatus(Door&, const api::PodSandboxStatusRequest&, api::PodSandboxStatusResponse&, Call&);
Result<void> ListPodSandbox(Door&, const api::ListPodSandboxRequest&, api::ListPodSandboxResponse&, Call&);

// container_bodies.cc
Result<void> CreateContainer(Door&, const api::CreateContainerRequest&, api::CreateContainerResponse&, Call&);
Result<void> StartContainer(Door&, const api::StartContainerRequest&, api::StartContainerResponse&, Call&);
Result<void> StopContainer(Door&, const api::StopContainerRequest&, api::StopContainerResponse&, Call&);
Result<void> RemoveContainer(Door&, const api::RemoveContainerRequest&, api::RemoveContainerResponse&, Call&);
Result<void> ContainerStatus(Door&, const api::ContainerStatusRequest&, api::ContainerStatusResponse&, Call&);
Result<void> ListContainers(Door&, const api::ListContainersRequest&, api::ListContainersResponse&, Call&);
Result<void> ExecSync(Door&, const api::ExecSyncRequest&, api::ExecSyncResponse&, Call&);
Result<void> ReopenContainerLog(Door&, const api::ReopenContainerLogRequest&, api::ReopenContainerLogResponse&, Call&);
Result<void> ContainerStats(Door&, const api::ContainerStatsRequest&, api::ContainerStatsResponse&, Call&);
Result<void> ListContainerStats(Door&, const api::ListContainerStatsRequest&, api::ListContainerStatsResponse&, Call&);

Result<void> UpdateContainerResources(Door&, const api::UpdateContainerResourcesRequest&, api::UpdateContainerResourcesResponse&, Call&);

// stream_bodies.cc
Result<void> Exec(Door&, const api::ExecRequest&, api::ExecResponse&, Call&);
Result<void> Attach(Door&, const api::AttachRequest&, api::AttachResponse&, Call&);
Result<void> PortForward(Door&, const api::PortForwardRequest&, api::PortForwardResponse&, Call&);

// image_service.cc
Result<void> ListImages(Door&, const api::ListImagesRequest&, api::ListImagesResponse&, Call&);

}  // namespace berth::cri
