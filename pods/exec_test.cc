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

}  // namespace
}  // namespace berth::pods
