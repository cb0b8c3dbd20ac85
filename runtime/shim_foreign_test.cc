// Containers of real other runtimes behind the seam: crun and runc. crun refuses hosts that show both cgroup versions,
// so the test's own mount namespace shows the first alone.
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <sstream>
#include <thread>

#include "runtime/foreign_bundle.h"
#include "runtime/launcher_contract.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {
namespace {

using testing::IsErr;
using testing::IsOk;

// A tmpfs that holds the hierarchies of version 1 and no directory for the other.
class OneCgroupVersion : public OwnMounts {
  void SetUp() override {
    OwnMounts::SetUp();
    if (::geteuid() != 0) return;
    while (::umount2("/sys/fs/cgroup/unified", MNT_DETACH) == 0) {
    }
    const std::string view = dir_ / "view";
    ASSERT_EQ(::mkdir(view.c_str(), 0755), 0);
    ASSERT_EQ(::mount("tmpfs", view.c_str(), "tmpfs", 0, "mode=755"), 0);
    std::istringstream mounts(Slurp("/proc/self/mounts"));
    for (std::string source, at, type, rest; mounts >> source >> at >> type && std::getline(mounts, rest);) {
      if (type != "cgroup" || !at.starts_with("/sys/fs/cgroup/")) continue;
      const std::string to = view + at.substr(strlen("/sys/fs/cgroup"));
      ASSERT_TRUE(IsOk(MakeDirs(to)));
      ASSERT_EQ(::mount(at.c_str(), to.c_str(), nullptr, MS_BIND, nullptr), 0);
    }
    ASSERT_EQ(::mount(view.c_str(), "/sys/fs/cgroup", nullptr, MS_BIND | MS_REC, nullptr), 0);
    ASSERT_EQ(::umount2(view.c_str(), MNT_DETACH), 0);
  }
  testing::TempDir dir_;
};
const ::testing::Environment* const one_version = ::testing::AddGlobalTestEnvironment(new OneCgroupVersion);

// The program of that name: $BERTH_TEST_<NAME>, .peers/bin, or where Debian has it. Empty: there is none.
std::string RuntimeNamed(const std::string& name) {
  std::string variable = "BERTH_TEST_" + name;
  for (char& c : variable) c = static_cast<char>(::toupper(c));
  if (const char* given = ::getenv(variable.c_str())) return given;
  const char* source = ::getenv("BERTH_SOURCE_DIR");
  for (const std::string& dir :
       {std::string(source ? source : ".") + "/.peers/bin", std::string("/usr/sbin"), std::string("/usr/bin")})
    if (::access((dir + "/" + name).c_str(), X_OK) == 0) return dir + "/" + name;
  return "";
}

}  // namespace

class CrunWorld : public NativeWorld {
 public:
  CrunWorld() : NativeWorld("crun", {.path = RuntimeNamed("crun")}) {}
  bool Usable() const { return NativeWorld::Usable() && !RuntimeNamed("crun").empty(); }
  std::string Why() const { return NativeWorld::Usable() ? "needs crun (package crun)" : NativeWorld::Why(); }
};
class RuncWorld : public NativeWorld {
 public:
  RuncWorld() : NativeWorld("runc", {.path = RuntimeNamed("runc")}) {}
  bool Usable() const { return NativeWorld::Usable() && !RuntimeNamed("runc").empty(); }
  std::string Why() const { return NativeWorld::Usable() ? "needs runc (package runc)" : NativeWorld::Why(); }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Crun, LauncherContract, CrunWorld);
INSTANTIATE_TYPED_TEST_SUITE_P(Runc, LauncherContract, RuncWorld);

