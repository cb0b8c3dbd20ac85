// Every verb over fakes: what it does, and that a failure at each step leaves nothing.
#include <signal.h>

#include <atomic>
#include <thread>

#include "pods/exits.h"
#include "pods/failpoints.h"
#include "pods/testing/world.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using testing::Agent;
using testing::Ground;
using namespace std::chrono_literals;

Deadline Soon() { return Deadline::After(30s); }

class VerbsTest : public ::testing::Test {
 protected:
  Ground ground;
  Agent agent{ground};
  Core& core = agent.core;

  PodId Run(const std::string& name = "a") { return RunPod(core, Ground::Pod(name), Soon()).value(); }
  ContainerId Create(const PodId& pod, const std::string& name = "c") {
    return CreateContainer(core, pod.str(), Ground::Container(name), Soon()).value();
  }
  ContainerId Start(const PodId& pod, const std::string& name = "c") {
    auto id = Create(pod, name);
    EXPECT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
    return id;
  }
  std::vector<EventKind> Kinds(Events::Subscription& s) {
    std::vector<EventKind> out;
    while (auto e = s.Next(Deadline::After(0s))) out.push_back(e->kind);
    return out;
  }
};

TEST_F(VerbsTest, WholeLife) {
  auto stream = agent.events.Subscribe();
  auto pod = Run();
  auto state = FindPod(core, pod.Short());
  ASSERT_TRUE(IsOk(state));
  EXPECT_EQ(state->phase, PodPhase::kReady);
  EXPECT_EQ(state->network.addresses.size(), 1u);
  EXPECT_EQ(state->cgroup, "/berth/" + pod.str());
  EXPECT_GT(state->monitor, 0);
  Layout layout{core.root, core.run};
  EXPECT_NE(ReadFile(layout.PodEtc(pod) + "/hosts")->find(state->network.addresses[0].Ip() + "\ta\n"),
            std::string::npos);
  EXPECT_EQ(*ReadFile(layout.PodEtc(pod) + "/hostname"), "a\n");

  auto id = Create(pod);
  auto c = FindContainer(core, id.str());
  ASSERT_TRUE(IsOk(c));
  EXPECT_EQ(c->phase, ContainerPhase::kCreated);
  EXPECT_EQ(c->image_name, "docker.io/library/app:1");
  EXPECT_TRUE(c->image_id.starts_with("sha256:"));
  EXPECT_EQ(c->stop_signal, SIGTERM);
  auto spec = FindOciSpec(core, id.str());
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->process->args, (std::vector<std::string>{"/bin/app", "--serve"}));

  ASSERT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
  c = FindContainer(core, id.str());
  EXPECT_EQ(c->phase, ContainerPhase::kRunning);
  EXPECT_GT(c->started_at, 0);
  EXPECT_GT(c->pid, 0);
  EXPECT_TRUE(IsErr(StartContainer(core, id.str(), Soon()), Code::kConflict, "is running"));

  ASSERT_TRUE(IsOk(StopContainer(core, id.str(), 10s, Soon())));
  c = FindContainer(core, id.str());
  EXPECT_EQ(c->phase, ContainerPhase::kExited);
  EXPECT_EQ(c->exit_code, 128 + SIGTERM);
  EXPECT_EQ(c->reason, "Error");
  EXPECT_GT(c->finished_at, 0);
  EXPECT_EQ(c->pid, -1);
  EXPECT_TRUE(IsOk(StopContainer(core, id.str(), 10s, Soon())));
  EXPECT_TRUE(IsErr(StartContainer(core, id.str(), Soon()), Code::kConflict, "is exited"));

  ASSERT_TRUE(IsOk(RemoveContainer(core, id.str(), Soon())));
  EXPECT_TRUE(IsErr(FindContainer(core, id.str()), Code::kNotFound));
  EXPECT_TRUE(IsOk(RemoveContainer(core, id.str(), Soon())));
  EXPECT_TRUE(IsOk(StopContainer(core, id.str(), 1s, Soon())));

  ASSERT_TRUE(IsOk(StopPod(core, pod.str(), Soon())));
  EXPECT_EQ(FindPod(core, pod.str())->phase, PodPhase::kStopped);
  EXPECT_TRUE(IsOk(StopPod(core, pod.str(), Soon())));
  ASSERT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
  EXPECT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
  EXPECT_TRUE(IsErr(FindPod(core, pod.str()), Code::kNotFound));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
  EXPECT_EQ(Kinds(*stream),
            (std::vector<EventKind>{EventKind::kPodReady, EventKind::kContainerCreated, EventKind::kContainerStarted,
                                    EventKind::kContainerExited, EventKind::kContainerRemoved, EventKind::kPodStopped,
                                    EventKind::kPodRemoved}));
  EXPECT_EQ(agent.operations.running(), 0u);
}

