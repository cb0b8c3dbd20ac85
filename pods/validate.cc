#include "pods/validate.h"

#include <arpa/inet.h>
#include <limits.h>

#include "pods/capabilities.h"
#include "runtime/linux/names.h"

namespace berth::pods {

namespace {

constexpr size_t kNameLimit = 1024;  // of names, label keys are bounded by their door

Result<void> CheckName(const std::string& name, std::string_view field) {
  if (name.empty()) return Err(Code::kInvalidArgument, "{}: must not be empty", field);
  if (name.size() > kNameLimit) return Err(Code::kInvalidArgument, "{}: longer than {} bytes", field, kNameLimit);
  if (name.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "{}: contains a zero byte", field);
  return {};
}

bool HasDotDot(std::string_view path) {
  while (!path.empty()) {
    std::string_view part = path.substr(0, path.find('/'));
    if (part == "..") return true;
    path.remove_prefix(std::min(path.size(), part.size() + 1));
  }
  return false;
}

Result<void> CheckPath(const std::string& path, std::string_view field) {
  if (path.empty() || path[0] != '/')
    return Err(Code::kInvalidArgument, "{}: \"{}\": must be an absolute path", field, path);
  if (path.size() >= PATH_MAX) return Err(Code::kInvalidArgument, "{}: longer than {} bytes", field, PATH_MAX - 1);
  if (path.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "{}: contains a zero byte", field);
  if (HasDotDot(path)) return Err(Code::kInvalidArgument, "{}: {}: must not contain \"..\"", field, path);
  return {};
}

bool IsIp(const std::string& text) {
  unsigned char buffer[16];
  return ::inet_pton(AF_INET, text.c_str(), buffer) == 1 || ::inet_pton(AF_INET6, text.c_str(), buffer) == 1;
}

// Only what a namespace of the pod holds; anything else would change the node.
Result<void> CheckSysctl(const std::string& name, const std::string& value, const PodSpec& spec) {
  auto bad = [&](std::string_view why) { return Err(Code::kInvalidArgument, "sysctls: {}: {}", name, why); };
  if (name.empty() ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/:@") !=
          std::string::npos ||
      name.find("..") != std::string::npos)
    return bad("not a sysctl name");
  if (value.size() > 4096 || value.find('\0') != std::string::npos) return bad("value is not a sysctl value");
  std::string dotted = name;
  for (char& c : dotted)
    if (c == '/') c = '.';
  if (dotted.starts_with("net.")) {
    if (spec.namespaces.network == Namespace::kNode) return bad("cannot be set with the host's network");
    return {};
  }
  static constexpr std::string_view kIpc[] = {"kernel.msgmax", "kernel.msgmnb",         "kernel.msgmni",
                                              "kernel.sem",    "kernel.shmall",         "kernel.shmmax",
                                              "kernel.shmmni", "kernel.shm_rmid_forced"};
  bool ipc = dotted.starts_with("fs.mqueue.") || std::find(std::begin(kIpc), std::end(kIpc), dotted) != std::end(kIpc);
  if (!ipc) return bad("is not separate for pods; net.*, fs.mqueue.* and the kernel.{msg,sem,shm}* ones are");
  if (spec.namespaces.ipc == Namespace::kNode) return bad("cannot be set with the host's ipc namespace");
  return {};
}

Result<void> CheckEnv(const std::vector<std::string>& env, std::string_view field) {
  for (size_t i = 0; i < env.size(); ++i) {
    size_t eq = env[i].find('=');
    if (eq == std::string::npos || eq == 0)
      return Err(Code::kInvalidArgument, "{}[{}]: \"{}\": must be NAME=value", field, i, env[i].substr(0, 64));
    if (env[i].find('\0') != std::string::npos)
      return Err(Code::kInvalidArgument, "{}[{}]: contains a zero byte", field, i);
  }
  return {};
}

Result<void> CheckProfile(const SecurityProfile& profile, std::string_view field) {
  if (profile.kind == "" || profile.kind == "default" || profile.kind == "unconfined") return {};
  if (profile.kind != "localhost")
    return Err(Code::kInvalidArgument, "{}: kind \"{}\": must be default, unconfined or localhost", field,
               profile.kind);
  if (profile.path.empty()) return Err(Code::kInvalidArgument, "{}: localhost needs a profile", field);
  return {};
}

Result<void> CheckResources(const Resources& r) {
  auto negative = [](int64_t v, std::string_view name) -> Result<void> {
    if (v < 0) return Err(Code::kInvalidArgument, "resources.{}: {}: must not be negative", name, v);
    return {};
  };
  TRY(negative(r.cpu_period, "cpu_period"));
  TRY(negative(r.cpu_shares, "cpu_shares"));
  TRY(negative(r.memory_limit, "memory_limit"));
  // What the scheduler takes: 1 ms to 1 s (Documentation/scheduler/sched-bwc.rst).
  if (r.cpu_period != 0 && (r.cpu_period < 1000 || r.cpu_period > 1'000'000))
    return Err(Code::kInvalidArgument, "resources.cpu_period: {}: must be between 1000 and 1000000 microseconds",
               r.cpu_period);
  if (r.cpu_quota < -1 || (r.cpu_quota > 0 && r.cpu_quota < 1000))
    return Err(Code::kInvalidArgument, "resources.cpu_quota: {}: must be at least 1000 microseconds, or -1 for none",
               r.cpu_quota);
  if (r.memory_swap < -1)
    return Err(Code::kInvalidArgument, "resources.memory_swap: {}: must not be negative, or -1 for no limit",
               r.memory_swap);
  if (r.oom_score_adj && (*r.oom_score_adj < -1000 || *r.oom_score_adj > 1000))
    return Err(Code::kInvalidArgument, "resources.oom_score_adj: {}: must be between -1000 and 1000", *r.oom_score_adj);
  for (const auto& [key, value] : r.unified)
    if (key.empty() || key.find('/') != std::string::npos || key.find('.') == std::string::npos)
      return Err(Code::kInvalidArgument, "resources.unified: \"{}\": must be a cgroup file such as memory.high", key);
  return {};
}

}  // namespace

Result<std::string> CleanCgroupPath(const std::string& path, std::string_view field) {
  if (path.ends_with(".slice") && path.find('/') == std::string::npos)
    return Err(Code::kInvalidArgument,
               "{}: {}: is a systemd slice; cgroups are driven as cgroupfs paths such as /pods/x", field, path);
  if (path.find('\0') != std::string::npos || path.find('\n') != std::string::npos || path.size() >= PATH_MAX / 2)
    return Err(Code::kInvalidArgument, "{}: not a cgroup path", field);
  std::string out;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return Err(Code::kInvalidArgument, "{}: {}: must not contain \"..\"", field, path);
    out += "/" + part;
  }
  return out;
}

