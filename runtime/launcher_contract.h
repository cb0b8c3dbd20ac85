#pragma once
// What every implementation of the seam keeps. An implementation runs it with
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Native, LauncherContract, NativeWorld);
//
// where the world is default-constructible and has
//   bool Usable();                                  // false: privileges or programs are missing, Why() names them
//   std::string Why();
//   Launcher& launcher();
//   PodLaunch Pod();                                // of a pod that does not exist yet; its directories do
//   ContainerLaunch Container(const PodLaunch&, std::vector<std::string> argv);   // its spec and rootfs live in the world
//   ExecLaunch Exec(const ContainerLaunch&, std::vector<std::string> argv);
//   std::optional<ExitFacts> AwaitExit(const ContainerId&);   // as OnExit told it, since the last Restart; waits
//   int Told(const ContainerId&);                   // how often, since the last Restart; call after AwaitExit
//   bool AwaitLost(const PodId&);                   // OnLost told it; waits
//   void Restart(std::function<void()> gap);        // the agent ends, `gap` runs, another agent begins
//   void KillMonitor(const PodId&);                 // SIGKILL from outside
//   void Finish(const ContainerLaunch&, int code);  // a {"wait"} ends with this code; returns when that is on record
// argv is one of {"sleep", "1000"}, {"exit", "<n>"} (a shell's exit), {"missing"} (no such program), {"wait"}, {}.
#include <sys/socket.h>

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include "runtime/launcher.h"
#include "runtime/shim/protocol.h"

namespace berth::runtime {

template <class World>
class LauncherContract : public ::testing::Test {
 protected:
  World world_;
  Launcher& launcher() { return world_.launcher(); }
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

  PodLaunch Started() {
    PodLaunch pod = world_.Pod();
    auto handle = launcher().StartPod(pod, Soon());
    EXPECT_TRUE(handle.has_value()) << handle.error().what;
    return pod;
  }
  ContainerLaunch Running(const PodLaunch& pod, std::vector<std::string> argv) {
    ContainerLaunch c = world_.Container(pod, std::move(argv));
    auto pid = launcher().CreateContainer(c, Soon());
    EXPECT_TRUE(pid.has_value()) << pid.error().what;
    auto at = launcher().StartContainer(pod.id, c.id, Soon());
    EXPECT_TRUE(at.has_value()) << at.error().what;
    return c;
  }
  static int ExitCode(const ExecHandle& exec) {
    int32_t code = -1;
    pollfd p{exec.exit.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 20000), 1);
    EXPECT_EQ(::read(exec.exit.get(), &code, sizeof code), static_cast<ssize_t>(sizeof code));
    return code;
  }
  // Why a client is no longer attached; what it missed is left out.
  static shim::AttachEnd EndOf(const AttachHandle& handle) {
    shim::AttachNews news;
    pollfd p{handle.news.get(), POLLIN, 0};
    while (::poll(&p, 1, 20000) == 1 && ::read(handle.news.get(), &news, sizeof news) == static_cast<ssize_t>(sizeof news))
      if (news.kind == shim::AttachNewsKind::kEnded) return static_cast<shim::AttachEnd>(news.count);
    return {};
  }
};
TYPED_TEST_SUITE_P(LauncherContract);

#define LAUNCHER_CONTRACT_READY() \
  if (!this->world_.Usable()) GTEST_SKIP() << this->world_.Why()

