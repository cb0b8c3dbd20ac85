#pragma once
// The server over the core over fakes, with clients: what a test of an RPC needs.
#include <gtest/gtest.h>

#include "api.grpc.pb.h"
#include "base/worker_pool.h"
#include "berth.grpc.pb.h"
#include "cri/server.h"
#include "metrics/registry.h"
#include "pods/testing/world.h"

namespace berth::cri::testing {

namespace api = ::runtime::v1;
namespace wire = ::berth::v1;

// The images of the core's fake store; pulls, imports and exports do what the test says.
class ScriptedStore final : public images::Store {
 public:
  explicit ScriptedStore(pods::testing::FakeStore& base) : base_(base) {}
  std::function<Result<images::ImagePtr>(const images::PullRequest&, const Deadline&)> on_pull;
  std::function<Result<std::vector<images::ImagePtr>>(int, const std::string&, const Deadline&)> on_import;
  std::function<Result<void>(const std::vector<std::string>&, Archive, int, const Deadline&)> on_export;

  Result<images::ImagePtr> Find(const std::string& name) const override { return base_.Find(name); }
  std::vector<images::ImagePtr> List() const override { return base_.List(); }
  Result<images::ImagePtr> Pull(const images::PullRequest& request, const Deadline& until) override {
    return on_pull ? on_pull(request, until) : base_.Pull(request, until);
  }
  Result<void> Remove(const std::string& name) override { return base_.Remove(name); }
  Result<images::ImagePtr> Tag(const std::string& source, const std::string& name) override {
    return base_.Tag(source, name);
  }
  Result<std::vector<images::ImagePtr>> Import(int fd, const std::string& name, const Deadline& until) override {
    return on_import ? on_import(fd, name, until) : base_.Import(fd, name, until);
  }
  Result<void> Export(const std::vector<std::string>& names, Archive form, int fd, const Deadline& until) override {
    return on_export ? on_export(names, form, fd, until) : base_.Export(names, form, fd, until);
  }
  images::Snapshotter& snapshotter() override { return base_.snapshotter(); }
  images::Usage DiskUsage() const override { return {1 << 20, 7}; }
  std::string root() const override { return "/"; }

 private:
  pods::testing::FakeStore& base_;
};

// Passes everything on; a test overrides what it wants otherwise.
class PassingLauncher : public runtime::Launcher {
 public:
  explicit PassingLauncher(runtime::Launcher& base) : base_(base) {}
  void OnExit(ExitCallback callback) override { base_.OnExit(std::move(callback)); }
  void OnLost(LostCallback callback) override { base_.OnLost(std::move(callback)); }
  Result<runtime::AdoptedPod> Adopt(const runtime::PodLaunch& pod, const Deadline& until) override {
    return base_.Adopt(pod, until);
  }
  Result<std::vector<runtime::ExitFacts>> ReadExitRecords(const std::string& dir) override {
    return base_.ReadExitRecords(dir);
  }
  Result<runtime::PodHandle> StartPod(const runtime::PodLaunch& pod, const Deadline& until) override {
    return base_.StartPod(pod, until);
  }
  Result<void> StopPod(const PodId& pod, const Deadline& until) override { return base_.StopPod(pod, until); }
  Result<pid_t> CreateContainer(const runtime::ContainerLaunch& launch, const Deadline& until) override {
    return base_.CreateContainer(launch, until);
  }
  Result<int64_t> StartContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.StartContainer(pod, id, until);
  }
  Result<void> Signal(const PodId& pod, const ContainerId& id, int signal, bool all, const Deadline& until) override {
    return base_.Signal(pod, id, signal, all, until);
  }
  Result<void> DeleteContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.DeleteContainer(pod, id, until);
  }
  Result<runtime::ExecHandle> Exec(const runtime::ExecLaunch& launch, const Deadline& until) override {
    return base_.Exec(launch, until);
  }
  Result<void> SignalExec(const PodId& pod, uint64_t exec, int signal, const Deadline& until) override {
    return base_.SignalExec(pod, exec, signal, until);
  }
  Result<void> ReopenLog(const PodId& pod, const ContainerId& id, const std::string& path,
                         const Deadline& until) override {
    return base_.ReopenLog(pod, id, path, until);
  }
  Result<runtime::AttachHandle> Attach(const runtime::AttachLaunch& launch, const Deadline& until) override {
    return base_.Attach(launch, until);
  }
  Result<void> Detach(const PodId& pod, uint64_t attach, const Deadline& until) override {
    return base_.Detach(pod, attach, until);
  }
  Result<void> CloseStdin(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.CloseStdin(pod, id, until);
  }
  Result<void> Resize(const PodId& pod, const ContainerId& id, uint16_t rows, uint16_t columns,
                      const Deadline& until) override {
    return base_.Resize(pod, id, rows, columns, until);
  }
  Result<void> ResizeExec(const PodId& pod, uint64_t exec, uint16_t rows, uint16_t columns,
                          const Deadline& until) override {
    return base_.ResizeExec(pod, exec, rows, columns, until);
  }
  Result<unique_fd> Socket(const PodId& pod, int family, const Deadline& until) override {
    return base_.Socket(pod, family, until);
  }
  Result<void> Pause(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.Pause(pod, id, until);
  }
  Result<void> Resume(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.Resume(pod, id, until);
  }
  Result<void> Update(const PodId& pod, const ContainerId& id, const runtime::oci::Resources& resources,
                      const Deadline& until) override {
    return base_.Update(pod, id, resources, until);
  }
  Result<runtime::ContainerUsage> Usage(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    return base_.Usage(pod, id, until);
  }

 private:
  runtime::Launcher& base_;
};

