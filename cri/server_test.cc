#include "cri/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <thread>

#include "base/json.h"
#include "cri/testing/served.h"

namespace berth::cri::testing {
namespace {

using grpc::StatusCode;
using Runtime = api::RuntimeService::Stub;
using Images = api::ImageService::Stub;

unsigned ModeOf(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : 0;
}

TEST(Socket, ModesAndDirectory) {
  Served s;
  EXPECT_EQ(ModeOf(s.options.socket), 0660u);
  s.server->Shutdown();
  EXPECT_EQ(ModeOf(s.options.socket), 0u) << "the socket stays behind";

  s.options.socket = s.ground.dir / "new/berth.sock";
  s.options.mode = 0600;
  s.Start();
  EXPECT_EQ(ModeOf(s.options.socket), 0600u);
  EXPECT_EQ(ModeOf(s.ground.dir / "new"), 0710u);
}

TEST(Socket, ALivingOneIsNotTaken) {
  Served s;
  auto second = Server::Start(s.options, s.core, s.store, s.ground.network, s.pool, s.metrics);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kConflict);
  api::VersionResponse response;
  EXPECT_TRUE(s.Call(&Runtime::Version, *s.runtime, {}, response).ok());
}

TEST(Socket, AStaleOneIsReplaced) {
  Served s;
  s.server.reset();
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  s.options.socket.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  s.Start();
  api::VersionResponse response;
  EXPECT_TRUE(s.Call(&Runtime::Version, *s.runtime, {}, response).ok());
}

TEST(Socket, BadOptions) {
  Served s;
  s.options.socket = s.ground.dir / "other.sock";
  s.options.identity.version = "v1";
  auto bad = Server::Start(s.options, s.core, s.store, s.ground.network, s.pool, s.metrics);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, Code::kInvalidArgument);
  s.options.identity.version = "1.0.0";
  s.options.group = "no-such-group-here";
  bad = Server::Start(s.options, s.core, s.store, s.ground.network, s.pool, s.metrics);
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().what.find("no-such-group-here"), std::string::npos);
}

TEST(Runtime_, VersionStatusConfig) {
  Served s;
  api::VersionResponse version;
  ASSERT_TRUE(s.Call(&Runtime::Version, *s.runtime, {}, version).ok());
  EXPECT_EQ(version.version(), "0.1.0");
  EXPECT_EQ(version.runtime_name(), "berth");
  EXPECT_EQ(version.runtime_version(), "0.1.0-test");
  EXPECT_EQ(version.runtime_api_version(), "v1");

  api::StatusRequest request;
  api::StatusResponse status;
  ASSERT_TRUE(s.Call(&Runtime::Status, *s.runtime, request, status).ok());
  ASSERT_EQ(status.status().conditions_size(), 2);
  EXPECT_EQ(status.status().conditions(0).type(), "RuntimeReady");
  EXPECT_TRUE(status.status().conditions(0).status());
  EXPECT_EQ(status.status().conditions(1).type(), "NetworkReady");
  EXPECT_TRUE(status.status().conditions(1).status());
  EXPECT_TRUE(status.info().empty());
  ASSERT_EQ(status.runtime_handlers_size(), 1);
  EXPECT_EQ(status.runtime_handlers(0).name(), "");
  EXPECT_FALSE(status.runtime_handlers(0).features().user_namespaces());
  EXPECT_TRUE(status.features().supplemental_groups_policy());
  EXPECT_FALSE(status.features().mount_options());

  s.ground.network.status = {
      .ready = false, .reason = "NetworkPluginNotReady", .message = "cni plugin not initialized: none"};
  request.set_verbose(true);
  ASSERT_TRUE(s.Call(&Runtime::Status, *s.runtime, request, status).ok());
  EXPECT_FALSE(status.status().conditions(1).status());
  EXPECT_EQ(status.status().conditions(1).reason(), "NetworkPluginNotReady");
  auto config = boost::json::parse(status.info().at("config")).as_object();
  EXPECT_EQ(config["stateDir"].as_string(), s.ground.run);
  EXPECT_EQ(config["images"].at("snapshotter").as_string(), "auto");

  api::RuntimeConfigResponse driver;
  ASSERT_TRUE(s.Call(&Runtime::RuntimeConfig, *s.runtime, {}, driver).ok());
  EXPECT_EQ(driver.linux().cgroup_driver(), api::CGROUPFS);
}

