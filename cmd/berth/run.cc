#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <thread>

#include "base/atomic_file.h"
#include "base/id.h"
#include "base/undo.h"
#include "cmd/berth/commands.h"
#include "cmd/berth/log_reader.h"
#include "cmd/berth/table.h"
#include "pods/default_paths.h"

namespace berth::cli {
namespace {

struct RunOptions {
  std::string image, name, hostname, network = "pod", user, working_dir, memory, cpus, pull = "missing", platform,
                                     entrypoint;
  std::vector<std::string> command, env, publish, volumes, labels, add_caps, drop_caps, sysctls, dns;
  bool detach = false, remove = false, privileged = false, read_only = false, no_new_privileges = false, quiet = false;
  int64_t pids = 0, stop_grace = 10;
};

Result<uint64_t> ParseSize(const std::string& text, const char* option) {
  char* end = nullptr;
  errno = 0;
  double value = std::strtod(text.c_str(), &end);
  std::string unit(end);
  std::transform(unit.begin(), unit.end(), unit.begin(), ::tolower);
  static const std::map<std::string, double> kUnits = {{"", 1},         {"b", 1},       {"k", 1 << 10},
                                                       {"kb", 1 << 10}, {"m", 1 << 20}, {"mb", 1 << 20},
                                                       {"g", 1 << 30},  {"gb", 1 << 30}};
  auto it = kUnits.find(unit);
  if (end == text.c_str() || it == kUnits.end() || value <= 0)
    return Err(Code::kInvalidArgument, "{} {}: expected a size such as 64m or 1.5g", option, text);
  return static_cast<uint64_t>(value * it->second);
}

Result<int> ParsePort(const std::string& text, const std::string& whole) {
  int port = 0;
  for (char c : text) port = c >= '0' && c <= '9' && port < 100000 ? port * 10 + (c - '0') : 1000000;
  if (text.empty() || port < 1 || port > 65535)
    return Err(Code::kInvalidArgument, "--publish {}: '{}' is not a port from 1 to 65535", whole, text);
  return port;
}

// [address:]host:container[/protocol], address in brackets when IPv6
Result<void> AddPort(const std::string& text, cri::PodSandboxConfig* config) {
  auto* port = config->add_port_mappings();
  std::string rest = text;
  if (size_t slash = rest.rfind('/'); slash != rest.npos) {
    std::string protocol = rest.substr(slash + 1);
    rest.resize(slash);
    if (protocol == "udp")
      port->set_protocol(cri::UDP);
    else if (protocol == "sctp")
      port->set_protocol(cri::SCTP);
    else if (protocol != "tcp")
      return Err(Code::kInvalidArgument, "--publish {}: protocol is tcp, udp or sctp", text);
  }
  size_t last = rest.rfind(':');
  if (last == rest.npos)
    return Err(Code::kInvalidArgument, "--publish {}: expected [address:]host-port:container-port[/protocol]", text);
  port->set_container_port(TRY(ParsePort(rest.substr(last + 1), text)));
  rest.resize(last);
  if (size_t colon = rest.rfind(':'); colon != rest.npos) {
    std::string address = rest.substr(0, colon);
    if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
    port->set_host_ip(address);
    rest = rest.substr(colon + 1);
  }
  port->set_host_port(TRY(ParsePort(rest, text)));
  return {};
}

// host:container[:ro]
Result<void> AddVolume(const std::string& text, cri::ContainerConfig* config) {
  size_t first = text.find(':'), second = first == text.npos ? first : text.find(':', first + 1);
  std::string host = text.substr(0, first), mode = second == text.npos ? "" : text.substr(second + 1);
  std::string inside =
      first == text.npos ? "" : text.substr(first + 1, second == text.npos ? second : second - first - 1);
  if (host.empty() || inside.empty() || host[0] != '/' || inside[0] != '/' ||
      (mode != "" && mode != "ro" && mode != "rw"))
    return Err(Code::kInvalidArgument, "--volume {}: expected /host/path:/container/path[:ro]", text);
  auto* mount = config->add_mounts();
  mount->set_host_path(host);
  mount->set_container_path(inside);
  mount->set_readonly(mode == "ro");
  return {};
}

Result<std::pair<std::string, std::string>> KeyValue(const std::string& text, const char* option) {
  size_t equal = text.find('=');
  if (equal == 0 || equal == text.npos) return Err(Code::kInvalidArgument, "{} {}: expected KEY=value", option, text);
  return std::pair(text.substr(0, equal), text.substr(equal + 1));
}

Result<cri::PodSandboxConfig> MakePod(const RunOptions& o, const std::string& root) {
  cri::PodSandboxConfig config;
  auto* metadata = config.mutable_metadata();
  metadata->set_name(o.name);
  metadata->set_namespace_("default");
  metadata->set_uid(RandomHex(32));
  config.set_log_directory(fmt::format("{}/logs/{}-{}", root, o.name, metadata->uid().substr(0, 8)));
  (*config.mutable_labels())["berth.pod"] = o.name;
  auto* options = config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  options->set_pid(cri::CONTAINER);
  if (o.network == "host")
    options->set_network(cri::NODE);
  else
    config.set_hostname(o.hostname.empty() ? o.name : o.hostname);
  config.mutable_linux()->mutable_security_context()->set_privileged(o.privileged);
  for (const auto& port : o.publish) TRY(AddPort(port, &config));
  for (const auto& sysctl : o.sysctls) {
    auto [key, value] = TRY(KeyValue(sysctl, "--sysctl"));
    config.mutable_linux()->mutable_sysctls()->insert({key, value});
  }
  for (const auto& server : o.dns) config.mutable_dns_config()->add_servers(server);
  return config;
}

Result<cri::ContainerConfig> MakeContainer(const RunOptions& o, const std::string& image_id) {
  cri::ContainerConfig config;
  config.mutable_metadata()->set_name(o.name);
  config.mutable_image()->set_image(image_id);
  config.mutable_image()->set_user_specified_image(o.image);
  config.set_log_path(o.name + ".log");
  config.set_working_dir(o.working_dir);
  if (!o.entrypoint.empty()) config.add_command(o.entrypoint);
  for (const auto& arg : o.command) config.add_args(arg);
  for (const auto& env : o.env) {
    auto [key, value] = TRY(KeyValue(env, "--env"));
    auto* pair = config.add_envs();
    pair->set_key(key);
    pair->set_value(value);
  }
  for (const auto& label : o.labels) {
    auto [key, value] = TRY(KeyValue(label, "--label"));
    (*config.mutable_labels())[key] = value;
  }
  for (const auto& volume : o.volumes) TRY(AddVolume(volume, &config));
  auto* security = config.mutable_linux()->mutable_security_context();
  security->set_privileged(o.privileged);
  security->set_readonly_rootfs(o.read_only);
  security->set_no_new_privs(o.no_new_privileges);
  security->mutable_namespace_options()->set_pid(cri::CONTAINER);
  if (o.network == "host") security->mutable_namespace_options()->set_network(cri::NODE);
  security->mutable_seccomp()->set_profile_type(o.privileged ? cri::SecurityProfile_ProfileType_Unconfined
                                                             : cri::SecurityProfile_ProfileType_RuntimeDefault);
  for (const auto& cap : o.add_caps) security->mutable_capabilities()->add_add_capabilities(cap);
  for (const auto& cap : o.drop_caps) security->mutable_capabilities()->add_drop_capabilities(cap);
  // What Docker masks: the caller's silence would mean nothing masked.
  if (!o.privileged) {
    for (std::string_view path : pods::kMaskedPaths) security->add_masked_paths(std::string(path));
    for (std::string_view path : pods::kReadonlyPaths) security->add_readonly_paths(std::string(path));
  }
  if (!o.user.empty()) {
    std::string user = o.user.substr(0, o.user.find(':'));
    bool number = !user.empty() && std::all_of(user.begin(), user.end(), ::isdigit);
    if (number)
      security->mutable_run_as_user()->set_value(std::stoll(user));
    else
      security->set_run_as_username(user);
    if (size_t colon = o.user.find(':'); colon != o.user.npos) {
      std::string group = o.user.substr(colon + 1);
      if (group.empty() || !std::all_of(group.begin(), group.end(), ::isdigit))
        return Err(Code::kInvalidArgument, "--user {}: the group must be a number", o.user);
      security->mutable_run_as_group()->set_value(std::stoll(group));
    }
  }
  auto* resources = config.mutable_linux()->mutable_resources();
  if (!o.memory.empty())
    resources->set_memory_limit_in_bytes(static_cast<int64_t>(TRY(ParseSize(o.memory, "--memory"))));
  if (!o.cpus.empty()) {
    double cpus = std::strtod(o.cpus.c_str(), nullptr);
    if (cpus < 0.01) return Err(Code::kInvalidArgument, "--cpus {}: expected a number such as 0.5 or 2", o.cpus);
    resources->set_cpu_period(100000);
    resources->set_cpu_quota(static_cast<int64_t>(cpus * 100000));
  }
  return config;
}

Result<std::string> ImageId(const Client& client, const RunOptions& o) {
  cri::ImageStatusRequest request;
  request.mutable_image()->set_image(o.image);
  auto found = TRY(Call(client, *client.images, &cri::ImageService::Stub::ImageStatus, request));
  if (found.has_image() && o.pull != "always") return found.image().id();
  if (o.pull == "never")
    return Err(Code::kNotFound, "image {} is not in the store and --pull never was given; `berth pull {}` fetches it",
               o.image, o.image);
  return PullWithProgress(client, o.image, o.platform, o.quiet);
}

// Prints the log as it grows and forwards signals until the container exits; returns its exit code.
Result<int> Follow(const Client& client, const std::string& id, int64_t grace, int signal_fd) {
  auto status = TRY(StatusOf(client, id));
  unique_fd exited(::eventfd(0, EFD_CLOEXEC));
  Result<::berth::v1::WaitResponse> waited = Err(Code::kUnavailable, "the agent went away");
  std::jthread waiter([&] {
    ::berth::v1::WaitRequest request;
    request.set_container_id(id);
    waited = Call(client, *client.agent, &::berth::v1::Agent::Stub::Wait, request, std::chrono::seconds(0));
    uint64_t one = 1;
    (void)!::write(exited.get(), &one, sizeof one);
  });
  std::jthread forwarder;
  int signals = 0;
  auto sink = [](const LogRecord& r) {
    (void)WriteAll(r.stream == "stderr" ? STDERR_FILENO : STDOUT_FILENO, r.content).has_value();
  };
  LogReader reader(status.log_path(), {});
  TRY(reader.ReadExisting(sink));
  while (true) {
    pollfd fds[2] = {{exited.get(), POLLIN, 0}, {signal_fd, POLLIN, 0}};
    TRY(reader.WaitForChange(::poll(fds, 2, 0) > 0 ? 0 : 100, exited.get()));
    if (::poll(fds, 2, 0) > 0 && (fds[1].revents & POLLIN)) {
      signalfd_siginfo info;
      (void)!::read(signal_fd, &info, sizeof info);
      // The first asks the container to stop, the second kills it; in a thread, since the output goes on meanwhile.
      int64_t time = signals++ == 0 ? grace : 0;
      forwarder = std::jthread([&client, id, time] {
        cri::StopContainerRequest request;
        request.set_container_id(id);
        request.set_timeout(time);
        (void)Call(client, *client.runtime, &cri::RuntimeService::Stub::StopContainer, request,
                   std::chrono::seconds(time + 60))
            .has_value();
      });
    }
    TRY(reader.ReadMore(sink));
    if (::poll(fds, 1, 0) > 0 && (fds[0].revents & POLLIN)) break;
  }
  TRY(reader.ReadMore(sink));
  waiter.join();
  if (!waited) return Wrap(waited.error(), "waiting for container {}; it runs on", id.substr(0, 12));
  return waited->exit_code();
}

// Tells why and gives the exit code that shells expect of a program that cannot be run. The runtime's words for it are
// fixed: callers of every OCI runtime rely on them.
int CannotRun(const Error& error) {
  fmt::print(stderr, "berth: {}\n", error.what);
  auto says = [&](const char* words) { return error.what.find(words) != std::string::npos; };
  if (says("executable file not found") || says("no such file or directory")) return 127;
  return says("permission denied") ? 126 : 125;
}

Result<int> Run(const Context& context, RunOptions o) {
  Client client = context.Open();
  if (o.name.empty()) o.name = "run-" + RandomHex(8);
  auto info = TRY(Call(client, *client.agent, &::berth::v1::Agent::Stub::Info, ::berth::v1::InfoRequest()));
  cri::RunPodSandboxRequest run;
  *run.mutable_config() = TRY(MakePod(o, info.root()));
  cri::CreateContainerRequest create;
  *create.mutable_config() = TRY(MakeContainer(o, "pending"));
  if (FindPod(client, o.name))
    return Err(Code::kAlreadyExists,
               "a pod named '{}' exists; choose another --name, or remove it with `berth rmp --force {}`", o.name,
               o.name);
  create.mutable_config()->mutable_image()->set_image(TRY(ImageId(client, o)));

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  unique_fd signal_fd;
  if (!o.detach) {
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal_fd = unique_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  }
  auto pod = TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::RunPodSandbox, run));
  Undo undo;
  undo.Add("remove pod", [&]() -> Result<void> {
    cri::RemovePodSandboxRequest request;
    request.set_pod_sandbox_id(pod.pod_sandbox_id());
    TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::RemovePodSandbox, request));
    return {};
  });
  create.set_pod_sandbox_id(pod.pod_sandbox_id());
  *create.mutable_sandbox_config() = run.config();
  auto created = Call(client, *client.runtime, &cri::RuntimeService::Stub::CreateContainer, create);
  if (!created) return CannotRun(created.error());
  const auto& container = *created;
  cri::StartContainerRequest start;
  start.set_container_id(container.container_id());
  if (auto started = Call(client, *client.runtime, &cri::RuntimeService::Stub::StartContainer, start); !started)
    return CannotRun(started.error());
  if (o.detach) {
    undo.Keep();
    fmt::print("{}\n", container.container_id());
    return 0;
  }
  auto code = Follow(client, container.container_id(), o.stop_grace, signal_fd.get());
  if (!o.remove || !code) undo.Keep();
  return code;
}

}  // namespace