TEST_F(VerbsTest, UnknownIdsAreSuccessWhereTheyMayBe) {
  std::string unknown(64, 'f');
  EXPECT_TRUE(IsOk(StopPod(core, unknown, Soon())));
  EXPECT_TRUE(IsOk(RemovePod(core, unknown, Soon())));
  EXPECT_TRUE(IsOk(StopContainer(core, unknown, 0s, Soon())));
  EXPECT_TRUE(IsOk(RemoveContainer(core, unknown, Soon())));
  EXPECT_TRUE(IsErr(StartContainer(core, unknown, Soon()), Code::kNotFound));
  EXPECT_TRUE(IsErr(CreateContainer(core, unknown, Ground::Container("c"), Soon()), Code::kNotFound));
  EXPECT_TRUE(IsErr(WaitContainer(core, unknown, Soon()), Code::kNotFound));
  EXPECT_TRUE(IsErr(ReopenLog(core, unknown, Soon()), Code::kNotFound));
  EXPECT_TRUE(IsErr(ExecSync(core, unknown, {"x"}, 0s, Soon()), Code::kNotFound));
  EXPECT_TRUE(IsErr(Usage(core, unknown), Code::kNotFound));
}

TEST_F(VerbsTest, RunPodLeavesNothingWhenAStageFails) {
  for (std::string_view point : kFailpoints) {
    if (!point.starts_with("run_pod.")) continue;
    bool hit = false;
    agent.operations.SetHook([&](std::string_view at) -> Result<void> {
      if (at != point) return {};
      hit = true;
      return Err(Code::kInternal, "scripted");
    });
    EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kInternal, "scripted")) << point;
    EXPECT_TRUE(hit) << point;
    EXPECT_EQ(ground.Remains(), std::vector<std::string>{}) << point;
    EXPECT_TRUE(ListPods(core).empty()) << point;
  }
  agent.operations.SetHook(nullptr);
  EXPECT_TRUE(IsOk(RunPod(core, Ground::Pod("a"), Soon())));
}

TEST_F(VerbsTest, RunPodLeavesNothingWhenASeamFails) {
  agent.launcher.FailNext("start_pod", Code::kResourceExhausted);
  EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kResourceExhausted, "start the pod's monitor"));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
  ground.network.fail_attach = Error{Code::kConflict, "host port 80/tcp: taken"};
  EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kConflict, "host port 80/tcp"));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, WhatCannotBeUndoneStaysListedAndCanBeRemoved) {
  ground.network.fail_attach = Error{Code::kInternal, "attach"};
  agent.launcher.FailNext("stop_pod", Code::kInternal, "cannot end the monitor");
  EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kInternal, "attach"));
  auto pods = ListPods(core);
  ASSERT_EQ(pods.size(), 1u);
  EXPECT_EQ(pods[0].phase, PodPhase::kStopping);
  EXPECT_FALSE(pods[0].stuck.empty());
  EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kAlreadyExists));
  EXPECT_TRUE(IsOk(RemovePod(core, pods[0].id.str(), Soon())));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, RunPodHonoursItsDeadline) {
  agent.launcher.Hold("start_pod");
  EXPECT_TRUE(
      IsErr(RunPod(core, Ground::Pod("a"), Deadline::After(20ms)), Code::kDeadlineExceeded, "start the pod's monitor"));
  agent.launcher.Release("start_pod");
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, OperationsAreListedWithTheirStage) {
  agent.launcher.Hold("start_pod");
  std::thread runner([&] { EXPECT_TRUE(IsOk(RunPod(core, Ground::Pod("a"), Soon()))); });
  agent.launcher.AwaitHeld("start_pod");
  auto list = agent.operations.List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].verb, "run_pod");
  EXPECT_EQ(list[0].stage, "monitor");
  EXPECT_EQ(list[0].words, "start the pod's monitor");
  agent.launcher.Release("start_pod");
  runner.join();
}

