#include "base/child.h"

#include <signal.h>
#include <sys/wait.h>

#include <thread>

#include <gtest/gtest.h>

#include "base/descriptor_limit.h"
#include "base/failpoint.h"
#include "base/testing.h"

namespace berth {
namespace {

using namespace std::chrono_literals;
using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

Command Shell(std::string script) { return {.argv = {"sh", "-c", std::move(script)}, .env = {"PATH=/usr/bin:/bin"}}; }

TEST(Child, OutputInputAndExitCode) {
  Command c = Shell("cat; echo problem >&2; exit 3");
  c.input = std::string(300'000, 'x');
  auto r = berth::Run(c, Deadline::Never());
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->exit_code, 3);
  EXPECT_EQ(r->out, c.input);
  EXPECT_EQ(r->err, "problem\n");
  EXPECT_FALSE(r->truncated);
}

TEST(Child, SignalsCountFrom128) { EXPECT_EQ(berth::Run(Shell("kill -TERM $$"), Deadline::Never())->exit_code, 128 + SIGTERM); }

TEST(Child, EnvironmentIsExactlyWhatIsGiven) {
  Command c{.argv = {"/usr/bin/env"}, .env = {"A=1", "B=two words"}};
  EXPECT_EQ(berth::Run(c, Deadline::Never())->out, "A=1\nB=two words\n");
}

TEST(Child, RaisedDescriptorLimitStaysOurs) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low{std::min<rlim_t>(256, before.rlim_max), before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  auto raised = RaiseDescriptorLimit();
  ASSERT_TRUE(IsOk(raised));
  EXPECT_EQ(*raised, before.rlim_max);
  rlimit ours{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &ours), 0);
  EXPECT_EQ(ours.rlim_cur, before.rlim_max);
  EXPECT_EQ(berth::Run(Shell("ulimit -Sn; ulimit -Hn"), Deadline::Never())->out,
            fmt::format("{}\n{}\n", low.rlim_cur, before.rlim_max));
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Child, InheritsOnlyWhatIsNamed) {
  TempDir dir;
  const unique_fd kept = std::move(*Open(dir / "kept", O_CREAT | O_RDWR, 0600));
  const unique_fd leaky(::open((dir / "leaky").c_str(), O_CREAT | O_RDWR, 0600));  // without O_CLOEXEC on purpose
  Command c = Shell("ls -l /proc/self/fd");
  c.inherit = {{kept.get(), 7}, {kept.get(), leaky.get() == 7 ? 8 : 9}};
  const std::string out = berth::Run(c, Deadline::Never())->out;
  EXPECT_NE(out.find(" 7 -> " + dir / "kept"), std::string::npos) << out;
  EXPECT_EQ(out.find("leaky"), std::string::npos) << out;
  EXPECT_EQ(out.find("3 -> pipe"), std::string::npos) << out;
}

TEST(Child, PlacesOverlappingDescriptors) {
  TempDir dir;
  const unique_fd a = std::move(*Open(dir / "a", O_CREAT | O_RDWR, 0600));
  const unique_fd b = std::move(*Open(dir / "b", O_CREAT | O_RDWR, 0600));
  Command c = Shell(fmt::format("readlink /proc/self/fd/{} /proc/self/fd/{}", a.get(), b.get()));
  c.inherit = {{a.get(), b.get()}, {b.get(), a.get()}};
  EXPECT_EQ(berth::Run(c, Deadline::Never())->out, dir / "b" + "\n" + dir / "a" + "\n");
}

TEST(Child, OutputBeyondTheLimitIsDropped) {
  Command c = Shell("head -c 200000 /dev/zero");
  c.output_limit = 1000;
  auto r = berth::Run(c, Deadline::Never());
  EXPECT_EQ(r->out.size(), 1000u);
  EXPECT_TRUE(r->truncated);
  EXPECT_EQ(r->exit_code, 0);
}

TEST(Child, MissingProgramsAreErrors) {
  EXPECT_TRUE(IsErr(berth::Run({.argv = {"no-such-program-here"}}, Deadline::Never()), Code::kNotFound, "not in PATH"));
  EXPECT_TRUE(IsErr(berth::Run({.argv = {"/no/such/program"}}, Deadline::Never()), Code::kNotFound, "run /no/such/program: execute"));
  EXPECT_TRUE(IsErr(berth::Run({.argv = {"/etc/passwd"}}, Deadline::Never()), Code::kPermissionDenied, "/etc/passwd"));
  EXPECT_TRUE(IsErr(berth::Run({}, Deadline::Never()), Code::kInvalidArgument));
}

TEST(Child, DeadlineKillsTheWholeGroup) {
  TempDir dir;
  Command c = Shell("sleep 1000 & echo $! > " + dir / "pid.new" + "; mv " + dir / "pid.new" + " " + dir / "pid" + "; wait");
  auto token = std::make_shared<CancelToken>();
  std::thread canceller([&] {
    while (!Exists(dir / "pid")) std::this_thread::yield();
    token->Cancel();
  });
  EXPECT_TRUE(IsErr(berth::Run(c, Deadline::Never(token)), Code::kCancelled, "sh"));
  canceller.join();
  const int grandchild = std::stoi(*ReadFile(dir / "pid"));
  // Its new parent reaps it; until then it is a zombie, which signals cannot tell from alive.
  for (;;) {
    auto stat = ReadFile(fmt::format("/proc/{}/stat", grandchild));
    if (!stat || stat->find(") Z ") != std::string::npos || stat->find(") X ") != std::string::npos) break;
    std::this_thread::yield();
  }
  EXPECT_TRUE(IsErr(berth::Run(Shell("sleep 1000"), Deadline::After(1ms)), Code::kDeadlineExceeded, "sh"));
}

TEST(Child, ABackgroundProcessDoesNotHoldUsUp) {
  auto r = berth::Run(Shell("sleep 1000 & echo $!"), Deadline::Never());
  ASSERT_TRUE(IsOk(r));
  ::kill(std::stoi(r->out), SIGKILL);
}

TEST(Child, SignalsStartOutDefaultAndUnblocked) {
  const auto before = ::signal(SIGUSR1, SIG_IGN);
  const std::string out = berth::Run({.argv = {"/bin/grep", "^Sig[BI]", "/proc/self/status"}}, Deadline::Never())->out;
  ::signal(SIGUSR1, before);
  EXPECT_EQ(out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(Child, SpawnAndWait) {
  auto child = Spawn({.argv = {"cat"}, .input = "x"}, true);
  ASSERT_TRUE(IsOk(child));
  EXPECT_EQ(*WaitExit(*child, Deadline::Never()), 0);
  auto sleeper = Spawn({.argv = {"sleep", "1000"}});
  EXPECT_TRUE(IsErr(WaitExit(*sleeper, Deadline::After(1ms)), Code::kDeadlineExceeded, std::to_string(sleeper->pid)));
  ::kill(sleeper->pid, SIGKILL);
  EXPECT_EQ(*WaitExit(*sleeper, Deadline::Never()), 137);
}

TEST(Child, DyingWithParentMeansTheProcessNotTheThread) {
  Result<Spawned> child = Err(Code::kInternal, "not run");
  std::thread([&] { child = Spawn({.argv = {"sleep", "1000"}}, true); }).join();
  ASSERT_TRUE(IsOk(child));
  siginfo_t info{};
  EXPECT_EQ(::waitid(P_PIDFD, child->pidfd.get(), &info, WEXITED | WNOHANG), 0);
  EXPECT_EQ(info.si_pid, 0) << "it ended with the thread that asked for it";
  ::kill(child->pid, SIGKILL);
  EXPECT_EQ(*WaitExit(*child, Deadline::Never()), 137);
}

TEST(Child, ManyAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([] {
      for (int i = 0; i < 10; ++i) EXPECT_EQ(berth::Run(Shell("echo hi"), Deadline::Never())->out, "hi\n");
    });
  for (auto& t : threads) t.join();
}

// The failpoint tests run this program again with the variable set; without it these do nothing but pass.
TEST(FailpointSubject, Runs) {
  Failpoint("test.kill");
  auto r = FailpointError("test.fail");
  if (!r) FAIL() << r.error().what;
}

Result<CommandOutput> RunSubject(const std::string& failpoint) {
  return berth::Run({.argv = {"/proc/self/exe", "--gtest_filter=FailpointSubject.*"}, .env = {"BERTH_FAILPOINT=" + failpoint}},
             Deadline::Never());
}

TEST(Failpoint, KillsOrFailsWhereNamed) {
  EXPECT_EQ(RunSubject("test.kill")->exit_code, 137);
  EXPECT_EQ(RunSubject("test.other")->exit_code, 0);
  auto failed = RunSubject("test.fail:error");
  EXPECT_EQ(failed->exit_code, 1);
  EXPECT_NE(failed->out.find("failpoint test.fail"), std::string::npos) << failed->out;
  EXPECT_EQ(RunSubject("test.fail")->exit_code, 137);
}

}  // namespace
}  // namespace berth
