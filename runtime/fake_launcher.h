#pragma once
// A launcher in memory, for tests of what stands above the seam. Behaves as the contract says (launcher_contract.h), makes
// no process, needs no privilege.
//
//   FakeLauncher launcher;                                  // a world of its own
//   launcher.FailNext("create_container", Code::kInternal); // the next call answers with this error
//   launcher.Exit(container, 3);                            // the container ends by itself
//   launcher.Drain();                                       // every callback has returned
//
// A restart of the agent: destroy the launcher, make another over the same world; exits in between are delivered by Adopt.
//   auto world = std::make_shared<FakeWorld>();
//   { FakeLauncher first(world); ... }  world->Exit(id, 7);  FakeLauncher second(world); second.Adopt(...)
//
// Operation names: adopt start_pod stop_pod create_container start_container signal delete_container exec signal_exec
// reopen_log attach detach close_stdin socket resize resize_exec pause resume update usage. All members are safe from any thread.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/launcher.h"
#include "runtime/shim/protocol.h"

namespace berth::runtime {

// What lives on while no launcher does: monitors, containers, exit records.
class FakeWorld {
 public:
  struct Exec {
    ContainerId container;
    int exit_write = -1;                 // our end of ExecHandle::exit
  };
  struct Attached {
    ContainerId container;
    unique_fd in, out, err, news;
  };
  struct Container {
    PodId pod;
    ContainerFacts facts;
    std::string log;
    LogTarget target;
    bool tty = false, stdin_open = false;
    uint16_t rows = 0, columns = 0;      // as Resize said last
    oci::Resources resources;            // as Update said last
    std::set<int> ignored;               // signals it does not end by
  };
  struct Pod {
    PodLaunch launch;
    pid_t monitor = -1;
  };

  ~FakeWorld() {
    for (auto& [id, exec] : execs_) ::close(exec.exit_write);
  }

  // The container ends by itself. False when it does not run.
  bool Exit(const ContainerId& id, int exit_code) {
    std::lock_guard lock(mutex_);
    return ExitLocked(id, exit_code);
  }
  // As Update said last; nothing when there is no such container.
  std::optional<oci::Resources> ResourcesOf(const ContainerId& id) {
    std::lock_guard lock(mutex_);
    auto it = containers_.find(id);
    return it == containers_.end() ? std::nullopt : std::optional(it->second.resources);
  }
  // An exec ends by itself.
  bool ExitExec(uint64_t exec, int exit_code) {
    std::lock_guard lock(mutex_);
    return ExitExecLocked(exec, exit_code);
  }
  // The monitor and with it every process of the pod vanishes, without exit records of what still ran.
  bool LoseMonitor(const PodId& pod) {
    std::lock_guard lock(mutex_);
    if (pods_.erase(pod) == 0) return false;
    DropContainersLocked(pod);
    if (tell_) tell_({.lost = pod});
    return true;
  }
  // The container keeps running when it gets this signal (SIGKILL cannot be ignored).
  void Ignore(const ContainerId& id, int signal) {
    std::lock_guard lock(mutex_);
    if (auto it = containers_.find(id); it != containers_.end()) it->second.ignored.insert(signal);
  }

  // The container writes: everybody attached gets it.
  void Print(const ContainerId& id, std::string_view bytes, bool error = false) {
    std::lock_guard lock(mutex_);
    for (auto& [number, attached] : attached_)
      if (const unique_fd& to = error ? attached.err : attached.out; attached.container == id && to)
        if (::write(to.get(), bytes.data(), bytes.size()) < 0) {}
  }

