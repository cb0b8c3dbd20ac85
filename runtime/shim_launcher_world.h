#pragma once
// For tests with root: pods and containers of busybox-static under a launcher of their own, in temporary directories and a
// cgroup of their own, all of which goes away at the end.
#include <dirent.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <fstream>

#include "base/atomic_file.h"
#include "base/testing.h"
#include "runtime/launcher_news.h"
#include "runtime/linux/cgroup.h"
#include "runtime/shim_launcher.h"

namespace berth::runtime {

inline constexpr char kBusybox[] = "/bin/busybox";

// A directory with /bin/busybox and the applets that tests use.
inline void MakeRootfs(const std::string& root) {
  for (const char* dir : {"bin", "dev", "proc", "sys", "tmp", "etc"}) ASSERT_TRUE(testing::IsOk(MakeDirs(root + "/" + dir)));
  std::ifstream from(kBusybox, std::ios::binary);
  std::ofstream to(root + "/bin/busybox", std::ios::binary);
  to << from.rdbuf();
  to.close();
  ASSERT_EQ(::chmod((root + "/bin/busybox").c_str(), 0755), 0);
  for (const char* applet : {"sh", "sleep", "cat", "echo", "seq", "stty", "tty", "dd", "id", "ls", "df", "hostname", "sysctl",
                             "yes", "head", "touch", "kill", "ps", "mount", "readlink"})
    ASSERT_EQ(::link((root + "/bin/busybox").c_str(), (root + "/bin/" + applet).c_str()), 0) << applet;
}

class NativeWorld {
 public:
  // handler: whose containers; empty: the native ones
  explicit NativeWorld(const std::string& handler = "", const Handler& how = {}) : handler_(handler) {
    if (!handler.empty()) handlers_[handler] = how;
    if (::geteuid() != 0) {
      why_ = "needs root";
    } else if (::access(kBusybox, X_OK) != 0) {
      why_ = "needs /bin/busybox, statically linked (package busybox-static)";
    } else if (auto host = cgroup::Host(); !host) {
      why_ = "needs cgroups: " + host.error().what;
    } else {
      layout_ = *host;
      MakeRootfs(dir_ / "rootfs");
      rootfs_ = *Open(dir_ / "rootfs", O_PATH | O_DIRECTORY);
      Begin();
    }
  }
  ~NativeWorld() {
    if (!why_.empty()) return;
    if (launcher_) {
      for (const PodId& pod : pods_) EXPECT_TRUE(testing::IsOk(launcher_->StopPod(pod, Soon())));
    }
    launcher_.reset();
    EXPECT_TRUE(testing::IsOk(cgroup::Remove(*layout_, {cgroup_}, Soon())));
  }
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

  // Path of berth-shim: what BERTH_TEST_SHIM names, or beside the test.
  static std::string Program() {
    if (const char* shim = ::getenv("BERTH_TEST_SHIM")) return shim;
    char self[4096];
    const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self);
    std::string path(self, static_cast<size_t>(std::max<ssize_t>(n, 0)));
    return path.substr(0, path.rfind('/') + 1) + "berth-shim";
  }

  bool Usable() const { return why_.empty(); }
  std::string Why() const { return why_; }
  ShimLauncher& launcher() { return *launcher_; }
  const cgroup::Layout& layout() const { return *layout_; }
  const std::string& cgroup() const { return cgroup_; }
  std::string Path(const std::string& name) const { return dir_ / name; }
  std::string LogPath(const ContainerId& id) const { return dir_ / (id.str() + ".log"); }

  PodLaunch Pod() {
    PodId id = NewPodId();
    PodLaunch pod{.id = id, .hostname = "pod-" + id.Short(), .state_dir = dir_ / ("state/" + id.str()), .run_dir = dir_ / ("run/" + id.str())};
    EXPECT_TRUE(testing::IsOk(MakeDirs(pod.state_dir, 0700)));
    EXPECT_TRUE(testing::IsOk(MakeDirs(pod.run_dir, 0700)));
    std::lock_guard lock(mutex_);
    pods_.push_back(id);
    return pod;
  }