template <class World>
class ForeignTest : public ::testing::Test {
 protected:
  World world_;
  ShimLauncher& launcher() { return world_.launcher(); }
  static Deadline Soon() { return NativeWorld::Soon(); }
  PodLaunch Started() { return Started(world_.Pod()); }
  PodLaunch Started(PodLaunch pod) {
    EXPECT_TRUE(IsOk(launcher().StartPod(pod, Soon())));
    return pod;
  }
  ContainerLaunch Shell(const PodLaunch& pod, const std::string& script) {
    return world_.Container(pod, {"sh", "-c", script});
  }
  void Run(const ContainerLaunch& c) {
    ASSERT_TRUE(IsOk(launcher().CreateContainer(c, Soon())));
    ASSERT_TRUE(IsOk(launcher().StartContainer(c.pod, c.id, Soon())));
  }
  std::string RunToEnd(const ContainerLaunch& c, int code = 0) {
    Run(c);
    auto exit = world_.AwaitExit(c.id);
    EXPECT_TRUE(exit.has_value());
    if (exit) {
      EXPECT_EQ(exit->exit_code, code);
    }
    return Slurp(c.log.path);
  }
  // What a container has left: mounts below the pod's directory, its bundle, the runtime's state, the cgroup.
  std::string Left(const PodLaunch& pod, const ContainerLaunch& c) {
    std::string out;
    std::istringstream mounts(Slurp("/proc/self/mountinfo"));
    for (std::string line; std::getline(mounts, line);)
      if (line.find(pod.run_dir) != line.npos) out += "mount " + line + "\n";
    for (const std::string& path :
         {fmt::format("{}/{}.bundle", pod.run_dir, c.id), fmt::format("{}/{}.cgroup", pod.run_dir, c.id),
          fmt::format("{}/oci/{}", pod.run_dir, c.id)})
      if (Exists(path)) out += path + "\n";
    for (const auto& h : world_.layout().v1)
      if (Exists(h.mount + world_.SpecOf(c).linux->cgroupsPath)) out += h.mount + "\n";
    return out;
  }
};
using Worlds = ::testing::Types<CrunWorld, RuncWorld>;
TYPED_TEST_SUITE(ForeignTest, Worlds);

#define NEED_FOREIGN() \
  if (!this->world_.Usable()) GTEST_SKIP() << this->world_.Why()

TYPED_TEST(ForeignTest, OutputGoesToTheLog) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Shell(pod, "echo out; echo err >&2; printf end; exit 4");
  std::string log = this->RunToEnd(c, 4);
  EXPECT_EQ(Output(log), "out\nend");
  EXPECT_EQ(Output(log, "stderr"), "err\n");
  ASSERT_TRUE(IsOk(this->launcher().DeleteContainer(pod.id, c.id, this->Soon())));
  EXPECT_EQ(this->Left(pod, c), "");
}

TYPED_TEST(ForeignTest, TerminalIsOurs) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Shell(pod, "tty; echo out; echo err >&2");
  c.tty = true;
  EXPECT_EQ(Output(this->RunToEnd(c)), "/dev/pts/0\nout\nerr\n");
  ContainerLaunch long_one = this->world_.Container(pod, {"sleep", "1000"});
  this->Run(long_one);
  auto exec = this->world_.Exec(long_one, {"sh", "-c", "stty size; read line; echo got $line; exit 6"});
  exec.tty = true;
  exec.rows = 24;
  exec.columns = 90;
  auto handle = this->launcher().Exec(exec, this->Soon());
  ASSERT_TRUE(IsOk(handle));
  ASSERT_TRUE(handle->terminal.valid());
  ASSERT_TRUE(IsOk(WriteAll(handle->terminal.get(), "hi\n")));
  std::string screen = ReadAll(handle->terminal.get());
  EXPECT_NE(screen.find("24 90\r\n"), std::string::npos) << screen;
  EXPECT_NE(screen.find("got hi\r\n"), std::string::npos) << screen;
  EXPECT_EQ(ExitCode(*handle), 6);
}

TYPED_TEST(ForeignTest, StandardInputIsHeldUntilClosed) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Shell(pod, "echo ready; cat; echo end");
  c.keep_stdin = true;
  this->Run(c);
  EXPECT_TRUE(NativeWorld::Eventually([&] { return !Slurp(c.log.path).empty(); }));
  EXPECT_EQ(this->world_.Told(c.id), 0);
  ASSERT_TRUE(IsOk(this->launcher().CloseStdin(pod.id, c.id, this->Soon())));
  EXPECT_EQ(this->world_.AwaitExit(c.id)->exit_code, 0);
  EXPECT_EQ(Output(Slurp(c.log.path)), "ready\nend\n");
}

TYPED_TEST(ForeignTest, ExecUsesThePipesItIsGiven) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->world_.Container(pod, {"sleep", "1000"});
  this->Run(c);
  auto exec = this->world_.Exec(c, {"sh", "-c", "cat; echo oops >&2; exit 42"});
  auto in = *Pipe(), out = *Pipe(), err = *Pipe();
  exec.in = in.first.get();
  exec.out = out.second.get();
  exec.err = err.second.get();
  auto handle = this->launcher().Exec(exec, this->Soon());
  ASSERT_TRUE(IsOk(handle));
  in.first.reset();
  out.second.reset();
  err.second.reset();
  ASSERT_TRUE(IsOk(WriteAll(in.second.get(), "typed")));
  in.second.reset();
  EXPECT_EQ(ReadAll(out.first.get()), "typed");
  EXPECT_EQ(ReadAll(err.first.get()), "oops\n");
  EXPECT_EQ(ExitCode(*handle), 42);
  auto missing = this->launcher().Exec(this->world_.Exec(c, {"no-such-program"}), this->Soon());
  ASSERT_TRUE(IsErr(missing, Code::kInvalidArgument, "executable file not found"));
  EXPECT_EQ(missing.error().sys, ENOENT);
}