  bool HasPod(const PodId& id) const { std::lock_guard lock(mutex_); return pods_.contains(id); }
  bool HasContainer(const ContainerId& id) const { std::lock_guard lock(mutex_); return containers_.contains(id); }
  size_t pods() const { std::lock_guard lock(mutex_); return pods_.size(); }
  size_t containers() const { std::lock_guard lock(mutex_); return containers_.size(); }
  std::optional<ContainerFacts> Facts(const ContainerId& id) const {
    std::lock_guard lock(mutex_);
    auto it = containers_.find(id);
    return it == containers_.end() ? std::nullopt : std::optional(it->second.facts);
  }
  std::optional<Container> Look(const ContainerId& id) const {
    std::lock_guard lock(mutex_);
    auto it = containers_.find(id);
    return it == containers_.end() ? std::nullopt : std::optional(it->second);
  }
  size_t attached() const { std::lock_guard lock(mutex_); return attached_.size(); }
  std::string LogPath(const ContainerId& id) const {
    std::lock_guard lock(mutex_);
    auto it = containers_.find(id);
    return it == containers_.end() ? "" : it->second.log;
  }

 private:
  friend class FakeLauncher;
  struct Event {
    std::optional<PodId> lost;
    PodId pod;
    std::optional<ExitFacts> exit;
  };

  static int64_t Now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  bool ExitLocked(const ContainerId& id, int exit_code) {
    auto it = containers_.find(id);
    if (it == containers_.end() || it->second.facts.exit) return false;
    Container& c = it->second;
    c.facts.pid = -1;
    c.facts.paused = false;
    c.facts.exit = ExitFacts{.id = id, .exit_code = exit_code, .finished_at = Now(), .signal = exit_code > 128 ? exit_code - 128 : 0};
    std::erase_if(attached_, [&](const auto& entry) {
      if (entry.second.container != id) return false;
      EndLocked(entry.second, shim::AttachEnd::kOutput);
      return true;
    });
    if (auto pod = pods_.find(c.pod); pod != pods_.end()) records_[pod->second.launch.state_dir][id] = *c.facts.exit;
    if (tell_) tell_({.pod = c.pod, .exit = c.facts.exit});
    std::vector<uint64_t> ended;
    for (auto& [number, exec] : execs_)
      if (exec.container == id) ended.push_back(number);
    for (uint64_t number : ended) ExitExecLocked(number, 128 + SIGKILL);
    return true;
  }
  bool ExitExecLocked(uint64_t number, int exit_code) {
    auto it = execs_.find(number);
    if (it == execs_.end()) return false;
    int32_t code = exit_code;
    if (::write(it->second.exit_write, &code, sizeof code) < 0) {}
    ::close(it->second.exit_write);
    execs_.erase(it);
    return true;
  }
  static void EndLocked(const Attached& attached, shim::AttachEnd why) {
    const shim::AttachNews news{shim::AttachNewsKind::kEnded, 0, static_cast<uint64_t>(why)};
    if (::write(attached.news.get(), &news, sizeof news) < 0) {}
  }
  void DropContainersLocked(const PodId& pod) {
    for (auto it = containers_.begin(); it != containers_.end();)
      it = it->second.pod == pod ? containers_.erase(it) : std::next(it);
  }

  mutable std::mutex mutex_;
  std::map<PodId, Pod> pods_;
  std::map<ContainerId, Container> containers_;
  std::map<uint64_t, Exec> execs_;
  std::map<uint64_t, Attached> attached_;
  std::map<std::string, std::map<ContainerId, ExitFacts>> records_;  // by state_dir
  std::function<void(Event)> tell_;      // of the living launcher; called under the lock, only queues
  uint64_t next_exec_ = 1;
  pid_t next_pid_ = 100000;
};

class FakeLauncher : public Launcher {
 public:
  // What an exec does. Returns its exit code; nothing: it runs until ExitExec or a signal. May write to launch.out/err.
  using ExecHandler = std::function<std::optional<int>(const ExecLaunch&)>;

  explicit FakeLauncher(std::shared_ptr<FakeWorld> world = std::make_shared<FakeWorld>()) : world_(std::move(world)) {
    {
      std::lock_guard lock(world_->mutex_);
      world_->tell_ = [this](FakeWorld::Event event) {
        std::lock_guard events(events_mutex_);
        events_.push_back(std::move(event));
        events_changed_.notify_all();
      };
    }
    thread_ = std::thread([this] { Deliver(); });
  }
  ~FakeLauncher() override {
    {
      std::lock_guard lock(world_->mutex_);
      world_->tell_ = nullptr;
    }
    {
      std::lock_guard lock(events_mutex_);
      ending_ = true;
      events_changed_.notify_all();
    }
    thread_.join();
  }

