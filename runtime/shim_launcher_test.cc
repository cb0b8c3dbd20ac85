#include "runtime/shim_launcher.h"

#include <sys/vfs.h>
#include <sys/wait.h>

#include <filesystem>
#include <sstream>
#include <thread>

#include "runtime/launcher_contract.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {

INSTANTIATE_TYPED_TEST_SUITE_P(Native, LauncherContract, NativeWorld);

namespace {

using testing::IsErr;
using testing::IsOk;
using namespace std::chrono_literals;

const ::testing::Environment* const own_mounts = ::testing::AddGlobalTestEnvironment(new OwnMounts);

TEST_F(ShimLauncherTest, LogHasEveryRecordBeforeTheExitIsTold) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  std::string log = RunToEnd(Shell(pod, "echo hello World; echo bad >&2; printf 'no newline'; exit 4"), 4);
  EXPECT_EQ(Output(log), "hello World\nno newline");
  EXPECT_EQ(Output(log, "stderr"), "bad\n");
  EXPECT_NE(log.find(" stdout F hello World\n"), std::string::npos);
  EXPECT_NE(log.find(" stdout P no newline\n"), std::string::npos);
  std::string big = RunToEnd(Shell(pod, "seq 1 300000"));
  std::string expected;
  for (int i = 1; i <= 300000; ++i) expected += fmt::format("{}\n", i);
  EXPECT_TRUE(Output(big) == expected) << "some of 300000 lines are missing or changed";
  struct stat status;
  ASSERT_EQ(::stat(world_.LogPath(NewContainerId()).c_str(), &status), -1);
}

TEST_F(ShimLauncherTest, LogFileIsPrivateAndNeverFollowsALink) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "echo x");
  RunToEnd(c);
  struct stat status;
  ASSERT_EQ(::stat(c.log.path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  ContainerLaunch evil = Shell(pod, "echo x");
  ASSERT_EQ(::symlink("/etc/passwd-of-nobody", evil.log.path.c_str()), 0);
  EXPECT_FALSE(launcher().CreateContainer(evil, Soon()).has_value());
  EXPECT_FALSE(Exists("/etc/passwd-of-nobody"));
  ContainerLaunch pipe = Shell(pod, "echo x");
  ASSERT_EQ(::mkfifo(pipe.log.path.c_str(), 0600), 0);
  EXPECT_FALSE(launcher().CreateContainer(pipe, Soon()).has_value());
  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
}

TEST_F(ShimLauncherTest, TerminalOutputIsStdoutWithoutCarriageReturns) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "tty; echo out; echo err >&2; stty size; printf end");
  c.tty = true;
  world_.SpecOf(c).process->terminal = true;
  world_.SpecOf(c).process->consoleSize = oci::Box{33, 77};
  std::string log = RunToEnd(c);
  EXPECT_EQ(Output(log), "/dev/pts/0\nout\nerr\n33 77\nend");
  EXPECT_EQ(Output(log, "stderr"), "");
}

TEST_F(ShimLauncherTest, StandardInputIsHeldUntilClosed) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "cat; echo end"))), "end\n") << "without stdin: /dev/null";
  ContainerLaunch c = Shell(pod, "echo ready; cat; echo end");
  c.keep_stdin = true;
  Run(c);
  EXPECT_TRUE(NativeWorld::Eventually([&] { return !Slurp(c.log.path).empty(); }));
  EXPECT_EQ(world_.Told(c.id), 0);
  ASSERT_TRUE(IsOk(launcher().CloseStdin(pod.id, c.id, Soon())));
  EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 0);
  EXPECT_EQ(Output(Slurp(c.log.path)), "ready\nend\n");
  EXPECT_TRUE(IsErr(launcher().Resize(pod.id, c.id, 1, 1, Soon()), Code::kConflict, "terminal"));
}