// Short ones end before the runtime's command does: none of their codes may get lost.
TYPED_TEST(ForeignTest, EveryExitOfManyShortExecsIsTold) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->world_.Container(pod, {"sleep", "1000"});
  this->Run(c);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; ++i) {
        const int code = t * 8 + i;
        auto handle = this->launcher().Exec(this->world_.Exec(c, {"exit", std::to_string(code)}), this->Soon());
        if (!handle || ExitCode(*handle) != code) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TYPED_TEST(ForeignTest, PodNamespacesAreShared) {
  NEED_FOREIGN();
  PodLaunch pod = this->world_.Pod();
  pod.hostname = "harbour";
  pod.sysctls = {{"net.ipv4.ip_unprivileged_port_start", "80"}};
  pod.shm_bytes = 8 << 20;
  this->Started(pod);
  const std::string script =
      "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; "
      "df -k /dev/shm | while read a b rest; do [ $a = shm ] && echo $b; done; ls /dev/shm; touch /dev/shm/mark; "
      "readlink /proc/self/ns/ipc";
  const std::string first = Output(this->RunToEnd(this->Shell(pod, script)));
  EXPECT_TRUE(first.starts_with("harbour\n80\n8192\nipc:")) << first;
  const std::string second = Output(this->RunToEnd(this->Shell(pod, script)));
  EXPECT_TRUE(second.starts_with("harbour\n80\n8192\nmark\nipc:")) << second;
  EXPECT_EQ(first.substr(first.find("ipc:")), second.substr(second.find("ipc:")));
}

TYPED_TEST(ForeignTest, PidNamespaceModes) {
  NEED_FOREIGN();
  PodLaunch pod = this->world_.Pod();
  pod.shared_pid = true;
  this->Started(pod);
  ContainerLaunch shared = this->Shell(pod, "cat /proc/1/comm");
  shared.pid = NamespaceMode::kPod;
  std::erase_if(this->world_.SpecOf(shared).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  EXPECT_EQ(Output(this->RunToEnd(shared)), "berth-init\n");
  ContainerLaunch own = this->world_.Container(pod, {"sleep", "999"});
  this->Run(own);
  ContainerLaunch guest = this->Shell(pod, "cat /proc/1/cmdline");
  guest.pid = NamespaceMode::kTarget;
  guest.target = own.id;
  std::erase_if(this->world_.SpecOf(guest).linux->namespaces, [](const oci::Namespace& n) { return n.type == "pid"; });
  EXPECT_EQ(Output(this->RunToEnd(guest)), std::string("sleep\0"
                                                       "999\0",
                                                       10));
}

TYPED_TEST(ForeignTest, FailedCreationLeavesNothing) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->world_.Container(pod, {"sleep", "1000"});
  this->world_.SpecOf(c).mounts.push_back({"/x", "bind", "/no/such/source", {"bind"}, {}, {}});
  auto made = this->launcher().CreateContainer(c, this->Soon());
  ASSERT_FALSE(made.has_value());
  EXPECT_NE(made.error().what.find("/no/such/source"), std::string::npos) << made.error().what;
  EXPECT_EQ(this->Left(pod, c), "");
}

TYPED_TEST(ForeignTest, StopTakesEverythingAwayAlsoAfterAKilledMonitor) {
  NEED_FOREIGN();
  for (bool killed : {false, true}) {
    PodLaunch pod = this->Started();
    ContainerLaunch c = this->world_.Container(pod, {"sleep", "1000"});
    this->Run(c);
    EXPECT_NE(this->Left(pod, c), "");
    if (killed) {
      this->world_.KillMonitor(pod.id);
      ASSERT_TRUE(this->world_.AwaitLost(pod.id));
    }
    ASSERT_TRUE(IsOk(this->launcher().StopPod(pod.id, this->Soon())));
    EXPECT_EQ(this->Left(pod, c), "");
  }
}

TYPED_TEST(ForeignTest, NextAgentExecsSignalsAndDeletes) {
  NEED_FOREIGN();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Shell(pod, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
  this->Run(c);
  EXPECT_TRUE(NativeWorld::Eventually([&] { return !Slurp(c.log.path).empty(); }));
  this->world_.Restart([] {});
  ASSERT_TRUE(IsOk(this->launcher().Adopt(pod, this->Soon())));
  auto handle = this->launcher().Exec(this->world_.Exec(c, {"exit", "5"}), this->Soon());
  ASSERT_TRUE(IsOk(handle));
  EXPECT_EQ(ExitCode(*handle), 5);
  ASSERT_TRUE(IsOk(this->launcher().Signal(pod.id, c.id, SIGTERM, false, this->Soon())));
  auto exit = this->world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 3);
  ASSERT_TRUE(IsOk(this->launcher().DeleteContainer(pod.id, c.id, this->Soon())));
  EXPECT_EQ(this->Left(pod, c), "");
}

// --- runtimes that misbehave, as scripts

class ScriptWorld : public NativeWorld {
 public:
  explicit ScriptWorld(const std::string& path) : NativeWorld("script", {.path = path}) {}
};

class MisbehavedTest : public ::testing::Test {
 protected:
  testing::TempDir dir_;
  std::string Script(const std::string& text) {
    std::ofstream(dir_ / "runtime") << "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in create|start|kill|delete|exec) "
                                       "verb=$1;; --pid-file) pid=$2;; --log) log=$2;; esac; shift; done\n"
                                    << text << "\n";
    ::chmod((dir_ / "runtime").c_str(), 0755);
    return dir_ / "runtime";
  }
  static Deadline Soon() { return NativeWorld::Soon(); }
};

TEST_F(MisbehavedTest, ReasonIsTheRuntimesLastError) {
  ScriptWorld world(
      Script("[ $verb = create ] && echo '{\"level\":\"error\",\"msg\":\"the moon is full\"}' >> $log; exit 3"));
  NEED_WORLD(world);
  PodLaunch pod = world.Pod();
  ASSERT_TRUE(IsOk(world.launcher().StartPod(pod, Soon())));
  auto c = world.Container(pod, {"sleep", "1"});
  EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Soon()), Code::kInternal, "runtime: the moon is full"));
  EXPECT_FALSE(Exists(fmt::format("{}/{}.bundle", pod.run_dir, c.id)));
}

