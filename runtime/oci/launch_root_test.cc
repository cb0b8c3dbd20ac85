// Planner and executor as the shim uses them: plans made here, executed in processes that see no path of the host.
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "runtime/init/executor.h"
#include "runtime/linux/mount.h"
#include "runtime/oci/bundle.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/oci/planner.h"

namespace berth::runtime::oci {
namespace {

std::string Namespace(const char* type) {
  char link[64] = {};
  EXPECT_GT(readlink((std::string("/proc/self/ns/") + type).c_str(), link, sizeof link - 1), 0);
  return link;
}

class Launch : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why = WhyNot();
    if (!why.empty()) GTEST_SKIP() << why;
    bundle.emplace();
    mounts_ = HostMounts();
  }
  void TearDown() override {
    if (!bundle) return;
    for (init::Process& p : alive_) End(&p);
    for (const cgroup::Group& g : groups_) EXPECT_TRUE(cgroup::Remove(g));
    EXPECT_EQ(bundle->Cgroups(), std::vector<std::string>{});
    EXPECT_EQ(HostMounts(), mounts_);
    EXPECT_EQ(Namespace("pid"), own_pid_);
    // Children made now are in our own PID namespace again.
    pid_t child = fork();
    if (child == 0) _exit(getppid() > 0 ? 0 : 1);
    int status;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }

  Prepared Plan(const std::string& name, PlanInput in = {}) {
    in.spec = &bundle->spec;
    in.id = bundle->Id(name);
    in.bundle = bundle->dir();
    in.cgroup_path = "/berth-test-" + bundle->Id(name);
    auto p = MakePlan(in);
    EXPECT_TRUE(p) << p.error().what;
    if (!p) return {};
    groups_.push_back(p->cgroup);
    return std::move(*p);
  }