TEST_F(VerbsTest, ManyCallersMakeOnePod) {
  std::vector<std::thread> threads;
  std::vector<std::string> ids(12);
  for (size_t i = 0; i < ids.size(); ++i)
    threads.emplace_back([&, i] { ids[i] = RunPod(core, Ground::Pod("a"), Soon()).value().str(); });
  for (auto& t : threads) t.join();
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1u);
  EXPECT_EQ(ground.world->pods(), 1u);

  auto pod = PodId(ids[0]);
  threads.clear();
  for (size_t i = 0; i < ids.size(); ++i)
    threads.emplace_back(
        [&, i] { ids[i] = CreateContainer(core, pod.str(), Ground::Container("c"), Soon()).value().str(); });
  for (auto& t : threads) t.join();
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1u);
  EXPECT_EQ(ground.world->containers(), 1u);
}

TEST_F(VerbsTest, JoinersGetTheFirstOnesError) {
  agent.launcher.Hold("start_pod");
  agent.launcher.FailNext("start_pod", Code::kFailedPrecondition, "no shim");
  std::thread first([&] { EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kFailedPrecondition)); });
  agent.launcher.AwaitHeld("start_pod");
  std::thread second([&] {
    auto r = RunPod(core, Ground::Pod("a"), Soon());
    // Late to the wait it makes an attempt of its own, which works.
    if (!r) {
      EXPECT_TRUE(IsErr(r, Code::kFailedPrecondition, "no shim"));
    }
  });
  agent.launcher.Release("start_pod");
  first.join();
  second.join();
}