TEST(Runtime_, LifeOfAPod) {
  Served s;
  std::string pod = s.RunPod();
  EXPECT_EQ(pod.size(), 64u);
  EXPECT_EQ(s.RunPod(), pod) << "a retry takes the first answer";

  api::PodSandboxStatusRequest status_request;
  api::PodSandboxStatusResponse status;
  status_request.set_pod_sandbox_id(pod.substr(0, 13));
  status_request.set_verbose(true);
  ASSERT_TRUE(s.Call(&Runtime::PodSandboxStatus, *s.runtime, status_request, status).ok());
  EXPECT_EQ(status.status().id(), pod);
  EXPECT_EQ(status.status().state(), api::SANDBOX_READY);
  EXPECT_EQ(status.status().metadata().uid(), "uid-web");
  EXPECT_GT(status.status().created_at(), 0);
  EXPECT_EQ(status.status().network().ip(), "10.99.0.2");
  EXPECT_EQ(status.status().labels().at("app"), "web");
  EXPECT_EQ(status.containers_statuses_size(), 0);
  EXPECT_EQ(status.timestamp(), 0);
  auto info = boost::json::parse(status.info().at("info")).as_object();
  EXPECT_GT(info["pid"].as_int64(), 0);
  EXPECT_TRUE(info["runtimeSpec"].at("linux").at("namespaces").is_array());

  s.RunPod("other");
  api::ListPodSandboxRequest list_request;
  api::ListPodSandboxResponse list;
  ASSERT_TRUE(s.Call(&Runtime::ListPodSandbox, *s.runtime, list_request, list).ok());
  EXPECT_EQ(list.items_size(), 2);
  (*list_request.mutable_filter()->mutable_label_selector())["app"] = "web";
  ASSERT_TRUE(s.Call(&Runtime::ListPodSandbox, *s.runtime, list_request, list).ok());
  ASSERT_EQ(list.items_size(), 1);
  EXPECT_EQ(list.items(0).id(), pod);
  list_request.mutable_filter()->mutable_state()->set_state(api::SANDBOX_NOTREADY);
  ASSERT_TRUE(s.Call(&Runtime::ListPodSandbox, *s.runtime, list_request, list).ok());
  EXPECT_EQ(list.items_size(), 0);

  api::StopPodSandboxRequest stop;
  api::StopPodSandboxResponse stopped;
  stop.set_pod_sandbox_id(pod);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(s.Call(&Runtime::StopPodSandbox, *s.runtime, stop, stopped).ok());
  ASSERT_TRUE(s.Call(&Runtime::ListPodSandbox, *s.runtime, list_request, list).ok());
  EXPECT_EQ(list.items_size(), 1);

  api::RemovePodSandboxRequest remove;
  api::RemovePodSandboxResponse removed;
  remove.set_pod_sandbox_id(pod);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(s.Call(&Runtime::RemovePodSandbox, *s.runtime, remove, removed).ok());
  status_request.set_pod_sandbox_id(pod);
  EXPECT_EQ(s.Call(&Runtime::PodSandboxStatus, *s.runtime, status_request, status).error_code(), StatusCode::NOT_FOUND);
}