  bool Make(const Prepared& p, init::Process* process, init::Options options = {}, init::Stdio stdio = {}) {
    auto fds = p.RawFds();
    if (!init::Create(p.plan.data(), p.plan.size(), fds.data(), fds.size(), stdio, options, process, &failure))
      return false;
    alive_.push_back(*process);
    return true;
  }
  void End(init::Process* p) {
    kill(p->pid, SIGKILL);
    waitpid(p->pid, nullptr, __WALL);
    for (int fd : {p->pidfd, p->sync, p->terminal})
      if (fd >= 0) close(fd);
  }
  void Forget(const init::Process& p) {
    std::erase_if(alive_, [&](const init::Process& o) { return o.pid == p.pid; });
  }
  int Wait(init::Process* p) {
    int status = 0;
    EXPECT_EQ(waitpid(p->pid, &status, __WALL), p->pid);
    Forget(*p);
    for (int fd : {p->pidfd, p->terminal})
      if (fd >= 0) close(fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // Create, start, read standard output to its end, wait.
  std::string Output(const Prepared& p, init::Options options = {}, int* code = nullptr) {
    auto [read_end, write_end] = *Pipe();
    init::Process process;
    if (!Make(p, &process, options, {-1, write_end.get(), write_end.get()})) return failure.what;
    write_end.reset();
    if (!init::Start(&process, &failure)) {
      alive_.back().sync = -1;
      int c = Wait(&process);
      if (code) *code = c;
      return failure.what;
    }
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(read_end.get(), buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    int c = Wait(&process);
    if (code) *code = c;
    return text;
  }
  std::string RunSh(const std::string& script, const std::string& name, PlanInput in = {}, init::Options options = {}) {
    bundle->Sh(script);
    return Output(Plan(name, in), options);
  }

  std::optional<Bundle> bundle;
  init::Failure failure;
  std::vector<init::Process> alive_;
  std::vector<cgroup::Group> groups_;
  size_t mounts_ = 0;
  std::string own_pid_ = Namespace("pid");
};

TEST_F(Launch, StreamsAndExitCode) {
  bundle->Sh("echo out; read x || echo no input; exit 3");
  int code = -1;
  EXPECT_EQ(Output(Plan("a"), {}, &code), "out\nno input\n");
  EXPECT_EQ(code, 3);
}

TEST_F(Launch, NotStartedEndsWithItsCreator) {
  bundle->spec.process->args = {"true"};
  Prepared p = Plan("a");
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  close(process.sync);
  EXPECT_EQ(Wait(&process), 0);
}

TEST_F(Launch, StartSaysWhatExecSays) {
  bundle->Put("/rootfs/bin/script", "#!/no/interpreter\n", 0755);
  bundle->spec.process->args = {"script"};
  int code = -1;
  EXPECT_EQ(Output(Plan("a"), {}, &code), "exec /bin/script: no such file or directory");
  EXPECT_EQ(failure.kind, 1);
  EXPECT_EQ(code, 127);
}

TEST_F(Launch, CreateSaysWhatCannotBeFound) {
  bundle->spec.process->args = {"nosuch"};
  Prepared p = Plan("a");
  init::Process process;
  EXPECT_FALSE(Make(p, &process));
  EXPECT_STREQ(failure.what, "exec: \"nosuch\": executable file not found in $PATH");
  EXPECT_EQ(failure.kind, 1);
  EXPECT_EQ(process.pid, -1);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
}

TEST_F(Launch, FailuresNameTheStep) {
  bundle->spec.mounts.push_back({"/bin/sh/x", "tmpfs", "tmpfs", {}, {}, {}});
  bundle->spec.process->args = {"true"};
  Prepared p = Plan("a");
  init::Process process;
  EXPECT_FALSE(Make(p, &process));
  EXPECT_TRUE(std::string(failure.what).starts_with("mount tmpfs on /bin/sh/x: ")) << failure.what;
  bundle->spec.mounts.back() = {"/data", "tmpfs", "tmpfs", {"nonsense=1"}, {}, {}};
  Prepared q = Plan("b");
  EXPECT_FALSE(Make(q, &process));
  EXPECT_STREQ(failure.what, "mount tmpfs on /data: Invalid argument");
}

TEST_F(Launch, PlanFailuresLeaveNothing) {
  bundle->spec.process->args = {"true"};
  bundle->spec.mounts.push_back({"/x", "bind", "/no/such", {"bind"}, {}, {}});
  PlanInput in{
      .spec = &bundle->spec, .id = "x", .bundle = bundle->dir(), .cgroup_path = "/berth-test-" + bundle->Id("z")};
  auto p = MakePlan(in);
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, Code::kNotFound);
  EXPECT_EQ(bundle->Cgroups(), std::vector<std::string>{});
  bundle->spec.mounts.pop_back();
  bundle->spec.linux->resources = Resources{.pids = Pids{5}};
  in.cgroup_path = "/no/../dots";
  EXPECT_EQ(MakePlan(in).error().code, Code::kInvalidArgument);
}

TEST_F(Launch, BusyCgroupsAreRefused) {
  bundle->spec.process->args = {"sleep", "1000"};
  Prepared p = Plan("a");
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  PlanInput in{.spec = &bundle->spec, .id = "x", .bundle = bundle->dir(), .cgroup_path = p.cgroup.path};
  auto second = MakePlan(in);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kConflict);
  auto pids = cgroup::Processes(**cgroup::Host(), p.cgroup);
  ASSERT_TRUE(pids);
  EXPECT_EQ(*pids, std::vector<pid_t>{process.pid});
  auto stats = cgroup::ReadStats(**cgroup::Host(), p.cgroup);
  ASSERT_TRUE(stats) << stats.error().what;
  EXPECT_EQ(stats->pids, 1U);
}

TEST_F(Launch, KillAllReachesEveryProcess) {
  bundle->Sh("sleep 1000 & sleep 1001 & exec sleep 1002");
  std::erase_if(bundle->spec.linux->namespaces, [](const auto& n) { return n.type == "pid"; });
  Prepared p = Plan("a");
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  ASSERT_TRUE(init::Start(&process, &failure));
  alive_.back().sync = -1;
  ASSERT_TRUE(cgroup::KillAll(**cgroup::Host(), p.cgroup));
  EXPECT_TRUE(cgroup::WaitEmpty(**cgroup::Host(), p.cgroup, Deadline::After(std::chrono::seconds(20))));
  EXPECT_EQ(Wait(&process), 137);
}

TEST_F(Launch, FreezeHoldsProcesses) {
  bundle->spec.process->args = {"sleep", "1000"};
  Prepared p = Plan("a");
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  Deadline until = Deadline::After(std::chrono::seconds(20));
  EXPECT_TRUE(cgroup::Freeze(**cgroup::Host(), p.cgroup, true, until));
  EXPECT_TRUE(cgroup::Freeze(**cgroup::Host(), p.cgroup, false, until));
}

TEST_F(Launch, SharedPidNamespace) {
  bundle->spec.process->args = {"sleep", "1000"};
  Prepared first = Plan("a");
  init::Process holder;
  ASSERT_TRUE(Make(first, &holder)) << failure.what;
  ASSERT_TRUE(init::Start(&holder, &failure)) << failure.what;
  alive_.back().sync = -1;
  EXPECT_EQ(RunSh("cat /proc/1/cmdline; test $$ -gt 1 && echo ' second'", "b", {.pid_namespace = holder.pidfd}),
            std::string("sleep\0"
                        "1000\0 second\n",
                        19));
  EXPECT_EQ(RunSh("head -c 5 /proc/1/cmdline", "c", {.caller_pid = true}, {.pid_namespace = holder.pidfd}), "sleep");
  EXPECT_EQ(RunSh("true", "d", {.caller_pid = true}), "start plan: no PID namespace to join");
  init::Process gone = holder;
  kill(holder.pid, SIGKILL);
  Deadline::After(std::chrono::seconds(20)).WaitFor(holder.pidfd, POLLIN, "end").value();
  EXPECT_EQ(RunSh("true", "e", {.caller_pid = true}, {.pid_namespace = gone.pidfd}), "container not running");
}

// Whether a tree that is mounted nowhere can be cloned (Linux 6.15); before, one serves one plan.
bool ClonesDetached() {
  unique_fd tree = *mount::NewTmpfs("size=1m");
  return mount::CloneTree(tree.get(), "", false).has_value();
}

TEST_F(Launch, SharedMemoryOfThePod) {
  if (!ClonesDetached()) GTEST_SKIP() << "needs clones of detached mounts (Linux 6.15)";
  unique_fd shm = *mount::NewTmpfs("size=1m,mode=1777");
  EXPECT_EQ(RunSh("echo shared > /dev/shm/x; stat -c %a /dev/shm", "a", {.shm = shm.get()}), "1777\n");
  EXPECT_EQ(RunSh("cat /dev/shm/x; grep /dev/shm /proc/self/mountinfo | grep -c nosuid,nodev,noexec", "b",
                  {.shm = shm.get()}),
            "shared\n1\n");
}

TEST_F(Launch, SharedMemoryIsUsedUpWhereItCannotBeCloned) {
  unique_fd shm = *mount::NewTmpfs("size=1m,mode=1777");
  EXPECT_EQ(RunSh("stat -c %a /dev/shm; grep /dev/shm /proc/self/mountinfo | grep -c nosuid,nodev,noexec", "a", {.shm = shm.get()}),
            "1777\n1\n");
}

TEST_F(Launch, BindOnSharedMemoryStays) {
  unique_fd shm = *mount::NewTmpfs("size=1m,mode=1777");
  std::string mine = bundle->dir() + "/mine";
  ASSERT_EQ(mkdir(mine.c_str(), 0755), 0);
  ASSERT_TRUE(WriteFileAtomic(mine + "/mark", "own\n"));
  bundle->spec.mounts.push_back({"/dev/shm", "bind", mine, {"rbind", "ro"}, {}, {}});
  EXPECT_EQ(RunSh("cat /dev/shm/mark", "a", {.shm = shm.get()}), "own\n");
}

TEST_F(Launch, OneDetachedRootServesManyPlans) {
  if (!ClonesDetached()) GTEST_SKIP() << "needs clones of detached mounts (Linux 6.15)";
  unique_fd root = *mount::CloneTree(bundle->rootfs(), false);
  EXPECT_EQ(RunSh("echo one", "a", {.rootfs = root.get()}), "one\n");
  EXPECT_EQ(RunSh("echo two", "b", {.rootfs = root.get()}), "two\n");
  unique_fd directory = *Open(bundle->rootfs(), O_PATH | O_DIRECTORY);
  EXPECT_EQ(RunSh("echo three", "c", {.rootfs = directory.get()}), "three\n");
}

TEST_F(Launch, ReadonlyOverlayOfADetachedMount) {
  unique_fd fs(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  ASSERT_TRUE(fs.valid());
  bundle->spec.mounts.push_back(
      {"/merged", "overlay", "overlay", {"lowerdir=" + bundle->rootfs() + ":/etc/apt"}, {}, {}});
  EXPECT_NE(RunSh("ls /merged", "a").find("bin"), std::string::npos);
  bundle->spec.mounts.back().options = {"lowerdir=/no/such"};
  PlanInput in{
      .spec = &bundle->spec, .id = "x", .bundle = bundle->dir(), .cgroup_path = "/berth-test-" + bundle->Id("y")};
  auto p = MakePlan(in);
  ASSERT_FALSE(p);
  EXPECT_TRUE(p.error().what.starts_with("mounts[7]")) << p.error().what;
}

TEST_F(Launch, Terminal) {
  bundle->Sh("tty; exit 4");
  Prepared p = Plan("a", {.terminal = true});
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  ASSERT_GE(process.terminal, 0);
  ASSERT_TRUE(init::Start(&process, &failure)) << failure.what;
  alive_.back().sync = -1;
  std::string text;
  char buffer[256];
  for (ssize_t n; (n = read(process.terminal, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  EXPECT_EQ(text, "/dev/pts/0\r\n");
  EXPECT_EQ(Wait(&process), 4);
}

TEST_F(Launch, NamespacesByPath) {
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  pid_t holder = fork();
  if (holder == 0) {
    char ok = unshare(CLONE_NEWNET | CLONE_NEWUTS) == 0 ? 'y' : 'n';
    if (write(ready[1], &ok, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char ok = 0;
  ASSERT_EQ(read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 'y');
  std::string base = fmt::format("/proc/{}/ns/", holder);
  char net[64] = {};
  ASSERT_GT(readlink((base + "net").c_str(), net, sizeof net - 1), 0);
  for (auto& n : bundle->spec.linux->namespaces)
    if (n.type == "network") n.path = base + "net";
  EXPECT_EQ(RunSh("readlink /proc/self/ns/net", "a"), std::string(net) + "\n");
  for (auto& n : bundle->spec.linux->namespaces)
    if (n.type == "network") n.path = base + "uts";
  PlanInput in{.spec = &bundle->spec, .id = "x", .bundle = bundle->dir()};
  auto p = MakePlan(in);
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().what, "linux.namespaces[1].path: " + base + "uts is not a network namespace");
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(Launch, StartedOverASocketByAnother) {
  bundle->Sh("exit 6");
  std::string path = bundle->dir() + "/start";
  unique_fd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path.c_str());
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  Prepared p = Plan("a", {.listen = listener.get()});
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  close(process.sync);
  alive_.back().sync = -1;
  // One who connects and goes away starts nothing.
  unique_fd idle(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(idle.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  idle.reset();
  int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  ASSERT_EQ(connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_TRUE(init::StartOver(connection, &failure)) << failure.what;
  EXPECT_EQ(Wait(&process), 6);
}

// Runs `body` in a child whose mount namespace is an empty tmpfs: where the shim lives.
template <class F>
int InEmptyNamespace(F body) {
  pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) < 0 || syscall(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
      _exit(90);
    if (syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, nullptr) < 0 || chdir("/tmp") < 0) _exit(91);
    if (syscall(SYS_pivot_root, ".", ".") < 0 || syscall(SYS_umount2, ".", 2) < 0 || chdir("/") < 0) _exit(92);
    if (access("/proc", F_OK) == 0) _exit(93);
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_F(Launch, FromANamespaceWithoutAnyFile) {
  bundle->Put("/file", "bound");
  bundle->spec.mounts.push_back({"/etc/file", "bind", bundle->dir() + "/file", {"bind", "ro"}, {}, {}});
  bundle->spec.linux->maskedPaths = {"/proc/timer_list", "/sys/firmware"};
  bundle->spec.linux->readonlyPaths = {"/proc/sys"};
  bundle->Sh("test \"$(cat /etc/file)\" = bound && test -c /dev/null && exec sleep 1000");
  Prepared p = Plan("a");
  auto fds = p.RawFds();
  Process other;
  other.args = {"sh", "-c", "test -d /proc/1 && test \"$(cat /etc/file)\" = bound && exit 42"};
  other.env = {"PATH=/bin"};
  auto exec = MakeExecPlan({.process = &other, .spec = &bundle->spec, .cgroup_path = p.cgroup.path});
  ASSERT_TRUE(exec) << exec.error().what;
  auto exec_fds = exec->RawFds();
  int code = InEmptyNamespace([&] {
    init::Process process, second;
    init::Failure f;
    if (!init::Create(p.plan.data(), p.plan.size(), fds.data(), fds.size(), {}, &process, &f) ||
        !init::Start(&process, &f)) {
      fprintf(stderr, "%s\n", f.what);
      return 80;
    }
    int result = 81;
    if (!init::Exec(exec->plan.data(), exec->plan.size(), exec_fds.data(), exec_fds.size(), {},
                    {.target = process.pidfd}, &second, &f)) {
      fprintf(stderr, "%s\n", f.what);
    } else {
      int status = 0;
      waitpid(second.pid, &status, 0);
      result = WEXITSTATUS(status);
    }
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
    return result;
  });
  EXPECT_EQ(code, 42);
}

// A user namespace wants to see a procfs before it gets one of its own: where the shim lives there is none.
TEST_F(Launch, UserNamespaceFromANamespaceWithoutAnyFile) {
  ASSERT_EQ(chmod(bundle->dir().c_str(), 0755), 0);
  ASSERT_EQ(system(("chown -R 200000:200000 " + bundle->rootfs()).c_str()), 0);
  Linux& l = *bundle->spec.linux;
  l.namespaces.push_back({"user", ""});
  l.uidMappings = l.gidMappings = {{0, 200000, 1000}};
  l.maskedPaths = {"/proc/timer_list", "/sys/firmware"};
  bundle->spec.process->oomScoreAdj = 200;
  bundle->Sh("test $(id -u) = 0 && test -c /dev/null && test -d /sys/class/net/lo && exec sleep 1000");
  Prepared p = Plan("a");
  auto fds = p.RawFds();
  Process other;
  other.args = {"sh", "-c", "test -d /proc/1 && test $(cat /proc/self/oom_score_adj) = 200 && grep -q 200000 /proc/self/uid_map && exit 42"};
  other.env = {"PATH=/bin"};
  other.oomScoreAdj = 200;
  auto exec = MakeExecPlan({.process = &other, .spec = &bundle->spec, .cgroup_path = p.cgroup.path});
  ASSERT_TRUE(exec) << exec.error().what;
  auto exec_fds = exec->RawFds();
  int code = InEmptyNamespace([&] {
    init::Process process, second;
    init::Failure f;
    if (!init::Create(p.plan.data(), p.plan.size(), fds.data(), fds.size(), {}, &process, &f) ||
        !init::Start(&process, &f)) {
      fprintf(stderr, "%s\n", f.what);
      return 80;
    }
    int result = 81;
    if (!init::Exec(exec->plan.data(), exec->plan.size(), exec_fds.data(), exec_fds.size(), {},
                    {.target = process.pidfd}, &second, &f)) {
      fprintf(stderr, "%s\n", f.what);
    } else {
      int status = 0;
      waitpid(second.pid, &status, 0);
      result = WEXITSTATUS(status);
    }
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
    return result;
  });
  EXPECT_EQ(code, 42);
}

TEST_F(Launch, AnEndedContainerTakesNoFurtherProcess) {
  bundle->Sh("exit 0");
  Prepared p = Plan("a");
  init::Process process;
  ASSERT_TRUE(Make(p, &process)) << failure.what;
  ASSERT_TRUE(init::Start(&process, &failure));
  alive_.back().sync = -1;
  Deadline::After(std::chrono::seconds(20)).WaitFor(process.pidfd, POLLIN, "end").value();
  Process other;
  other.args = {"/bin/true"};
  auto exec = MakeExecPlan({.process = &other, .target = process.pidfd});
  ASSERT_TRUE(exec);
  auto fds = exec->RawFds();
  init::Process second;
  EXPECT_FALSE(init::Exec(exec->plan.data(), exec->plan.size(), fds.data(), fds.size(), {}, &second, &failure));
  EXPECT_STREQ(failure.what, "container not running");
  EXPECT_EQ(Wait(&process), 0);
}

}  // namespace
}  // namespace berth::runtime::oci
