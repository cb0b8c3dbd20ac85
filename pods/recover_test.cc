// The agent dies at each step of each verb; the next one finds the ground as it is and leaves nothing that no row owns.
//
// A death is played by stopping the verb's thread at the step for good (as far as the next agent can tell) and giving
// the same database, directories, monitors, network and snapshots to a second agent.
#include <signal.h>

#include <condition_variable>
#include <thread>

#include "pods/failpoints.h"
#include "pods/teardown.h"
#include "pods/testing/world.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using testing::Agent;
using testing::Ground;
using namespace std::chrono_literals;

Deadline Soon() { return Deadline::After(30s); }

// Stops the first thread that comes to `point`.
class Death {
 public:
  Death(Agent& agent, std::string_view point) {
    agent.operations.SetHook([this, point](std::string_view at) -> Result<void> {
      if (at != point) return {};
      std::unique_lock lock(mutex_);
      if (arrived_) return {};
      arrived_ = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return released_; });
      return Err(Code::kInternal, "the agent is dead");
    });
  }
  bool Await() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 30s, [&] { return arrived_; });
  }
  void Release() {
    std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool arrived_ = false, released_ = false;
};

TEST(RecoverTest, DeathAtEveryStepOfEveryVerb) {
  for (std::string_view point : kFailpoints) {
    SCOPED_TRACE(point);
    Ground ground;
    auto dying = std::make_unique<Agent>(ground);
    Core& core = dying->core;
    auto keep = RunPod(core, Ground::Pod("keep"), Soon()).value();
    auto kept = CreateContainer(core, keep.str(), Ground::Container("kept"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(core, kept.str(), Soon())));
    pid_t pid = FindContainer(core, kept.str())->pid;
    auto pod = RunPod(core, Ground::Pod("a"), Soon()).value();
    auto created = CreateContainer(core, pod.str(), Ground::Container("created"), Soon()).value();
    auto running = CreateContainer(core, pod.str(), Ground::Container("running"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(core, running.str(), Soon())));

    Death death(*dying, point);
    std::string verb(point.substr(0, point.find('.')));
    std::thread caller([&] {
      if (verb == "run_pod") (void)RunPod(core, Ground::Pod("new"), Soon());
      if (verb == "create_container") (void)CreateContainer(core, pod.str(), Ground::Container("new"), Soon());
      if (verb == "start_container") (void)StartContainer(core, created.str(), Soon());
      if (verb == "stop_container") (void)StopContainer(core, running.str(), 1s, Soon());
      if (verb == "remove_container") (void)RemoveContainer(core, running.str(), Soon());
      if (verb == "stop_pod") (void)StopPod(core, pod.str(), Soon());
      if (verb == "remove_pod") (void)RemovePod(core, pod.str(), Soon());
    });
    EXPECT_TRUE(death.Await());
    {
      Agent next(ground);
      // What was ready before and was not touched is as it was.
      EXPECT_EQ(FindPod(next.core, keep.str())->phase, PodPhase::kReady);
      auto c = FindContainer(next.core, kept.str());
      EXPECT_EQ(c->phase, ContainerPhase::kRunning);
      EXPECT_EQ(c->pid, pid);
      EXPECT_TRUE(IsErr(StartContainer(next.core, kept.str(), Soon()), Code::kConflict));

      // Nothing half-made, nothing half-removed: every row is visible, and everything there has a row.
      for (const auto& p : next.registry.EveryPod()) EXPECT_NE(p->phase, PodPhase::kCreating);
      for (const auto& p : next.registry.EveryPod()) EXPECT_NE(p->phase, PodPhase::kStopping);
      EXPECT_EQ(ground.Rows("pods"), ListPods(next.core).size());
      EXPECT_EQ(ground.Rows("containers"), ListContainers(next.core).size());
      EXPECT_EQ(ground.images.snapshotter().owners().size(), ListContainers(next.core).size());
      size_t ready = 0;
      for (const auto& p : ListPods(next.core)) ready += p.phase == PodPhase::kReady;
      EXPECT_EQ(ground.world->pods(), ready);
      EXPECT_EQ(ground.network.attached().size(), ready);
      if (verb == "run_pod") EXPECT_EQ(ListPods(next.core).size(), 2u);
      if (point == "start_container.running")
        EXPECT_EQ(FindContainer(next.core, created.str())->phase, ContainerPhase::kRunning);
      if (point == "start_container.exec") EXPECT_TRUE(IsOk(StartContainer(next.core, created.str(), Soon())));
      // Once removal was recorded it is finished; a stop that was recorded, too.
      if (verb == "remove_pod" && point != "remove_pod.stop" && point != "remove_pod.mark")
        EXPECT_TRUE(IsErr(FindPod(next.core, pod.str()), Code::kNotFound));
      if (verb == "stop_pod" && point != "stop_pod.row")
        EXPECT_EQ(FindPod(next.core, pod.str())->phase, PodPhase::kStopped);
      if (verb == "remove_container" && point != "remove_container.kill" && point != "remove_container.mark")
        EXPECT_TRUE(IsErr(FindContainer(next.core, running.str()), Code::kNotFound));

      EXPECT_TRUE(IsOk(Recover(next.core)));  // again: nothing changes
      EXPECT_EQ(FindContainer(next.core, kept.str())->phase, ContainerPhase::kRunning);

      for (const auto& p : ListPods(next.core)) EXPECT_TRUE(IsOk(RemovePod(next.core, p.id.str(), Soon())));
      EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
    }
    death.Release();
    caller.join();
    dying.reset();
  }
}