TYPED_TEST_P(LauncherContract, PodHasMonitorAndDescriptors) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->world_.Pod();
  auto handle = this->launcher().StartPod(pod, this->Soon());
  ASSERT_TRUE(handle.has_value()) << handle.error().what;
  EXPECT_GT(handle->monitor, 0);
  EXPECT_TRUE(handle->netns.valid());
  EXPECT_TRUE(handle->netlink.valid());
  EXPECT_TRUE(handle->nf_netlink.valid());
  EXPECT_EQ(handle->netns_path, fmt::format("/proc/{}/ns/net", handle->monitor));
  auto again = this->launcher().StartPod(pod, this->Soon());
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, Code::kAlreadyExists);
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, StopPodIsIdempotent) {
  LAUNCHER_CONTRACT_READY();
  EXPECT_TRUE(this->launcher().StopPod(NewPodId(), this->Soon()).has_value());
  PodLaunch pod = this->Started();
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
  EXPECT_TRUE(this->launcher().StartPod(pod, this->Soon()).has_value()) << "the id is free again";
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, HostNetworkPodHasNoNetworkDescriptors) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->world_.Pod();
  pod.host_network = true;
  pod.hostname.clear();
  auto handle = this->launcher().StartPod(pod, this->Soon());
  ASSERT_TRUE(handle.has_value()) << handle.error().what;
  EXPECT_FALSE(handle->netns.valid());
  EXPECT_FALSE(handle->netlink.valid());
  EXPECT_EQ(handle->netns_path, "");
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, ContainerLivesFromCreateToDelete) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->world_.Container(pod, {"exit", "7"});
  auto pid = this->launcher().CreateContainer(c, this->Soon());
  ASSERT_TRUE(pid.has_value()) << pid.error().what;
  EXPECT_GT(*pid, 0);
  EXPECT_EQ(this->launcher().CreateContainer(c, this->Soon()).error().code, Code::kAlreadyExists);
  auto started = this->launcher().StartContainer(pod.id, c.id, this->Soon());
  ASSERT_TRUE(started.has_value()) << started.error().what;
  auto exit = this->world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 7);
  EXPECT_GE(exit->finished_at, *started);
  EXPECT_EQ(this->world_.Told(c.id), 1);
  EXPECT_EQ(this->launcher().StartContainer(pod.id, c.id, this->Soon()).error().code, Code::kConflict);
  auto records = this->launcher().ReadExitRecords(pod.state_dir);
  ASSERT_TRUE(records.has_value());
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(records->at(0).id, c.id);
  EXPECT_EQ(records->at(0).exit_code, 7);
  EXPECT_EQ(records->at(0).finished_at, exit->finished_at);
  EXPECT_TRUE(this->launcher().DeleteContainer(pod.id, c.id, this->Soon()).has_value());
  EXPECT_TRUE(this->launcher().DeleteContainer(pod.id, c.id, this->Soon()).has_value()) << "idempotent";
  EXPECT_TRUE(this->launcher().ReadExitRecords(pod.state_dir)->empty());
  EXPECT_TRUE(this->launcher().CreateContainer(c, this->Soon()).has_value()) << "the id is free again";
  EXPECT_TRUE(this->launcher().DeleteContainer(pod.id, c.id, this->Soon()).has_value()) << "never started";
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, WrongCallsAreNamed) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  const ContainerId nobody = NewContainerId();
  auto& l = this->launcher();
  EXPECT_EQ(l.StartContainer(pod.id, nobody, this->Soon()).error().code, Code::kNotFound);
  EXPECT_EQ(l.Signal(pod.id, nobody, SIGTERM, false, this->Soon()).error().code, Code::kNotFound);
  EXPECT_TRUE(l.DeleteContainer(pod.id, nobody, this->Soon()).has_value());
  EXPECT_TRUE(l.DeleteContainer(NewPodId(), nobody, this->Soon()).has_value());
  EXPECT_EQ(l.Signal(NewPodId(), nobody, SIGTERM, false, this->Soon()).error().code, Code::kNotFound);
  ContainerLaunch stray = this->world_.Container(pod, {"exit", "0"});
  stray.pod = NewPodId();
  EXPECT_EQ(l.CreateContainer(stray, this->Soon()).error().code, Code::kNotFound);
  ContainerLaunch empty = this->world_.Container(pod, {});
  EXPECT_EQ(l.CreateContainer(empty, this->Soon()).error().code, Code::kInvalidArgument);
  ContainerLaunch created = this->world_.Container(pod, {"sleep", "1000"});
  ASSERT_TRUE(l.CreateContainer(created, this->Soon()).has_value());
  EXPECT_EQ(l.Exec(this->world_.Exec(created, {"exit", "0"}), this->Soon()).error().code, Code::kConflict);
  ASSERT_TRUE(l.StartContainer(pod.id, created.id, this->Soon()).has_value());
  EXPECT_EQ(l.StartContainer(pod.id, created.id, this->Soon()).error().code, Code::kConflict);
  EXPECT_EQ(l.DeleteContainer(pod.id, created.id, this->Soon()).error().code, Code::kConflict);
  EXPECT_TRUE(l.StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, MissingProgramIsAnError) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->world_.Container(pod, {"missing"});
  auto created = this->launcher().CreateContainer(c, this->Soon());
  if (created) {   // a launcher may find out only now; the container has then ended
    auto started = this->launcher().StartContainer(pod.id, c.id, this->Soon());
    ASSERT_FALSE(started.has_value());
    auto exit = this->world_.AwaitExit(c.id);
    ASSERT_TRUE(exit.has_value());
    EXPECT_EQ(exit->exit_code, 128);
  } else {
    EXPECT_NE(created.error().what.find("executable file not found"), std::string::npos) << created.error().what;
  }
  EXPECT_TRUE(this->launcher().DeleteContainer(pod.id, c.id, this->Soon()).has_value());
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, SignalsEndContainers) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  for (bool all : {false, true}) {
    ContainerLaunch c = this->Running(pod, {"sleep", "1000"});
    ASSERT_TRUE(this->launcher().Signal(pod.id, c.id, SIGKILL, all, this->Soon()).has_value());
    auto exit = this->world_.AwaitExit(c.id);
    ASSERT_TRUE(exit.has_value());
    EXPECT_EQ(exit->exit_code, 137);
    EXPECT_TRUE(this->launcher().Signal(pod.id, c.id, SIGTERM, all, this->Soon()).has_value()) << "of a dead one: success";
    EXPECT_TRUE(this->launcher().DeleteContainer(pod.id, c.id, this->Soon()).has_value());
  }
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, ExecTellsItsExitCode) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Running(pod, {"sleep", "1000"});
  auto quick = this->launcher().Exec(this->world_.Exec(c, {"exit", "3"}), this->Soon());
  ASSERT_TRUE(quick.has_value()) << quick.error().what;
  EXPECT_EQ(this->ExitCode(*quick), 3);
  auto slow = this->launcher().Exec(this->world_.Exec(c, {"sleep", "1000"}), this->Soon());
  ASSERT_TRUE(slow.has_value()) << slow.error().what;
  EXPECT_NE(slow->id, quick->id);
  EXPECT_TRUE(this->launcher().SignalExec(pod.id, slow->id, SIGKILL, this->Soon()).has_value());
  EXPECT_EQ(this->ExitCode(*slow), 137);
  EXPECT_TRUE(this->launcher().SignalExec(pod.id, slow->id, SIGKILL, this->Soon()).has_value()) << "ended: success";
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, StopPodEndsItsContainers) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch running = this->Running(pod, {"sleep", "1000"});
  ContainerLaunch created = this->world_.Container(pod, {"sleep", "1000"});
  ASSERT_TRUE(this->launcher().CreateContainer(created, this->Soon()).has_value());
  ASSERT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
  auto exit = this->world_.AwaitExit(running.id);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 137);
  EXPECT_EQ(this->launcher().Adopt(pod, this->Soon()).error().code, Code::kNotFound);
}