TEST_F(ShimLauncherTest, ExecUsesThePipesItIsGiven) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  auto exec = world_.Exec(c, {"sh", "-c", "cat; echo oops >&2; exit 42"});
  auto in = *Pipe(), out = *Pipe(), err = *Pipe();
  exec.in = in.first.get();
  exec.out = out.second.get();
  exec.err = err.second.get();
  auto handle = launcher().Exec(exec, Soon());
  ASSERT_TRUE(IsOk(handle));
  EXPECT_GT(handle->pid, 0);
  in.first.reset();
  out.second.reset();
  err.second.reset();
  ASSERT_TRUE(IsOk(WriteAll(in.second.get(), "typed")));
  in.second.reset();
  EXPECT_EQ(ReadAll(out.first.get()), "typed");
  EXPECT_EQ(ReadAll(err.first.get()), "oops\n");
  EXPECT_EQ(ExitCode(*handle), 42);
  EXPECT_FALSE(handle->terminal.valid());
  auto missing = launcher().Exec(world_.Exec(c, {"no-such-program"}), Soon());
  ASSERT_TRUE(IsErr(missing, Code::kInvalidArgument, "executable file not found"));
  EXPECT_EQ(missing.error().sys, ENOENT);
  EXPECT_EQ(ExecOutput(c, "echo still here"), "still here\n");
}

TEST_F(ShimLauncherTest, ExecWithTerminalGivesItsMaster) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  auto exec = world_.Exec(c, {"sh", "-c", "stty size; read line; echo got $line; exit 6"});
  exec.tty = true;
  exec.rows = 24;
  exec.columns = 90;
  auto handle = launcher().Exec(exec, Soon());
  ASSERT_TRUE(IsOk(handle));
  ASSERT_TRUE(handle->terminal.valid());
  ASSERT_TRUE(IsOk(WriteAll(handle->terminal.get(), "hi\n")));
  std::string screen = ReadAll(handle->terminal.get());
  EXPECT_NE(screen.find("24 90\r\n"), std::string::npos) << screen;
  EXPECT_NE(screen.find("got hi\r\n"), std::string::npos) << screen;
  EXPECT_EQ(ExitCode(*handle), 6);
}

TEST_F(ShimLauncherTest, PodNamespacesAreShared) {
  NEED_WORLD(world_);
  PodLaunch pod = world_.Pod();
  pod.hostname = "harbour";
  pod.sysctls = {{"net.ipv4.ip_unprivileged_port_start", "80"}, {"kernel.shm_rmid_forced", "1"}};
  pod.shm_bytes = 8 << 20;
  Started(pod);
  const std::string script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; "
                             "df -k /dev/shm | while read a b rest; do [ $a = shm ] && echo $b; done; ls /dev/shm; touch /dev/shm/mark";
  EXPECT_EQ(Output(RunToEnd(Shell(pod, script))), "harbour\n80\n1\n8192\n");
  EXPECT_EQ(Output(RunToEnd(Shell(pod, script))), "harbour\n80\n1\n8192\nmark\n") << "/dev/shm is the pod's";
  char own[256] = {};
  ASSERT_GT(::readlink("/proc/self/ns/net", own, sizeof own - 1), 0);
  EXPECT_NE(Output(RunToEnd(Shell(pod, "readlink /proc/self/ns/net"))), std::string(own) + "\n");
  PodLaunch bad = world_.Pod();
  bad.sysctls = {{"net.ipv4.no_such_thing", "1"}};
  EXPECT_TRUE(IsErr(launcher().StartPod(bad, Soon()), Code::kInvalidArgument, "net.ipv4.no_such_thing"));
  EXPECT_FALSE(Exists(bad.run_dir + "/shim.sock"));
  EXPECT_TRUE(NativeWorld::Eventually([&] { return NativeWorld::MonitorOf(bad.id) < 0; }));
  PodLaunch long_name = world_.Pod();
  long_name.hostname = std::string(65, 'a');
  EXPECT_TRUE(IsErr(launcher().StartPod(long_name, Soon()), Code::kInvalidArgument, "hostname"));
}