TEST(RecoverTest, ExitsWhileTheAgentWasAway) {
  Ground ground;
  ContainerId a, b;
  PodId pod;
  {
    Agent agent(ground);
    pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
    a = CreateContainer(agent.core, pod.str(), Ground::Container("a"), Soon()).value();
    b = CreateContainer(agent.core, pod.str(), Ground::Container("b"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(agent.core, a.str(), Soon())));
    ASSERT_TRUE(IsOk(StartContainer(agent.core, b.str(), Soon())));
  }
  ASSERT_TRUE(ground.world->Exit(a, 7));
  Agent agent(ground);
  auto c = FindContainer(agent.core, a.str());
  ASSERT_TRUE(IsOk(c));
  EXPECT_EQ(c->phase, ContainerPhase::kExited);
  EXPECT_EQ(c->exit_code, 7);
  EXPECT_EQ(c->finished_at, ground.world->Facts(a)->exit->finished_at);
  EXPECT_EQ(FindContainer(agent.core, b.str())->phase, ContainerPhase::kRunning);
  ASSERT_TRUE(IsOk(StopContainer(agent.core, b.str(), 1s, Soon())));
}

TEST(RecoverTest, MonitorGoneTakesExitsFromTheRecords) {
  Ground ground;
  ContainerId a, b;
  PodId pod;
  {
    Agent agent(ground);
    pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
    a = CreateContainer(agent.core, pod.str(), Ground::Container("a"), Soon()).value();
    b = CreateContainer(agent.core, pod.str(), Ground::Container("b"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(agent.core, a.str(), Soon())));
    ASSERT_TRUE(IsOk(StartContainer(agent.core, b.str(), Soon())));
  }
  ASSERT_TRUE(ground.world->Exit(a, 7));
  ASSERT_TRUE(ground.world->LoseMonitor(pod));
  Agent agent(ground);
  EXPECT_EQ(FindPod(agent.core, pod.str())->phase, PodPhase::kStopped);
  EXPECT_EQ(FindContainer(agent.core, a.str())->exit_code, 7);
  EXPECT_EQ(FindContainer(agent.core, b.str())->exit_code, 255);
  EXPECT_EQ(FindContainer(agent.core, b.str())->reason, "Unknown");
  EXPECT_TRUE(ground.network.attached().empty());
}

TEST(RecoverTest, AfterARebootPodsAreStopped) {
  Ground ground;
  PodId pod;
  ContainerId c;
  {
    Agent agent(ground);
    pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
    c = CreateContainer(agent.core, pod.str(), Ground::Container("a"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(agent.core, c.str(), Soon())));
    ASSERT_TRUE(IsOk(agent.table->SetBootId("another boot")));
  }
  ASSERT_TRUE(ground.world->LoseMonitor(pod));
  ASSERT_TRUE(IsOk(RemoveTree(ground.run + "/pods")));
  Agent agent(ground);
  EXPECT_EQ(FindPod(agent.core, pod.str())->phase, PodPhase::kStopped);
  EXPECT_EQ(FindContainer(agent.core, c.str())->message, "the machine was restarted");
  auto calls = agent.launcher.calls();
  EXPECT_TRUE(std::none_of(calls.begin(), calls.end(), [](const auto& call) { return call.starts_with("adopt"); }));
  EXPECT_TRUE(IsOk(RemovePod(agent.core, pod.str(), Soon())));
}