void AddRun(CLI::App& app, Context& context) {
  auto o = std::make_shared<RunOptions>();
  auto* run =
      app.add_subcommand("run",
                         "Makes a pod with one container of an image and runs it; exits with the container's code\n"
                         "  berth run --rm docker.io/library/busybox echo hello\n"
                         "  berth run -d --name web -p 8080:80 docker.io/library/nginx\n"
                         "What follows the image replaces the image's command.");
  run->add_option("--name", o->name, "Name of pod and container; default: made up");
  run->add_flag("-d,--detach", o->detach, "Prints the container's id and leaves it running");
  run->add_flag("--rm", o->remove, "Removes the pod when the container has exited");
  auto many = [run](const char* flags, std::vector<std::string>& to, const char* help) {
    run->add_option(flags, to, help)->take_all()->allow_extra_args(false);
  };
  many("-e,--env", o->env, "KEY=value; repeatable");
  many("-p,--publish", o->publish, "[address:]host-port:container-port[/udp]; repeatable");
  many("-v,--volume", o->volumes, "/host/path:/container/path[:ro]; repeatable");
  many("-l,--label", o->labels, "KEY=value; repeatable");
  many("--cap-add", o->add_caps, "Capability to add, or ALL; repeatable");
  many("--cap-drop", o->drop_caps, "Capability to drop, or ALL; repeatable");
  many("--sysctl", o->sysctls, "name=value of the pod's namespaces; repeatable");
  many("--dns", o->dns, "Name server for the pod; repeatable");
  run->add_option("--net,--network", o->network, "pod (an address of its own) or host")
      ->check(CLI::IsMember({"pod", "host"}))
      ->capture_default_str();
  run->add_option("--hostname", o->hostname, "Host name inside; default: the pod's name");
  run->add_option("--entrypoint", o->entrypoint, "Program in place of the image's entrypoint");
  run->add_option("-u,--user", o->user, "User name or id, with :gid when wanted");
  run->add_option("-w,--workdir", o->working_dir, "Directory to start in");
  run->add_option("-m,--memory", o->memory, "Memory limit, e.g. 64m");
  run->add_option("--cpus", o->cpus, "CPU limit, e.g. 0.5");
  run->add_option("--pull", o->pull, "missing, always or never")
      ->check(CLI::IsMember({"missing", "always", "never"}))
      ->capture_default_str();
  run->add_option("--platform", o->platform, "os/architecture[/variant] to pull");
  run->add_option("--stop-timeout", o->stop_grace, "Seconds between the stop signal and SIGKILL on Ctrl-C")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  run->add_flag("--privileged", o->privileged, "All capabilities and devices, no seccomp, nothing masked");
  run->add_flag("--read-only", o->read_only, "Root filesystem read-only");
  run->add_flag("--no-new-privileges", o->no_new_privileges, "Set-uid programs gain nothing");
  run->add_flag("-q,--quiet", o->quiet, "No pull progress");
  run->add_option("image", o->image, "Reference or id of the image")->required();
  run->prefix_command();  // what follows the image belongs to the container
  run->callback([=, &context] {
    o->command = run->remaining();
    context.action = [=, &context] { return Run(context, *o); };
  });
}

}  // namespace berth::cli