struct Served {
  explicit Served(size_t workers = 64,
                  std::function<std::unique_ptr<runtime::Launcher>(runtime::Launcher&)> wrap = nullptr)
      : agent(ground),
        store(ground.images),
        launcher(wrap ? wrap(agent.launcher) : std::make_unique<PassingLauncher>(agent.launcher)),
        core{.registry = agent.registry,
             .table = *agent.table,
             .events = agent.events,
             .samples = agent.samples,
             .launcher = *launcher,
             .network = ground.network,
             .images = ground.images,
             .runtime_options = ground.options,
             .root = ground.root,
             .run = ground.run,
             .clock = ground.clock,
             .operations = agent.operations,
             .cgroups = nullptr},
        pool("test", workers) {
    options.socket = ground.run + "/berth.sock";
    options.drain = std::chrono::seconds(30);
    options.identity.version = "0.1.0-test";
    options.identity.cgroup = "v2";
    options.identity.config = R"({"images":{"snapshotter":"auto"}})";
    Start();
  }
  void Start() {
    auto started = Server::Start(options, core, store, ground.network, pool, metrics);
    ASSERT_TRUE(started) << started.error().what;
    server = std::move(*started);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(16 << 20);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel = grpc::CreateCustomChannel("unix:" + options.socket, grpc::InsecureChannelCredentials(), arguments);
    runtime = api::RuntimeService::NewStub(channel);
    image = api::ImageService::NewStub(channel);
    own = wire::Agent::NewStub(channel);
  }

  // served.Call(&api::RuntimeService::Stub::Version, *served.runtime, request, response)
  template <class Stub, class Request, class Response>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), Stub& stub,
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    response.Clear();
    return (stub.*method)(&context, request, &response);
  }

  static api::RunPodSandboxRequest Pod(const std::string& name = "web") {
    api::RunPodSandboxRequest request;
    auto& config = *request.mutable_config();
    config.mutable_metadata()->set_name(name);
    config.mutable_metadata()->set_namespace_("default");
    config.mutable_metadata()->set_uid("uid-" + name);
    (*config.mutable_labels())["app"] = name;
    return request;
  }
  std::string RunPod(const std::string& name = "web") {
    api::RunPodSandboxResponse response;
    auto status = Call(&api::RuntimeService::Stub::RunPodSandbox, *runtime, Pod(name), response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.pod_sandbox_id();
  }
  static api::CreateContainerRequest Container(const std::string& pod, const std::string& name = "app") {
    api::CreateContainerRequest request;
    request.set_pod_sandbox_id(pod);
    request.mutable_config()->mutable_metadata()->set_name(name);
    request.mutable_config()->mutable_image()->set_image("docker.io/library/app:1");
    (*request.mutable_config()->mutable_labels())["part"] = name;
    return request;
  }
  std::string CreateContainer(const std::string& pod, const std::string& name = "app") {
    api::CreateContainerResponse response;
    auto status = Call(&api::RuntimeService::Stub::CreateContainer, *runtime, Container(pod, name), response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.container_id();
  }
  grpc::Status StartContainer(const std::string& id) {
    api::StartContainerRequest request;
    api::StartContainerResponse response;
    request.set_container_id(id);
    return Call(&api::RuntimeService::Stub::StartContainer, *runtime, request, response);
  }
  api::ContainerStatus Status(const std::string& id) {
    api::ContainerStatusRequest request;
    api::ContainerStatusResponse response;
    request.set_container_id(id);
    auto status = Call(&api::RuntimeService::Stub::ContainerStatus, *runtime, request, response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }
  // Run pod, create container, start it.
  std::string Running() {
    std::string id = CreateContainer(RunPod());
    auto status = StartContainer(id);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return id;
  }

  pods::testing::Ground ground;
  pods::testing::Agent agent;
  ScriptedStore store;
  std::unique_ptr<runtime::Launcher> launcher;
  pods::Core core;
  metrics::Registry metrics;
  WorkerPool pool;
  ServerOptions options;
  std::unique_ptr<Server> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<api::RuntimeService::Stub> runtime;
  std::unique_ptr<api::ImageService::Stub> image;
  std::unique_ptr<wire::Agent::Stub> own;
};

}  // namespace berth::cri::testing
