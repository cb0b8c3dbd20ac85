#include <set>

#include "cri/check.h"
#include "cri/convert.h"
#include "cri/convert_common.h"

namespace berth::cri {
namespace {

Result<void> ReadDns(const api::DNSConfig& dns, pods::PodSpec& spec) {
  for (int i = 0; i < dns.servers_size(); ++i) {
    TRY(CheckAddress(fmt::format("config.dns_config.servers[{}]", i), dns.servers(i)));
    spec.dns.servers.push_back(dns.servers(i));
  }
  for (int i = 0; i < dns.searches_size(); ++i) {
    TRY(CheckWord(fmt::format("config.dns_config.searches[{}]", i), dns.searches(i)));
    spec.dns.searches.push_back(dns.searches(i));
  }
  for (int i = 0; i < dns.options_size(); ++i) {
    TRY(CheckWord(fmt::format("config.dns_config.options[{}]", i), dns.options(i)));
    spec.dns.options.push_back(dns.options(i));
  }
  return {};
}

std::string_view ProtocolName(api::Protocol protocol) {
  switch (protocol) {
    case api::UDP:
      return "udp";
    case api::SCTP:
      return "sctp";
    default:
      return "tcp";
  }
}

Result<void> ReadPorts(const api::PodSandboxConfig& config, pods::PodSpec& spec) {
  std::set<std::tuple<std::string, std::string, uint16_t>> published;
  for (int i = 0; i < config.port_mappings_size(); ++i) {
    const auto& mapping = config.port_mappings(i);
    std::string field = fmt::format("config.port_mappings[{}]", i);
    TRY(CheckRange(field + ".container_port", mapping.container_port(), 1, 65535));
    TRY(CheckRange(field + ".host_port", mapping.host_port(), 0, 65535));
    if (!mapping.host_ip().empty()) TRY(CheckAddress(field + ".host_ip", mapping.host_ip()));
    pods::Port port{std::string(ProtocolName(mapping.protocol())), static_cast<uint16_t>(mapping.host_port()),
                    static_cast<uint16_t>(mapping.container_port()), mapping.host_ip()};
    if (port.host_port != 0 && !published.insert({port.protocol, port.host_ip, port.host_port}).second)
      return Bad(field + ".host_port",
                 fmt::format("{}/{} is published twice in this pod", port.host_port, port.protocol));
    // With the host's network the containers listen on the host's ports themselves.
    if (spec.namespaces.network != pods::Namespace::kNode) spec.ports.push_back(std::move(port));
  }
  return {};
}

Result<void> ReadSysctls(const api::LinuxPodSandboxConfig& linux, pods::PodSpec& spec) {
  static constexpr std::string_view kIpc[] = {"kernel.shmall",          "kernel.shmmax",     "kernel.shmmni",
                                              "kernel.shm_rmid_forced", "kernel.msgmax",     "kernel.msgmnb",
                                              "kernel.msgmni",          "kernel.sem",        "kernel.msg_next_id",
                                              "kernel.sem_next_id",     "kernel.shm_next_id"};
  for (const auto& [name, value] : linux.sysctls()) {
    std::string field = fmt::format("config.linux.sysctls[{}]", Quote(name));
    if (name.find("..") != std::string::npos || name.size() > 253 || !std::ranges::all_of(name, [](char c) {
          return std::isalnum(static_cast<unsigned char>(c)) || strchr("._-/", c);
        }))
      return Bad(field, "the name must look like net.ipv4.ip_forward");
    // A slash in place of the dots lets interface names have dots (sysctl(8)).
    std::string dotted = name;
    size_t separator = dotted.find_first_of("./");
    if (separator != std::string::npos && dotted[separator] == '/')
      for (char& c : dotted) c = c == '/' ? '.' : c == '.' ? '/' : c;
    bool net = dotted.starts_with("net.");
    bool ipc = dotted.starts_with("fs.mqueue.") || std::ranges::find(kIpc, dotted) != std::end(kIpc);
    if (!net && !ipc)
      return Bad(field, "is not namespaced; a pod may set net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*");
    if (net && spec.namespaces.network == pods::Namespace::kNode)
      return Bad(field, "would change the host: this pod uses the host's network");
    if (ipc && spec.namespaces.ipc == pods::Namespace::kNode)
      return Bad(field, "would change the host: this pod uses the host's IPC namespace");
    if (value.empty() || value.size() > 4095 || value.find_first_of("\n\r") != std::string::npos)
      return Bad(field, "the value must be one line of 1 to 4095 bytes");
    spec.sysctls[name] = value;
  }
  return {};
}

Result<void> ReadCgroupParent(const std::string& parent, pods::PodSpec& spec) {
  constexpr std::string_view kField = "config.linux.cgroup_parent";
  if (parent.empty()) return {};
  if (parent.front() != '/' && parent.ends_with(".slice"))
    return Bad(kField,
               fmt::format("{} is a systemd slice; this agent's cgroup driver is cgroupfs (RuntimeConfig), which "
                           "wants a path such as /kubepods/burstable",
                           Quote(parent)));
  TRY(CheckAbsolutePath(kField, parent.front() == '/' ? parent : "/" + parent));
  spec.cgroup_parent = parent.front() == '/' ? parent : "/" + parent;
  while (spec.cgroup_parent.size() > 1 && spec.cgroup_parent.back() == '/') spec.cgroup_parent.pop_back();
  return {};
}

}  // namespace

Result<pods::PodSpec> ToPodSpec(const api::RunPodSandboxRequest& request, const HostFacts& host) {
  if (!request.has_config()) return Bad("config", "must be set");
  const auto& config = request.config();
  if (!host.handlers.contains(request.runtime_handler())) {
    std::string known;
    for (const auto& [name, facts] : host.handlers)
      if (!name.empty()) known += (known.empty() ? "" : ", ") + name;
    return Bad("runtime_handler", fmt::format("no handler {}; there is {}", Quote(request.runtime_handler()),
                                              known.empty() ? "only the default one (empty name)"
                                                            : "the default one (empty name), and " + known));
  }
  if (!config.has_metadata()) return Bad("config.metadata", "must be set");
  pods::PodSpec spec;
  TRY(CheckName("config.metadata.name", config.metadata().name()));
  TRY(CheckName("config.metadata.namespace", config.metadata().namespace_()));
  TRY(CheckName("config.metadata.uid", config.metadata().uid()));
  spec.name = config.metadata().name();
  spec.name_space = config.metadata().namespace_();
  spec.uid = config.metadata().uid();
  spec.attempt = config.metadata().attempt();

  const auto& linux = config.linux();
  const auto& security = linux.security_context();
  TRY(ReadNamespaces("config.linux.security_context.namespace_options", security.has_namespace_options(),
                     security.namespace_options(), /*of_pod=*/true, spec.namespaces));
  if (!config.hostname().empty()) {
    const std::string& name = config.hostname();
    bool good =
        name.size() <= 64 && name.front() != '-' && name.front() != '.' && std::ranges::all_of(name, [](char c) {
          return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_';
        });
    if (!good)
      return Bad("config.hostname",
                 fmt::format("must be 1 to 64 letters, digits, `-`, `_` or `.`, got {}", Quote(name)));
    spec.hostname = name;
  }
  if (!config.log_directory().empty()) {
    TRY(CheckAbsolutePath("config.log_directory", config.log_directory()));
    spec.log_directory = config.log_directory();
  }
  TRY(ReadDns(config.dns_config(), spec));
  TRY(ReadPorts(config, spec));
  TRY(ReadLabels("config.labels", config.labels(), spec.labels));
  TRY(ReadLabels("config.annotations", config.annotations(), spec.annotations));
  TRY(ReadCgroupParent(linux.cgroup_parent(), spec));
  TRY(ReadSysctls(linux, spec));
  TRY_CTX(ToResources("config.linux.overhead", linux.overhead()), "overhead of the pod");
  TRY_CTX(ToResources("config.linux.resources", linux.resources()), "resources of the pod");
  TRY(CheckUser("config.linux.security_context", security));
  pods::SecurityProfile unused;  // of a pause process that does not exist
  TRY(ReadSeccomp("config.linux.security_context", security, unused));
  TRY(ReadProfile("config.linux.security_context.apparmor", security.has_apparmor(), security.apparmor(), false,
                  unused));
  TRY(CheckSelinux("config.linux.security_context.selinux_options", security.selinux_options(), host));
  spec.privileged = security.privileged();
  spec.runtime_handler = request.runtime_handler();
  return spec;
}

api::PodSandboxConfig ConfigOf(const pods::PodSpec& spec) {
  api::PodSandboxConfig out;
  auto& metadata = *out.mutable_metadata();
  metadata.set_name(spec.name);
  metadata.set_namespace_(spec.name_space);
  metadata.set_uid(spec.uid);
  metadata.set_attempt(spec.attempt);
  out.set_hostname(spec.hostname);
  out.set_log_directory(spec.log_directory);
  auto& dns = *out.mutable_dns_config();
  for (const auto& s : spec.dns.servers) dns.add_servers(s);
  for (const auto& s : spec.dns.searches) dns.add_searches(s);
  for (const auto& s : spec.dns.options) dns.add_options(s);
  for (const auto& port : spec.ports) {
    auto& mapping = *out.add_port_mappings();
    mapping.set_protocol(port.protocol == "udp" ? api::UDP : port.protocol == "sctp" ? api::SCTP : api::TCP);
    mapping.set_container_port(port.container_port);
    mapping.set_host_port(port.host_port);
    mapping.set_host_ip(port.host_ip);
  }
  for (const auto& [k, v] : spec.labels) (*out.mutable_labels())[k] = v;
  for (const auto& [k, v] : spec.annotations) (*out.mutable_annotations())[k] = v;
  auto& linux = *out.mutable_linux();
  linux.set_cgroup_parent(spec.cgroup_parent);
  for (const auto& [k, v] : spec.sysctls) (*linux.mutable_sysctls())[k] = v;
  auto& security = *linux.mutable_security_context();
  FillNamespaces(spec.namespaces, *security.mutable_namespace_options());
  security.set_privileged(spec.privileged);
  return out;
}

}  // namespace berth::cri