TEST_F(MisbehavedTest, OneThatNamesNoProcessFails) {
  ScriptWorld world(Script("exit 0"));
  NEED_WORLD(world);
  PodLaunch pod = world.Pod();
  ASSERT_TRUE(IsOk(world.launcher().StartPod(pod, Soon())));
  auto c = world.Container(pod, {"sleep", "1"});
  EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Soon()), Code::kConflict, "named no process"));
}

TEST_F(MisbehavedTest, OneThatNamesSomebodyElsesProcessFails) {
  ScriptWorld world(Script(fmt::format("[ $verb = create ] && printf {} > $pid; exit 0", ::getpid())));
  NEED_WORLD(world);
  PodLaunch pod = world.Pod();
  ASSERT_TRUE(IsOk(world.launcher().StartPod(pod, Soon())));
  auto c = world.Container(pod, {"sleep", "1"});
  EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Soon()), Code::kConflict, "keeps the process for itself"));
}

TEST_F(MisbehavedTest, OneThatHangsHoldsUpNobodyElse) {
  ScriptWorld world(Script("[ $verb = create ] && exec sleep 1000; exit 0"));
  NEED_WORLD(world);
  PodLaunch pod = world.Pod();
  ASSERT_TRUE(IsOk(world.launcher().StartPod(pod, Soon())));
  auto c = world.Container(pod, {"sleep", "1"});
  std::thread creation([&] {
    EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Deadline::After(std::chrono::seconds(2))),
                      Code::kDeadlineExceeded, ""));
  });
  auto native = world.Container(pod, {"exit", "4"});
  native.handler.clear();
  EXPECT_TRUE(IsOk(world.launcher().CreateContainer(native, Soon())));
  EXPECT_TRUE(IsOk(world.launcher().StartContainer(pod.id, native.id, Soon())));
  EXPECT_EQ(world.AwaitExit(native.id)->exit_code, 4);
  creation.join();
  EXPECT_FALSE(Exists(fmt::format("{}/{}.bundle", pod.run_dir, c.id)));
  EXPECT_TRUE(IsOk(world.launcher().StopPod(pod.id, Soon())));
}

TEST_F(MisbehavedTest, MissingProgramIsNamed) {
  ScriptWorld world("/no/such/runtime");
  NEED_WORLD(world);
  PodLaunch pod = world.Pod();
  ASSERT_TRUE(IsOk(world.launcher().StartPod(pod, Soon())));
  auto c = world.Container(pod, {"sleep", "1"});
  EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Soon()), Code::kInternal,
                    "run /no/such/runtime: No such file or directory"));
  c.handler = "other";
  EXPECT_TRUE(IsErr(world.launcher().CreateContainer(c, Soon()), Code::kInvalidArgument,
                    "runtime handler other: is not configured; there are script"));
}

}  // namespace berth::runtime
