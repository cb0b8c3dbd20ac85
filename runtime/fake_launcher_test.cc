#include "runtime/fake_launcher.h"

#include <gtest/gtest.h>

#include "runtime/launcher_contract.h"
#include "runtime/launcher_news.h"

namespace berth::runtime {
namespace {

// Plays the programs of the contract: what a container would do by itself is done when it has been started.
class FakeContractWorld {
 public:
  FakeContractWorld() { Begin(); }
  bool Usable() { return true; }
  std::string Why() { return ""; }
  Launcher& launcher() { return *launcher_; }
  PodLaunch Pod() {
    PodId id = NewPodId();
    return {.id = id, .hostname = "fake", .state_dir = "/nowhere/" + id.str(), .run_dir = "/nowhere/run/" + id.str()};
  }
  ContainerLaunch Container(const PodLaunch& pod, std::vector<std::string> argv) {
    auto spec = std::make_shared<oci::Spec>();
    spec->process.emplace().args = argv;
    specs_.push_back(spec);
    ContainerLaunch c{.pod = pod.id, .id = NewContainerId(), .spec = spec.get()};
    argv_[c.id] = argv;
    if (argv.size() == 1 && argv[0] == "missing")
      launcher_->FailNext("create_container", Code::kInvalidArgument, "exec: \"missing\": executable file not found in $PATH");
    return c;
  }
  ExecLaunch Exec(const ContainerLaunch& c, std::vector<std::string> argv) {
    auto process = std::make_shared<oci::Process>();
    process->args = std::move(argv);
    processes_.push_back(process);
    return {.pod = c.pod, .container = c.id, .process = process.get()};
  }
  std::optional<ExitFacts> AwaitExit(const ContainerId& id) {
    auto& argv = argv_[id];
    if (argv.size() == 2 && argv[0] == "exit") world_->Exit(id, std::stoi(argv[1]));
    return news_.AwaitExit(id);
  }
  int Told(const ContainerId& id) {
    launcher_->Drain();
    return news_.Told(id);
  }
  bool AwaitLost(const PodId& id) { return news_.AwaitLost(id); }
  void Restart(const std::function<void()>& gap) {
    launcher_.reset();
    gap();
    Begin();
  }
  void KillMonitor(const PodId& id) { world_->LoseMonitor(id); }
  void Finish(const ContainerLaunch& c, int code) { world_->Exit(c.id, code); }

 private:
  void Begin() {
    news_.Clear();
    launcher_ = std::make_unique<FakeLauncher>(world_);
    news_.Listen(*launcher_);
    launcher_->OnExec([](const ExecLaunch& exec) -> std::optional<int> {
      if (exec.process->args[0] == "sleep") return std::nullopt;
      return std::stoi(exec.process->args[1]);
    });
  }
  std::shared_ptr<FakeWorld> world_ = std::make_shared<FakeWorld>();
  LauncherNews news_;
  std::unique_ptr<FakeLauncher> launcher_;
  std::vector<std::shared_ptr<oci::Spec>> specs_;
  std::vector<std::shared_ptr<oci::Process>> processes_;
  std::map<ContainerId, std::vector<std::string>> argv_;
};
INSTANTIATE_TYPED_TEST_SUITE_P(Fake, LauncherContract, FakeContractWorld);

Deadline Soon() { return Deadline::After(std::chrono::seconds(5)); }

TEST(FakeLauncher, FailsAsScripted) {
  FakeLauncher launcher;
  PodLaunch pod{.id = NewPodId()};
  launcher.FailNext("start_pod", Code::kUnavailable, "first");
  launcher.FailNext("start_pod", Code::kInternal, "second");
  EXPECT_EQ(launcher.StartPod(pod, Soon()).error().what, "first");
  EXPECT_EQ(launcher.StartPod(pod, Soon()).error().code, Code::kInternal);
  EXPECT_TRUE(launcher.StartPod(pod, Soon()).has_value());
  EXPECT_EQ(launcher.calls().size(), 3u);
}

TEST(FakeLauncher, HoldsCallsUntilReleased) {
  FakeLauncher launcher;
  PodLaunch pod{.id = NewPodId()};
  launcher.Hold("start_pod");
  EXPECT_EQ(launcher.StartPod(pod, Deadline::After(std::chrono::milliseconds(1))).error().code, Code::kDeadlineExceeded);
  std::thread caller([&] { EXPECT_TRUE(launcher.StartPod(pod, Soon()).has_value()); });
  launcher.AwaitHeld("start_pod", 2);
  EXPECT_EQ(launcher.world().pods(), 0u);
  launcher.Release("start_pod");
  caller.join();
  EXPECT_EQ(launcher.world().pods(), 1u);
}

}  // namespace
}  // namespace berth::runtime
