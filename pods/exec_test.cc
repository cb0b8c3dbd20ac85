// Commands in running containers, over fakes.
#include <fcntl.h>

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

class ExecTest : public ::testing::Test {
 protected:
  Ground ground;
  Agent agent{ground};
  Core& core = agent.core;

  PodId Run() { return RunPod(core, Ground::Pod("a"), Soon()).value(); }
  ContainerId Create(const PodId& pod) {
    return CreateContainer(core, pod.str(), Ground::Container("c"), Soon()).value();
  }
  ContainerId Start(const PodId& pod) {
    auto id = Create(pod);
    EXPECT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
    return id;
  }
};

TEST_F(ExecTest, ExecSyncCollectsOutputAndCode) {
  auto pod = Run();
  auto confined = Ground::Container("c");
  confined.seccomp.kind = "default";
  auto id = CreateContainer(core, pod.str(), confined, Soon()).value();
  ASSERT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
  agent.launcher.OnExec([](const runtime::ExecLaunch& launch) -> std::optional<int> {
    EXPECT_EQ(launch.process->args, (std::vector<std::string>{"sh", "-c", "x"}));
    EXPECT_TRUE(launch.spec != nullptr && launch.spec->linux && launch.spec->linux->seccomp);
    EXPECT_NE(std::find(launch.process->env.begin(), launch.process->env.end(), "APP=1"), launch.process->env.end());
    EXPECT_TRUE(WriteAll(launch.out, "out").has_value());
    EXPECT_TRUE(WriteAll(launch.err, "err").has_value());
    return 3;
  });
  auto r = ExecSync(core, id.str(), {"sh", "-c", "x"}, 10s, Soon());
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->out, "out");
  EXPECT_EQ(r->err, "err");
  EXPECT_EQ(r->exit_code, 3);
}

TEST_F(ExecTest, ExecSyncTimesOutAndKills) {
  auto pod = Run();
  auto id = Start(pod);
  agent.launcher.OnExec([](const runtime::ExecLaunch&) -> std::optional<int> { return std::nullopt; });
  EXPECT_TRUE(IsErr(ExecSync(core, id.str(), {"sleep", "1000"}, 10ms, Soon()), Code::kDeadlineExceeded, "timed out"));
  auto calls = agent.launcher.calls();
  EXPECT_TRUE(std::any_of(calls.begin(), calls.end(),
                          [](const auto& c) { return c.starts_with("signal_exec") && c.ends_with(" 9"); }));
}

TEST_F(ExecTest, ExecSyncDoesNotWaitForGrandchildren) {
  auto pod = Run();
  auto id = Start(pod);
  unique_fd held;  // as a grandchild would hold the pipe
  agent.launcher.OnExec([&](const runtime::ExecLaunch& launch) -> std::optional<int> {
    EXPECT_TRUE(WriteAll(launch.out, "before").has_value());
    held.reset(::fcntl(launch.out, F_DUPFD_CLOEXEC, 3));
    return 0;
  });
  auto r = ExecSync(core, id.str(), {"daemon"}, 0s, Soon());
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->out, "before");
}

TEST_F(ExecTest, ExecSyncKeepsEightMebibytes) {
  auto pod = Run();
  auto id = Start(pod);
  std::thread writer;
  agent.launcher.OnExec([&](const runtime::ExecLaunch& launch) -> std::optional<int> {
    writer = std::thread([&, fd = ::fcntl(launch.out, F_DUPFD_CLOEXEC, 3)] {
      std::string chunk(1 << 20, 'x');
      for (int i = 0; i < 10; ++i) EXPECT_TRUE(WriteAll(fd, chunk).has_value());
      ::close(fd);
      ground.world->ExitExec(1, 0);
    });
    return std::nullopt;
  });
  auto r = ExecSync(core, id.str(), {"yes"}, 0s, Soon());
  writer.join();
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->out.size(), 8u << 20);
}

