#include <cstdio>

#include "cmd/berth/commands.h"

namespace berth::cli {
namespace {

struct LifecycleOptions {
  std::vector<std::string> names;
  int64_t grace = 10;
  bool force = false;
};

// Applies `act` to every name, goes on past failures, tells each; exit code 1 when one failed.
Result<int> ForEach(const std::vector<std::string>& names, const std::function<Result<void>(const std::string&)>& act) {
  int code = 0;
  for (const auto& name : names) {
    if (auto done = act(name); !done) {
      fmt::print(stderr, "berth: {}: {}\n", name, done.error().what);
      code = 1;
    } else {
      fmt::print("{}\n", name);
    }
  }
  return code;
}

Result<void> Stop(const Client& client, const std::string& name, int64_t grace) {
  cri::StopContainerRequest request;
  request.set_container_id(TRY(FindContainer(client, name)).id());
  request.set_timeout(grace);
  TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::StopContainer, request,
           std::chrono::seconds(grace + 60)));
  return {};
}

Result<void> Remove(const Client& client, const std::string& name, bool force) {
  auto container = TRY(FindContainer(client, name));
  if (container.state() == cri::CONTAINER_RUNNING && !force)
    return Err(Code::kConflict, "container is running; stop it first with `berth stop`, or use --force");
  cri::RemoveContainerRequest request;
  request.set_container_id(container.id());
  TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::RemoveContainer, request));
  return {};
}

Result<void> StopPod(const Client& client, const std::string& name) {
  cri::StopPodSandboxRequest request;
  request.set_pod_sandbox_id(TRY(FindPod(client, name)).id());
  TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::StopPodSandbox, request));
  return {};
}

Result<void> RemovePod(const Client& client, const std::string& name, bool force) {
  auto pod = TRY(FindPod(client, name));
  if (pod.state() == cri::SANDBOX_READY && !force)
    return Err(Code::kConflict, "pod is ready; stop it first with `berth stopp`, or use --force");
  cri::RemovePodSandboxRequest request;
  request.set_pod_sandbox_id(pod.id());
  TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::RemovePodSandbox, request));
  return {};
}

}  // namespace

void AddLifecycle(CLI::App& app, Context& context) {
  auto o = std::make_shared<LifecycleOptions>();
  auto* stop = app.add_subcommand("stop", "Stops containers: stop signal, then SIGKILL after the grace time");
  stop->add_option("-t,--time", o->grace, "Grace time in seconds; 0 kills at once")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  auto* rm = app.add_subcommand("rm", "Removes containers");
  auto* stopp = app.add_subcommand("stopp", "Stops pods with all their containers");
  auto* rmp = app.add_subcommand("rmp", "Removes pods with all their containers");
  stop->add_option("container", o->names, "Names or ids")->required();
  rm->add_option("container", o->names, "Names or ids")->required();
  stopp->add_option("pod", o->names, "Names or ids")->required();
  rmp->add_option("pod", o->names, "Names or ids")->required();
  rm->add_flag("-f,--force", o->force, "Also when running: kills it");
  rmp->add_flag("-f,--force", o->force, "Also when ready: stops it");
  auto run = [&context, o](Result<void> (*act)(const Client&, const std::string&, const LifecycleOptions&)) {
    context.action = [&context, o, act]() -> Result<int> {
      Client client = context.Open();
      return ForEach(o->names, [&](const std::string& name) { return act(client, name, *o); });
    };
  };
  using O = const LifecycleOptions&;
  stop->callback([run] { run([](const Client& c, const std::string& n, O o) { return Stop(c, n, o.grace); }); });
  rm->callback([run] { run([](const Client& c, const std::string& n, O o) { return Remove(c, n, o.force); }); });
  stopp->callback([run] { run([](const Client& c, const std::string& n, O) { return StopPod(c, n); }); });
  rmp->callback([run] { run([](const Client& c, const std::string& n, O o) { return RemovePod(c, n, o.force); }); });
}

}  // namespace berth::cli