TEST(RecoverTest, CreatedAtGrowsOverRestarts) {
  Ground ground;
  int64_t before;
  {
    Agent agent(ground);
    auto pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
    before = FindPod(agent.core, pod.str())->created_at;
    ASSERT_TRUE(IsOk(RemovePod(agent.core, pod.str(), Soon())));
  }
  Agent agent(ground);  // the fake clock has not moved
  auto pod = RunPod(agent.core, Ground::Pod("b"), Soon()).value();
  EXPECT_GT(FindPod(agent.core, pod.str())->created_at, before);
}

TEST(RecoverTest, StraysAreRemoved) {
  Ground ground;
  std::string id(64, 'd');
  ASSERT_TRUE(IsOk(MakeDirs(ground.root + "/pods/" + id + "/state")));
  ASSERT_TRUE(IsOk(MakeDirs(ground.run + "/pods/" + id)));
  ASSERT_TRUE(IsOk(MakeDirs(ground.root + "/pods/not-ours")));
  Agent agent(ground);
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{ground.root + "/pods/not-ours"});
}

TEST(RecoverTest, MonitorWithoutAnswerKeepsThePodListed) {
  Ground ground;
  PodId pod;
  {
    Agent agent(ground);
    pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
  }
  Agent agent(ground, false);
  agent.launcher.FailNext("adopt", Code::kDeadlineExceeded, "waiting for the monitor");
  ASSERT_TRUE(IsOk(Recover(agent.core)));
  EXPECT_EQ(FindPod(agent.core, pod.str())->phase, PodPhase::kReady);
  EXPECT_NE(FindPod(agent.core, pod.str())->stuck.find("does not answer"), std::string::npos);
  EXPECT_EQ(ground.network.attached().size(), 1u);
  agent.launcher.FailNext("adopt", Code::kDeadlineExceeded, "waiting for the monitor");
  EXPECT_TRUE(IsErr(StopPod(agent.core, pod.str(), Soon()), Code::kDeadlineExceeded, "does not answer"));
  EXPECT_EQ(ground.world->pods(), 1u);
  EXPECT_TRUE(IsOk(RemovePod(agent.core, pod.str(), Soon())));  // it answers by now
  EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
}

TEST(RecoverTest, MonitorWithoutAnswerIsAskedAgain) {
  Ground ground;
  PodId pod;
  ContainerId c;
  {
    Agent agent(ground);
    pod = RunPod(agent.core, Ground::Pod("a"), Soon()).value();
    c = CreateContainer(agent.core, pod.str(), Ground::Container("c"), Soon()).value();
    ASSERT_TRUE(IsOk(StartContainer(agent.core, c.str(), Soon())));
  }
  Agent agent(ground, false);
  agent.launcher.FailNext("adopt", Code::kDeadlineExceeded, "waiting for the monitor");
  ASSERT_TRUE(IsOk(Recover(agent.core)));
  EXPECT_TRUE(agent.registry.Unadopted(pod));
  ASSERT_TRUE(ground.world->Exit(c, 5));
  ASSERT_TRUE(IsOk(AdoptLate(agent.core, pod, Soon())));
  EXPECT_FALSE(agent.registry.Unadopted(pod));
  EXPECT_TRUE(FindPod(agent.core, pod.str())->stuck.empty());
  EXPECT_EQ(WaitContainer(agent.core, c.str(), Soon())->exit_code, 5);
}

TEST(RecoverTest, ManyPods) {
  Ground ground;
  {
    Agent agent(ground);
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(IsOk(RunPod(agent.core, Ground::Pod("p" + std::to_string(i)), Soon())));
  }
  Agent agent(ground);
  EXPECT_EQ(ListPods(agent.core).size(), 40u);
  for (const auto& p : ListPods(agent.core)) EXPECT_EQ(p.phase, PodPhase::kReady);
}

}  // namespace
}  // namespace berth::pods