TEST_F(ShimLauncherTest, PidNamespaceModes) {
  NEED_WORLD(world_);
  PodLaunch pod = world_.Pod();
  pod.shared_pid = true;
  Started(pod);
  ContainerLaunch first = world_.Container(pod, {"sleep", "1000"});
  first.pid = NamespaceMode::kPod;
  std::erase_if(world_.SpecOf(first).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  Run(first);
  ContainerLaunch second = Shell(pod, "cat /proc/1/comm; for p in /proc/[0-9]*; do cat $p/comm; done");
  second.pid = NamespaceMode::kPod;
  std::erase_if(world_.SpecOf(second).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  std::string seen = Output(RunToEnd(second));
  EXPECT_TRUE(seen.starts_with("berth-init\n")) << seen;
  EXPECT_NE(seen.find("\nsleep\n"), std::string::npos) << seen;

  ContainerLaunch own = world_.Container(pod, {"sleep", "999"});
  Run(own);
  ContainerLaunch guest = Shell(pod, "cat /proc/1/cmdline");
  guest.pid = NamespaceMode::kTarget;
  guest.target = own.id;
  std::erase_if(world_.SpecOf(guest).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  EXPECT_EQ(Output(RunToEnd(guest)), std::string("sleep\0" "999\0", 10));
  guest = Shell(pod, "true");
  guest.pid = NamespaceMode::kTarget;
  guest.target = NewContainerId();
  EXPECT_TRUE(IsErr(launcher().CreateContainer(guest, Soon()), Code::kNotFound, "no such container"));
  PodLaunch plain = Started();
  ContainerLaunch wrong = Shell(plain, "true");
  wrong.pid = NamespaceMode::kPod;
  EXPECT_TRUE(IsErr(launcher().CreateContainer(wrong, Soon()), Code::kConflict, "PID namespace"));
}

TEST_F(ShimLauncherTest, ReopenedLogLosesNothing) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  constexpr int kLines = 4'000'000, kTurns = 25;
  ContainerLaunch c = Shell(pod, fmt::format("seq 1 {}", kLines));
  Run(c);
  std::vector<std::string> files;
  for (int turn = 0; turn < kTurns; ++turn) {
    files.push_back(fmt::format("{}.{}", c.log.path, turn));
    ASSERT_EQ(::rename(c.log.path.c_str(), files.back().c_str()), 0);
    ASSERT_TRUE(IsOk(launcher().ReopenLog(pod.id, c.id, c.log.path, Soon())));
    struct stat before, after;
    ASSERT_EQ(::stat(files.back().c_str(), &before), 0);
    ::usleep(2000);
    ASSERT_EQ(::stat(files.back().c_str(), &after), 0);
    EXPECT_EQ(before.st_size, after.st_size) << "written to the old file after the answer";
  }
  ASSERT_TRUE(world_.AwaitExit(c.id).has_value());
  files.push_back(c.log.path);
  int next = 1;
  for (const std::string& file : files) {
    std::istringstream lines(Output(Slurp(file)));
    for (std::string line; std::getline(lines, line); ++next)
      if (line != std::to_string(next)) FAIL() << file << ": line " << line << " where " << next << " belongs";
  }
  EXPECT_EQ(next, kLines + 1);
}

// The agent is another process, killed without warning while a container writes and another ends.
TEST_F(ShimLauncherTest, AgentMayBeKilled) {
  NEED_WORLD(world_);
  PodLaunch pod = world_.Pod();
  ContainerLaunch writer = Shell(pod, "seq 1 1000000; echo half; while [ ! -e /tmp/go-on ]; do sleep 0.02; done; seq 1000001 2000000");
  ContainerLaunch waiter = world_.Container(pod, {"wait"});
  struct Facts {
    pid_t monitor, writer, waiter;
  } facts{};
  auto [told, tell] = *Pipe();
  pid_t agent = -1;
  world_.Restart([&] {   // no launcher, no threads: now a fork is a whole process
    agent = ::fork();
    if (agent == 0) {
      Options options{.shim = NativeWorld::Program()};
      auto launcher = ShimLauncher::Make(options, Soon());
      if (!launcher) ::_exit(1);
      auto handle = (*launcher)->StartPod(pod, Soon());
      if (!handle) ::_exit(2);
      facts.monitor = handle->monitor;
      facts.writer = (*launcher)->CreateContainer(writer, Soon()).value_or(-1);
      facts.waiter = (*launcher)->CreateContainer(waiter, Soon()).value_or(-1);
      if (!(*launcher)->StartContainer(pod.id, writer.id, Soon()) || !(*launcher)->StartContainer(pod.id, waiter.id, Soon())) ::_exit(3);
      if (::write(tell.get(), &facts, sizeof facts) != sizeof facts) ::_exit(4);
      while (true) ::pause();
    }
    ASSERT_GT(agent, 0);
    tell.reset();
    ASSERT_EQ(::read(told.get(), &facts, sizeof facts), static_cast<ssize_t>(sizeof facts));
    ::kill(agent, SIGKILL);
    int status;
    ASSERT_EQ(::waitpid(agent, &status, 0), agent);
    world_.Finish(waiter, 33);
    std::ofstream(world_.Path("rootfs/tmp/go-on")) << "x";
  });
  auto adopted = launcher().Adopt(pod, Soon());
  ASSERT_TRUE(IsOk(adopted));
  EXPECT_EQ(adopted->handle.monitor, facts.monitor);
  ASSERT_EQ(adopted->containers.size(), 2u);
  for (const ContainerFacts& c : adopted->containers)
    if (c.id == writer.id && !c.exit) {
      EXPECT_EQ(c.pid, facts.writer);
    }
  auto missed = world_.AwaitExit(waiter.id);
  ASSERT_TRUE(missed.has_value());
  EXPECT_EQ(missed->exit_code, 33);
  EXPECT_GT(missed->finished_at, 1'700'000'000'000'000'000);
  auto records = launcher().ReadExitRecords(pod.state_dir);
  ASSERT_TRUE(IsOk(records));
  EXPECT_EQ(world_.Told(waiter.id), 1);
  ASSERT_TRUE(world_.AwaitExit(writer.id).has_value());
  std::istringstream lines(Output(Slurp(writer.log.path)));
  int next = 1;
  for (std::string line; std::getline(lines, line);) {
    if (line == "half") continue;
    ASSERT_EQ(line, std::to_string(next));
    ++next;
  }
  EXPECT_EQ(next, 2000001);
}

TEST_F(ShimLauncherTest, StoppedMonitorDelaysItsPodOnly) {
  NEED_WORLD(world_);
  PodLaunch frozen = Started(), free_pod = Started();
  ContainerLaunch before = world_.Container(frozen, {"sleep", "1000"});
  Run(before);
  const pid_t monitor = NativeWorld::MonitorOf(frozen.id);
  ASSERT_GT(monitor, 0);
  ASSERT_EQ(::kill(monitor, SIGSTOP), 0);
  ContainerLaunch late = world_.Container(frozen, {"sleep", "1000"});
  auto created = launcher().CreateContainer(late, Deadline::After(200ms));
  EXPECT_TRUE(IsErr(created, Code::kDeadlineExceeded, fmt::format("monitor {}", monitor)));
  EXPECT_EQ(Output(RunToEnd(Shell(free_pod, "echo fine"))), "fine\n");
  ASSERT_EQ(::kill(monitor, SIGCONT), 0);
  EXPECT_EQ(ExecOutput(before, "echo back"), "back\n");
  world_.Restart([] {});
  auto adopted = launcher().Adopt(frozen, Soon());
  ASSERT_TRUE(IsOk(adopted));
  EXPECT_EQ(adopted->containers.size(), 1u) << "the late container must not be there";
  ASSERT_TRUE(IsOk(launcher().Adopt(free_pod, Soon())));
  ASSERT_EQ(::kill(monitor, SIGSTOP), 0);
  EXPECT_TRUE(IsOk(launcher().StopPod(frozen.id, Soon()))) << "also of a monitor that hangs";
  EXPECT_LT(NativeWorld::MonitorOf(frozen.id), 0);
  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
}

TEST_F(ShimLauncherTest, HangingMonitorOfAnEarlierAgentCanBeStopped) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  const pid_t monitor = NativeWorld::MonitorOf(pod.id);
  world_.Restart([&] { ASSERT_EQ(::kill(monitor, SIGSTOP), 0); });
  EXPECT_TRUE(IsErr(launcher().Adopt(pod, Deadline::After(200ms)), Code::kDeadlineExceeded));
  EXPECT_TRUE(IsOk(launcher().StopPod(pod.id, Soon())));
  EXPECT_TRUE(NativeWorld::Eventually([&] { return NativeWorld::MonitorOf(pod.id) < 0; }));
  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
}

TEST_F(ShimLauncherTest, OrphansOfAVanishedMonitorAreStopped) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  Run(world_.Container(pod, {"sleep", "1000"}));
  const pid_t monitor = NativeWorld::MonitorOf(pod.id);
  world_.Restart([&] {
    ASSERT_EQ(::kill(monitor, SIGKILL), 0);
    EXPECT_TRUE(NativeWorld::Eventually([&] { return NativeWorld::MonitorOf(pod.id) < 0; }));
  });
  EXPECT_TRUE(IsErr(launcher().Adopt(pod, Soon()), Code::kNotFound));
  EXPECT_TRUE(IsOk(launcher().StopPod(pod.id, Soon())));
  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
}