TYPED_TEST_P(LauncherContract, NextAgentAdopts) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->world_.Pod();
  auto handle = this->launcher().StartPod(pod, this->Soon());
  ASSERT_TRUE(handle.has_value()) << handle.error().what;
  ContainerLaunch stays = this->Running(pod, {"sleep", "1000"});
  ContainerLaunch ends = this->Running(pod, {"wait"});
  ContainerLaunch ended = this->Running(pod, {"exit", "5"});
  ASSERT_TRUE(this->world_.AwaitExit(ended.id).has_value());
  this->world_.Restart([&] { this->world_.Finish(ends, 9); });
  auto adopted = this->launcher().Adopt(pod, this->Soon());
  ASSERT_TRUE(adopted.has_value()) << adopted.error().what;
  EXPECT_EQ(adopted->handle.monitor, handle->monitor);
  EXPECT_TRUE(adopted->handle.netns.valid());
  EXPECT_EQ(adopted->containers.size(), 3u);
  for (const ContainerFacts& facts : adopted->containers) {
    EXPECT_TRUE(facts.started);
    EXPECT_EQ(facts.exit.has_value(), facts.id != stays.id);
    EXPECT_EQ(facts.pid > 0, facts.id == stays.id);
  }
  auto first = this->world_.AwaitExit(ended.id), second = this->world_.AwaitExit(ends.id);
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(first->exit_code, 5);
  EXPECT_EQ(second->exit_code, 9);
  EXPECT_EQ(this->world_.Told(ends.id), 1);
  EXPECT_EQ(this->launcher().Signal(pod.id, stays.id, SIGKILL, true, this->Soon()).has_value(), true);
  auto third = this->world_.AwaitExit(stays.id);
  ASSERT_TRUE(third.has_value());
  EXPECT_EQ(third->exit_code, 137);
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, AdoptOfNothingIsNotFound) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->world_.Pod();
  EXPECT_EQ(this->launcher().Adopt(pod, this->Soon()).error().code, Code::kNotFound);
}