TEST(Runtime_, LifeOfAContainer) {
  Served s;
  std::string pod = s.RunPod();
  std::string id = s.CreateContainer(pod);
  EXPECT_EQ(id.size(), 64u);
  auto status = s.Status(id);
  EXPECT_EQ(status.state(), api::CONTAINER_CREATED);
  EXPECT_EQ(status.image_id(), images::Digest::Of("docker.io/library/app:1").str());
  EXPECT_EQ(status.metadata().name(), "app");

  ASSERT_TRUE(s.StartContainer(id).ok());
  EXPECT_EQ(s.Status(id.substr(0, 13)).state(), api::CONTAINER_RUNNING);
  EXPECT_EQ(s.StartContainer(id).error_code(), StatusCode::FAILED_PRECONDITION);

  api::ListContainersRequest list_request;
  api::ListContainersResponse list;
  list_request.mutable_filter()->set_pod_sandbox_id(pod.substr(0, 13));
  (*list_request.mutable_filter()->mutable_label_selector())["part"] = "app";
  ASSERT_TRUE(s.Call(&Runtime::ListContainers, *s.runtime, list_request, list).ok());
  ASSERT_EQ(list.containers_size(), 1);
  EXPECT_EQ(list.containers(0).id(), id);
  EXPECT_EQ(list.containers(0).image_id(), status.image_id());
  list_request.mutable_filter()->set_id("zz");
  ASSERT_TRUE(s.Call(&Runtime::ListContainers, *s.runtime, list_request, list).ok());
  EXPECT_EQ(list.containers_size(), 0);

  api::StopContainerRequest stop;
  api::StopContainerResponse stopped;
  stop.set_container_id(id);
  stop.set_timeout(-5);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(s.Call(&Runtime::StopContainer, *s.runtime, stop, stopped).ok());
  status = s.Status(id);
  EXPECT_EQ(status.state(), api::CONTAINER_EXITED);
  EXPECT_EQ(status.exit_code(), 137);
  EXPECT_EQ(status.reason(), "Error");
  EXPECT_GT(status.finished_at(), 0);

  api::ContainerStatusRequest verbose;
  api::ContainerStatusResponse answer;
  verbose.set_container_id(id);
  verbose.set_verbose(true);
  ASSERT_TRUE(s.Call(&Runtime::ContainerStatus, *s.runtime, verbose, answer).ok());
  auto info = boost::json::parse(answer.info().at("info")).as_object();
  EXPECT_EQ(info["sandboxID"].as_string(), pod);
  EXPECT_EQ(info["runtimeSpec"].at("process").at("args").at(0).as_string(), "/bin/app");

  api::RemoveContainerRequest remove;
  api::RemoveContainerResponse removed;
  remove.set_container_id(id);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(s.Call(&Runtime::RemoveContainer, *s.runtime, remove, removed).ok());
  EXPECT_EQ(s.Call(&Runtime::ContainerStatus, *s.runtime, verbose, answer).error_code(), StatusCode::NOT_FOUND);
}

TEST(Runtime_, ContainerRefusals) {
  Served s;
  std::string pod = s.RunPod();
  api::CreateContainerResponse response;
  auto create = [&](auto change) {
    auto request = Served::Container(pod);
    change(request);
    return s.Call(&Runtime::CreateContainer, *s.runtime, request, response);
  };
  auto status =
      create([](auto& r) { r.mutable_config()->mutable_linux()->mutable_security_context()->set_privileged(true); });
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(status.error_message().starts_with("config.linux.security_context.privileged: needs a sandbox"))
      << status.error_message();
  status = create(
      [](auto& r) { r.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options(); });
  EXPECT_TRUE(status.error_message().starts_with("config.linux.security_context.namespace_options.pid: POD (0) needs"))
      << status.error_message();
  status = create([](auto& r) { r.mutable_config()->mutable_image()->set_image_ref("sha256:1"); });
  EXPECT_TRUE(status.error_message().starts_with("config.image.image_ref: ")) << status.error_message();
  status = create([](auto& r) { r.mutable_config()->mutable_image()->set_image("docker.io/library/none:1"); });
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND) << status.error_message();
  status = create([](auto& r) { r.set_pod_sandbox_id(std::string(64, 'f')); });
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  status = create([](auto& r) { (*r.mutable_config()->mutable_labels())["k"] = std::string("a\0b", 3); });
  EXPECT_EQ(status.error_message(), "config.labels[\"k\"]: must not contain NUL bytes");
  status = create([](auto& r) { r.mutable_config()->set_stop_signal(static_cast<api::Signal>(99)); });
  EXPECT_TRUE(status.error_message().starts_with("config.stop_signal: 99 is not one of SIGNAL_RUNTIME_DEFAULT (0)"))
      << status.error_message();
}