TEST_F(ShimLauncherTest, NothingIsLeftOfFiftyPods) {
  NEED_WORLD(world_);
  constexpr int kPods = 50;
  std::vector<PodLaunch> pods;
  for (int i = 0; i < kPods; ++i) pods.push_back(world_.Pod());
  std::vector<std::string> networks(kPods);
  std::vector<std::thread> threads;
  for (int t = 0; t < 10; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < kPods; i += 10) {
        auto handle = launcher().StartPod(pods[i], Soon());
        ASSERT_TRUE(IsOk(handle));
        char name[128] = {};
        ASSERT_GT(::readlink(handle->netns_path.c_str(), name, sizeof name - 1), 0);
        networks[i] = name;
        ContainerLaunch stays = world_.Container(pods[i], {"sleep", "1000"}), ends = Shell(pods[i], "echo $CONTAINER");
        Run(stays);
        Run(ends);
        ASSERT_TRUE(world_.AwaitExit(ends.id).has_value());
        EXPECT_EQ(Output(Slurp(ends.log.path)), ends.id.str() + "\n");
        ASSERT_TRUE(IsOk(launcher().DeleteContainer(pods[i].id, ends.id, Soon())));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  threads.clear();
  EXPECT_EQ(std::set(networks.begin(), networks.end()).size(), static_cast<size_t>(kPods));
  EXPECT_EQ(cgroup::Processes(world_.layout(), {world_.cgroup()})->size(), static_cast<size_t>(kPods));
  for (int t = 0; t < 10; ++t)
    threads.emplace_back([&, t] {
      for (int i = t; i < kPods; i += 10) EXPECT_TRUE(IsOk(launcher().StopPod(pods[i].id, Soon())));
    });
  for (auto& thread : threads) thread.join();

  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
  for (const auto& hierarchy : world_.layout().v1)
    for (const auto& entry : std::filesystem::directory_iterator(hierarchy.mount + world_.cgroup()))
      EXPECT_FALSE(entry.is_directory()) << entry.path();
  for (const PodLaunch& pod : pods) {
    EXPECT_TRUE(std::filesystem::is_empty(pod.run_dir)) << pod.run_dir;
    EXPECT_LT(NativeWorld::MonitorOf(pod.id), 0);
  }
  // No process is in any of the network namespaces.
  const std::set<std::string> gone(networks.begin(), networks.end());
  for (pid_t pid : NativeWorld::Pids()) {
    char name[128] = {};
    if (::readlink(fmt::format("/proc/{}/ns/net", pid).c_str(), name, sizeof name - 1) > 0) {
      EXPECT_FALSE(gone.contains(name)) << pid;
    }
  }
}

TEST_F(ShimLauncherTest, SpawnerIsReplacedWhenItDies) {
  NEED_WORLD(world_);
  PodLaunch before = Started();
  const pid_t spawner = launcher().spawner();
  ASSERT_GT(spawner, 0);
  ASSERT_EQ(::kill(spawner, SIGKILL), 0);
  PodLaunch after = Started();
  EXPECT_NE(launcher().spawner(), spawner);
  EXPECT_EQ(Output(RunToEnd(Shell(before, "echo one"))), "one\n") << "monitors do not mind";
  EXPECT_EQ(Output(RunToEnd(Shell(after, "echo two"))), "two\n");
  ASSERT_EQ(::kill(launcher().spawner(), SIGSTOP), 0);
  PodLaunch late = world_.Pod();
  EXPECT_TRUE(IsErr(launcher().StartPod(late, Deadline::After(2s)), Code::kDeadlineExceeded, "spawner"));
  EXPECT_TRUE(IsOk(launcher().StartPod(late, Soon()))) << "a hanging spawner is replaced too";
}

TEST_F(ShimLauncherTest, FullDiskBlocksAndLosesNothing) {
  NEED_WORLD(world_);
  ASSERT_TRUE(IsOk(MakeDirs(world_.Path("small"))));
  ASSERT_EQ(::mount("tmpfs", world_.Path("small").c_str(), "tmpfs", 0, "size=256k"), 0);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "seq 1 50000; echo end");
  c.log.path = world_.Path("small/log");
  Run(c);
  struct statfs space;
  EXPECT_TRUE(NativeWorld::Eventually([&] { return ::statfs(world_.Path("small").c_str(), &space) == 0 && space.f_bavail == 0; }));
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "echo others go on"))), "others go on\n");
  EXPECT_EQ(world_.Told(c.id), 0);
  ASSERT_EQ(::mount("tmpfs", world_.Path("small").c_str(), "tmpfs", MS_REMOUNT, "size=16m"), 0);
  auto exit = world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value());
  std::string expected;
  for (int i = 1; i <= 50000; ++i) expected += fmt::format("{}\n", i);
  EXPECT_TRUE(Output(Slurp(c.log.path)) == expected + "end\n");
  EXPECT_TRUE(IsOk(launcher().StopPod(pod.id, Soon())));
  ::umount2(world_.Path("small").c_str(), MNT_DETACH);
}

