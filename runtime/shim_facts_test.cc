// What monitors say of containers, what they do with their output, and that none of it waits for a process that hangs.
#include <sys/vfs.h>

#include <sstream>
#include <thread>

#include "runtime/linux/cgroup.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {
namespace {

using testing::IsErr;
using testing::IsOk;
using namespace std::chrono_literals;
using FactsTest = ShimLauncherTest;

const ::testing::Environment* const own_mounts = ::testing::AddGlobalTestEnvironment(new OwnMounts);

std::string Numbers(int to) {
  std::string out;
  for (int i = 1; i <= to; ++i) out += fmt::format("{}\n", i);
  return out;
}

TEST_F(FactsTest, ExitIsToldWithItsFactsAndRecorded) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; kill -TERM $$; sleep 1000");
  std::erase_if(world_.SpecOf(c).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  c.pid = NamespaceMode::kNode;   // as the first process of a namespace it would not get the signal
  Run(c);
  auto exit = world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 128 + SIGTERM);
  EXPECT_EQ(exit->signal, SIGTERM);
  EXPECT_FALSE(exit->oom_killed);
  EXPECT_GT(exit->user_ns + exit->system_ns, 1'000'000);
  EXPECT_GT(exit->memory_peak, 100'000u);
  auto records = launcher().ReadExitRecords(pod.state_dir);
  ASSERT_TRUE(IsOk(records));
  ASSERT_EQ(records->size(), 1u);
  auto same = [&](const ExitFacts& other) {
    EXPECT_EQ(other.exit_code, exit->exit_code);
    EXPECT_EQ(other.signal, exit->signal);
    EXPECT_EQ(other.user_ns, exit->user_ns);
    EXPECT_EQ(other.system_ns, exit->system_ns);
    EXPECT_EQ(other.memory_peak, exit->memory_peak);
    EXPECT_EQ(other.finished_at, exit->finished_at);
  };
  same(records->at(0));
  world_.Restart([] {});
  auto adopted = launcher().Adopt(pod, Soon());
  ASSERT_TRUE(IsOk(adopted));
  ASSERT_TRUE(adopted->containers.at(0).exit.has_value());
  same(*adopted->containers[0].exit);
  same(*world_.AwaitExit(c.id));
}

TEST_F(FactsTest, RecordsOfEarlierAndLaterVersionsAreRead) {
  NEED_WORLD(world_);
  PodLaunch pod = world_.Pod();
  const std::pair<const char*, const char*> files[] = {
      {"old", "berth-exit 1 7 1000\n"},
      {"new", "berth-exit 1 137 2000\nsignal=9 oom_kills=2 oom_killed=1 colour=blue memory_peak=12 later\nmore lines=of a later version\n"},
      {"torn", "berth-exit 1 137 20"},
      {"other", "berth-exit 9 1 1\n"},
      {"empty", ""}};
  for (const auto& [name, text] : files) std::ofstream(fmt::format("{}/{}.exit", pod.state_dir, name)) << text;
  auto records = launcher().ReadExitRecords(pod.state_dir);
  ASSERT_TRUE(IsOk(records));
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ(records->at(0).id.str(), "old");
  EXPECT_EQ(records->at(0).exit_code, 7);
  EXPECT_EQ(records->at(0).signal, 0);
  EXPECT_EQ(records->at(1).id.str(), "new");
  EXPECT_EQ(records->at(1).oom_kills, 2u);
  EXPECT_TRUE(records->at(1).oom_killed);
  EXPECT_EQ(records->at(1).memory_peak, 12u);
}

TEST_F(FactsTest, KillForWantOfMemoryIsTold) {
  NEED_WORLD(world_);
  if (world_.layout().V1("memory") == nullptr && !world_.layout().V2("memory")) GTEST_SKIP() << "needs the memory controller";
  PodLaunch pod = Started();
  auto limited = [&](const std::string& script) {
    ContainerLaunch c = Shell(pod, script);
    world_.SpecOf(c).linux->resources.emplace().memory.emplace().limit = 16 << 20;
    return c;
  };
  ContainerLaunch dies = limited("exec busybox tail /dev/zero");
  Run(dies);
  auto exit = world_.AwaitExit(dies.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 137);
  EXPECT_EQ(exit->signal, SIGKILL);
  EXPECT_TRUE(exit->oom_killed);
  EXPECT_EQ(exit->oom_kills, 1u);
  EXPECT_GT(exit->memory_peak, 12u << 20);
  EXPECT_LE(exit->memory_peak, 16u << 20);
  ContainerLaunch survives = limited("busybox tail /dev/zero; exit 0");
  Run(survives);
  exit = world_.AwaitExit(survives.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 0);
  EXPECT_EQ(exit->oom_kills, 1u) << "a child was killed";
  EXPECT_FALSE(exit->oom_killed) << "that is not why it ended";
}

// A process that enters a frozen cgroup stops where it is, as one that waits for a dead server's filesystem does.
TEST_F(FactsTest, HangingExecHoldsUpNothingElse) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  const cgroup::Group group{fmt::format("{}/{}", world_.cgroup(), c.id)};
  ASSERT_TRUE(IsOk(cgroup::Freeze(world_.layout(), group, true, Soon())));   // behind the launcher's back
  auto begin = std::chrono::steady_clock::now();
  std::thread waiting([&] {
    auto hanging = launcher().Exec(world_.Exec(c, {"exit", "0"}), Deadline::After(1500ms));
    EXPECT_TRUE(IsErr(hanging, Code::kDeadlineExceeded));
  });
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "seq 1 50000"))), Numbers(50'000)) << "the pod's other container logs and ends";
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1400ms) << "while the exec hung";
  EXPECT_EQ(launcher().Exec(world_.Exec(world_.Container(pod, {"x"}), {"exit", "0"}), Soon()).error().code, Code::kNotFound)
      << "requests are answered";
  waiting.join();
  // One that is thawed in time goes on as if nothing had been.
  std::thread patient([&] {
    auto slow = launcher().Exec(world_.Exec(c, {"exit", "21"}), Soon());
    ASSERT_TRUE(IsOk(slow));
    EXPECT_EQ(ExitCode(*slow), 21);
  });
  ::usleep(200'000);
  ASSERT_TRUE(IsOk(cgroup::Freeze(world_.layout(), group, false, Soon())));
  patient.join();
  EXPECT_TRUE(NativeWorld::Eventually([&] { return cgroup::Processes(world_.layout(), group)->size() == 1; }))
      << "nothing is left of the one nobody waits for";
  EXPECT_EQ(launcher().Usage(pod.id, c.id, Soon())->execs, 0u);
}