  ContainerLaunch Container(const PodLaunch& pod, std::vector<std::string> argv) {
    auto spec = std::make_shared<oci::Spec>();
    auto& process = spec->process.emplace();
    process.args = Translate(std::move(argv));
    process.cwd = "/";
    spec->mounts = {{"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
                    {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
                    {"/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
                    {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
                    {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}}};
    auto& linux_part = spec->linux.emplace();
    linux_part.namespaces = {{"pid"}, {"mount"}, {"cgroup"}};
    ContainerLaunch c{.pod = pod.id, .id = NewContainerId(), .rootfs = rootfs_.get()};
    process.env = {"PATH=/bin", "TERM=xterm", "CONTAINER=" + c.id.str()};
    linux_part.cgroupsPath = fmt::format("{}/{}", cgroup_, c.id);
    c.log.path = LogPath(c.id);
    c.spec = spec.get();
    c.handler = handler_;
    std::lock_guard lock(mutex_);
    specs_[c.id] = std::move(spec);
    return c;
  }
  oci::Spec& SpecOf(const ContainerLaunch& c) { return *specs_.at(c.id); }

  ExecLaunch Exec(const ContainerLaunch& c, std::vector<std::string> argv) {
    auto process = std::make_shared<oci::Process>(*SpecOf(c).process);
    process->args = Translate(std::move(argv));
    ExecLaunch exec{.pod = c.pod, .container = c.id, .spec = c.spec, .process = process.get()};
    std::lock_guard lock(mutex_);
    processes_.push_back(std::move(process));
    return exec;
  }

  std::optional<ExitFacts> AwaitExit(const ContainerId& id) { return news_.AwaitExit(id); }
  int Told(const ContainerId& id) { return news_.Told(id); }
  bool AwaitLost(const PodId& id) { return news_.AwaitLost(id); }
  void Restart(const std::function<void()>& gap) {
    launcher_.reset();
    gap();
    Begin();
  }
  void KillMonitor(const PodId& id) {
    auto handle = MonitorOf(id);
    ASSERT_GT(handle, 0);
    ::kill(handle, SIGKILL);
  }
  void Finish(const ContainerLaunch& c, int code) {
    std::ofstream(dir_ / ("rootfs/tmp/code." + c.id.str())) << code << "\n"; 
    const std::string record = fmt::format("{}/{}.exit", dir_ / ("state/" + c.pod.str()), c.id);
    for (int i = 0; i < 2000 && !Exists(record); ++i) ::usleep(10000);
    EXPECT_TRUE(Exists(record));
  }

  // The monitor's process, by its socket's directory: the only berth-shim whose title ends with the pod's short id.
  static pid_t MonitorOf(const PodId& pod) {
    const std::string title = "berth-shim: " + pod.Short();
    for (const auto& entry : Pids()) {
      auto line = ReadFile(fmt::format("/proc/{}/cmdline", entry), 4096);
      if (line && line->starts_with(title)) return entry;
    }
    return -1;
  }
  static std::vector<pid_t> Pids();

  // Polls what the kernel says until it holds; a test's failure is the other way out.
  static bool Eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 2000; ++i) {
      if (holds()) return true;
      ::usleep(10000);
    }
    return holds();
  }

 private:
  static std::vector<std::string> Translate(std::vector<std::string> argv) {
    if (argv.size() == 2 && argv[0] == "exit") return {"sh", "-c", "exit " + argv[1]};
    if (argv.size() == 1 && argv[0] == "wait")
      return {"sh", "-c", "f=/tmp/code.$CONTAINER; while [ ! -s $f ]; do sleep 0.02; done; exit $(cat $f)"};
    return argv;
  }
  void Begin() {
    news_.Clear();
    auto launcher = ShimLauncher::Make({.shim = Program(), .handlers = handlers_}, Soon());
    ASSERT_TRUE(testing::IsOk(launcher));
    launcher_ = std::move(*launcher);
    news_.Listen(*launcher_);
  }

  const std::string handler_;
  std::map<std::string, Handler> handlers_;
  std::string why_;
  testing::TempDir dir_;
  unique_fd rootfs_;
  const cgroup::Layout* layout_ = nullptr;
  std::string cgroup_ = "/berth-test-" + RandomHex(12);
  LauncherNews news_;
  std::unique_ptr<ShimLauncher> launcher_;
  std::mutex mutex_;
  std::vector<PodId> pods_;
  std::map<ContainerId, std::shared_ptr<oci::Spec>> specs_;
  std::vector<std::shared_ptr<oci::Process>> processes_;
};

inline std::vector<pid_t> NativeWorld::Pids() {
  std::vector<pid_t> out;
  std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (const dirent* entry = ::readdir(proc.get()))
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') out.push_back(std::atoi(entry->d_name));
  return out;
}

inline std::string Slurp(const std::string& path) {
  auto text = ReadFile(path, 1 << 30);
  EXPECT_TRUE(testing::IsOk(text));
  return text ? *text : "";
}

// Content of a log's records of one stream, P records joined.
inline std::string Output(const std::string& log, std::string_view stream = "stdout") {
  std::string out;
  for (size_t at = 0; at < log.size();) {
    size_t end = log.find('\n', at);
    EXPECT_NE(end, std::string::npos) << "a record without end";
    if (end == std::string::npos) break;
    std::string_view record(log.data() + at, end - at);
    at = end + 1;
    EXPECT_GE(record.size(), 40u);
    EXPECT_EQ(record.substr(4, 1), "-");
    EXPECT_EQ(record.substr(29, 2), "Z ");
    if (record.substr(31, 6) != stream) continue;
    EXPECT_EQ(record.substr(39, 1), " ");
    out += record.substr(40);
    if (record[38] == 'F') out += '\n';
  }
  return out;
}

inline std::string ReadAll(int fd) {
  std::string out;
  char buffer[65536];
  pollfd p{fd, POLLIN, 0};
  while (::poll(&p, 1, 20000) == 1) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

inline int32_t ExitCode(const ExecHandle& exec) {
  int32_t code = -1;
  pollfd p{exec.exit.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 20000), 1);
  EXPECT_EQ(::read(exec.exit.get(), &code, sizeof code), static_cast<ssize_t>(sizeof code));
  return code;
}

// What tests mount, the host does not see.
class OwnMounts : public ::testing::Environment {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) return;
    ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr), 0);
  }
};
#define NEED_WORLD(world) \
  if (!(world).Usable()) GTEST_SKIP() << (world).Why()