Result<int> SignalNumber(const std::string& name, std::string_view field) {
  if (auto number = runtime::SignalNumber(name)) return *number;
  return Err(Code::kInvalidArgument, "{}: {}: no such signal; a name such as SIGTERM or a number", field, name);
}

Result<void> CheckPodSpec(const PodSpec& spec) {
  TRY(CheckName(spec.name, "metadata.name"));
  TRY(CheckName(spec.name_space, "metadata.namespace"));
  TRY(CheckName(spec.uid, "metadata.uid"));
  if (spec.hostname.size() > HOST_NAME_MAX)
    return Err(Code::kInvalidArgument, "hostname: {}: longer than {} bytes", spec.hostname, HOST_NAME_MAX);
  if (spec.hostname.find_first_of(" \t\n/") != std::string::npos || spec.hostname.find('\0') != std::string::npos)
    return Err(Code::kInvalidArgument, "hostname: {}: contains a character that no host name has", spec.hostname);
  if (!spec.log_directory.empty()) TRY(CheckPath(spec.log_directory, "log_directory"));
  TRY(CleanCgroupPath(spec.cgroup_parent, "cgroup_parent"));
  for (size_t i = 0; i < spec.ports.size(); ++i) {
    const Port& p = spec.ports[i];
    if (p.protocol != "tcp" && p.protocol != "udp" && p.protocol != "sctp")
      return Err(Code::kInvalidArgument, "ports[{}].protocol: {}: must be tcp, udp or sctp", i, p.protocol);
    if (p.host_port != 0 && p.container_port == 0)
      return Err(Code::kInvalidArgument, "ports[{}].container_port: must be 1 to 65535", i);
    if (!p.host_ip.empty() && !IsIp(p.host_ip))
      return Err(Code::kInvalidArgument, "ports[{}].host_ip: {}: must be an IPv4 or IPv6 address", i, p.host_ip);
  }
  for (const auto& [name, value] : spec.sysctls) TRY(CheckSysctl(name, value, spec));
  const Namespaces& n = spec.namespaces;
  if (n.network != Namespace::kPod && n.network != Namespace::kNode)
    return Err(Code::kInvalidArgument, "namespaces.network: must be POD or NODE");
  if (n.ipc != Namespace::kPod && n.ipc != Namespace::kNode)
    return Err(Code::kInvalidArgument, "namespaces.ipc: must be POD or NODE");
  if (n.pid == Namespace::kTarget)
    return Err(Code::kInvalidArgument, "namespaces.pid: TARGET is for containers; a pod has POD, CONTAINER or NODE");
  auto line = [](const std::vector<std::string>& values, std::string_view field) -> Result<void> {
    for (const auto& v : values)
      if (v.empty() || v.find_first_of(" \t\n\r") != std::string::npos || v.find('\0') != std::string::npos)
        return Err(Code::kInvalidArgument, "dns.{}: \"{}\": must be one word", field, v);
    return {};
  };
  TRY(line(spec.dns.servers, "servers"));
  for (const auto& server : spec.dns.servers)
    if (!IsIp(server.substr(0, server.find('%'))))
      return Err(Code::kInvalidArgument, "dns.servers: {}: must be an IPv4 or IPv6 address", server);
  TRY(line(spec.dns.searches, "searches"));
  return line(spec.dns.options, "options");
}