TEST_F(ExecTest, ExecNeedsARunningContainer) {
  auto pod = Run();
  auto id = Create(pod);
  EXPECT_TRUE(IsErr(ExecSync(core, id.str(), {"x"}, 0s, Soon()), Code::kConflict, "not running"));
  ASSERT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
  EXPECT_TRUE(IsErr(ExecSync(core, id.str(), {}, 0s, Soon()), Code::kInvalidArgument, "cmd"));
  // The program is not found, the container is.
  agent.launcher.FailNext("exec", Code::kNotFound, "exec: \"nope\": executable file not found in $PATH");
  EXPECT_TRUE(IsErr(ExecSync(core, id.str(), {"nope"}, 0s, Soon()), Code::kFailedPrecondition, "nope"));
  ExecOptions tty{.argv = {"sh"}, .tty = true};
  auto handle = Exec(core, id.str(), tty, Soon());
  ASSERT_TRUE(IsOk(handle));
  EXPECT_TRUE(handle->terminal.valid());
}

TEST_F(ExecTest, UpdateChangesCgroupRowAndSpec) {
  auto pod = Run();
  auto first = Ground::Container("c");
  first.resources.memory_limit = 100 << 20;
  first.resources.memory_swap = 100 << 20;
  first.resources.cpu_shares = 512;
  auto id = CreateContainer(core, pod.str(), first, Soon()).value();
  ASSERT_TRUE(IsOk(StartContainer(core, id.str(), Soon())));
  Resources change;
  change.memory_limit = change.memory_swap = 200 << 20;
  change.cpu_quota = 50000;
  change.cpu_period = 100000;
  ASSERT_TRUE(IsOk(UpdateContainer(core, id.str(), change, Soon())));
  auto told = ground.world->ResourcesOf(id);
  ASSERT_TRUE(told && told->memory && told->cpu);
  EXPECT_EQ(*told->memory->limit, 200 << 20);
  EXPECT_TRUE(told->memory->checkBeforeUpdate.value_or(false));
  EXPECT_EQ(*told->cpu->quota, 50000);
  EXPECT_FALSE(told->cpu->shares) << "not named: left alone";
  auto now = FindContainer(core, id.str()).value();
  EXPECT_EQ(now.spec.resources.memory_limit, 200 << 20);
  EXPECT_EQ(now.spec.resources.cpu_shares, 512);
  auto spec = core.table.OciSpec(id).value();
  EXPECT_EQ(*spec.linux->resources->memory->limit, 200 << 20);
  EXPECT_EQ(*spec.linux->resources->cpu->shares, 512u);

  agent.launcher.FailNext("update", Code::kFailedPrecondition);
  change.memory_limit = change.memory_swap = 1 << 20;
  EXPECT_TRUE(IsErr(UpdateContainer(core, id.str(), change, Soon()), Code::kFailedPrecondition));
  EXPECT_EQ(FindContainer(core, id.str())->spec.resources.memory_limit, 200 << 20) << "as it was";

  ASSERT_TRUE(IsOk(StopContainer(core, id.str(), 0s, Soon())));
  change.memory_limit = change.memory_swap = 300 << 20;
  ASSERT_TRUE(IsOk(UpdateContainer(core, id.str(), change, Soon())));
  EXPECT_EQ(FindContainer(core, id.str())->spec.resources.memory_limit, 300 << 20);
  EXPECT_EQ(*ground.world->ResourcesOf(id)->memory->limit, 200 << 20) << "an exited one has no cgroup to change";
  EXPECT_TRUE(IsErr(UpdateContainer(core, std::string(64, 'f'), change, Soon()), Code::kNotFound));
}

TEST_F(ExecTest, AnUpdateOutlivesTheAgent) {
  auto pod = Run();
  auto id = Start(pod);
  Resources change;
  change.cpu_shares = 777;
  ASSERT_TRUE(IsOk(UpdateContainer(core, id.str(), change, Soon())));
  auto rows = core.table.Load().value();
  ASSERT_EQ(rows.containers.size(), 1u);
  EXPECT_EQ(rows.containers[0].state.spec.resources.cpu_shares, 777);
}

}  // namespace
}  // namespace berth::pods
