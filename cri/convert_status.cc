#include <signal.h>

#include "base/utf8.h"
#include "cri/convert.h"
#include "cri/convert_common.h"

namespace berth::cri {
namespace {

constexpr int kRealTimeMin = 34, kRealTimeMax = 64;  // of glibc and musl; the kernel's two below are the libraries' own

constexpr std::string_view kPrefix = "SIGNAL_";

void FillLabels(const pods::Labels& from, google::protobuf::Map<std::string, std::string>& to) {
  for (const auto& [key, value] : from) to[key] = value;
}

template <class Metadata>
void FillPodMetadata(const pods::PodSpec& spec, Metadata& out) {
  out.set_name(spec.name);
  out.set_namespace_(spec.name_space);
  out.set_uid(spec.uid);
  out.set_attempt(spec.attempt);
}

template <class Metadata>
void FillContainerMetadata(const pods::ContainerSpec& spec, Metadata& out) {
  out.set_name(spec.name);
  out.set_attempt(spec.attempt);
}

bool HasPrefix(std::string_view id, std::string_view prefix) { return id.starts_with(prefix); }

}  // namespace

api::PodSandboxState ToWire(pods::PodPhase phase) {
  return phase == pods::PodPhase::kReady ? api::SANDBOX_READY : api::SANDBOX_NOTREADY;
}

api::ContainerState ToWire(pods::ContainerPhase phase) {
  switch (phase) {
    case pods::ContainerPhase::kRunning:
      return api::CONTAINER_RUNNING;
    case pods::ContainerPhase::kExited:
      return api::CONTAINER_EXITED;
    case pods::ContainerPhase::kCreating:
    case pods::ContainerPhase::kCreated:
      break;
  }
  return api::CONTAINER_CREATED;
}

void FillPod(const pods::PodState& pod, api::PodSandbox& out) {
  out.set_id(pod.id.str());
  FillPodMetadata(pod.spec, *out.mutable_metadata());
  out.set_state(ToWire(pod.phase));
  out.set_created_at(pod.created_at);
  FillLabels(pod.spec.labels, *out.mutable_labels());
  FillLabels(pod.spec.annotations, *out.mutable_annotations());
  out.set_runtime_handler(pod.spec.runtime_handler);
}

void FillPodStatus(const pods::PodState& pod, api::PodSandboxStatus& out) {
  out.set_id(pod.id.str());
  FillPodMetadata(pod.spec, *out.mutable_metadata());
  out.set_state(ToWire(pod.phase));
  out.set_created_at(pod.created_at);
  auto& network = *out.mutable_network();
  for (size_t i = 0; i < pod.network.addresses.size(); ++i) {
    if (i == 0)
      network.set_ip(pod.network.addresses[i].Ip());
    else
      network.add_additional_ips()->set_ip(pod.network.addresses[i].Ip());
  }
  FillNamespaces(pod.spec.namespaces, *out.mutable_linux()->mutable_namespaces()->mutable_options());
  FillLabels(pod.spec.labels, *out.mutable_labels());
  FillLabels(pod.spec.annotations, *out.mutable_annotations());
  out.set_runtime_handler(pod.spec.runtime_handler);
}

void FillContainer(const pods::ContainerState& container, api::Container& out) {
  out.set_id(container.id.str());
  out.set_pod_sandbox_id(container.pod.str());
  FillContainerMetadata(container.spec, *out.mutable_metadata());
  out.mutable_image()->set_image(container.spec.image);
  out.mutable_image()->set_user_specified_image(container.spec.user_image);
  out.set_image_ref(container.image_ref.empty() ? container.image_id : container.image_ref);
  out.set_image_id(container.image_id);
  out.set_state(ToWire(container.phase));
  out.set_created_at(container.created_at);
  FillLabels(container.spec.labels, *out.mutable_labels());
  FillLabels(container.spec.annotations, *out.mutable_annotations());
}

void FillContainerStatus(const pods::ContainerState& container, api::ContainerStatus& out) {
  out.set_id(container.id.str());
  FillContainerMetadata(container.spec, *out.mutable_metadata());
  out.set_state(ToWire(container.phase));
  out.set_created_at(container.created_at);
  out.set_started_at(container.started_at);
  if (container.phase == pods::ContainerPhase::kExited) {
    out.set_finished_at(container.finished_at);
    out.set_exit_code(container.exit_code);
    out.set_reason(!container.reason.empty() ? container.reason : container.exit_code == 0 ? "Completed" : "Error");
    out.set_message(ToUtf8(container.message));
  }
  out.mutable_image()->set_image(container.image_name.empty() ? container.spec.image : container.image_name);
  out.mutable_image()->set_user_specified_image(container.spec.user_image);
  out.set_image_ref(container.image_ref.empty() ? container.image_id : container.image_ref);
  out.set_image_id(container.image_id);
  FillLabels(container.spec.labels, *out.mutable_labels());
  FillLabels(container.spec.annotations, *out.mutable_annotations());
  for (const auto& mount : container.spec.mounts) FillMount(mount, *out.add_mounts());
  out.set_log_path(container.log_path);
  FillResources(container.spec.resources, *out.mutable_resources()->mutable_linux());
  auto& user = *out.mutable_user()->mutable_linux();
  user.set_uid(container.user.uid);
  user.set_gid(container.user.gid);
  for (uint32_t gid : container.user.groups) user.add_supplemental_groups(gid);
  out.set_stop_signal(SignalOfNumber(container.stop_signal));
}

std::string SignalName(api::Signal signal) {
  if (signal == api::SIGNAL_RUNTIME_DEFAULT) return "";
  switch (signal) {  // other names of the same number
    case api::SIGNAL_SIGCLD:
      return "SIGCHLD";
    case api::SIGNAL_SIGIOT:
      return "SIGABRT";
    case api::SIGNAL_SIGPOLL:
      return "SIGIO";
    default:
      break;
  }
  std::string name = api::Signal_Name(signal).substr(kPrefix.size());  // SIGRTMAXMINUS3
  for (auto [word, sign] : {std::pair("PLUS", "+"), std::pair("MINUS", "-")})
    if (size_t at = name.find(word); at != std::string::npos) name.replace(at, strlen(word), sign);
  return name;
}

api::Signal SignalOfName(std::string_view name) {
  std::string wire(name);
  if (size_t at = wire.find('+'); at != std::string::npos) wire.replace(at, 1, "PLUS");
  if (size_t at = wire.find('-'); at != std::string::npos) wire.replace(at, 1, "MINUS");
  api::Signal signal;
  return api::Signal_Parse(std::string(kPrefix) + wire, &signal) ? signal : api::SIGNAL_RUNTIME_DEFAULT;
}

api::Signal SignalOfNumber(int number) {
  switch (number) {
    case SIGABRT:
      return api::SIGNAL_SIGABRT;
    case SIGALRM:
      return api::SIGNAL_SIGALRM;
    case SIGBUS:
      return api::SIGNAL_SIGBUS;
    case SIGCHLD:
      return api::SIGNAL_SIGCHLD;
    case SIGCONT:
      return api::SIGNAL_SIGCONT;
    case SIGFPE:
      return api::SIGNAL_SIGFPE;
    case SIGHUP:
      return api::SIGNAL_SIGHUP;
    case SIGILL:
      return api::SIGNAL_SIGILL;
    case SIGINT:
      return api::SIGNAL_SIGINT;
    case SIGIO:
      return api::SIGNAL_SIGIO;
    case SIGKILL:
      return api::SIGNAL_SIGKILL;
    case SIGPIPE:
      return api::SIGNAL_SIGPIPE;
    case SIGPROF:
      return api::SIGNAL_SIGPROF;
    case SIGPWR:
      return api::SIGNAL_SIGPWR;
    case SIGQUIT:
      return api::SIGNAL_SIGQUIT;
    case SIGSEGV:
      return api::SIGNAL_SIGSEGV;
    case SIGSTKFLT:
      return api::SIGNAL_SIGSTKFLT;
    case SIGSTOP:
      return api::SIGNAL_SIGSTOP;
    case SIGSYS:
      return api::SIGNAL_SIGSYS;
    case SIGTERM:
      return api::SIGNAL_SIGTERM;
    case SIGTRAP:
      return api::SIGNAL_SIGTRAP;
    case SIGTSTP:
      return api::SIGNAL_SIGTSTP;
    case SIGTTIN:
      return api::SIGNAL_SIGTTIN;
    case SIGTTOU:
      return api::SIGNAL_SIGTTOU;
    case SIGURG:
      return api::SIGNAL_SIGURG;
    case SIGUSR1:
      return api::SIGNAL_SIGUSR1;
    case SIGUSR2:
      return api::SIGNAL_SIGUSR2;
    case SIGVTALRM:
      return api::SIGNAL_SIGVTALRM;
    case SIGWINCH:
      return api::SIGNAL_SIGWINCH;
    case SIGXCPU:
      return api::SIGNAL_SIGXCPU;
    case SIGXFSZ:
      return api::SIGNAL_SIGXFSZ;
    default:
      break;
  }
  // The enum lists the real-time signals in the order of their numbers.
  if (number >= kRealTimeMin && number <= kRealTimeMax)
    return static_cast<api::Signal>(api::SIGNAL_SIGRTMIN + number - kRealTimeMin);
  return api::SIGNAL_RUNTIME_DEFAULT;
}

bool Selects(const LabelSelector& selector, const pods::Labels& labels) {
  return std::ranges::all_of(selector, [&](const auto& pair) {
    auto it = labels.find(pair.first);
    return it != labels.end() && it->second == pair.second;
  });
}

bool Selects(const api::PodSandboxFilter& filter, const pods::PodState& pod) {
  return HasPrefix(pod.id.str(), filter.id()) && (!filter.has_state() || filter.state().state() == ToWire(pod.phase)) &&
         Selects(filter.label_selector(), pod.spec.labels);
}

bool Selects(const api::ContainerFilter& filter, const pods::ContainerState& container) {
  return HasPrefix(container.id.str(), filter.id()) && HasPrefix(container.pod.str(), filter.pod_sandbox_id()) &&
         (!filter.has_state() || filter.state().state() == ToWire(container.phase)) &&
         Selects(filter.label_selector(), container.spec.labels);
}

bool Selects(const api::ContainerStatsFilter& filter, const pods::ContainerState& container) {
  return HasPrefix(container.id.str(), filter.id()) && HasPrefix(container.pod.str(), filter.pod_sandbox_id()) &&
         Selects(filter.label_selector(), container.spec.labels);
}

void FillStats(const pods::ContainerState& container, const pods::ContainerUsage* usage, std::string_view mountpoint,
               api::ContainerStats& out) {
  auto& attributes = *out.mutable_attributes();
  attributes.set_id(container.id.str());
  FillContainerMetadata(container.spec, *attributes.mutable_metadata());
  FillLabels(container.spec.labels, *attributes.mutable_labels());
  FillLabels(container.spec.annotations, *attributes.mutable_annotations());
  if (usage == nullptr) return;
  auto& cpu = *out.mutable_cpu();
  cpu.set_timestamp(usage->at);
  cpu.mutable_usage_core_nano_seconds()->set_value(usage->cpu_ns);
  cpu.mutable_usage_nano_cores()->set_value(usage->nano_cores);
  auto& memory = *out.mutable_memory();
  memory.set_timestamp(usage->at);
  memory.mutable_working_set_bytes()->set_value(usage->memory_working_set);
  memory.mutable_usage_bytes()->set_value(usage->memory_usage);
  memory.mutable_rss_bytes()->set_value(usage->memory_rss);
  memory.mutable_page_faults()->set_value(usage->page_faults);
  memory.mutable_major_page_faults()->set_value(usage->major_page_faults);
  if (usage->memory_limit > 0)
    memory.mutable_available_bytes()->set_value(
        usage->memory_limit > usage->memory_working_set ? usage->memory_limit - usage->memory_working_set : 0);
  auto& swap = *out.mutable_swap();
  swap.set_timestamp(usage->at);
  swap.mutable_swap_usage_bytes()->set_value(usage->swap_usage);
  auto& layer = *out.mutable_writable_layer();
  layer.set_timestamp(usage->at);
  layer.mutable_fs_id()->set_mountpoint(std::string(mountpoint));
  layer.mutable_used_bytes()->set_value(usage->writable_bytes);
  layer.mutable_inodes_used()->set_value(usage->writable_inodes);
}

}  // namespace berth::cri