Result<void> CheckContainerSpec(const ContainerSpec& spec, const PodSpec& pod) {
  TRY(CheckName(spec.name, "metadata.name"));
  if (spec.image.empty()) return Err(Code::kInvalidArgument, "image: must not be empty");
  for (const auto* list : {&spec.command, &spec.args})
    for (const auto& word : *list)
      if (word.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "command: contains a zero byte");
  if (!spec.working_dir.empty() && spec.working_dir.find('\0') != std::string::npos)
    return Err(Code::kInvalidArgument, "working_dir: contains a zero byte");
  TRY(CheckEnv(spec.env, "envs"));
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const Mount& m = spec.mounts[i];
    std::string field = fmt::format("mounts[{}]", i);
    TRY(CheckPath(m.container_path, field + ".container_path"));
    if (m.container_path.find_first_not_of('/') == std::string::npos)
      return Err(Code::kInvalidArgument, "{}.container_path: must not be the root", field);
    TRY(CheckPath(m.host_path, field + ".host_path"));
    if (m.recursive_read_only && !m.read_only)
      return Err(Code::kInvalidArgument, "{}: recursive_read_only needs readonly", field);
    if (m.recursive_read_only && m.propagation != Propagation::kPrivate)
      return Err(Code::kInvalidArgument, "{}: recursive_read_only needs private propagation", field);
  }
  for (size_t i = 0; i < spec.devices.size(); ++i) {
    const DeviceSpec& d = spec.devices[i];
    std::string field = fmt::format("devices[{}]", i);
    TRY(CheckPath(d.host_path, field + ".host_path"));
    TRY(CheckPath(d.container_path, field + ".container_path"));
    if (d.permissions.empty() || d.permissions.find_first_not_of("rwm") != std::string::npos)
      return Err(Code::kInvalidArgument, "{}.permissions: \"{}\": must be letters of r, w and m", field, d.permissions);
  }
  if (!spec.log_path.empty() && (spec.log_path[0] == '/' || HasDotDot(spec.log_path)))
    return Err(Code::kInvalidArgument, "log_path: {}: must be relative to the pod's log directory and stay below it",
               spec.log_path);
  TRY(CheckResources(spec.resources));
  if (spec.privileged && !pod.privileged)
    return Err(Code::kInvalidArgument, "privileged: the pod is not; a privileged container needs a privileged pod");
  if (spec.run_as_group && !spec.run_as_user && spec.run_as_username.empty())
    return Err(Code::kInvalidArgument, "run_as_group: needs run_as_user or run_as_username");
  if (spec.namespaces.pid == Namespace::kPod && pod.namespaces.pid != Namespace::kPod)
    return Err(Code::kInvalidArgument, "namespaces.pid: POD, but the pod was made without a shared PID namespace");
  if (spec.namespaces.pid == Namespace::kTarget && spec.namespaces.target.empty())
    return Err(Code::kInvalidArgument, "namespaces.target: TARGET needs the id of a container");
  TRY(CheckProfile(spec.seccomp, "seccomp"));
  TRY(CheckProfile(spec.apparmor, "apparmor"));
  if (!spec.stop_signal.empty()) TRY(SignalNumber(spec.stop_signal, "stop_signal"));
  for (const auto* paths : {&spec.masked_paths, &spec.readonly_paths})
    if (*paths)
      for (const auto& path : **paths)
        TRY(CheckPath(path, paths == &spec.masked_paths ? "masked_paths" : "readonly_paths"));
  TRY(MakeCapabilities(spec));
  return {};
}

}  // namespace berth::pods
