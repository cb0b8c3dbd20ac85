#include <gtest/gtest.h>

#include "base/json.h"
#include "cri/convert.h"

namespace berth::cri {
namespace {

TEST(Signals, NamesAndNumbers) {
  EXPECT_EQ(SignalName(api::SIGNAL_RUNTIME_DEFAULT), "");
  EXPECT_EQ(SignalName(api::SIGNAL_SIGQUIT), "SIGQUIT");
  EXPECT_EQ(SignalName(api::SIGNAL_SIGRTMAXMINUS14), "SIGRTMAX-14");
  EXPECT_EQ(SignalName(api::SIGNAL_SIGPOLL), "SIGIO");
  EXPECT_EQ(SignalOfNumber(15), api::SIGNAL_SIGTERM);
  EXPECT_EQ(SignalOfNumber(34), api::SIGNAL_SIGRTMIN);
  EXPECT_EQ(SignalOfNumber(49), api::SIGNAL_SIGRTMINPLUS15);
  EXPECT_EQ(SignalOfNumber(50), api::SIGNAL_SIGRTMAXMINUS14);
  EXPECT_EQ(SignalOfNumber(64), api::SIGNAL_SIGRTMAX);
  EXPECT_EQ(SignalOfNumber(33), api::SIGNAL_RUNTIME_DEFAULT);
  for (int v = 0; v <= 65; ++v) {
    auto signal = static_cast<api::Signal>(v);
    std::string name = SignalName(signal);
    if (signal != api::SIGNAL_SIGCLD && signal != api::SIGNAL_SIGIOT && signal != api::SIGNAL_SIGPOLL)
      EXPECT_EQ(SignalOfName(name), signal) << name;
  }
  for (int number = 1; number < 32; ++number) EXPECT_NE(SignalOfNumber(number), api::SIGNAL_RUNTIME_DEFAULT) << number;
}

TEST(Credentials, Forms) {
  auto convert = [](auto change, std::string reference = "reg.example/app:1") {
    api::AuthConfig auth;
    change(auth);
    return ToCredentials(auth, reference);
  };
  auto plain = convert([](auto& a) {
    a.set_username("u");
    a.set_password("p");
  });
  EXPECT_EQ(plain->username, "u");
  EXPECT_EQ(plain->password.Reveal(), "p");
  auto coded = convert([](auto& a) { a.set_auth("dXNlcjpwYTpzcw=="); });
  EXPECT_EQ(coded->username, "user");
  EXPECT_EQ(coded->password.Reveal(), "pa:ss");
  EXPECT_EQ(convert([](auto& a) { a.set_identity_token("t"); })->identity_token.Reveal(), "t");
  EXPECT_EQ(convert([](auto& a) { a.set_registry_token("t"); })->registry_token.Reveal(), "t");
  EXPECT_TRUE(convert([](auto&) {})->empty());
  for (const char* bad : {"%%%", "dXNlcg==", "OnB3", "A"}) {
    auto r = convert([&](auto& a) { a.set_auth(bad); });
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().what, "auth.auth: must be base64 of username:password");
  }
  EXPECT_FALSE(convert([](auto& a) { a.set_password("p"); }));
}

TEST(Credentials, OnlyForTheirServer) {
  auto sent = [](std::string server, std::string reference) {
    api::AuthConfig auth;
    auth.set_username("u");
    auth.set_server_address(server);
    return !ToCredentials(auth, reference)->empty();
  };
  EXPECT_TRUE(sent("", "reg.example/app"));
  EXPECT_TRUE(sent("reg.example", "reg.example/app"));
  EXPECT_TRUE(sent("https://reg.example/v2/", "reg.example/app"));
  EXPECT_TRUE(sent("https://index.docker.io/v1/", "app:1"));
  EXPECT_TRUE(sent("docker.io", "library/app"));
  EXPECT_TRUE(sent("127.0.0.1:5000", "127.0.0.1:5000/app"));
  EXPECT_FALSE(sent("reg.example", "other.example/app"));
  EXPECT_FALSE(sent("reg.example:443", "reg.example/app"));
  EXPECT_FALSE(sent("docker.io", "reg.example/app"));
}

TEST(FillImage, UserForms) {
  auto convert = [](std::string user) {
    images::Image image;
    image.id = images::Digest::Of("x");
    image.size = 7;
    image.config.user = user;
    api::Image out;
    FillImage(image, out);
    return out;
  };
  EXPECT_EQ(convert("1002").uid().value(), 1002);
  EXPECT_EQ(convert("1003:1004").uid().value(), 1003);
  EXPECT_EQ(convert("0").uid().value(), 0);
  EXPECT_TRUE(convert("0").has_uid());
  EXPECT_EQ(convert("www-data").username(), "www-data");
  EXPECT_EQ(convert("www-data:1004").username(), "www-data");
  EXPECT_FALSE(convert("www-data").has_uid());
  EXPECT_FALSE(convert("").has_uid());
  EXPECT_EQ(convert("").username(), "");
  EXPECT_EQ(convert("").size(), 7u);
  EXPECT_EQ(convert("").id(), images::Digest::Of("x").str());
}

pods::ContainerState State() {
  pods::ContainerState s;
  s.id = ContainerId(std::string(64, 'c'));
  s.pod = PodId(std::string(64, 'a'));
  s.spec.name = "app";
  s.spec.image = "app:1";
  s.phase = pods::ContainerPhase::kRunning;
  s.created_at = 5;
  s.started_at = 6;
  s.image_id = "sha256:1";
  s.image_name = "docker.io/library/app:1";
  s.image_ref = "docker.io/library/app@sha256:2";
  s.log_path = "/var/log/x";
  s.user = {1, 2, {2, 3}};
  s.spec.labels = {{"a", "1"}, {"b", "2"}};
  return s;
}

TEST(FillContainerStatus, RunningAndExited) {
  auto state = State();
  state.exit_code = 3;
  api::ContainerStatus running;
  FillContainerStatus(state, running);
  EXPECT_EQ(running.state(), api::CONTAINER_RUNNING);
  EXPECT_EQ(running.exit_code(), 0);
  EXPECT_EQ(running.reason(), "");
  EXPECT_EQ(running.image().image(), "docker.io/library/app:1");
  EXPECT_EQ(running.image_id(), "sha256:1");
  EXPECT_EQ(running.image_ref(), "docker.io/library/app@sha256:2");
  EXPECT_EQ(running.stop_signal(), api::SIGNAL_SIGTERM);
  EXPECT_EQ(running.user().linux().uid(), 1);
  EXPECT_EQ(running.user().linux().supplemental_groups_size(), 2);

  state.phase = pods::ContainerPhase::kExited;
  state.finished_at = 9;
  api::ContainerStatus exited;
  FillContainerStatus(state, exited);
  EXPECT_EQ(exited.reason(), "Error");
  EXPECT_EQ(exited.exit_code(), 3);
  EXPECT_EQ(exited.finished_at(), 9);
  state.exit_code = 0;
  api::ContainerStatus completed;
  FillContainerStatus(state, completed);
  EXPECT_EQ(completed.reason(), "Completed");
  state.reason = "OOMKilled";
  state.message = "bad \xff bytes";
  api::ContainerStatus killed;
  FillContainerStatus(state, killed);
  EXPECT_EQ(killed.reason(), "OOMKilled");
  EXPECT_EQ(killed.message(), "bad \xef\xbf\xbd bytes");
}

TEST(FillPodStatus, AddressesAndState) {
  pods::PodState pod;
  pod.id = PodId(std::string(64, 'a'));
  pod.phase = pods::PodPhase::kReady;
  pod.network.addresses = {{"10.0.0.2/24", ""}, {"fd00::2/64", ""}};
  pod.spec.namespaces.pid = pods::Namespace::kNode;
  api::PodSandboxStatus out;
  FillPodStatus(pod, out);
  EXPECT_EQ(out.state(), api::SANDBOX_READY);
  EXPECT_EQ(out.network().ip(), "10.0.0.2");
  ASSERT_EQ(out.network().additional_ips_size(), 1);
  EXPECT_EQ(out.network().additional_ips(0).ip(), "fd00::2");
  EXPECT_EQ(out.linux().namespaces().options().pid(), api::NODE);
  for (auto phase : {pods::PodPhase::kCreating, pods::PodPhase::kStopping, pods::PodPhase::kStopped})
    EXPECT_EQ(ToWire(phase), api::SANDBOX_NOTREADY);
}

TEST(FillStats, RunningAndNot) {
  auto state = State();
  pods::ContainerUsage usage;
  usage.at = 10;
  usage.cpu_ns = 11;
  usage.memory_working_set = 100;
  usage.writable_bytes = 12;
  api::ContainerStats out;
  FillStats(state, &usage, "/var/lib/berth", out);
  EXPECT_EQ(out.attributes().id(), state.id.str());
  EXPECT_EQ(out.cpu().usage_core_nano_seconds().value(), 11u);
  EXPECT_FALSE(out.memory().has_available_bytes());
  EXPECT_EQ(out.writable_layer().fs_id().mountpoint(), "/var/lib/berth");
  usage.memory_limit = 150;
  api::ContainerStats limited;
  FillStats(state, &usage, "/", limited);
  EXPECT_EQ(limited.memory().available_bytes().value(), 50u);
  usage.memory_limit = 50;
  api::ContainerStats over;
  FillStats(state, &usage, "/", over);
  EXPECT_EQ(over.memory().available_bytes().value(), 0u);
  api::ContainerStats stopped;
  FillStats(state, nullptr, "/", stopped);
  EXPECT_FALSE(stopped.has_cpu());
  EXPECT_FALSE(stopped.has_writable_layer());
}

TEST(Filters, AllThatIsSetMustMatch) {
  auto state = State();
  auto selects = [&](auto change) {
    api::ContainerFilter filter;
    change(filter);
    return Selects(filter, state);
  };
  EXPECT_TRUE(selects([](auto&) {}));
  EXPECT_TRUE(selects([](auto& f) { f.set_id("ccc"); }));
  EXPECT_FALSE(selects([](auto& f) { f.set_id("cd"); }));
  EXPECT_FALSE(selects([](auto& f) { f.set_id(std::string(65, 'c')); }));
  EXPECT_TRUE(selects([](auto& f) { f.set_pod_sandbox_id("aa"); }));
  EXPECT_FALSE(selects([](auto& f) { f.mutable_state()->set_state(api::CONTAINER_CREATED); }));
  EXPECT_TRUE(selects([](auto& f) { f.mutable_state()->set_state(api::CONTAINER_RUNNING); }));
  EXPECT_TRUE(selects([](auto& f) { (*f.mutable_label_selector())["a"] = "1"; }));
  EXPECT_FALSE(selects([](auto& f) { (*f.mutable_label_selector())["a"] = "2"; }));
  EXPECT_FALSE(selects([](auto& f) {
    (*f.mutable_label_selector())["a"] = "1";
    (*f.mutable_label_selector())["c"] = "";
  }));
  pods::PodState pod;
  pod.id = PodId("abc");
  api::PodSandboxFilter filter;
  filter.mutable_state()->set_state(api::SANDBOX_READY);
  EXPECT_FALSE(Selects(filter, pod));
  pod.phase = pods::PodPhase::kReady;
  EXPECT_TRUE(Selects(filter, pod));
}

TEST(Info, NamespacePathsOfPodAndContainer) {
  pods::PodState pod;
  pod.id = PodId("p");
  pod.phase = pods::PodPhase::kReady;
  pod.monitor = 42;
  pod.netns_path = "/proc/42/ns/net";
  pod.network.result_json = R"({"cniVersion":"1.1.0"})";
  auto info = boost::json::parse(PodInfo(pod)).as_object();
  EXPECT_EQ(info["pid"].as_int64(), 42);
  EXPECT_EQ(info["cniResult"].as_object()["cniVersion"].as_string(), "1.1.0");
  std::string network;
  for (const auto& entry : info["runtimeSpec"].at("linux").at("namespaces").as_array())
    if (entry.at("type").as_string() == "network") network = std::string(entry.at("path").as_string());
  EXPECT_EQ(network, "/proc/42/ns/net");

  auto state = State();
  state.pid = 77;
  state.spec.env = {"A=\xff", "B=2"};
  runtime::oci::Spec spec;
  spec.linux.emplace();
  spec.linux->namespaces = {{"mount", ""}, {"network", ""}, {"cgroup", ""}};
  auto container = boost::json::parse(ContainerInfo(state, &spec)).as_object();
  EXPECT_EQ(container["pid"].as_int64(), 77);
  EXPECT_EQ(container["sandboxID"].as_string(), state.pod.str());
  const auto& namespaces = container["runtimeSpec"].at("linux").at("namespaces").as_array();
  EXPECT_EQ(namespaces.at(0).at("path").as_string(), "/proc/77/ns/mnt");
  EXPECT_EQ(namespaces.at(1).at("path").as_string(), "/proc/77/ns/net");
  EXPECT_EQ(namespaces.at(2).at("path").as_string(), "/proc/77/ns/cgroup");
  EXPECT_EQ(container["config"].at("envs").at(1).at("value").as_string(), "2");
  EXPECT_EQ(container["config"].at("metadata").at("name").as_string(), "app");
}

TEST(Info, ChainId) {
  images::Image image;
  image.diff_ids = {images::Digest::Of("a"), images::Digest::Of("b")};
  image.raw_config = R"({"architecture":"amd64"})";
  auto info = boost::json::parse(ImageInfo(image)).as_object();
  EXPECT_EQ(info["chainID"].as_string(),
            images::Digest::Of(images::Digest::Of("a").str() + " " + images::Digest::Of("b").str()).str());
  EXPECT_EQ(info["imageSpec"].at("architecture").as_string(), "amd64");
}

}  // namespace
}  // namespace berth::cri