TEST_F(VerbsTest, ManyPodsAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i)
    threads.emplace_back([&, i] {
      auto pod = RunPod(core, Ground::Pod("p" + std::to_string(i)), Soon()).value();
      auto c = CreateContainer(core, pod.str(), Ground::Container("c"), Soon()).value();
      EXPECT_TRUE(IsOk(StartContainer(core, c.str(), Soon())));
      (void)ListPods(core);
      (void)ListContainers(core);
      if (i % 2) EXPECT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(ListPods(core).size(), 8u);
  for (const auto& p : ListPods(core)) EXPECT_TRUE(IsOk(RemovePod(core, p.id.str(), Soon())));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, StopPodKillsDetachesEndsTheMonitorInThisOrder) {
  auto pod = Run();
  auto a = Start(pod, "a"), b = Start(pod, "b");
  auto created = Create(pod, "never-started");
  ASSERT_TRUE(IsOk(StopPod(core, pod.str(), Soon())));
  for (const auto& id : {a, b}) {
    EXPECT_EQ(FindContainer(core, id.str())->exit_code, 137);
    EXPECT_EQ(FindContainer(core, id.str())->phase, ContainerPhase::kExited);
  }
  EXPECT_EQ(FindContainer(core, created.str())->phase, ContainerPhase::kExited);
  EXPECT_TRUE(ground.network.attached().empty());
  EXPECT_EQ(ground.world->pods(), 0u);
  auto calls = agent.launcher.calls();
  auto kill = std::find(calls.begin(), calls.end(), "signal " + a.str() + " 9 all");
  auto end = std::find(calls.begin(), calls.end(), "stop_pod " + pod.str());
  EXPECT_LT(kill, end);
  EXPECT_NE(end, calls.end());
  ASSERT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, StopPodGoesOnAfterAFailureAndCanBeRepeated) {
  auto pod = Run();
  Start(pod);
  ground.network.fail_detach = Error{Code::kInternal, "nft is busy"};
  EXPECT_TRUE(IsErr(StopPod(core, pod.str(), Soon()), Code::kInternal, "nft is busy"));
  EXPECT_EQ(ground.world->pods(), 0u);  // the monitor ended all the same
  EXPECT_EQ(FindPod(core, pod.str())->phase, PodPhase::kStopping);
  EXPECT_NE(FindPod(core, pod.str())->stuck.find("nft is busy"), std::string::npos);
  EXPECT_TRUE(IsOk(StopPod(core, pod.str(), Soon())));
  EXPECT_EQ(FindPod(core, pod.str())->phase, PodPhase::kStopped);
  EXPECT_TRUE(FindPod(core, pod.str())->stuck.empty());
}

TEST_F(VerbsTest, EveryStageOfStopAndRemoveMayFailOnce) {
  for (std::string_view point : kFailpoints) {
    if (!point.starts_with("stop_pod.") && !point.starts_with("remove_pod.") && !point.starts_with("remove_container."))
      continue;
    auto pod = Run();
    Start(pod, "running");
    Create(pod, "created");
    bool hit = false;
    agent.operations.SetHook([&](std::string_view at) -> Result<void> {
      if (at != point || std::exchange(hit, true)) return {};
      return Err(Code::kInternal, "scripted");
    });
    auto first = RemovePod(core, pod.str(), Soon());
    // Once the pod is stopped no container runs: this stage is another path's.
    if (point == "remove_container.kill")
      EXPECT_FALSE(hit);
    else
      EXPECT_TRUE(hit) << point;
    if (hit && point != "stop_pod.kill") {
      EXPECT_TRUE(IsErr(first, Code::kInternal, "scripted")) << point;
    }
    EXPECT_TRUE(IsOk(RemovePod(core, pod.str(), Soon()))) << point;
    EXPECT_EQ(ground.Remains(), std::vector<std::string>{}) << point;
    agent.operations.SetHook(nullptr);
  }
}

TEST_F(VerbsTest, CreateContainerLeavesNothingWhenAStageFails) {
  auto pod = Run();
  for (std::string_view point : kFailpoints) {
    if (!point.starts_with("create_container.")) continue;
    bool hit = false;
    agent.operations.SetHook([&](std::string_view at) -> Result<void> {
      if (at != point) return {};
      hit = true;
      return Err(Code::kInternal, "scripted");
    });
    EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), Ground::Container("c"), Soon()), Code::kInternal, "scripted"));
    EXPECT_TRUE(hit) << point;
    EXPECT_TRUE(ListContainers(core).empty());
    EXPECT_EQ(ground.Rows("containers"), 0u);
    EXPECT_EQ(ground.world->containers(), 0u);
    EXPECT_TRUE(ground.images.snapshotter().owners().empty());
  }
  agent.operations.SetHook(nullptr);
  EXPECT_TRUE(IsOk(CreateContainer(core, pod.str(), Ground::Container("c"), Soon())));
}

TEST_F(VerbsTest, CreateContainerLeavesNothingWhenASeamFails) {
  auto pod = Run();
  ground.images.snapshotter().FailNext("prepare", Code::kResourceExhausted, "disk full");
  EXPECT_TRUE(
      IsErr(CreateContainer(core, pod.str(), Ground::Container("c"), Soon()), Code::kResourceExhausted, "disk full"));
  agent.launcher.FailNext("create_container", Code::kInternal, "clone3");
  EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), Ground::Container("c"), Soon()), Code::kInternal, "clone3"));
  auto spec = Ground::Container("c");
  spec.image = "missing";
  EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), spec, Soon()), Code::kNotFound, "image missing"));
  spec = Ground::Container("c");
  spec.run_as_username = "nobody-here";
  EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), spec, Soon()), Code::kInvalidArgument, "nobody-here"));
  EXPECT_EQ(ground.Rows("containers"), 0u);
  EXPECT_TRUE(ground.images.snapshotter().owners().empty());

  // What cannot be dropped stays listed, exited, and Remove finishes it.
  agent.launcher.FailNext("create_container", Code::kInternal, "clone3");
  ground.images.snapshotter().FailNext("drop", Code::kInternal, "busy");
  EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), Ground::Container("c"), Soon()), Code::kInternal, "clone3"));
  auto left = ListContainers(core);
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].phase, ContainerPhase::kExited);
  EXPECT_TRUE(IsOk(RemoveContainer(core, left[0].id.str(), Soon())));
  EXPECT_TRUE(ground.images.snapshotter().owners().empty());
}