TEST(Runtime_, StartErrorEndsTheContainer) {
  Served s;
  std::string id = s.CreateContainer(s.RunPod());
  s.agent.launcher.FailNext("start_container", Code::kInvalidArgument, "exec: \"/bin/app\": no such file or directory");
  auto status = s.StartContainer(id);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.error_message().find("no such file"), std::string::npos);
  auto container = s.Status(id);
  EXPECT_EQ(container.state(), api::CONTAINER_EXITED);
  EXPECT_EQ(container.exit_code(), 128);
  EXPECT_EQ(container.reason(), "StartError");
}

TEST(Runtime_, ExecSync) {
  Served s;
  std::string id = s.Running();
  s.agent.launcher.OnExec([](const runtime::ExecLaunch& launch) -> std::optional<int> {
    if (launch.process->args[0] == "sleep") return std::nullopt;
    EXPECT_EQ(::write(launch.out, "hello", 5), 5);
    EXPECT_EQ(::write(launch.err, "oops", 4), 4);
    return 3;
  });
  api::ExecSyncRequest request;
  api::ExecSyncResponse response;
  request.set_container_id(id);
  request.add_cmd("echo");
  auto status = s.Call(&Runtime::ExecSync, *s.runtime, request, response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.stdout(), "hello");
  EXPECT_EQ(response.stderr(), "oops");
  EXPECT_EQ(response.exit_code(), 3);

  request.set_cmd(0, "sleep");
  request.set_timeout(1);
  EXPECT_EQ(s.Call(&Runtime::ExecSync, *s.runtime, request, response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  request.set_timeout(-1);
  EXPECT_EQ(s.Call(&Runtime::ExecSync, *s.runtime, request, response).error_message(),
            "timeout: must be seconds, 0 for none, got -1");
  request.clear_cmd();
  EXPECT_EQ(s.Call(&Runtime::ExecSync, *s.runtime, request, response).error_message(),
            "cmd: must name a program, then its arguments");
}

TEST(Runtime_, LogAndStats) {
  Served s;
  std::string id = s.Running();
  api::ReopenContainerLogRequest reopen;
  api::ReopenContainerLogResponse reopened;
  reopen.set_container_id(id);
  auto status = s.Call(&Runtime::ReopenContainerLog, *s.runtime, reopen, reopened);
  EXPECT_TRUE(status.ok()) << status.error_message();
  reopen.set_container_id("ffffffff");
  EXPECT_EQ(s.Call(&Runtime::ReopenContainerLog, *s.runtime, reopen, reopened).error_code(), StatusCode::NOT_FOUND);

  std::string created = s.CreateContainer(s.RunPod(), "second");
  api::ListContainerStatsResponse list;
  ASSERT_TRUE(s.Call(&Runtime::ListContainerStats, *s.runtime, {}, list).ok());
  EXPECT_EQ(list.stats_size(), 2);
  api::ContainerStatsRequest request;
  api::ContainerStatsResponse response;
  request.set_container_id(created);
  ASSERT_TRUE(s.Call(&Runtime::ContainerStats, *s.runtime, request, response).ok());
  EXPECT_EQ(response.stats().attributes().id(), created);
  EXPECT_FALSE(response.stats().has_cpu());
  request.set_container_id("ffffffff");
  EXPECT_EQ(s.Call(&Runtime::ContainerStats, *s.runtime, request, response).error_code(), StatusCode::NOT_FOUND);
}

TEST(Runtime_, StreamingUrls) {
  Served s;
  const std::string id = s.Running();
  auto exec = [&](auto change) {
    api::ExecRequest request;
    request.set_container_id(id);
    request.add_cmd("sh");
    request.set_stdout(true);
    change(request);
    api::ExecResponse response;
    auto status = s.Call(&Runtime::Exec, *s.runtime, request, response);
    return status.ok() ? response.url() : fmt::format("{}: {}", static_cast<int>(status.error_code()), status.error_message());
  };
  const std::string good = exec([](auto&) {});
  EXPECT_TRUE(good.starts_with("http://127.0.0.1:")) << good;
  EXPECT_NE(good.find("/exec/"), std::string::npos);
  EXPECT_NE(good, exec([](auto&) {})) << "each call its own";
  EXPECT_TRUE(exec([](auto& r) { r.set_container_id(""); }).starts_with("3: container_id"));
  EXPECT_TRUE(exec([](auto& r) { r.clear_cmd(); }).starts_with("3: cmd"));
  EXPECT_TRUE(exec([](auto& r) { r.set_stdout(false); }).starts_with("3: stdin, stdout, stderr"));
  EXPECT_TRUE(exec([](auto& r) { r.set_tty(true), r.set_stderr(true); }).starts_with("3: stderr"));
  EXPECT_TRUE(exec([](auto& r) { r.set_container_id(std::string(64, 'f')); }).starts_with("5: "));

  api::AttachRequest attach;
  attach.set_container_id(id);
  attach.set_stdout(true);
  api::AttachResponse attached;
  EXPECT_TRUE(s.Call(&Runtime::Attach, *s.runtime, attach, attached).ok());
  EXPECT_NE(attached.url().find("/attach/"), std::string::npos);
  attach.set_tty(true);
  EXPECT_EQ(s.Call(&Runtime::Attach, *s.runtime, attach, attached).error_code(), StatusCode::INVALID_ARGUMENT);
  attach.set_tty(false);
  attach.set_stdin(true);
  EXPECT_EQ(s.Call(&Runtime::Attach, *s.runtime, attach, attached).error_code(), StatusCode::INVALID_ARGUMENT);

  api::PortForwardRequest forward;
  forward.set_pod_sandbox_id(pods::FindContainer(s.core, id)->pod.str());
  api::PortForwardResponse forwarded;
  EXPECT_TRUE(s.Call(&Runtime::PortForward, *s.runtime, forward, forwarded).ok());
  EXPECT_NE(forwarded.url().find("/portforward/"), std::string::npos);
  forward.add_port(70000);
  EXPECT_EQ(s.Call(&Runtime::PortForward, *s.runtime, forward, forwarded).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST(Runtime_, Events) {
  Served s;
  grpc::ClientContext context;
  auto reader = s.runtime->GetContainerEvents(&context, {});
  reader->WaitForInitialMetadata();
  const std::string pod = s.RunPod("eventful");
  const std::string container = s.CreateContainer(pod);
  ASSERT_TRUE(s.StartContainer(container).ok());
  api::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(pod);
  api::StopPodSandboxResponse stopped;
  ASSERT_TRUE(s.Call(&Runtime::StopPodSandbox, *s.runtime, stop, stopped).ok());
  api::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(pod);
  api::RemovePodSandboxResponse removed;
  ASSERT_TRUE(s.Call(&Runtime::RemovePodSandbox, *s.runtime, remove, removed).ok());
  std::vector<std::pair<std::string, api::ContainerEventType>> seen;
  for (api::ContainerEventResponse event; reader->Read(&event);) {
    seen.emplace_back(event.container_id() == pod ? "pod" : event.container_id() == container ? "container" : "?", event.container_event_type());
    EXPECT_EQ(event.pod_sandbox_status().id(), pod);
    EXPECT_EQ(event.pod_sandbox_status().metadata().name(), "eventful");
    EXPECT_GT(event.created_at(), 0);
    if (seen.back() == std::pair<std::string, api::ContainerEventType>("container", api::CONTAINER_STARTED_EVENT)) {
      EXPECT_EQ(event.containers_statuses_size(), 1);
      EXPECT_EQ(event.containers_statuses(0).state(), api::CONTAINER_RUNNING);
    }
    if (seen.back() == std::pair<std::string, api::ContainerEventType>("pod", api::CONTAINER_DELETED_EVENT)) break;
  }
  context.TryCancel();
  const std::vector<std::pair<std::string, api::ContainerEventType>> wanted = {
      {"pod", api::CONTAINER_CREATED_EVENT},       {"pod", api::CONTAINER_STARTED_EVENT},       {"container", api::CONTAINER_CREATED_EVENT},
      {"container", api::CONTAINER_STARTED_EVENT}, {"container", api::CONTAINER_STOPPED_EVENT}, {"pod", api::CONTAINER_STOPPED_EVENT},
      {"container", api::CONTAINER_DELETED_EVENT}, {"pod", api::CONTAINER_DELETED_EVENT}};
  EXPECT_EQ(seen, wanted);
}

TEST(Runtime_, ListsInPieces) {
  Served s;
  std::set<std::string> pods;
  for (int i = 0; i < 3; ++i) {
    // Labels of 100 kB each: the three do not fit in one message.
    api::RunPodSandboxRequest run = Served::Pod(fmt::format("big-{}", i));
    for (int k = 0; k < 40; ++k) (*run.mutable_config()->mutable_annotations())[fmt::format("a{}", k)] = std::string(4000, 'x');
    api::RunPodSandboxResponse made;
    ASSERT_TRUE(s.Call(&Runtime::RunPodSandbox, *s.runtime, run, made).ok());
    pods.insert(made.pod_sandbox_id());
  }
  grpc::ClientContext context;
  auto reader = s.runtime->StreamPodSandboxes(&context, {});
  std::set<std::string> seen;
  int messages = 0;
  for (api::StreamPodSandboxesResponse piece; reader->Read(&piece); ++messages)
    for (const auto& pod : piece.pod_sandboxes()) EXPECT_TRUE(seen.insert(pod.id()).second) << "each once";
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(seen, pods);
  EXPECT_GE(messages, 2);

  grpc::ClientContext filtered_context;
  api::StreamPodSandboxesRequest filtered;
  filtered.mutable_filter()->set_id(*pods.begin());
  auto one = s.runtime->StreamPodSandboxes(&filtered_context, filtered);
  api::StreamPodSandboxesResponse piece;
  ASSERT_TRUE(one->Read(&piece));
  EXPECT_EQ(piece.pod_sandboxes_size(), 1);
  EXPECT_FALSE(one->Read(&piece));

  grpc::ClientContext empty_context;
  auto none = s.runtime->StreamContainers(&empty_context, {});
  api::StreamContainersResponse nothing;
  EXPECT_FALSE(none->Read(&nothing));
  EXPECT_TRUE(none->Finish().ok());
}

TEST(Image, Calls) {
  Served s;
  const std::string name = "docker.io/library/app:1", id = images::Digest::Of(name).str();
  api::ListImagesResponse list;
  ASSERT_TRUE(s.Call(&Images::ListImages, *s.image, {}, list).ok());
  ASSERT_EQ(list.images_size(), 1);
  EXPECT_EQ(list.images(0).id(), id);
  api::ListImagesRequest filtered;
  filtered.mutable_filter()->mutable_image()->set_image("none:1");
  ASSERT_TRUE(s.Call(&Images::ListImages, *s.image, filtered, list).ok());
  EXPECT_EQ(list.images_size(), 0);

  api::ImageStatusRequest status_request;
  api::ImageStatusResponse status;
  status_request.mutable_image()->set_image("none:1");
  ASSERT_TRUE(s.Call(&Images::ImageStatus, *s.image, status_request, status).ok());
  EXPECT_FALSE(status.has_image());
  status_request.mutable_image()->set_image(name);
  status_request.set_verbose(true);
  ASSERT_TRUE(s.Call(&Images::ImageStatus, *s.image, status_request, status).ok());
  EXPECT_EQ(status.image().id(), id);
  EXPECT_TRUE(boost::json::parse(status.info().at("info")).as_object().contains("chainID"));
  status_request.clear_image();
  EXPECT_EQ(s.Call(&Images::ImageStatus, *s.image, status_request, status).error_code(), StatusCode::INVALID_ARGUMENT);

  api::PullImageRequest pull;
  api::PullImageResponse pulled;
  pull.mutable_image()->set_image(name);
  pull.mutable_auth()->set_username("u");
  pull.mutable_auth()->set_password("p");
  images::PullRequest seen;
  s.store.on_pull = [&](const images::PullRequest& request, const Deadline&) {
    seen = request;
    request.progress({.layer = "abc", .status = "Downloading", .current = 1, .total = 2});
    return s.store.Find(request.reference);
  };
  ASSERT_TRUE(s.Call(&Images::PullImage, *s.image, pull, pulled).ok());
  EXPECT_EQ(pulled.image_ref(), id);
  EXPECT_EQ(seen.credentials.password.Reveal(), "p");
  s.store.on_pull = [](const images::PullRequest&, const Deadline&) -> Result<images::ImagePtr> {
    return Err(Code::kUnavailable, "connect reg.example:443: connection refused");
  };
  auto failed = s.Call(&Images::PullImage, *s.image, pull, pulled);
  EXPECT_EQ(failed.error_code(), StatusCode::UNKNOWN);
  EXPECT_TRUE(failed.error_message().starts_with("RegistryUnavailable: connect")) << failed.error_message();
  s.store.on_pull = [](const images::PullRequest&, const Deadline& until) -> Result<images::ImagePtr> {
    TRY(until.Sleep(std::chrono::hours(1), "the registry"));
    return Err(Code::kInternal, "not reached");
  };
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(1));
  EXPECT_EQ(s.image->PullImage(&context, pull, &pulled).error_code(), StatusCode::DEADLINE_EXCEEDED);

  api::ImageFsInfoResponse info;
  ASSERT_TRUE(s.Call(&Images::ImageFsInfo, *s.image, {}, info).ok());
  ASSERT_EQ(info.image_filesystems_size(), 1);
  ASSERT_EQ(info.container_filesystems_size(), 1);
  EXPECT_EQ(info.image_filesystems(0).used_bytes().value(), 1u << 20);
  EXPECT_EQ(info.image_filesystems(0).inodes_used().value(), 7u);
  EXPECT_EQ(info.image_filesystems(0).fs_id().mountpoint(), "/");
  EXPECT_GT(info.image_filesystems(0).timestamp(), 0);

  api::RemoveImageRequest remove;
  api::RemoveImageResponse removed;
  remove.mutable_image()->set_image(id);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(s.Call(&Images::RemoveImage, *s.image, remove, removed).ok());
  ASSERT_TRUE(s.Call(&Images::ListImages, *s.image, {}, list).ok());
  EXPECT_EQ(list.images_size(), 0);
}

TEST(Calls_, ClientDeadlineReachesTheVerb) {
  Served s;
  s.agent.launcher.Hold("start_pod");
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  api::RunPodSandboxResponse response;
  EXPECT_EQ(s.runtime->RunPodSandbox(&context, Served::Pod(), &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  s.agent.launcher.Release("start_pod");
  // All or nothing: the same pod can be made, and is made once.
  s.RunPod();
  api::ListPodSandboxResponse list;
  ASSERT_TRUE(s.Call(&Runtime::ListPodSandbox, *s.runtime, {}, list).ok());
  EXPECT_EQ(list.items_size(), 1);
}

TEST(Calls_, ACancelReachesTheVerb) {
  CancelToken seen;
  Served s;
  s.store.on_pull = [&](const images::PullRequest&, const Deadline& until) -> Result<images::ImagePtr> {
    auto waited = until.Sleep(std::chrono::hours(1), "the registry");
    seen.Cancel();
    return Wrap(waited.error(), "pull");
  };
  grpc::ClientContext context;
  api::PullImageRequest request;
  request.mutable_image()->set_image("app:1");
  api::PullImageResponse response;
  std::thread client(
      [&] { EXPECT_EQ(s.image->PullImage(&context, request, &response).error_code(), StatusCode::CANCELLED); });
  while (s.agent.operations.running() == 0) std::this_thread::yield();
  context.TryCancel();
  client.join();
  EXPECT_TRUE(Deadline::After(std::chrono::seconds(30)).WaitFor(seen.fd(), POLLIN, "the verb to end"));
}

TEST(Calls_, NoWorkerFree) {
  Served s(1);
  s.agent.launcher.Hold("start_pod");
  std::thread client([&] { s.RunPod(); });
  s.agent.launcher.AwaitHeld("start_pod");
  api::VersionResponse response;
  EXPECT_EQ(s.Call(&Runtime::Version, *s.runtime, {}, response).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  s.agent.launcher.Release("start_pod");
  client.join();
}

TEST(Calls_, BigMessages) {
  Served s;
  std::string id = s.Running();
  s.agent.launcher.OnExec([](const runtime::ExecLaunch&) { return 0; });
  api::ExecSyncRequest request;
  api::ExecSyncResponse response;
  request.set_container_id(id);
  request.add_cmd("x");
  for (int i = 0; i < 120; ++i) request.add_cmd(std::string(100'000, 'x'));
  auto status = s.Call(&Runtime::ExecSync, *s.runtime, request, response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  for (int i = 0; i < 80; ++i) request.add_cmd(std::string(100'000, 'x'));
  EXPECT_EQ(s.Call(&Runtime::ExecSync, *s.runtime, request, response).error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

TEST(Calls_, AreMeasured) {
  Served s;
  api::VersionResponse response;
  ASSERT_TRUE(s.Call(&Runtime::Version, *s.runtime, {}, response).ok());
  api::CheckpointContainerResponse checkpoint;
  auto status = s.Call(&Runtime::CheckpointContainer, *s.runtime, {}, checkpoint);
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_NE(status.error_message().find("needs checkpoints"), std::string::npos) << status.error_message();
  std::string page = s.metrics.Page();
  EXPECT_NE(page.find("op=\"version\""), std::string::npos);
  EXPECT_NE(page.find("code=\"unimplemented\""), std::string::npos);
}

TEST(Shutdown_, DrainsWhatEndsAndEndsWhatDoesNot) {
  Served s;
  std::string id = s.Running();
  wire::WaitRequest wait;
  wait.set_container_id(id);
  wire::WaitResponse waited;
  std::thread waiter([&] { EXPECT_FALSE(s.Call(&wire::Agent::Stub::Wait, *s.own, wait, waited).ok()); });
  s.agent.launcher.Hold("start_pod");
  std::thread starter([&] { EXPECT_EQ(s.RunPod("slow").size(), 64u); });
  s.agent.launcher.AwaitHeld("start_pod");
  std::thread stopper([&] { s.server->Shutdown(); });
  waiter.join();  // ended by the shutdown, which still waits for the pod
  s.agent.launcher.Release("start_pod");
  starter.join();
  stopper.join();
}

}  // namespace
}  // namespace berth::cri::testing