  FakeWorld& world() { return *world_; }
  bool Exit(const ContainerId& id, int exit_code) { return world_->Exit(id, exit_code); }
  bool LoseMonitor(const PodId& pod) { return world_->LoseMonitor(pod); }
  void OnExec(ExecHandler handler) { std::lock_guard lock(script_mutex_); exec_handler_ = std::move(handler); }

  // The next call of `operation` answers with this error and does nothing; several are used up in order.
  void FailNext(const std::string& operation, Code code, std::string what = "scripted failure") {
    std::lock_guard lock(script_mutex_);
    failures_[operation].push_back(Error{code, std::move(what)});
  }
  // Calls of `operation` wait at their beginning (until their deadline) until Release.
  void Hold(const std::string& operation) { std::lock_guard lock(script_mutex_); held_[operation] = 0; }
  void Release(const std::string& operation) {
    std::lock_guard lock(script_mutex_);
    held_.erase(operation);
    script_changed_.notify_all();
  }
  // Returns once `count` calls of a held operation wait.
  void AwaitHeld(const std::string& operation, int count = 1) {
    std::unique_lock lock(script_mutex_);
    script_changed_.wait(lock, [&] { return !held_.contains(operation) || held_[operation] >= count; });
  }
  // Every call so far, in order: "create_container <container id>", "start_pod <pod id>", ...
  std::vector<std::string> calls() const { std::lock_guard lock(script_mutex_); return calls_; }
  // Returns once every event so far has gone through its callback.
  void Drain() {
    std::unique_lock lock(events_mutex_);
    events_changed_.wait(lock, [&] { return events_.empty() && !delivering_; });
  }

  void OnExit(ExitCallback callback) override { std::lock_guard lock(events_mutex_); on_exit_ = std::move(callback); }
  void OnLost(LostCallback callback) override { std::lock_guard lock(events_mutex_); on_lost_ = std::move(callback); }