TEST_F(ShimLauncherTest, OrphansAreReaped) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "(sleep 0.01 &) ; sleep 1000");
  std::erase_if(world_.SpecOf(c).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  c.pid = NamespaceMode::kNode;
  Run(c);
  EXPECT_EQ(ExecOutput(c, "(sleep 0.01 &); echo x"), "x\n");
  const std::string children = fmt::format("/proc/{0}/task/{0}/children", NativeWorld::MonitorOf(pod.id));
  EXPECT_TRUE(NativeWorld::Eventually([&] {
    std::istringstream pids(Slurp(children));
    return std::distance(std::istream_iterator<int>(pids), std::istream_iterator<int>()) == 1;
  }));
}

TEST_F(ShimLauncherTest, ExitDoesNotWaitForDescendantsThatHoldTheOutput) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "(while [ ! -e /tmp/stop ]; do sleep 0.02; done; echo late) & printf last; exit 3");
  std::erase_if(world_.SpecOf(c).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  c.pid = NamespaceMode::kNode;
  EXPECT_EQ(Output(RunToEnd(c, 3)), "last");
  std::ofstream(world_.Path("rootfs/tmp/stop")) << "x";
  EXPECT_TRUE(NativeWorld::Eventually([&] { return Output(Slurp(c.log.path)) == "lastlate\n"; }));
  EXPECT_TRUE(IsOk(launcher().DeleteContainer(pod.id, c.id, Soon())));
}