TYPED_TEST_P(LauncherContract, LossOfTheMonitorIsTold) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch ended = this->Running(pod, {"exit", "5"});
  ASSERT_TRUE(this->world_.AwaitExit(ended.id).has_value());
  this->Running(pod, {"sleep", "1000"});
  this->world_.KillMonitor(pod.id);
  EXPECT_TRUE(this->world_.AwaitLost(pod.id));
  auto records = this->launcher().ReadExitRecords(pod.state_dir);
  ASSERT_TRUE(records.has_value());
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(records->at(0).exit_code, 5);
  EXPECT_TRUE(this->launcher().StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, PausedContainerStandsStill) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Running(pod, {"sleep", "1000"});
  auto& l = this->launcher();
  EXPECT_EQ(l.Resume(pod.id, c.id, this->Soon()).error().code, Code::kNotModified);
  auto paused = l.Pause(pod.id, c.id, this->Soon());
  ASSERT_TRUE(paused.has_value()) << paused.error().what;
  EXPECT_EQ(l.Pause(pod.id, c.id, this->Soon()).error().code, Code::kNotModified);
  EXPECT_EQ(l.Exec(this->world_.Exec(c, {"exit", "0"}), this->Soon()).error().code, Code::kConflict);
  this->world_.Restart([] {});
  auto adopted = this->launcher().Adopt(pod, this->Soon());
  ASSERT_TRUE(adopted.has_value()) << adopted.error().what;
  ASSERT_EQ(adopted->containers.size(), 1u);
  EXPECT_TRUE(adopted->containers[0].paused);
  auto& next = this->launcher();
  EXPECT_EQ(next.Exec(this->world_.Exec(c, {"exit", "0"}), this->Soon()).error().code, Code::kConflict);
  EXPECT_TRUE(next.Resume(pod.id, c.id, this->Soon()).has_value());
  auto exec = next.Exec(this->world_.Exec(c, {"exit", "0"}), this->Soon());
  ASSERT_TRUE(exec.has_value()) << exec.error().what;
  EXPECT_EQ(this->ExitCode(*exec), 0);
  ASSERT_TRUE(next.Pause(pod.id, c.id, this->Soon()).has_value());
  ASSERT_TRUE(next.Signal(pod.id, c.id, SIGKILL, true, this->Soon()).has_value());
  auto exit = this->world_.AwaitExit(c.id);
  ASSERT_TRUE(exit.has_value()) << "a paused container can be killed";
  EXPECT_EQ(exit->exit_code, 137);
  EXPECT_EQ(exit->signal, SIGKILL);
  EXPECT_EQ(next.Pause(pod.id, c.id, this->Soon()).error().code, Code::kConflict);
  EXPECT_EQ(next.Pause(pod.id, NewContainerId(), this->Soon()).error().code, Code::kNotFound);
  EXPECT_TRUE(next.StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, LimitsAndUsage) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Running(pod, {"sleep", "1000"});
  auto& l = this->launcher();
  oci::Resources resources;
  resources.pids.emplace().limit = 50;
  auto updated = l.Update(pod.id, c.id, resources, this->Soon());
  EXPECT_TRUE(updated.has_value()) << updated.error().what;
  auto usage = l.Usage(pod.id, c.id, this->Soon());
  // Another runtime's start may return while the threads of its own first stage still go away.
  for (const Deadline until = this->Soon(); usage && usage->cgroup.pids != 1u && !until.expired();) usage = l.Usage(pod.id, c.id, until);
  ASSERT_TRUE(usage.has_value()) << usage.error().what;
  EXPECT_EQ(usage->cgroup.pids, 1u);
  EXPECT_EQ(usage->attaches, 0u);
  EXPECT_EQ(l.Usage(pod.id, NewContainerId(), this->Soon()).error().code, Code::kNotFound);
  EXPECT_EQ(l.Update(pod.id, NewContainerId(), resources, this->Soon()).error().code, Code::kNotFound);
  ASSERT_TRUE(l.Signal(pod.id, c.id, SIGKILL, true, this->Soon()).has_value());
  ASSERT_TRUE(this->world_.AwaitExit(c.id).has_value());
  EXPECT_EQ(l.Update(pod.id, c.id, resources, this->Soon()).error().code, Code::kConflict);
  EXPECT_TRUE(l.StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, AttachedClientsComeAndGo) {
  LAUNCHER_CONTRACT_READY();
  PodLaunch pod = this->Started();
  ContainerLaunch c = this->Running(pod, {"wait"});
  auto& l = this->launcher();
  auto first = *Pipe(), second = *Pipe();
  auto stays = l.Attach({.pod = pod.id, .container = c.id, .out = first.second.get()}, this->Soon());
  ASSERT_TRUE(stays.has_value()) << stays.error().what;
  auto leaves = l.Attach({.pod = pod.id, .container = c.id, .out = second.second.get(), .err = second.second.get()}, this->Soon());
  ASSERT_TRUE(leaves.has_value()) << leaves.error().what;
  EXPECT_NE(stays->id, leaves->id);
  EXPECT_EQ(l.Usage(pod.id, c.id, this->Soon())->attaches, 2u);
  EXPECT_EQ(l.Attach({.pod = pod.id, .container = c.id, .in = first.first.get()}, this->Soon()).error().code, Code::kConflict);
  EXPECT_EQ(l.Attach({.pod = pod.id, .container = NewContainerId(), .out = first.second.get()}, this->Soon()).error().code,
            Code::kNotFound);
  first.second.reset();
  second.second.reset();
  EXPECT_TRUE(l.Detach(pod.id, leaves->id, this->Soon()).has_value());
  EXPECT_TRUE(l.Detach(pod.id, leaves->id, this->Soon()).has_value()) << "ended: success";
  EXPECT_EQ(this->EndOf(*leaves), shim::AttachEnd::kDetached);
  char byte;
  EXPECT_EQ(::read(second.first.get(), &byte, 1), 0);
  this->world_.Finish(c, 4);
  EXPECT_EQ(this->EndOf(*stays), shim::AttachEnd::kOutput);
  EXPECT_EQ(::read(first.first.get(), &byte, 1), 0);
  EXPECT_EQ(this->world_.AwaitExit(c.id)->exit_code, 4);
  auto again = *Pipe();
  EXPECT_EQ(l.Attach({.pod = pod.id, .container = c.id, .out = again.second.get()}, this->Soon()).error().code, Code::kConflict);
  EXPECT_EQ(l.Resize(pod.id, c.id, 10, 10, this->Soon()).error().code, Code::kConflict) << "no terminal";
  EXPECT_EQ(l.CloseStdin(pod.id, NewContainerId(), this->Soon()).error().code, Code::kNotFound);
  EXPECT_TRUE(l.StopPod(pod.id, this->Soon()).has_value());
}