  Result<AdoptedPod> Adopt(const PodLaunch& pod, const Deadline& until) override {
    TRY(Enter("adopt", pod.id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto it = world_->pods_.find(pod.id);
    if (it == world_->pods_.end()) return Err(Code::kNotFound, "pod {}: no monitor", pod.id);
    AdoptedPod adopted{pod.id, Handle(it->second), {}};
    for (auto& [id, container] : world_->containers_) {
      if (container.pod != pod.id) continue;
      adopted.containers.push_back(container.facts);
      if (container.facts.exit) world_->tell_({.pod = pod.id, .exit = container.facts.exit});
    }
    return adopted;
  }

  Result<std::vector<ExitFacts>> ReadExitRecords(const std::string& state_dir) override {
    std::lock_guard lock(world_->mutex_);
    std::vector<ExitFacts> out;
    for (auto& [id, facts] : world_->records_[state_dir]) out.push_back(facts);
    return out;
  }

  Result<PodHandle> StartPod(const PodLaunch& pod, const Deadline& until) override {
    TRY(Enter("start_pod", pod.id.str(), until));
    std::lock_guard lock(world_->mutex_);
    if (world_->pods_.contains(pod.id)) return Err(Code::kAlreadyExists, "pod {}: has a monitor already", pod.id);
    auto& entry = world_->pods_[pod.id];
    entry.launch = pod;
    entry.monitor = world_->next_pid_++;
    return Handle(entry);
  }

  Result<void> StopPod(const PodId& pod, const Deadline& until) override {
    TRY(Enter("stop_pod", pod.str(), until));
    std::lock_guard lock(world_->mutex_);
    for (auto& [id, container] : world_->containers_)
      if (container.pod == pod) world_->ExitLocked(id, 128 + SIGKILL);
    world_->DropContainersLocked(pod);
    world_->pods_.erase(pod);
    return {};
  }

  Result<pid_t> CreateContainer(const ContainerLaunch& launch, const Deadline& until) override {
    TRY(Enter("create_container", launch.id.str(), until));
    if (launch.spec == nullptr || !launch.spec->process || launch.spec->process->args.empty())
      return Err(Code::kInvalidArgument, "container {}: process.args: must name a program", launch.id);
    std::lock_guard lock(world_->mutex_);
    if (!world_->pods_.contains(launch.pod)) return Err(Code::kNotFound, "pod {}: no monitor", launch.pod);
    if (world_->containers_.contains(launch.id)) return Err(Code::kAlreadyExists, "container {}: exists", launch.id);
    auto& container = world_->containers_[launch.id];
    container.pod = launch.pod;
    container.facts = {.id = launch.id, .pid = world_->next_pid_++};
    container.log = launch.log.path;
    container.target = launch.log;
    container.tty = launch.tty;
    container.stdin_open = launch.keep_stdin;
    return container.facts.pid;
  }

  Result<int64_t> StartContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    auto scripted = Enter("start_container", id.str(), until);
    std::lock_guard lock(world_->mutex_);
    auto* container = Find(pod, id);
    if (!scripted) {
      if (container != nullptr && scripted.error().code != Code::kDeadlineExceeded) world_->ExitLocked(id, 128);
      return std::unexpected(scripted.error());
    }
    if (container == nullptr) return Err(Code::kNotFound, "container {}: not in pod {}", id, pod);
    if (container->facts.started || container->facts.exit)
      return Err(Code::kConflict, "container {}: is not in state created", id);
    container->facts.started = true;
    container->facts.started_at = FakeWorld::Now();
    return container->facts.started_at;
  }

  Result<void> Signal(const PodId& pod, const ContainerId& id, int signal, bool all, const Deadline& until) override {
    TRY(Enter("signal", fmt::format("{} {}{}", id, signal, all ? " all" : ""), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = Find(pod, id);
    if (container == nullptr) return Err(Code::kNotFound, "container {}: not in pod {}", id, pod);
    if (container->facts.exit || signal == 0) return {};
    static constexpr int kHarmless[] = {SIGCHLD, SIGWINCH, SIGURG, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    bool ends = !container->ignored.contains(signal) && std::find(std::begin(kHarmless), std::end(kHarmless), signal) ==
                                                            std::end(kHarmless);
    if (signal == SIGKILL || ends) world_->ExitLocked(id, 128 + signal);
    return {};
  }

  Result<void> DeleteContainer(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    TRY(Enter("delete_container", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = Find(pod, id);
    if (container == nullptr) return {};
    if (container->facts.started && !container->facts.exit)
      return Err(Code::kConflict, "container {}: is running", id);
    if (auto it = world_->pods_.find(pod); it != world_->pods_.end()) world_->records_[it->second.launch.state_dir].erase(id);
    world_->containers_.erase(id);
    return {};
  }

  Result<ExecHandle> Exec(const ExecLaunch& launch, const Deadline& until) override {
    TRY(Enter("exec", launch.container.str(), until));
    ExecHandler handler;
    {
      std::lock_guard lock(script_mutex_);
      handler = exec_handler_;
    }
    ExecHandle handle;
    {
      std::lock_guard lock(world_->mutex_);
      auto* container = Find(launch.pod, launch.container);
      if (container == nullptr) return Err(Code::kNotFound, "container {}: not in pod {}", launch.container, launch.pod);
      if (!container->facts.started || container->facts.exit)
        return Err(Code::kConflict, "container {}: is not running", launch.container);
      if (container->facts.paused) return Err(Code::kConflict, "container {}: is paused", launch.container);
      int ends[2];
      if (::pipe2(ends, O_CLOEXEC) < 0) return SysErr("pipe");
      handle.exit.reset(ends[0]);
      handle.id = world_->next_exec_++;
      handle.pid = world_->next_pid_++;
      if (launch.tty) handle.terminal.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
      world_->execs_[handle.id] = {launch.container, ends[1]};
    }
    std::optional<int> code = handler ? handler(launch) : std::optional(0);
    if (code) world_->ExitExec(handle.id, *code);
    return handle;
  }

  Result<void> SignalExec(const PodId& pod, uint64_t exec, int signal, const Deadline& until) override {
    TRY(Enter("signal_exec", fmt::format("{} {} {}", pod, exec, signal), until));
    if (signal != 0) world_->ExitExec(exec, 128 + signal);
    return {};
  }

  Result<void> ReopenLog(const PodId& pod, const ContainerId& id, const std::string& path, const Deadline& until) override {
    TRY(Enter("reopen_log", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = Find(pod, id);
    if (container == nullptr) return Err(Code::kNotFound, "container {}: not in pod {}", id, pod);
    container->log = path;
    return {};
  }

  Result<AttachHandle> Attach(const AttachLaunch& launch, const Deadline& until) override {
    TRY(Enter("attach", launch.container.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = TRY(Need(launch.pod, launch.container));
    if (container->facts.exit) return Err(Code::kConflict, "container {}: has ended", launch.container);
    if (launch.in >= 0 && !container->stdin_open) return Err(Code::kConflict, "container {}: its stdin is closed", launch.container);
    FakeWorld::Attached attached{.container = launch.container};
    const std::pair<int, unique_fd*> streams[] = {{launch.in, &attached.in}, {launch.out, &attached.out}, {launch.err, &attached.err}};
    for (auto [fd, to] : streams)
      if (fd >= 0) to->reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return SysErr("pipe");
    attached.news.reset(ends[1]);
    AttachHandle handle{world_->next_exec_++, unique_fd(ends[0])};
    world_->attached_[handle.id] = std::move(attached);
    return handle;
  }
  Result<void> Detach(const PodId& pod, uint64_t attach, const Deadline& until) override {
    TRY(Enter("detach", fmt::format("{} {}", pod, attach), until));
    std::lock_guard lock(world_->mutex_);
    if (!world_->pods_.contains(pod)) return Err(Code::kNotFound, "pod {}: no monitor", pod);
    auto it = world_->attached_.find(attach);
    if (it == world_->attached_.end()) return {};
    FakeWorld::EndLocked(it->second, shim::AttachEnd::kDetached);
    world_->attached_.erase(it);
    return {};
  }
  Result<void> CloseStdin(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    TRY(Enter("close_stdin", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    TRY(Need(pod, id))->stdin_open = false;
    return {};
  }
  // A socket of the test's own network.
  Result<unique_fd> Socket(const PodId& pod, int family, const Deadline& until) override {
    TRY(Enter("socket", fmt::format("{} {}", pod, family), until));
    std::lock_guard lock(world_->mutex_);
    if (!world_->pods_.contains(pod)) return Err(Code::kNotFound, "pod {}: no monitor", pod);
    unique_fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return SysErr("socket");
    return fd;
  }
  Result<void> Resize(const PodId& pod, const ContainerId& id, uint16_t rows, uint16_t columns, const Deadline& until) override {
    TRY(Enter("resize", fmt::format("{} {}x{}", id, rows, columns), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = TRY(Need(pod, id));
    if (!container->tty || container->facts.exit) return Err(Code::kConflict, "container {}: has no terminal", id);
    container->rows = rows;
    container->columns = columns;
    return {};
  }
  Result<void> ResizeExec(const PodId& pod, uint64_t exec, uint16_t rows, uint16_t columns, const Deadline& until) override {
    TRY(Enter("resize_exec", fmt::format("{} {} {}x{}", pod, exec, rows, columns), until));
    return {};
  }
  Result<void> Pause(const PodId& pod, const ContainerId& id, const Deadline& until) override { return Freeze(pod, id, true, until); }
  Result<void> Resume(const PodId& pod, const ContainerId& id, const Deadline& until) override { return Freeze(pod, id, false, until); }
  Result<void> Update(const PodId& pod, const ContainerId& id, const oci::Resources& resources, const Deadline& until) override {
    TRY(Enter("update", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = TRY(Need(pod, id));
    if (container->facts.exit) return Err(Code::kConflict, "container {}: has ended", id);
    container->resources = resources;
    return {};
  }
  Result<ContainerUsage> Usage(const PodId& pod, const ContainerId& id, const Deadline& until) override {
    TRY(Enter("usage", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = TRY(Need(pod, id));
    ContainerUsage usage;
    usage.cgroup.pids = container->facts.exit ? 0 : 1;
    for (auto& [number, attached] : world_->attached_) usage.attaches += attached.container == id;
    for (auto& [number, exec] : world_->execs_) usage.execs += exec.container == id;
    return usage;
  }

 private:
  Result<void> Freeze(const PodId& pod, const ContainerId& id, bool frozen, const Deadline& until) {
    TRY(Enter(frozen ? "pause" : "resume", id.str(), until));
    std::lock_guard lock(world_->mutex_);
    auto* container = TRY(Need(pod, id));
    if (!container->facts.started || container->facts.exit) return Err(Code::kConflict, "container {}: is not running", id);
    if (container->facts.paused == frozen) return Err(Code::kNotModified, "container {}: is {}paused", id, frozen ? "" : "not ");
    container->facts.paused = frozen;
    return {};
  }
  Result<FakeWorld::Container*> Need(const PodId& pod, const ContainerId& id) {
    auto* container = Find(pod, id);
    if (container == nullptr) return Err(Code::kNotFound, "container {}: not in pod {}", id, pod);
    return container;
  }
  Result<void> Enter(const std::string& operation, const std::string& subject, const Deadline& until) {
    std::unique_lock lock(script_mutex_);
    calls_.push_back(operation + " " + subject);
    if (auto held = held_.find(operation); held != held_.end()) {
      held->second++;
      script_changed_.notify_all();
      while (held_.contains(operation)) {
        if (until.expired()) return Err(Code::kDeadlineExceeded, "waiting for {} of {}", operation, subject);
        script_changed_.wait_for(lock, std::chrono::milliseconds(5));
      }
    }
    if (auto it = failures_.find(operation); it != failures_.end() && !it->second.empty()) {
      Error e = std::move(it->second.front());
      it->second.pop_front();
      return std::unexpected(std::move(e));
    }
    return {};
  }
  FakeWorld::Container* Find(const PodId& pod, const ContainerId& id) {
    auto it = world_->containers_.find(id);
    return it == world_->containers_.end() || it->second.pod != pod ? nullptr : &it->second;
  }
  static PodHandle Handle(const FakeWorld::Pod& pod) {
    PodHandle handle;
    handle.monitor = pod.monitor;
    auto any = [] { return unique_fd(::open("/dev/null", O_RDWR | O_CLOEXEC)); };  // valid, and harmless if used
    if (!pod.launch.host_network) {
      handle.netlink = any();
      handle.nf_netlink = any();
      handle.netns = any();
      handle.netns_path = fmt::format("/proc/{}/ns/net", pod.monitor);
    }
    return handle;
  }
  void Deliver() {
    std::unique_lock lock(events_mutex_);
    while (true) {
      events_changed_.wait(lock, [&] { return ending_ || !events_.empty(); });
      if (events_.empty()) return;
      FakeWorld::Event event = std::move(events_.front());
      events_.pop_front();
      delivering_ = true;
      auto on_exit = on_exit_;
      auto on_lost = on_lost_;
      lock.unlock();
      if (event.lost && on_lost) on_lost(*event.lost);
      if (event.exit && on_exit) on_exit(event.pod, *event.exit);
      lock.lock();
      delivering_ = false;
      events_changed_.notify_all();
    }
  }

  std::shared_ptr<FakeWorld> world_;
  mutable std::mutex script_mutex_;
  std::condition_variable script_changed_;
  std::map<std::string, std::deque<Error>> failures_;
  std::map<std::string, int> held_;        // operation -> calls that wait
  std::vector<std::string> calls_;
  ExecHandler exec_handler_;

  std::mutex events_mutex_;
  std::condition_variable events_changed_;
  std::deque<FakeWorld::Event> events_;
  bool delivering_ = false, ending_ = false;
  ExitCallback on_exit_;
  LostCallback on_lost_;
  std::thread thread_;
};

}  // namespace berth::runtime