TEST_F(ShimLauncherTest, IdleMonitorIsSmall) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "seq 1 200000; echo done; sleep 1000");
  Run(c);
  EXPECT_TRUE(NativeWorld::Eventually([&] { return Slurp(c.log.path).find("F done\n") != std::string::npos; }));
  const std::string file = fmt::format("/proc/{}/smaps_rollup", NativeWorld::MonitorOf(pod.id));
  auto field = [&](const std::string& name) {
    std::string text = Slurp(file);
    size_t at = text.find("\n" + name + ":");
    return at == std::string::npos ? -1L : std::strtol(text.c_str() + at + name.size() + 2, nullptr, 10);
  };
  // After a burst the buffers go back to the kernel.
  EXPECT_TRUE(NativeWorld::Eventually([&] { return field("Private_Dirty") + field("Private_Clean") <= 100; }))
      << field("Private_Dirty") << " kB private";
  const long before = field("Private_Dirty") + field("Private_Clean");
  for (int i = 0; i < 1000; ++i) {
    auto exec = launcher().Exec(world_.Exec(c, {"exit", "0"}), Soon());
    ASSERT_TRUE(IsOk(exec));
    ASSERT_EQ(ExitCode(*exec), 0);
  }
  EXPECT_TRUE(NativeWorld::Eventually([&] { return field("Private_Dirty") + field("Private_Clean") <= before + 4; }))
      << field("Private_Dirty") + field("Private_Clean") << " kB private after 1000 execs, " << before << " kB before";
  RecordProperty("private_kb", static_cast<int>(field("Private_Dirty") + field("Private_Clean")));
  RecordProperty("rss_kb", static_cast<int>(field("Rss")));
  RecordProperty("pss_kb", static_cast<int>(field("Pss")));
  fmt::print("monitor with one container: private {} kB, rss {} kB, pss {} kB\n", field("Private_Dirty") + field("Private_Clean"),
             field("Rss"), field("Pss"));
}

}  // namespace
}  // namespace berth::runtime
