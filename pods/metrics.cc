#include "pods/metrics.h"

#include "pods/operations.h"
#include "pods/registry.h"

namespace berth::pods {

using metrics::Family;
using metrics::Kind;
using Labels_ = std::vector<std::pair<std::string, std::string>>;

namespace {

// Kubernetes names things by labels on the container; what did not come from there goes by its own names.
std::string LabelOr(const ContainerState& c, const char* label, const std::string& other) {
  auto it = c.spec.labels.find(label);
  return it == c.spec.labels.end() ? other : it->second;
}

Labels_ LabelsOf(const ContainerState& c, const PodPtr& pod) {
  return {{"container", LabelOr(c, "io.kubernetes.container.name", c.spec.name)},
          {"pod", pod ? pod->spec.name : ""},
          {"namespace", pod ? pod->spec.name_space : ""},
          {"id", c.cgroup},
          {"image", c.image_name},
          {"name", c.id.str()}};
}

double Seconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

std::vector<Family> ContainerFamilies(Core& core) {
  std::vector<Family> out;
  auto family = [&](const char* name, const char* help, Kind kind) {
    out.push_back({.name = name, .help = help, .kind = kind, .samples = {}});
    return out.size() - 1;
  };
  const size_t cpu = family("container_cpu_usage_seconds_total", "CPU time used, in seconds.", Kind::kCounter);
  const size_t user =
      family("container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.", Kind::kCounter);
  const size_t system =
      family("container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", Kind::kCounter);
  const size_t usage = family("container_memory_usage_bytes", "Memory in use, page cache included.", Kind::kGauge);
  const size_t working =
      family("container_memory_working_set_bytes", "Memory in use without inactive file pages.", Kind::kGauge);
  const size_t rss = family("container_memory_rss", "Anonymous memory, in bytes.", Kind::kGauge);
  const size_t cache = family("container_memory_cache", "Page cache, in bytes.", Kind::kGauge);
  const size_t limit = family("container_spec_memory_limit_bytes", "Memory limit, 0 for none.", Kind::kGauge);
  const size_t processes = family("container_processes", "Number of processes and threads.", Kind::kGauge);
  const size_t oom =
      family("container_oom_events_total", "Processes that the kernel killed for lack of memory.", Kind::kCounter);
  const size_t start =
      family("container_start_time_seconds", "Start of the container, seconds since 1970.", Kind::kGauge);
  const size_t seen = family("container_last_seen", "When these values were read, seconds since 1970.", Kind::kGauge);
  auto add = [&](size_t f, const Labels_& labels, double value) { out[f].samples.push_back({labels, value}); };

  for (const auto& u : ListUsage(core)) {
    auto c = core.registry.Container(u.id);
    if (!c) continue;
    Labels_ labels = LabelsOf(*c, core.registry.Pod(u.pod));
    add(cpu, labels, Seconds(u.cpu_ns));
    add(user, labels, Seconds(u.cpu_user_ns));
    add(system, labels, Seconds(u.cpu_system_ns));
    add(usage, labels, static_cast<double>(u.memory_usage));
    add(working, labels, static_cast<double>(u.memory_working_set));
    add(rss, labels, static_cast<double>(u.memory_rss));
    add(cache, labels, static_cast<double>(u.memory_cache));
    add(limit, labels, static_cast<double>(u.memory_limit));
    add(processes, labels, static_cast<double>(u.pids));
    add(oom, labels, static_cast<double>(u.oom_kills));
    add(start, labels, static_cast<double>(c->started_at) / 1e9);
    add(seen, labels, static_cast<double>(u.at) / 1e9);
  }

  struct Direction {
    const char* name;
    const char* words;
    uint64_t cni::InterfaceStats::*bytes, cni::InterfaceStats::*packets, cni::InterfaceStats::*errors,
        cni::InterfaceStats::*dropped;
  };
  using S = cni::InterfaceStats;
  static constexpr Direction kDirections[] = {
      {"receive", "received", &S::rx_bytes, &S::rx_packets, &S::rx_errors, &S::rx_dropped},
      {"transmit", "sent", &S::tx_bytes, &S::tx_packets, &S::tx_errors, &S::tx_dropped}};
  struct Series {
    size_t family;
    uint64_t S::*value;
  };
  std::vector<Series> series;
  for (const Direction& d : kDirections) {
    auto make = [&](const char* what, const char* words, uint64_t S::*value) {
      out.push_back({.name = fmt::format("container_network_{}_{}_total", d.name, what),
                     .help = fmt::format("{} {}.", words, d.words),
                     .kind = Kind::kCounter,
                     .samples = {}});
      series.push_back({out.size() - 1, value});
    };
    make("bytes", "Bytes", d.bytes);
    make("packets", "Packets", d.packets);
    make("errors", "Errors of packets", d.errors);
    make("packets_dropped", "Packets dropped that would have been", d.dropped);
  }
  for (const auto& pod : core.registry.Pods({.id = {}, .labels = {}, .phase = PodPhase::kReady})) {
    if (pod->spec.namespaces.network == Namespace::kNode) continue;
    auto stats = core.network.Stats(pod->id);
    if (!stats) continue;
    Labels_ labels = {{"container", "POD"},      {"pod", pod->spec.name}, {"namespace", pod->spec.name_space},
                      {"id", pod->cgroup},       {"image", ""},           {"name", pod->id.str()},
                      {"interface", stats->name}};
    for (const Series& s : series) add(s.family, labels, static_cast<double>((*stats).*s.value));
  }
  return out;
}

std::vector<Family> AgentFamilies(Core& core) {
  Family pods{.name = "berth_pods", .help = "Pods by phase.", .kind = Kind::kGauge, .samples = {}};
  Family containers{.name = "berth_containers", .help = "Containers by phase.", .kind = Kind::kGauge, .samples = {}};
  static constexpr const char* kPodPhases[] = {"creating", "ready", "stopping", "stopped"};
  static constexpr const char* kContainerPhases[] = {"creating", "created", "running", "exited"};
  std::array<int, 4> pod_count{}, container_count{};
  for (const auto& pod : core.registry.EveryPod()) ++pod_count[static_cast<size_t>(pod->phase)];
  for (const auto& c : core.registry.Containers()) ++container_count[static_cast<size_t>(c->phase)];
  for (size_t i = 0; i < 4; ++i) {
    pods.samples.push_back({{{"phase", kPodPhases[i]}}, static_cast<double>(pod_count[i])});
    if (i > 0)
      containers.samples.push_back({{{"phase", kContainerPhases[i]}}, static_cast<double>(container_count[i])});
  }

  Family running{.name = "berth_operations_running",
                 .help = "Operations under way, by verb and stage.",
                 .kind = Kind::kGauge,
                 .samples = {}};
  Family oldest{.name = "berth_operation_stage_seconds",
                .help = "How long the longest operation has been at its stage, by verb and stage.",
                .kind = Kind::kGauge,
                .samples = {}};
  struct Stage {
    int count = 0;
    double seconds = 0;
  };
  std::map<std::pair<std::string, std::string>, Stage> stages;
  auto now = std::chrono::steady_clock::now();
  for (const auto& op : core.operations.List()) {
    Stage& s = stages[{op.verb, op.stage}];
    ++s.count;
    s.seconds = std::max(s.seconds, std::chrono::duration<double>(now - op.stage_since).count());
  }
  for (const auto& [key, s] : stages) {
    Labels_ labels = {{"op", key.first}, {"stage", key.second}};
    running.samples.push_back({labels, static_cast<double>(s.count)});
    oldest.samples.push_back({labels, s.seconds});
  }
  return {pods, containers, running, oldest};
}

void ExportMetrics(Core& core, metrics::Registry& registry) {
  registry.AddCollector([&core] { return ContainerFamilies(core); });
  registry.AddCollector([&core] { return AgentFamilies(core); });
}

}  // namespace berth::pods
