#pragma once
// Between CRI messages and the core's types: pure functions. Requests are checked on the way in (after CheckShape);
// what comes out of the core is trusted.
#include "api.pb.h"
#include "base/error.h"
#include "cri/host_facts.h"
#include "images/store.h"
#include "pods/state.h"
#include "runtime/oci/spec.h"

namespace berth::cri {

namespace api = ::runtime::v1;

// --- requests
Result<pods::PodSpec> ToPodSpec(const api::RunPodSandboxRequest& request, const HostFacts& host);

struct ContainerRequest {
  pods::ContainerSpec spec;
  std::string image_ref;  // the id that the image must resolve to; empty: any
};
// `kubelet_text`: set to RROUnsupported when that is why it fails.
Result<ContainerRequest> ToContainerSpec(const api::CreateContainerRequest& request, const HostFacts& host,
                                         std::string_view& kubelet_text);
Result<pods::Resources> ToResources(std::string_view field, const api::LinuxContainerResources& resources);
// `reference` decides whether credentials for another server are used: those are left out.
Result<images::Credentials> ToCredentials(const api::AuthConfig& auth, std::string_view reference);
// "docker.io" for "nginx", "127.0.0.1:5000" for "127.0.0.1:5000/nginx:1".
std::string RegistryHost(std::string_view reference);

// --- answers
api::PodSandboxState ToWire(pods::PodPhase phase);
api::ContainerState ToWire(pods::ContainerPhase phase);
void FillPod(const pods::PodState& pod, api::PodSandbox& out);
void FillPodStatus(const pods::PodState& pod, api::PodSandboxStatus& out);
void FillContainer(const pods::ContainerState& container, api::Container& out);
void FillContainerStatus(const pods::ContainerState& container, api::ContainerStatus& out);
void FillImage(const images::Image& image, api::Image& out);
// `usage` null: not running, attributes only. `mountpoint`: a path on the disk of the writable layers.
void FillStats(const pods::ContainerState& container, const pods::ContainerUsage* usage, std::string_view mountpoint,
               api::ContainerStats& out);
void FillResources(const pods::Resources& resources, api::LinuxContainerResources& out);
// The request again, for `info.config`; what is read from it gives the same spec.
api::PodSandboxConfig ConfigOf(const pods::PodSpec& spec);
api::ContainerConfig ConfigOf(const pods::ContainerSpec& spec);

// "SIGTERM" <-> SIGNAL_SIGTERM; "SIGRTMIN+1" <-> SIGNAL_SIGRTMINPLUS1. Empty <-> SIGNAL_RUNTIME_DEFAULT.
std::string SignalName(api::Signal signal);
api::Signal SignalOfName(std::string_view name);
api::Signal SignalOfNumber(int number);  // Linux numbers, SIGRTMIN is 34

// --- filters
using LabelSelector = google::protobuf::Map<std::string, std::string>;
bool Selects(const LabelSelector& selector, const pods::Labels& labels);
bool Selects(const api::PodSandboxFilter& filter, const pods::PodState& pod);
bool Selects(const api::ContainerFilter& filter, const pods::ContainerState& container);
bool Selects(const api::ContainerStatsFilter& filter, const pods::ContainerState& container);

// --- verbose info: JSON objects as text
std::string PodInfo(const pods::PodState& pod);
// `spec`: what it was made from; null: not known any more.
std::string ContainerInfo(const pods::ContainerState& container, const runtime::oci::Spec* spec);
std::string ImageInfo(const images::Image& image);

}  // namespace berth::cri