TEST_F(VerbsTest, ContainersNeedAReadyPodAndASoundRequest) {
  auto pod = Run();
  auto bad = [&](auto change, std::string_view part) {
    auto spec = Ground::Container("c");
    change(spec);
    EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), spec, Soon()), Code::kInvalidArgument, part));
  };
  bad([](auto& s) { s.name = ""; }, "metadata.name");
  bad([](auto& s) { s.privileged = true; }, "privileged");
  bad([](auto& s) { s.run_as_group = 5; }, "run_as_group");
  bad([](auto& s) { s.log_path = "../x"; }, "log_path");
  bad([](auto& s) { s.stop_signal = "SIGNOPE"; }, "stop_signal");
  bad([](auto& s) { s.env = {"novalue"}; }, "envs[0]");
  bad([](auto& s) { s.add_capabilities = {"NOPE"}; }, "add_capabilities");
  bad([](auto& s) { s.mounts = {{.container_path = "rel", .host_path = "/x"}}; }, "mounts[0].container_path");
  bad([](auto& s) { s.mounts = {{.container_path = "/d", .host_path = "/x", .recursive_read_only = true}}; },
      "recursive_read_only");
  bad(
      [](auto& s) {
        s.namespaces.pid = Namespace::kTarget;
        s.namespaces.target = std::string(64, 'e');
      },
      "namespaces.target");
  bad([](auto& s) { s.resources.memory_swap = 5; }, "memory_swap");
  ASSERT_TRUE(IsOk(StopPod(core, pod.str(), Soon())));
  EXPECT_TRUE(IsErr(CreateContainer(core, pod.str(), Ground::Container("c"), Soon()), Code::kConflict, "not ready"));
}

TEST_F(VerbsTest, PodsNeedASoundRequest) {
  auto bad = [&](auto change, std::string_view part) {
    auto spec = Ground::Pod("x");
    change(spec);
    EXPECT_TRUE(IsErr(RunPod(core, spec, Soon()), Code::kInvalidArgument, part));
  };
  bad([](auto& s) { s.name = ""; }, "metadata.name");
  bad([](auto& s) { s.uid = ""; }, "metadata.uid");
  bad([](auto& s) { s.hostname = std::string(65, 'a'); }, "hostname");
  bad([](auto& s) { s.runtime_handler = "kata"; }, "runtime_handler");
  bad([](auto& s) { s.cgroup_parent = "x.slice"; }, "systemd slice");
  bad([](auto& s) { s.cgroup_parent = "/a/../b"; }, "cgroup_parent");
  bad([](auto& s) { s.ports = {{.protocol = "icmp"}}; }, "ports[0].protocol");
  bad([](auto& s) { s.sysctls = {{"kernel.panic", "1"}}; }, "kernel.panic");
  bad(
      [](auto& s) {
        s.sysctls = {{"net.ipv4.ip_forward", "1"}};
        s.namespaces.network = Namespace::kNode;
      },
      "host's network");
  bad(
      [](auto& s) {
        s.sysctls = {{"kernel.shmmax", "1"}};
        s.namespaces.ipc = Namespace::kNode;
      },
      "host's ipc");
  bad([](auto& s) { s.dns.servers = {"example.org"}; }, "dns.servers");
  bad([](auto& s) { s.log_directory = "logs"; }, "log_directory");
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, HostNetworkHasNoAttachment) {
  auto spec = Ground::Pod("h");
  spec.namespaces.network = Namespace::kNode;
  auto pod = RunPod(core, spec, Soon());
  ASSERT_TRUE(IsOk(pod));
  EXPECT_TRUE(ground.network.attached().empty());
  EXPECT_TRUE(FindPod(core, pod->str())->netns_path.empty());
  EXPECT_TRUE(IsErr(NetworkUsage(core, pod->str()), Code::kFailedPrecondition));
  EXPECT_TRUE(IsOk(RemovePod(core, pod->str(), Soon())));
}

TEST_F(VerbsTest, FailedExecIsAStartError) {
  auto pod = Run();
  auto id = Create(pod);
  auto stream = agent.events.Subscribe();
  agent.launcher.FailNext("start_container", Code::kNotFound, "exec: \"/bin/app\": no such file or directory");
  EXPECT_TRUE(IsErr(StartContainer(core, id.str(), Soon()), Code::kNotFound, "no such file"));
  agent.launcher.Drain();
  auto c = FindContainer(core, id.str());
  EXPECT_EQ(c->phase, ContainerPhase::kExited);
  EXPECT_EQ(c->exit_code, 128);
  EXPECT_EQ(c->reason, "StartError");
  EXPECT_NE(c->message.find("no such file"), std::string::npos);
  EXPECT_GT(c->finished_at, 0);
  EXPECT_EQ(Kinds(*stream), (std::vector<EventKind>{EventKind::kContainerExited}));
}

