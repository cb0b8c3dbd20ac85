// Stops: signal, grace, kill, and what races them. Over fakes.
#include <signal.h>

#include <thread>

#include "pods/testing/world.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using testing::Agent;
using testing::Ground;
using namespace std::chrono_literals;

Deadline Soon() { return Deadline::After(30s); }

class StopTest : public ::testing::Test {
 protected:
  Ground ground;
  Agent agent{ground};
  Core& core = agent.core;

  PodId Run(const std::string& name = "a") { return RunPod(core, Ground::Pod(name), Soon()).value(); }
  ContainerId Start(const PodId& pod, const std::string& name = "c") {
    auto id = CreateContainer(core, pod.str(), Ground::Container(name), Soon()).value();
    EXPECT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
    return id;
  }
};

TEST_F(StopTest, StopKillsAfterTheGrace) {
  auto pod = Run();
  auto id = Start(pod);
  ground.world->Ignore(id, SIGTERM);
  ASSERT_TRUE(IsOk(StopContainer(core, id.str(), 5ms, Soon())));
  EXPECT_EQ(FindContainer(core, id.str())->exit_code, 137);
}

TEST_F(StopTest, StopUsesTheImagesSignalUnlessAsked) {
  auto image = testing::FakeStore::Small("docker.io/library/quit:1");
  image.config.stop_signal = "SIGQUIT";
  ground.images.Put(image);
  auto pod = Run();
  auto spec = Ground::Container("a");
  spec.image = "docker.io/library/quit:1";
  auto a = CreateContainer(core, pod.str(), spec, Soon()).value();
  EXPECT_EQ(FindContainer(core, a.str())->stop_signal, SIGQUIT);
  spec.name = "b";
  spec.stop_signal = "USR1";
  auto b = CreateContainer(core, pod.str(), spec, Soon()).value();
  EXPECT_EQ(FindContainer(core, b.str())->stop_signal, SIGUSR1);
}

TEST_F(StopTest, ZeroAndNegativeGraceKillAtOnce) {
  auto pod = Run();
  for (auto grace : {0s, -3s}) {
    auto id = Start(pod, grace == 0s ? "zero" : "negative");
    ASSERT_TRUE(IsOk(StopContainer(core, id.str(), grace, Soon())));
    EXPECT_EQ(FindContainer(core, id.str())->exit_code, 137);
  }
}

TEST_F(StopTest, SecondStopShortensTheFirst) {
  auto pod = Run();
  auto id = Start(pod);
  ground.world->Ignore(id, SIGTERM);
  std::thread first([&] { EXPECT_TRUE(IsOk(StopContainer(core, id.str(), 10min, Soon()))); });
  ASSERT_TRUE(IsOk(StopContainer(core, id.str(), 1ms, Soon())));
  first.join();  // long before its own grace
  EXPECT_EQ(FindContainer(core, id.str())->exit_code, 137);
}

TEST_F(StopTest, CancelledStopStillKills) {
  auto pod = Run();
  auto id = Start(pod);
  ground.world->Ignore(id, SIGTERM);
  auto token = std::make_shared<CancelToken>();
  std::thread caller(
      [&] { EXPECT_TRUE(IsErr(StopContainer(core, id.str(), 50ms, Deadline::Never(token)), Code::kCancelled)); });
  token->Cancel();
  caller.join();
  EXPECT_EQ(WaitContainer(core, id.str(), Soon())->exit_code, 137);
}

TEST_F(StopTest, StopRacesExitAndRemoval) {
  auto pod = Run();
  for (int round = 0; round < 20; ++round) {
    auto id = Start(pod, "c" + std::to_string(round));
    std::thread stop([&] { EXPECT_TRUE(IsOk(StopContainer(core, id.str(), 1s, Soon()))); });
    std::thread exit([&] { ground.world->Exit(id, 0); });
    std::thread remove([&] { EXPECT_TRUE(IsOk(RemoveContainer(core, id.str(), Soon()))); });
    stop.join();
    exit.join();
    remove.join();
    EXPECT_TRUE(IsErr(FindContainer(core, id.str()), Code::kNotFound));
  }
  EXPECT_EQ(ground.world->containers(), 0u);
}

TEST_F(StopTest, StopPodRacesCreations) {
  for (int round = 0; round < 10; ++round) {
    auto pod = Run("r" + std::to_string(round));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&, i] {
        auto c = CreateContainer(core, pod.str(), Ground::Container("c" + std::to_string(i)), Soon());
        if (c) (void)StartContainer(core, c->str(), Soon());
      });
    EXPECT_TRUE(IsOk(RemovePod(core, pod.str(), Soon())));
    for (auto& t : threads) t.join();
    // A creation that began after the removal found no pod.
    EXPECT_EQ(ground.Remains(), std::vector<std::string>{});
  }
}

}  // namespace
}  // namespace berth::pods