TEST_F(FactsTest, HangingCreationCanBeStopped) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  const cgroup::Group group{fmt::format("{}/{}", world_.cgroup(), c.id)};
  ASSERT_TRUE(IsOk(cgroup::Freeze(world_.layout(), group, true, Soon())));
  std::thread waiting([&] { EXPECT_FALSE(launcher().Exec(world_.Exec(c, {"exit", "0"}), Soon()).has_value()); });
  ::usleep(200'000);
  EXPECT_TRUE(IsOk(launcher().StopPod(pod.id, Soon()))) << "with an exec that hangs";
  waiting.join();
  EXPECT_TRUE(cgroup::Processes(world_.layout(), {world_.cgroup()}).value_or(std::vector<pid_t>()).empty());
}

TEST_F(FactsTest, RotatedJsonLogHasEveryLine) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "seq 1 100000");
  ASSERT_TRUE(IsOk(MakeDirs(world_.Path("json"))));
  c.log = {.path = world_.Path("json/c.log"), .format = LogFormat::kJson, .max_bytes = 200'000, .max_files = 1000};
  Run(c);
  ASSERT_EQ(world_.AwaitExit(c.id)->exit_code, 0);
  int next = 1, files = 0;
  for (int i = 999; i >= 0; --i) {
    const std::string path = i == 0 ? c.log.path : fmt::format("{}.{}", c.log.path, i);
    if (!Exists(path)) continue;
    ++files;
    const std::string text = Slurp(path);
    EXPECT_LE(text.size(), 200'000u);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line); ++next)
      ASSERT_TRUE(line.starts_with(fmt::format("{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"2", next))) << path << ": " << line;
  }
  EXPECT_EQ(next, 100'001);
  EXPECT_GT(files, 20);
  ContainerLaunch few = Shell(pod, "seq 1 100000");
  few.log = {.path = world_.Path("json/few.log"), .max_bytes = 100'000, .max_files = 3};
  RunToEnd(few);
  EXPECT_TRUE(Exists(few.log.path + ".2"));
  EXPECT_FALSE(Exists(few.log.path + ".3"));
  EXPECT_TRUE(Output(Slurp(few.log.path)).ends_with("99999\n100000\n"));
}

TEST_F(FactsTest, RateLimitBlocksOrDrops) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  const std::string text = Numbers(60'000);   // 348894 bytes
  ContainerLaunch slow = Shell(pod, "seq 1 60000");
  slow.log.rate = 200'000;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Output(RunToEnd(slow)) == text);
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(took, 300ms) << "a second's worth at once, and what is in the pipe at the end; the rest waits";
  EXPECT_LT(took, 5s);
  ContainerLaunch lossy = Shell(pod, "seq 1 60000; sleep 1.2; echo last");
  lossy.log.rate = 20'000;
  lossy.log.mode = LogMode::kDrop;
  Run(lossy);
  auto exit = world_.AwaitExit(lossy.id);
  ASSERT_TRUE(exit.has_value());
  std::istringstream lines(Output(Slurp(lossy.log.path)));
  uint64_t kept = 0, told = 0, bytes = 0;
  bool last = false;
  for (std::string line; std::getline(lines, line);) {
    unsigned long n = 0, b = 0;
    if (std::sscanf(line.c_str(), "berth: %lu lines (%lu bytes) of output dropped", &n, &b) == 2) {
      told += n;
      bytes += b;
    } else {
      ++kept;
      bytes += line.size() + 1;
      last = line == "last";
    }
  }
  EXPECT_TRUE(last);
  EXPECT_EQ(kept + told, 60'001u) << "every line is in the log or counted there";
  EXPECT_EQ(bytes, text.size() + 5);
  EXPECT_EQ(exit->log_dropped, told);
  EXPECT_GT(told, 10'000u);
}

TEST_F(FactsTest, FullDiskDropsAndCountsWhenAllowed) {
  NEED_WORLD(world_);
  ASSERT_TRUE(IsOk(MakeDirs(world_.Path("small"))));
  ASSERT_EQ(::mount("tmpfs", world_.Path("small").c_str(), "tmpfs", 0, "size=256k"), 0);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "seq 1 50000; while [ ! -e /tmp/space ]; do sleep 0.02; done; sleep 0.5; echo end");
  c.log = {.path = world_.Path("small/log"), .mode = LogMode::kDrop};
  Run(c);
  struct statfs space;
  EXPECT_TRUE(NativeWorld::Eventually([&] { return ::statfs(world_.Path("small").c_str(), &space) == 0 && space.f_bavail == 0; }));
  EXPECT_TRUE(NativeWorld::Eventually([&] { return launcher().Usage(pod.id, c.id, Soon())->log_errors > 0; }));
  ::usleep(100'000);
  ASSERT_EQ(::mount("tmpfs", world_.Path("small").c_str(), "tmpfs", MS_REMOUNT, "size=16m"), 0);
  std::ofstream(world_.Path("rootfs/tmp/space")) << "x";
  auto exit = world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 0);
  std::istringstream lines(Output(Slurp(c.log.path)));
  uint64_t kept = 0, told = 0;
  std::string last;
  for (std::string line; std::getline(lines, line); last = line) {
    unsigned long n = 0;
    if (std::sscanf(line.c_str(), "berth: %lu line", &n) == 1) {
      told += n;
    } else {
      ++kept;
    }
  }
  EXPECT_EQ(last, "end");
  EXPECT_GT(told, 1000u);
  // A line that was cut off in the middle is in the log and counted too.
  EXPECT_GE(kept + told, 50'001u);
  EXPECT_LE(kept + told, 50'002u);
  EXPECT_EQ(exit->log_dropped, told);
  EXPECT_TRUE(IsOk(launcher().StopPod(pod.id, Soon())));
  ::umount2(world_.Path("small").c_str(), MNT_DETACH);
}

TEST_F(FactsTest, MonitorAnswersWithoutAnAgent) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Shell(pod, "seq 1 1000; sleep 1000");
  Run(c);
  EXPECT_TRUE(NativeWorld::Eventually([&] { return Slurp(c.log.path).find(" 1000\n") != std::string::npos; }));
  std::string said;
  world_.Restart([&] {
    std::unique_ptr<FILE, int (*)(FILE*)> out(::popen((NativeWorld::Program() + " facts " + pod.run_dir + "/shim.sock 2>&1").c_str(), "r"), ::pclose);
    char buffer[4096];
    while (size_t n = ::fread(buffer, 1, sizeof buffer, out.get())) said.append(buffer, n);
  });
  EXPECT_NE(said.find("id=" + c.id.str() + " state=running pid="), std::string::npos) << said;
  EXPECT_NE(said.find(" log_bytes=" + std::to_string(Slurp(c.log.path).size())), std::string::npos) << said;
  EXPECT_NE(said.find(" pids=1 "), std::string::npos) << said;
  EXPECT_EQ(said.find(" memory_bytes=0 "), std::string::npos) << said;
  EXPECT_EQ(said.find(" cpu_ns=0 "), std::string::npos) << said;
  ASSERT_TRUE(IsOk(launcher().Adopt(pod, Soon())));
}

// CVE-2019-5736: what /proc/<pid>/exe of a monitor leads to cannot be written, whoever gets at it.
TEST_F(FactsTest, ProgramOfTheMonitorCannotBeWritten) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  const std::string before = Slurp(NativeWorld::Program());
  for (pid_t pid : {NativeWorld::MonitorOf(pod.id), launcher().spawner()}) {
    const std::string exe = fmt::format("/proc/{}/exe", pid);
    EXPECT_LT(::open(exe.c_str(), O_WRONLY | O_CLOEXEC), 0);
    EXPECT_LT(::open(exe.c_str(), O_RDWR | O_TRUNC | O_CLOEXEC), 0);
    unique_fd image(::open(exe.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(image.valid());
    EXPECT_EQ(::fcntl(image.get(), F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
              F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    char target[256] = {};
    ASSERT_GT(::readlink(exe.c_str(), target, sizeof target - 1), 0);
    EXPECT_TRUE(std::string_view(target).starts_with("/memfd:berth-shim")) << target;
  }
  // The classic way in: a container whose program is whatever runs it.
  ContainerLaunch c = world_.Container(pod, {"/proc/self/exe"});
  auto created = launcher().CreateContainer(c, Soon());
  if (created) {
    auto started = launcher().StartContainer(pod.id, c.id, Soon());
    if (started) {
      EXPECT_NE(world_.AwaitExit(c.id)->exit_code, 0);
    }
  }
  EXPECT_TRUE(Slurp(NativeWorld::Program()) == before);
}

}  // namespace
}  // namespace berth::runtime
