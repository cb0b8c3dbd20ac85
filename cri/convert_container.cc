#include <set>

#include "cri/check.h"
#include "cri/convert.h"
#include "cri/convert_common.h"

namespace berth::cri {
namespace {

// capabilities(7), in the order of their numbers.
constexpr std::string_view kCapabilities[] = {"CHOWN",
                                              "DAC_OVERRIDE",
                                              "DAC_READ_SEARCH",
                                              "FOWNER",
                                              "FSETID",
                                              "KILL",
                                              "SETGID",
                                              "SETUID",
                                              "SETPCAP",
                                              "LINUX_IMMUTABLE",
                                              "NET_BIND_SERVICE",
                                              "NET_BROADCAST",
                                              "NET_ADMIN",
                                              "NET_RAW",
                                              "IPC_LOCK",
                                              "IPC_OWNER",
                                              "SYS_MODULE",
                                              "SYS_RAWIO",
                                              "SYS_CHROOT",
                                              "SYS_PTRACE",
                                              "SYS_PACCT",
                                              "SYS_ADMIN",
                                              "SYS_BOOT",
                                              "SYS_NICE",
                                              "SYS_RESOURCE",
                                              "SYS_TIME",
                                              "SYS_TTY_CONFIG",
                                              "MKNOD",
                                              "LEASE",
                                              "AUDIT_WRITE",
                                              "AUDIT_CONTROL",
                                              "SETFCAP",
                                              "MAC_OVERRIDE",
                                              "MAC_ADMIN",
                                              "SYSLOG",
                                              "WAKE_ALARM",
                                              "BLOCK_SUSPEND",
                                              "AUDIT_READ",
                                              "PERFMON",
                                              "BPF",
                                              "CHECKPOINT_RESTORE"};

using Strings = google::protobuf::RepeatedPtrField<std::string>;

Result<std::vector<std::string>> ReadCapabilities(const std::string& field, const Strings& names, bool all) {
  std::vector<std::string> out;
  for (int i = 0; i < names.size(); ++i) {
    std::string name = names[i];
    for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    std::string_view plain = name;
    if (plain.starts_with("CAP_")) plain.remove_prefix(4);
    bool known = std::ranges::find(kCapabilities, plain) != std::end(kCapabilities) || (all && plain == "ALL");
    if (!known)
      return Bad(fmt::format("{}[{}]", field, i),
                 fmt::format("no capability {}; names are as in capabilities(7), NET_ADMIN{}", Quote(names[i]),
                             all ? ", or ALL" : ""));
    out.emplace_back(plain);
  }
  return out;
}

// execve(2) takes at most 128 KiB with the terminating NUL.
Result<void> ReadArguments(const std::string& field, const Strings& from, std::vector<std::string>& to) {
  for (int i = 0; i < from.size(); ++i) {
    if (from[i].size() > 131071)
      return Bad(fmt::format("{}[{}]", field, i), fmt::format("must be at most 131071 bytes, has {}", from[i].size()));
    to.push_back(from[i]);
  }
  return {};
}

Result<void> ReadEnvironment(const api::ContainerConfig& config, pods::ContainerSpec& spec) {
  for (int i = 0; i < config.envs_size(); ++i) {
    const auto& env = config.envs(i);
    std::string field = fmt::format("config.envs[{}]", i);
    if (env.key().empty()) return Bad(field + ".key", "must not be empty");
    if (env.key().find('=') != std::string::npos)
      return Bad(field + ".key", fmt::format("must not contain `=`, got {}", Quote(env.key())));
    if (env.value().find('\0') != std::string::npos)
      return Bad(field + ".value", fmt::format("must not contain NUL bytes (variable {})", Quote(env.key())));
    if (env.key().size() + env.value().size() > 131070)
      return Bad(field, fmt::format("must be at most 131070 bytes, has {} (variable {})",
                                    env.key().size() + env.value().size(), Quote(env.key())));
    spec.env.push_back(env.key() + "=" + env.value());
  }
  return {};
}

std::string WithoutTrailingSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

Result<void> ReadMount(const std::string& field, const api::Mount& mount, const HostFacts& host, pods::Mount& out,
                       std::string_view& kubelet_text) {
  TRY(CheckAbsolutePath(field + ".container_path", mount.container_path()));
  if (WithoutTrailingSlashes(mount.container_path()) == "/")
    return Bad(field + ".container_path", "must not be the root of the container");
  if (mount.has_image() && !mount.image().image().empty()) {
    if (!mount.host_path().empty()) return Bad(field + ".host_path", "must be empty when image is set");
    if (!mount.readonly()) return Bad(field + ".readonly", "must be true when image is set");
    return NotYet(field + ".image", "image volumes are not there yet; mount a host path");
  }
  if (!mount.image_sub_path().empty()) return Bad(field + ".image_sub_path", "is only for mounts of an image");
  TRY(CheckAbsolutePath(field + ".host_path", mount.host_path()));
  if (mount.uidmappings_size() + mount.gidmappings_size() > 0)
    return NotYet(field + (mount.uidmappings_size() > 0 ? ".uidMappings" : ".gidMappings"),
                  "id-mapped mounts need user namespaces, which are not there yet");
  if (mount.mount_options_size() > 0)
    return NotYet(field + ".mount_options", "are not there yet, and Status does not advertise mount_options");
  if (mount.recursive_read_only()) {
    if (!mount.readonly()) return Bad(field + ".recursive_read_only", "needs readonly beside it");
    if (mount.propagation() != api::PROPAGATION_PRIVATE)
      return Bad(field + ".recursive_read_only",
                 fmt::format("needs PROPAGATION_PRIVATE, got {}", api::MountPropagation_Name(mount.propagation())));
    if (!host.recursive_read_only) {
      kubelet_text = "RROUnsupported";
      return NotYet(field + ".recursive_read_only", "needs mount_setattr, Linux 5.12");
    }
  }
  out.container_path = mount.container_path();
  out.host_path = mount.host_path();
  out.read_only = mount.readonly();
  out.recursive_read_only = mount.recursive_read_only();
  out.relabel = mount.selinux_relabel();
  out.propagation = mount.propagation() == api::PROPAGATION_BIDIRECTIONAL       ? pods::Propagation::kBidirectional
                    : mount.propagation() == api::PROPAGATION_HOST_TO_CONTAINER ? pods::Propagation::kHostToContainer
                                                                                : pods::Propagation::kPrivate;
  return {};
}

Result<void> ReadMounts(const api::ContainerConfig& config, const HostFacts& host, pods::ContainerSpec& spec,
                        std::string_view& kubelet_text) {
  std::map<std::string, int> seen;
  for (int i = 0; i < config.mounts_size(); ++i) {
    std::string field = fmt::format("config.mounts[{}]", i);
    TRY(ReadMount(field, config.mounts(i), host, spec.mounts.emplace_back(), kubelet_text));
    auto [other, fresh] = seen.emplace(WithoutTrailingSlashes(config.mounts(i).container_path()), i);
    if (!fresh)
      return Bad(field + ".container_path",
                 fmt::format("{} is also mounted by config.mounts[{}]", Quote(other->first), other->second));
  }
  return {};
}

Result<void> ReadDevices(const api::ContainerConfig& config, pods::ContainerSpec& spec) {
  for (int i = 0; i < config.devices_size(); ++i) {
    const auto& device = config.devices(i);
    std::string field = fmt::format("config.devices[{}]", i);
    TRY(CheckAbsolutePath(field + ".host_path", device.host_path()));
    if (!device.container_path().empty()) TRY(CheckAbsolutePath(field + ".container_path", device.container_path()));
    std::string permissions = device.permissions().empty() ? "rwm" : device.permissions();
    std::set<char> letters(permissions.begin(), permissions.end());
    if (letters.size() != permissions.size() || permissions.find_first_not_of("rwm") != std::string::npos)
      return Bad(field + ".permissions", fmt::format("must be some of r, w, m, each once, got {}", Quote(permissions)));
    spec.devices.push_back({device.host_path(),
                            device.container_path().empty() ? device.host_path() : device.container_path(),
                            permissions});
  }
  if (config.cdi_devices_size() > 0)
    return NotYet("config.CDI_devices",
                  "the Container Device Interface is not there yet; name the device in config.devices");
  return {};
}

Result<void> ReadPaths(const std::string& field, const Strings& from, std::optional<std::vector<std::string>>& to) {
  to.emplace();
  for (int i = 0; i < from.size(); ++i) {
    TRY(CheckAbsolutePath(fmt::format("{}[{}]", field, i), from[i]));
    to->push_back(from[i]);
  }
  return {};
}

Result<void> ReadSecurity(const api::LinuxContainerSecurityContext& security, const HostFacts& host,
                          pods::ContainerSpec& spec) {
  const std::string field = "config.linux.security_context";
  const std::string caps = field + ".capabilities";
  spec.add_capabilities =
      TRY(ReadCapabilities(caps + ".add_capabilities", security.capabilities().add_capabilities(), true));
  spec.drop_capabilities =
      TRY(ReadCapabilities(caps + ".drop_capabilities", security.capabilities().drop_capabilities(), true));
  spec.ambient_capabilities = TRY(
      ReadCapabilities(caps + ".add_ambient_capabilities", security.capabilities().add_ambient_capabilities(), false));
  spec.privileged = security.privileged();
  TRY(ReadNamespaces(field + ".namespace_options", security.has_namespace_options(), security.namespace_options(),
                     false, spec.namespaces));
  TRY(CheckSelinux(field + ".selinux_options", security.selinux_options(), host));
  TRY(CheckUser(field, security));
  if (security.has_run_as_user() && !security.run_as_username().empty())
    return Bad(field + ".run_as_username", "must be empty when run_as_user is set");
  if (security.has_run_as_user()) spec.run_as_user = security.run_as_user().value();
  if (security.has_run_as_group()) spec.run_as_group = security.run_as_group().value();
  if (!security.run_as_username().empty()) {
    TRY(CheckWord(field + ".run_as_username", security.run_as_username()));
    if (security.run_as_username().find(':') != std::string::npos)
      return Bad(field + ".run_as_username",
                 fmt::format("must be a name without a group, got {}", Quote(security.run_as_username())));
    spec.run_as_username = security.run_as_username();
  }
  spec.supplemental_groups.assign(security.supplemental_groups().begin(), security.supplemental_groups().end());
  spec.strict_groups = security.supplemental_groups_policy() == api::Strict;
  spec.read_only_rootfs = security.readonly_rootfs();
  spec.no_new_privileges = security.no_new_privs();
  TRY(ReadPaths(field + ".masked_paths", security.masked_paths(), spec.masked_paths));
  TRY(ReadPaths(field + ".readonly_paths", security.readonly_paths(), spec.readonly_paths));
  TRY(ReadSeccomp(field, security, spec.seccomp));
  if (security.has_apparmor()) return ReadProfile(field + ".apparmor", true, security.apparmor(), false, spec.apparmor);
  return ReadProfileText(field + ".apparmor_profile", security.apparmor_profile(), false, spec.apparmor);
}

}  // namespace

Result<ContainerRequest> ToContainerSpec(const api::CreateContainerRequest& request, const HostFacts& host,
                                         std::string_view& kubelet_text) {
  TRY(CheckName("pod_sandbox_id", request.pod_sandbox_id()));
  if (!request.has_config()) return Bad("config", "must be set");
  const auto& config = request.config();
  if (!config.has_metadata()) return Bad("config.metadata", "must be set");
  ContainerRequest out;
  pods::ContainerSpec& spec = out.spec;
  TRY(CheckName("config.metadata.name", config.metadata().name()));
  spec.name = config.metadata().name();
  spec.attempt = config.metadata().attempt();
  if (config.image().image().empty())
    return Bad("config.image.image", "must not be empty; a name or id of an image that is present");
  TRY(CheckWord("config.image.image", config.image().image(), 1024));
  spec.image = config.image().image();
  spec.user_image = config.image().user_specified_image();
  out.image_ref = config.image().image_ref();
  TRY(ReadArguments("config.command", config.command(), spec.command));
  TRY(ReadArguments("config.args", config.args(), spec.args));
  if (!spec.command.empty() && spec.command[0].empty()) return Bad("config.command[0]", "must name a program");
  if (!config.working_dir().empty()) {
    TRY(CheckAbsolutePath("config.working_dir", config.working_dir()));
    spec.working_dir = config.working_dir();
  }
  TRY(ReadEnvironment(config, spec));
  TRY(ReadMounts(config, host, spec, kubelet_text));
  TRY(ReadDevices(config, spec));
  TRY(ReadLabels("config.labels", config.labels(), spec.labels));
  TRY(ReadLabels("config.annotations", config.annotations(), spec.annotations));
  if (!config.log_path().empty()) {
    TRY(CheckRelativePath("config.log_path", config.log_path()));
    if (config.log_path().back() == '/') return Bad("config.log_path", "must name a file");
    spec.log_path = config.log_path();
  }
  spec.tty = config.tty();
  spec.keep_stdin = config.stdin();
  spec.stdin_once = config.stdin_once();
  if (config.linux().has_resources()) {
    spec.resources = TRY(ToResources("config.linux.resources", config.linux().resources()));
    spec.resources.oom_score_adj = static_cast<int>(config.linux().resources().oom_score_adj());
  }
  // Without a security context nobody asked for anything: the core's defaults, and no seccomp filter (an absent profile
  // is unconfined by the CRI).
  if (config.linux().has_security_context())
    TRY(ReadSecurity(config.linux().security_context(), host, spec));
  else
    spec.seccomp.kind = "unconfined";
  spec.stop_signal = SignalName(config.stop_signal());
  return out;
}

namespace {

api::SecurityProfile ProfileOf(const pods::SecurityProfile& profile) {
  api::SecurityProfile out;
  out.set_profile_type(profile.kind == "localhost" ? api::SecurityProfile::Localhost
                       : profile.kind == "default" ? api::SecurityProfile::RuntimeDefault
                                                   : api::SecurityProfile::Unconfined);
  out.set_localhost_ref(profile.path);
  return out;
}

}  // namespace

void FillMount(const pods::Mount& mount, api::Mount& out) {
  out.set_container_path(mount.container_path);
  out.set_host_path(mount.host_path);
  out.set_readonly(mount.read_only);
  out.set_recursive_read_only(mount.recursive_read_only);
  out.set_selinux_relabel(mount.relabel);
  out.set_propagation(mount.propagation == pods::Propagation::kBidirectional     ? api::PROPAGATION_BIDIRECTIONAL
                      : mount.propagation == pods::Propagation::kHostToContainer ? api::PROPAGATION_HOST_TO_CONTAINER
                                                                                 : api::PROPAGATION_PRIVATE);
}

api::ContainerConfig ConfigOf(const pods::ContainerSpec& spec) {
  api::ContainerConfig out;
  out.mutable_metadata()->set_name(spec.name);
  out.mutable_metadata()->set_attempt(spec.attempt);
  out.mutable_image()->set_image(spec.image);
  out.mutable_image()->set_user_specified_image(spec.user_image);
  for (const auto& s : spec.command) out.add_command(s);
  for (const auto& s : spec.args) out.add_args(s);
  out.set_working_dir(spec.working_dir);
  for (const auto& s : spec.env) {
    auto& env = *out.add_envs();
    size_t equals = s.find('=');
    env.set_key(s.substr(0, equals));
    if (equals != std::string::npos) env.set_value(s.substr(equals + 1));
  }
  for (const auto& mount : spec.mounts) FillMount(mount, *out.add_mounts());
  for (const auto& d : spec.devices) {
    auto& device = *out.add_devices();
    device.set_host_path(d.host_path);
    device.set_container_path(d.container_path);
    device.set_permissions(d.permissions);
  }
  for (const auto& [k, v] : spec.labels) (*out.mutable_labels())[k] = v;
  for (const auto& [k, v] : spec.annotations) (*out.mutable_annotations())[k] = v;
  out.set_log_path(spec.log_path);
  out.set_tty(spec.tty);
  out.set_stdin(spec.keep_stdin);
  out.set_stdin_once(spec.stdin_once);
  out.set_stop_signal(SignalOfName(spec.stop_signal));
  if (spec.resources.oom_score_adj) FillResources(spec.resources, *out.mutable_linux()->mutable_resources());
  if (!spec.masked_paths) return out;  // there was no security context
  auto& security = *out.mutable_linux()->mutable_security_context();
  for (const auto& s : spec.add_capabilities) security.mutable_capabilities()->add_add_capabilities(s);
  for (const auto& s : spec.drop_capabilities) security.mutable_capabilities()->add_drop_capabilities(s);
  for (const auto& s : spec.ambient_capabilities) security.mutable_capabilities()->add_add_ambient_capabilities(s);
  security.set_privileged(spec.privileged);
  FillNamespaces(spec.namespaces, *security.mutable_namespace_options());
  if (spec.run_as_user) security.mutable_run_as_user()->set_value(*spec.run_as_user);
  if (spec.run_as_group) security.mutable_run_as_group()->set_value(*spec.run_as_group);
  security.set_run_as_username(spec.run_as_username);
  for (int64_t gid : spec.supplemental_groups) security.add_supplemental_groups(gid);
  security.set_supplemental_groups_policy(spec.strict_groups ? api::Strict : api::Merge);
  security.set_readonly_rootfs(spec.read_only_rootfs);
  security.set_no_new_privs(spec.no_new_privileges);
  for (const auto& s : *spec.masked_paths) security.add_masked_paths(s);
  for (const auto& s : spec.readonly_paths.value_or(std::vector<std::string>())) security.add_readonly_paths(s);
  if (!spec.seccomp.kind.empty()) *security.mutable_seccomp() = ProfileOf(spec.seccomp);
  if (!spec.apparmor.kind.empty()) *security.mutable_apparmor() = ProfileOf(spec.apparmor);
  return out;
}

}  // namespace berth::cri