TEST_F(VerbsTest, ProgramThatIsMissingAtCreationIsAStartErrorToo) {
  struct Picky : runtime::FakeLauncher {
    using FakeLauncher::FakeLauncher;
    Result<pid_t> CreateContainer(const runtime::ContainerLaunch&, const Deadline&) override {
      Error e{Code::kInvalidArgument, "exec: \"/bin/app\": stat /bin/app: no such file or directory"};
      e.sys = ENOENT;
      return std::unexpected(e);
    }
  };
  auto pod = Run();
  ContainerId id;
  {
    Picky picky(ground.world);
    Core other{.registry = core.registry,
               .table = core.table,
               .events = core.events,
               .samples = core.samples,
               .launcher = picky,
               .network = core.network,
               .images = core.images,
               .runtime_options = core.runtime_options,
               .root = core.root,
               .run = core.run,
               .clock = core.clock,
               .operations = core.operations};
    id = CreateContainer(other, pod.str(), Ground::Container("c"), Soon()).value();
  }
  EXPECT_EQ(FindContainer(core, id.str())->phase, ContainerPhase::kCreated);
  EXPECT_TRUE(IsErr(StartContainer(core, id.str(), Soon()), Code::kInvalidArgument, "no such file"));
  auto c = FindContainer(core, id.str());
  EXPECT_EQ(c->phase, ContainerPhase::kExited);
  EXPECT_EQ(c->exit_code, 128);
  EXPECT_EQ(c->reason, "StartError");
  EXPECT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, StartThatTimesOutLeavesTheContainerCreated) {
  auto pod = Run();
  auto id = Create(pod);
  agent.launcher.Hold("start_container");
  EXPECT_TRUE(IsErr(StartContainer(core, id.str(), Deadline::After(20ms)), Code::kDeadlineExceeded));
  agent.launcher.Release("start_container");
  EXPECT_EQ(FindContainer(core, id.str())->phase, ContainerPhase::kCreated);
  EXPECT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
}

TEST_F(VerbsTest, ExitsBecomeStatesInOrder) {
  auto pod = Run();
  auto stream = agent.events.Subscribe();
  auto ok = Start(pod, "ok"), bad = Start(pod, "bad");
  ASSERT_TRUE(ground.world->Exit(ok, 0));
  ASSERT_TRUE(ground.world->Exit(bad, 3));
  EXPECT_EQ(WaitContainer(core, ok.str(), Soon())->reason, "Completed");
  auto c = WaitContainer(core, bad.str(), Soon());
  EXPECT_EQ(c->exit_code, 3);
  EXPECT_EQ(c->reason, "Error");
  EXPECT_EQ(WaitContainer(core, bad.str(), Soon())->exit_code, 3);
  EXPECT_TRUE(
      IsErr(WaitContainer(core, Start(pod, "long").str(), Deadline::After(5ms)), Code::kDeadlineExceeded, "exit"));
  auto kinds = Kinds(*stream);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), EventKind::kContainerExited), 2);
}

TEST_F(VerbsTest, WaitingEndsWhenTheContainerIsRemoved) {
  auto pod = Run();
  auto id = Start(pod);
  std::thread waiter([&] {
    auto r = WaitContainer(core, id.str(), Soon());
    if (!r)
      EXPECT_EQ(r.error().code, Code::kNotFound);
    else
      EXPECT_EQ(r->exit_code, 137);
  });
  ASSERT_TRUE(IsOk(RemoveContainer(core, id.str(), Soon())));
  waiter.join();
}