TYPED_TEST_P(LauncherContract, SocketsOfThePodsNetwork) {
  auto& l = this->world_.launcher();
  PodLaunch pod = this->Started();
  for (int family : {AF_INET, AF_INET6}) {
    auto fd = l.Socket(pod.id, family, this->Soon());
    ASSERT_TRUE(fd.has_value()) << fd.error().what;
    int type = 0, domain = 0;
    socklen_t size = sizeof type;
    EXPECT_EQ(::getsockopt(fd->get(), SOL_SOCKET, SO_TYPE, &type, &size), 0);
    EXPECT_EQ(::getsockopt(fd->get(), SOL_SOCKET, SO_DOMAIN, &domain, &size), 0);
    EXPECT_EQ(type, SOCK_STREAM);
    EXPECT_EQ(domain, family);
  }
  EXPECT_EQ(l.Socket(this->world_.Pod().id, AF_INET, this->Soon()).error().code, Code::kNotFound);
}

REGISTER_TYPED_TEST_SUITE_P(LauncherContract, PodHasMonitorAndDescriptors, StopPodIsIdempotent,
                            HostNetworkPodHasNoNetworkDescriptors, ContainerLivesFromCreateToDelete, WrongCallsAreNamed,
                            MissingProgramIsAnError, SignalsEndContainers, ExecTellsItsExitCode, StopPodEndsItsContainers,
                            NextAgentAdopts, AdoptOfNothingIsNotFound, LossOfTheMonitorIsTold, PausedContainerStandsStill, LimitsAndUsage,
                            AttachedClientsComeAndGo, SocketsOfThePodsNetwork);

}  // namespace berth::runtime