class ShimLauncherTest : public ::testing::Test {
 protected:
  NativeWorld world_;
  ShimLauncher& launcher() { return world_.launcher(); }
  static Deadline Soon() { return NativeWorld::Soon(); }
  PodLaunch Started(PodLaunch pod) {
    EXPECT_TRUE(testing::IsOk(launcher().StartPod(pod, Soon())));
    return pod;
  }
  PodLaunch Started() { return Started(world_.Pod()); }
  void Run(const ContainerLaunch& c) {
    ASSERT_TRUE(testing::IsOk(launcher().CreateContainer(c, Soon())));
    ASSERT_TRUE(testing::IsOk(launcher().StartContainer(c.pod, c.id, Soon())));
  }
  ContainerLaunch Shell(const PodLaunch& pod, const std::string& script) { return world_.Container(pod, {"sh", "-c", script}); }
  std::string RunToEnd(const ContainerLaunch& c, int code = 0) {
    Run(c);
    auto exit = world_.AwaitExit(c.id);
    EXPECT_TRUE(exit.has_value());
    if (exit) {
      EXPECT_EQ(exit->exit_code, code);
    }
    return Slurp(c.log.path);
  }
  std::string ExecOutput(const ContainerLaunch& c, const std::string& script) {
    auto exec = world_.Exec(c, {"sh", "-c", script});
    auto [read_end, write_end] = *Pipe();
    exec.out = exec.err = write_end.get();
    auto handle = launcher().Exec(exec, Soon());
    EXPECT_TRUE(testing::IsOk(handle));
    write_end.reset();
    return ReadAll(read_end.get());
  }
};

}  // namespace berth::runtime