TEST_F(VerbsTest, OomIsReadFromTheCgroup) {
  runtime::cgroup::Layout layout;
  layout.v2 = ground.dir / "cg";
  layout.v2_controllers = {"memory"};
  core.cgroups = &layout;
  auto pod = Run();
  auto stream = agent.events.Subscribe();
  auto id = Start(pod);
  std::string group = layout.v2 + FindContainer(core, id.str())->cgroup;
  ASSERT_TRUE(IsOk(MakeDirs(group)));
  ASSERT_TRUE(IsOk(WriteFileAtomic(group + "/memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")));
  ASSERT_TRUE(ground.world->Exit(id, 137));
  auto c = WaitContainer(core, id.str(), Soon());
  EXPECT_EQ(c->reason, "OOMKilled");
  EXPECT_EQ(c->exit_code, 137);
  agent.launcher.Drain();
  EXPECT_EQ(Kinds(*stream), (std::vector<EventKind>{EventKind::kContainerCreated, EventKind::kContainerStarted,
                                                    EventKind::kContainerOom, EventKind::kContainerExited}));
  core.cgroups = nullptr;
}

TEST_F(VerbsTest, LostMonitorStopsThePod) {
  auto pod = Run();
  auto running = Start(pod, "running"), ended = Start(pod, "ended");
  ASSERT_TRUE(ground.world->Exit(ended, 4));
  ASSERT_TRUE(IsOk(WaitContainer(core, ended.str(), Soon())));
  auto stream = agent.events.Subscribe();
  ASSERT_TRUE(agent.launcher.LoseMonitor(pod));
  while (true) {
    auto e = stream->Next(Soon());
    ASSERT_TRUE(IsOk(e));
    if (e->kind == EventKind::kPodStopped) break;
  }
  EXPECT_EQ(FindPod(core, pod.str())->phase, PodPhase::kStopped);
  auto c = FindContainer(core, running.str());
  EXPECT_EQ(c->exit_code, 255);
  EXPECT_EQ(c->reason, "Unknown");
  EXPECT_EQ(FindContainer(core, ended.str())->exit_code, 4);
  EXPECT_TRUE(ground.network.attached().empty());
}

TEST_F(VerbsTest, MonitorLostDuringCreationFailsIt) {
  ground.network.on_attach = [&](const cni::Attachment& a) {
    agent.launcher.LoseMonitor(a.pod);
    agent.launcher.Drain();
  };
  EXPECT_TRUE(IsErr(RunPod(core, Ground::Pod("a"), Soon()), Code::kUnavailable, "monitor died"));
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST_F(VerbsTest, ReopenLogNeedsARunningContainer) {
  auto spec = Ground::Pod("l");
  spec.log_directory = ground.dir / "logs";
  auto pod = RunPod(core, spec, Soon()).value();
  EXPECT_TRUE(Exists(spec.log_directory));
  auto c = Ground::Container("c");
  c.log_path = "c/0.log";
  auto id = CreateContainer(core, pod.str(), c, Soon()).value();
  EXPECT_EQ(FindContainer(core, id.str())->log_path, spec.log_directory + "/c/0.log");
  EXPECT_TRUE(Exists(spec.log_directory + "/c"));
  EXPECT_EQ(ground.world->LogPath(id), spec.log_directory + "/c/0.log");
  EXPECT_TRUE(IsErr(ReopenLog(core, id.str(), Soon()), Code::kConflict));
  ASSERT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
  EXPECT_TRUE(IsOk(ReopenLog(core, id.str(), Soon())));
}

TEST_F(VerbsTest, UsageOfStoppedOnesIsEmpty) {
  auto pod = Run();
  auto id = Create(pod);
  auto u = Usage(core, id.str());
  ASSERT_TRUE(IsOk(u));
  EXPECT_EQ(u->cpu_ns, 0u);
  EXPECT_EQ(NetworkUsage(core, pod.str())->name, "eth0");
}

TEST_F(VerbsTest, TargetJoinsARunningContainerOfThePod) {
  auto pod = Run(), other = Run("b");
  auto target = Start(pod, "target");
  auto spec = Ground::Container("debug");
  spec.namespaces.pid = Namespace::kTarget;
  spec.namespaces.target = target.str();
  EXPECT_TRUE(
      IsErr(CreateContainer(core, other.str(), spec, Soon()), Code::kInvalidArgument, "no such container in this pod"));
  EXPECT_TRUE(IsOk(CreateContainer(core, pod.str(), spec, Soon())));
}

}  // namespace
}  // namespace berth::pods
