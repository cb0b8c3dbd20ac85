// berth-oci as a program, on real containers of busybox. Asks the kernel from inside and outside what happened, and after
// each test that nothing is left.
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "runtime/oci/bundle.h"
#include "runtime/oci/container_dir.h"

namespace berth::runtime::oci {
namespace {

std::string Program() {
  const char* build = getenv("BERTH_BUILD_DIR");
  return std::string(build ? build : ".") + "/bin/berth-oci";
}

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why = WhyNot();
    if (why.empty() && !Exists(Program())) why = "needs " + Program();
    if (!why.empty()) GTEST_SKIP() << why;
    bundle.emplace();
    mounts_ = HostMounts();
  }
  void TearDown() override {
    if (!bundle) return;
    EXPECT_EQ(bundle->Cgroups(), std::vector<std::string>{});
    EXPECT_EQ(bundle->States(), std::vector<std::string>{});
    EXPECT_EQ(HostMounts(), mounts_);
  }

  CommandOutput Oci(std::vector<std::string> args) {
    Command c;
    c.argv = {Program(), "--root", bundle->state()};
    c.argv.insert(c.argv.end(), args.begin(), args.end());
    c.env = {"PATH=/usr/bin:/bin"};
    if (v2_view) {  // a private mount namespace whose only cgroup filesystem is version 2
      c.argv.insert(c.argv.begin(), {"/usr/bin/unshare", "-m", "/bin/sh", "-c",
                                     "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh"});
    }
    auto out = berth::Run(c, Deadline::After(std::chrono::seconds(60)));
    EXPECT_TRUE(out) << out.error().what;
    return out ? *out : CommandOutput{};
  }
  CommandOutput RunSh(const std::string& script, const std::string& name = "a") {
    bundle->Sh(script);
    return RunNow(name);
  }
  CommandOutput RunNow(const std::string& name = "a") {
    bundle->Write();
    return Oci({"run", "--bundle", bundle->dir(), bundle->Id(name)});
  }
  std::string Lines(const std::string& script) {
    auto out = RunSh(script);
    EXPECT_EQ(out.exit_code, 0) << out.err;
    EXPECT_EQ(out.err, "");
    return out.out;
  }

  std::optional<Bundle> bundle;
  bool v2_view = false;
  size_t mounts_ = 0;
};

std::string OwnNamespace(const char* type) {
  char link[64] = {};
  EXPECT_GT(readlink((std::string("/proc/self/ns/") + type).c_str(), link, sizeof link - 1), 0);
  return link;
}

TEST_F(Cli, NamespacesAreNew) {
  std::string out = Lines("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done; hostname; echo $$");
  for (const char* type : {"pid", "net", "ipc", "uts", "mnt", "cgroup"}) {
    EXPECT_EQ(out.find(OwnNamespace(type)), std::string::npos) << type;
    EXPECT_NE(out.find(std::string(type) + ":["), std::string::npos) << type;
  }
  EXPECT_TRUE(out.ends_with("inside\n1\n")) << out;
}

TEST_F(Cli, UnlistedNamespacesAreInherited) {
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "network" || n.type == "ipc" || n.type == "uts" || n.type == "pid"; });
  bundle->spec.hostname.clear();
  std::erase_if(bundle->spec.mounts, [](const Mount& m) { return m.type == "sysfs" || m.type == "cgroup"; });
  std::string out = Lines("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
  EXPECT_EQ(out, OwnNamespace("net") + "\n" + OwnNamespace("ipc") + "\n" + OwnNamespace("uts") + "\n" + OwnNamespace("pid") + "\n");
}

TEST_F(Cli, StandardMountsAndDevices) {
  std::string out = Lines("cat /proc/self/mountinfo; ls -l /dev /dev/pts; readlink /dev/ptmx; readlink /dev/fd; cat /dev/null; head -c 3 /dev/zero | wc -c");
  for (const char* want : {" / /proc rw,nosuid,nodev,noexec,relatime - proc proc", " /dev rw,nosuid - tmpfs", " /dev/pts rw,nosuid,noexec",
                           " /dev/shm rw,nosuid,nodev,noexec", " /dev/mqueue rw,", " /sys ro,nosuid,nodev,noexec", "ptmxmode=666",
                           "pts/ptmx\n/proc/self/fd\n", "3\n"})
    EXPECT_NE(out.find(want), std::string::npos) << want << "\n" << out;
}

TEST_F(Cli, OnlyStandardStreamsAreOpen) { EXPECT_EQ(Lines("ls /proc/self/fd"), "0\n1\n2\n3\n"); }  // 3: ls itself

TEST_F(Cli, ReadonlyRootAndPaths) {
  bundle->spec.root->readonly = true;
  bundle->spec.linux->readonlyPaths = {"/proc/sys", "/dev/shm", "/missing/path"};
  auto out = RunSh("touch /x; touch /dev/shm/x; echo 1 > /proc/sys/net/ipv4/ip_forward; touch /dev/ok && echo fine");
  EXPECT_EQ(out.out, "fine\n");
  EXPECT_EQ(std::count(out.err.begin(), out.err.end(), '\n'), 3) << out.err;
  EXPECT_NE(out.err.find("touch: /x: Read-only file system"), std::string::npos);
  EXPECT_FALSE(Exists(bundle->rootfs() + "/x"));
}

TEST_F(Cli, MaskedPaths) {
  bundle->Put("/rootfs/etc/secret", "secret");
  mkdir((bundle->rootfs() + "/private").c_str(), 0755);
  mkdir((bundle->rootfs() + "/private2").c_str(), 0755);
  bundle->Put("/rootfs/private/key", "key");
  bundle->spec.linux->maskedPaths = {"/etc/secret", "/private", "/private2", "/proc/timer_list", "/missing"};
  auto out = RunSh("cat /etc/secret /proc/timer_list; ls /private /private2; stat -c %t:%T /etc/secret; echo x > /etc/secret; touch /private/y");
  EXPECT_EQ(out.out, "/private:\n\n/private2:\n1:3\n") << out.err;
  EXPECT_NE(out.err.find("Read-only file system"), std::string::npos) << out.err;
  EXPECT_EQ(ReadFile(bundle->rootfs() + "/etc/secret").value_or(""), "secret");
}

TEST_F(Cli, MaskedPathsWithoutOurOwnDev) {
  std::erase_if(bundle->spec.mounts, [](const Mount& m) { return m.destination.starts_with("/dev"); });
  bundle->Put("/rootfs/etc/secret", "secret");
  bundle->Put("/rootfs/etc/secret2", "secret");
  bundle->spec.linux->maskedPaths = {"/etc/secret", "/etc/secret2"};
  auto out = RunSh("cat /etc/secret /etc/secret2; chmod 600 /etc/secret2; ls /dev");
  EXPECT_EQ(out.exit_code, 0) << out.err;
  EXPECT_NE(out.out.find("urandom"), std::string::npos);
  // With the host's own /dev the cover is the host's null device: its mode must not be ours to change.
  bundle->spec.mounts.push_back({"/dev", "bind", "/dev", {"rbind", "rslave"}, {}, {}});
  out = RunSh("cat /etc/secret /etc/secret2; chmod 600 /etc/secret2 2>/dev/null || echo kept");
  EXPECT_EQ(out.out, "kept\n") << out.err;
  struct stat st;
  ASSERT_EQ(stat("/dev/null", &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0666U);
}

TEST_F(Cli, CapabilitiesOfRoot) {
  std::string out = Lines("grep Cap /proc/self/status");
  EXPECT_EQ(out, "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n");
}

TEST_F(Cli, NoCapabilitiesMeansNone) {
  bundle->spec.process->capabilities.reset();
  EXPECT_NE(Lines("grep Cap /proc/self/status").find("CapBnd:\t0000000000000000"), std::string::npos);
}

TEST_F(Cli, UserGroupsAmbient) {
  Process& p = *bundle->spec.process;
  p.user = {1000, 1001, 027, {5, 7}};
  p.capabilities->ambient = p.capabilities->inheritable = {"CAP_NET_BIND_SERVICE"};
  p.noNewPrivileges = true;
  std::string out = Lines("grep -E 'Uid|Gid|Groups|CapEff|CapAmb|CapBnd|NoNewPrivs|Umask' /proc/self/status");
  for (const char* want : {"Umask:\t0027", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001", "Groups:\t5 7", "CapEff:\t0000000000000400",
                           "CapAmb:\t0000000000000400", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1"})
    EXPECT_NE(out.find(want), std::string::npos) << want << "\n" << out;
}

TEST_F(Cli, UnknownAndUngrantableCapabilitiesAreWarnedOf) {
  bundle->spec.process->capabilities->bounding.push_back("CAP_TIME_TRAVEL");
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 0);
  EXPECT_NE(out.err.find("capability CAP_TIME_TRAVEL is not known"), std::string::npos) << out.err;
}

TEST_F(Cli, SeccompInEveryOrderOfPrivileges) {
  Seccomp filter{"SCMP_ACT_ALLOW", {}, {}, {}, {{{"mkdir", "mkdirat"}, "SCMP_ACT_ERRNO", 95, {}}}};
  bundle->spec.linux->seccomp = filter;
  for (bool nnp : {false, true}) {
    for (uint32_t uid : {0U, 1000U}) {
      bundle->spec.process->noNewPrivileges = nnp;
      bundle->spec.process->user.uid = uid;
      auto out = RunSh("grep Seccomp: /proc/self/status; mkdir /tmp/x; grep CapPrm /proc/self/status");
      EXPECT_NE(out.out.find("Seccomp:\t2"), std::string::npos) << nnp << uid << out.err;
      EXPECT_NE(out.err.find("Operation not supported"), std::string::npos) << out.err;
      EXPECT_NE(out.out.find(uid ? "CapPrm:\t0000000000000000" : "CapPrm:\t00000000a80425fb"), std::string::npos) << out.out;
    }
  }
  bundle->spec.process->capabilities.reset();
  bundle->spec.process->noNewPrivileges = false;
  auto out = RunSh("grep -E 'Seccomp:|CapBnd' /proc/self/status");
  EXPECT_EQ(out.out, "CapBnd:\t0000000000000000\nSeccomp:\t2\n") << out.err;
}

TEST_F(Cli, SeccompThatForbidsAlmostEverything) {
  // getcwd, read, socket calls denied: every check of ours is done before the filter.
  Seccomp filter{"SCMP_ACT_ERRNO", 1, {}, {}, {{{"execve", "capset", "exit_group", "brk", "arch_prctl", "mmap", "write", "prctl", "set_tid_address",
                  "set_robust_list", "rseq", "prlimit64", "readlink", "getrandom", "mprotect", "getuid"}, "SCMP_ACT_ALLOW", {}, {}}}};
  bundle->spec.linux->seccomp = filter;
  bundle->spec.process->args = {"true"};
  auto out = RunNow();
  EXPECT_EQ(out.exit_code, 0) << out.err;
}

TEST_F(Cli, LimitsScoresDirectoryEnvironment) {
  Process& p = *bundle->spec.process;
  p.rlimits = {{"RLIMIT_NOFILE", 64, 16}, {"RLIMIT_CORE", 0, 0}};
  p.oomScoreAdj = 321;
  p.cwd = "/made/for/me";
  p.env.push_back("GREETING=hello world");
  EXPECT_EQ(Lines("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; pwd; echo $GREETING"), "16\n64\n0\n321\n/made/for/me\nhello world\n");
}

TEST_F(Cli, HomeComesFromPasswdWhenTheEnvironmentHasNone) {
  bundle->spec.process->env = {"PATH=/bin"};
  EXPECT_EQ(Lines("echo $HOME; umask"), "/\n0022\n");
  bundle->Put("/rootfs/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nodd:x:10:1::/wrong:\nme:x:1000:1000:Me, Myself:/home/me:/bin/sh\n");
  EXPECT_EQ(Lines("echo $HOME"), "/root\n");
  bundle->spec.process->user.uid = 1000;
  EXPECT_EQ(Lines("echo $HOME"), "/home/me\n");
  bundle->spec.process->user.uid = 1;
  EXPECT_EQ(Lines("echo $HOME"), "/\n");
  bundle->spec.process->env.push_back("HOME=/given");
  EXPECT_EQ(Lines("echo $HOME"), "/given\n");
}

TEST_F(Cli, LimitsThatCannotBeHadAreClampedWithAWarning) {
  if (caps::OwnBounding() >> 24 & 1) GTEST_SKIP() << "this host has CAP_SYS_RESOURCE";
  bundle->spec.process->rlimits = {{"RLIMIT_NOFILE", 1 << 30, 100}};
  bundle->spec.process->oomScoreAdj = -999;
  auto out = RunSh("ulimit -n; cat /proc/self/oom_score_adj");
  EXPECT_EQ(out.exit_code, 0) << out.err;
  EXPECT_NE(out.err.find("warning: rlimit"), std::string::npos) << out.err;
  EXPECT_NE(out.err.find("warning: set oom_score_adj -999"), std::string::npos) << out.err;
}

TEST_F(Cli, Sysctls) {
  bundle->spec.linux->sysctl = {{"net.ipv4.ip_unprivileged_port_start", "99"}, {"kernel.shmmax", "123456"}};
  EXPECT_EQ(Lines("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax"), "99\n123456\n");
  bundle->spec.linux->sysctl = {{"kernel.core_pattern", "|/evil"}};
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("linux.sysctl: kernel.core_pattern is not namespaced"), std::string::npos) << out.err;
}

TEST_F(Cli, BindMounts) {
  bundle->Put("/file", "from the host");
  mkdir((bundle->dir() + "/src").c_str(), 0755);
  bundle->Put("/src/inner", "inner");
  EXPECT_EQ(symlink("/run", (bundle->rootfs() + "/varrun").c_str()), 0);
  EXPECT_EQ(symlink("../gone/deep", (bundle->rootfs() + "/etc/dangling").c_str()), 0);
  auto& m = bundle->spec.mounts;
  m.push_back({"/new/dir/file", "", "file", {"bind", "ro"}, {}, {}});
  m.push_back({"/varrun/secrets", "bind", bundle->dir() + "/src", {"rbind", "rro"}, {}, {}});
  m.push_back({"/etc/dangling/x", "bind", bundle->dir() + "/src", {"rbind"}, {}, {}});
  auto out = RunSh("cat /new/dir/file; echo; cat /run/secrets/inner; echo; cat /gone/deep/x/inner; echo; echo x > /new/dir/file; touch /run/secrets/y; touch /gone/deep/x/y");
  EXPECT_EQ(out.out, "from the host\ninner\ninner\n");
  EXPECT_EQ(std::count(out.err.begin(), out.err.end(), '\n'), 2) << out.err;
  EXPECT_TRUE(Exists(bundle->dir() + "/src/y"));
  EXPECT_FALSE(Exists("/run/secrets"));
}

TEST_F(Cli, BindErrorsNameTheMount) {
  bundle->spec.mounts.push_back({"/x", "bind", "/no/such/source", {"rbind"}, {}, {}});
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_EQ(out.err, "berth-oci: mounts[7].source: clone the mount of /no/such/source: No such file or directory\n");
  bundle->spec.mounts.back() = {"/bin/busybox/x", "bind", "/tmp", {"rbind"}, {}, {}};
  out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("mount /tmp on /bin/busybox/x"), std::string::npos) << out.err;
  bundle->spec.mounts.back() = {"/proc/sys/kernel", "bind", "/tmp", {"rbind"}, {}, {}};
  out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("inside procfs nothing may be mounted"), std::string::npos) << out.err;
}

TEST_F(Cli, AttackersRootfs) {
  for (const char* name : {"/proc", "/dev", "/sys"}) {
    std::string path = bundle->rootfs() + name;
    ASSERT_EQ(rmdir(path.c_str()), 0);
    ASSERT_EQ(symlink("/tmp", path.c_str()), 0);
    auto out = RunSh("true");
    EXPECT_EQ(out.exit_code, 1) << name;
    EXPECT_NE(out.err.find(std::string(" on ") + name + ": a symbolic link stands in the way"), std::string::npos) << out.err;
    ASSERT_EQ(unlink(path.c_str()), 0);
    ASSERT_EQ(mkdir(path.c_str(), 0755), 0);
  }
  // A working directory that would lead out by a descriptor of ours.
  for (const char* cwd : {"/proc/self/fd/3", "/proc/self/fd/8", "/proc/self/fd/10", "/proc/1/fd/7/../.."}) {
    bundle->spec.process->cwd = cwd;
    auto out = RunSh("true");
    EXPECT_NE(out.exit_code, 0) << cwd;
  }
  bundle->spec.process->cwd = "/";
  // The runtime's own executable is not to be had: what runs is the sealed stub.
  struct stat before, after;
  ASSERT_EQ(stat(Program().c_str(), &before), 0);
  bundle->spec.process->args = {"/proc/self/exe", "--version"};
  auto out = RunNow();
  EXPECT_EQ(out.exit_code, 255);
  EXPECT_EQ(out.out, "");
  ASSERT_EQ(stat(Program().c_str(), &after), 0);
  EXPECT_EQ(before.st_mtime, after.st_mtime);
}

TEST_F(Cli, ExitCodes) {
  EXPECT_EQ(RunSh("exit 7").exit_code, 7);
  EXPECT_EQ(RunSh("kill -9 $$; sleep 1").exit_code, 0) << "the first process of a PID namespace is immune to itself";
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "pid"; });
  EXPECT_EQ(RunSh("kill -9 $$").exit_code, 137);
}

TEST_F(Cli, ExecutablesThatCannotRun) {
  auto fails = [&](std::vector<std::string> args, int code, const std::string& text) {
    bundle->spec.process->args = args;
    auto out = RunNow();
    EXPECT_EQ(out.exit_code, code) << out.err;
    EXPECT_EQ(out.err, "berth-oci: " + text + "\n");
  };
  bundle->Put("/rootfs/bin/text", "hello", 0644);
  bundle->Put("/rootfs/bin/script", "#!/no/interpreter\n", 0755);
  bundle->Put("/rootfs/bin/junk", "\x7f" "ELFjunk", 0755);
  fails({"nosuch"}, 127, "exec: \"nosuch\": executable file not found in $PATH");
  fails({""}, 127, "exec: \"\": executable file not found in $PATH");
  fails({"/no/such"}, 127, "exec: \"/no/such\": stat /no/such: no such file or directory");
  fails({"/bin/text"}, 126, "exec: \"/bin/text\": permission denied");
  fails({"text"}, 127, "exec: \"text\": executable file not found in $PATH");
  fails({"/etc"}, 126, "exec: \"/etc\": is a directory");
  fails({"/bin/script"}, 127, "exec /bin/script: no such file or directory");
  fails({"/bin/junk"}, 126, "exec /bin/junk: exec format error");
}

TEST_F(Cli, BadInputNamesTheMember) {
  auto fails = [&](const std::string& config, const std::string& text) {
    bundle->Put("/config.json", config);
    auto out = Oci({"run", "-b", bundle->dir(), bundle->Id("a")});
    EXPECT_EQ(out.exit_code, 1);
    EXPECT_NE(out.err.find(text), std::string::npos) << out.err;
  };
  fails("{", "config.json");
  fails(R"({"ociVersion":"1.0.0","process":{"args":"sh"}})", "process.args: expected array, got string");
  fails(R"({"ociVersion":"1.0.0"})", "process: missing");
  fails(R"({"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"x"},"linux":{}})", "process.cwd: \"x\": must be an absolute path");
  auto out = Oci({"run", "-b", "/no/bundle", "x"});
  EXPECT_NE(out.err.find("--bundle: /no/bundle"), std::string::npos) << out.err;
  EXPECT_NE(Oci({"run", "--speed", "x"}).err.find("unknown option --speed"), std::string::npos);
  EXPECT_NE(Oci({"fly"}).err.find("unknown command \"fly\""), std::string::npos);
  EXPECT_NE(Oci({"state", "../x"}).err.find("container id"), std::string::npos);
}

class Life : public Cli {
 protected:
  // create inherits standard streams, so they must not be pipes that we read to their end.
  int Detached(std::vector<std::string> args, int extra_fd = -1) {
    std::vector<std::string> argv = {Program(), "--root", bundle->state()};
    argv.insert(argv.end(), args.begin(), args.end());
    if (v2_view)
      argv.insert(argv.begin(), {"/usr/bin/unshare", "-m", "/bin/sh", "-c",
                                 "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh"});
    std::vector<char*> raw;
    for (std::string& a : argv) raw.push_back(a.data());
    raw.push_back(nullptr);
    std::string log = bundle->dir() + "/log";
    pid_t pid = fork();
    if (pid == 0) {
      int in = open("/dev/null", O_RDONLY), out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      dup2(in, 0);
      dup2(out, 1);
      dup2(out, 2);
      if (extra_fd >= 0) dup2(extra_fd, 3);
      execv(raw[0], raw.data());
      _exit(99);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
  }
  std::string Log() { return ReadFile(bundle->dir() + "/log").value_or(""); }
  std::string StatusOf(const std::string& id) {
    auto out = Oci({"state", id});
    auto doc = json::Parse<StateDocument>(out.out, "state");
    return doc ? doc->status : out.err;
  }
};

TEST_F(Life, CreateStartExecKillDelete) {
  bundle->Sh("echo started; exec sleep 1000");
  bundle->spec.annotations = {{"who", "me"}};
  bundle->Write();
  std::string id = bundle->Id("a"), pidfile = bundle->dir() + "/pid";
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), "--pid-file", pidfile, id}), 0) << Log();
  EXPECT_EQ(Log(), "");
  auto state = json::Parse<StateDocument>(Oci({"state", id}).out, "state");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->status, "created");
  EXPECT_EQ(state->bundle, bundle->dir());
  EXPECT_EQ(state->annotations["who"], "me");
  EXPECT_EQ(ReadFile(pidfile).value_or(""), fmt::format("{}", state->pid));
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("container with id exists: " + id), std::string::npos) << Log();

  ASSERT_EQ(Detached({"start", id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "running");
  auto twice = Oci({"start", id});
  EXPECT_EQ(twice.exit_code, 1);
  EXPECT_EQ(twice.err, "berth-oci: cannot start an already running container\n");

  auto exec = Oci({"exec", "-e", "A=b", "--cwd", "/tmp", "-u", "12:34", id, "sh", "-c", "echo $A; pwd; id -u; id -g; ps | grep -c '[s]leep 1000'; exit 9"});
  EXPECT_EQ(exec.out, "b\n/tmp\n12\n34\n1\n") << exec.err;
  EXPECT_EQ(exec.exit_code, 9);
  exec = Oci({"exec", id, "sh", "-c", "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; cat /proc/self/cgroup; grep -E 'CapPrm|CapBnd' /proc/self/status; ls /proc/self/fd"});
  EXPECT_EQ(exec.exit_code, 0) << exec.err;
  std::vector<std::string> lines;
  for (size_t at = 0; at < exec.out.size();) {
    size_t end = exec.out.find('\n', at);
    lines.push_back(exec.out.substr(at, end - at));
    at = end + 1;
  }
  ASSERT_GT(lines.size(), 12U);
  for (size_t i = 0; i < 12; i += 2) EXPECT_EQ(lines[i], lines[i + 1]);
  for (size_t i = 12; i < lines.size() && lines[i].find(':') != std::string::npos && !lines[i].starts_with("Cap"); ++i)
    EXPECT_TRUE(lines[i].ends_with(":/")) << lines[i];
  EXPECT_NE(exec.out.find("CapPrm:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n0\n1\n2\n3\n"), std::string::npos) << exec.out;
  exec = Oci({"exec", id, "nosuch"});
  EXPECT_EQ(exec.exit_code, 127);
  EXPECT_EQ(exec.err, "berth-oci: exec: \"nosuch\": executable file not found in $PATH\n");
  bundle->Put("/process.json", R"({"args":["sh","-c","echo $X; id -u"],"env":["X=y","PATH=/bin"],"cwd":"/","user":{"uid":5}})");
  exec = Oci({"exec", "--process", bundle->dir() + "/process.json", id});
  EXPECT_EQ(exec.out, "y\n5\n") << exec.err;
  EXPECT_EQ(Detached({"exec", "-d", "--pid-file", pidfile, id, "sleep", "900"}), 0) << Log();
  auto pids = Oci({"ps", "--format", "json", id});
  auto list = json::Parse<std::vector<int64_t>>(pids.out, "ps");
  ASSERT_TRUE(list) << pids.out;
  EXPECT_EQ(list->size(), 2U);
  EXPECT_NE(pids.out.find(ReadFile(pidfile).value_or("-")), std::string::npos);

  EXPECT_EQ(Oci({"pause", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "paused");
  EXPECT_NE(Oci({"exec", id, "true"}).err.find("paused"), std::string::npos);
  EXPECT_EQ(Oci({"resume", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "running");

  EXPECT_NE(Oci({"list"}).out.find(id), std::string::npos);
  EXPECT_EQ(Oci({"list", "-q"}).out, id + "\n");
  EXPECT_EQ(Oci({"delete", id}).err, "berth-oci: cannot delete container " + id + " that is not stopped: running\n");
  EXPECT_EQ(Oci({"kill", id, "NOSIG"}).exit_code, 1);
  EXPECT_EQ(Oci({"kill", id, "KILL"}).exit_code, 0);
  unique_fd pidfd(static_cast<int>(syscall(434, state->pid, 0)));
  EXPECT_TRUE(!pidfd || Deadline::After(std::chrono::seconds(10)).WaitFor(pidfd.get(), 1, "end"));
  EXPECT_EQ(StatusOf(id), "stopped");
  EXPECT_EQ(Oci({"kill", id}).err, "berth-oci: container not running\n");
  EXPECT_NE(Oci({"exec", id, "true"}).err.find("container not running"), std::string::npos);
  EXPECT_EQ(Oci({"start", id}).err, "berth-oci: cannot start a container that has stopped\n");
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
  auto gone = Oci({"delete", id});
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_EQ(gone.err, "berth-oci: container \"" + id + "\" does not exist\n");
  EXPECT_EQ(Oci({"delete", "--force", id}).exit_code, 0);
  EXPECT_NE(Log().find("started\n"), std::string::npos);
}

TEST_F(Life, DeleteOfACreatedOneAndForceOnARunningOne) {
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("b");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
  ASSERT_EQ(Detached({"run", "-d", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "running");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, MissingExecutableIsCreatesError) {
  bundle->spec.process->args = {"nosuch"};
  bundle->Write();
  std::string log = bundle->dir() + "/oci.log";
  std::vector<std::string> args = {"--log", log, "--log-format=json", "--systemd-cgroup=false", "create", "--bundle", bundle->dir(), bundle->Id("c")};
  EXPECT_EQ(Detached(args), 1);
  auto text = ReadFile(log).value_or("");
  EXPECT_NE(text.find(R"({"level":"error","msg":"exec: \"nosuch\": executable file not found in $PATH","time":")"), std::string::npos) << text;
}

TEST_F(Life, SharedPidNamespaceIsKilledWhole) {
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "pid"; });
  bundle->Sh("sleep 1000 & sleep 1001 & exec sleep 1002");
  bundle->Write();
  std::string id = bundle->Id("d");
  ASSERT_EQ(Detached({"run", "-d", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);  // TearDown sees that the cgroups are gone: nobody is left
}

TEST_F(Life, PreservedDescriptors) {
  bundle->Put("/data", "through three");
  int fd = open((bundle->dir() + "/data").c_str(), O_RDONLY);
  bundle->Sh("cat <&3");
  bundle->Write();
  EXPECT_EQ(Detached({"run", "--preserve-fds", "1", "--bundle", bundle->dir(), bundle->Id("e")}, fd), 0);
  EXPECT_EQ(Log(), "through three");
  close(fd);
  EXPECT_EQ(Detached({"run", "--preserve-fds", "5", "--bundle", bundle->dir(), bundle->Id("e")}), 1);
}

TEST_F(Life, ConsoleSocket) {
  bundle->spec.process->terminal = true;
  bundle->spec.process->consoleSize = Box{33, 77};
  bundle->spec.process->user.uid = 1000;
  bundle->Sh("tty; stat -c %u /dev/pts/0; test -c /dev/console && echo console; sleep 1000");
  bundle->Write();
  std::string id = bundle->Id("f"), path = bundle->dir() + "/console";
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("--console-socket"), std::string::npos) << Log();
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path.c_str());
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(Detached({"create", "--console-socket", path, "--bundle", bundle->dir(), id}), 0) << Log();
  unique_fd connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  close(listener);
  char byte[64];
  iovec part{byte, sizeof byte};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_GT(recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC), 0);
  ASSERT_NE(CMSG_FIRSTHDR(&message), nullptr);
  int master;
  memcpy(&master, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof master);
  unique_fd owned(master);
  ASSERT_EQ(Oci({"start", id}).exit_code, 0);
  std::string text;
  while (text.find("console\r\n") == std::string::npos) {
    ASSERT_TRUE(Deadline::After(std::chrono::seconds(20)).WaitFor(master, 1, "output")) << text;
    char buffer[256];
    ssize_t n = read(master, buffer, sizeof buffer);
    ASSERT_GT(n, 0) << text;
    text.append(buffer, static_cast<size_t>(n));
  }
  EXPECT_EQ(text, "/dev/pts/0\r\n1000\r\nconsole\r\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, CgroupLimitsV1) {
  const cgroup::Layout* layout = *cgroup::Host();
  if (!layout->V1("memory") || !layout->V1("pids") || !layout->V1("cpu")) GTEST_SKIP() << "needs memory, pids and cpu as cgroup version 1";
  Resources r;
  r.memory = Memory{64 << 20, 32 << 20, {}, {}};
  r.cpu = Cpu{512, 50000, 25000, "0", ""};
  r.pids = Pids{33};
  r.devices = {{false, "a", "rwm", {}, {}}, {true, "c", "r", 10, 229}};
  bundle->spec.linux->resources = r;
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("g");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  auto value = [&](const char* controller, const char* file) {
    return ReadFile(layout->V1(controller)->mount + "/berth-oci-" + id + "/" + file).value_or("missing");
  };
  EXPECT_EQ(value("memory", "memory.limit_in_bytes"), "67108864\n");
  EXPECT_EQ(value("memory", "memory.soft_limit_in_bytes"), "33554432\n");
  EXPECT_EQ(value("cpu", "cpu.shares"), "512\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_quota_us"), "25000\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_period_us"), "50000\n");
  EXPECT_EQ(value("cpuset", "cpuset.cpus"), "0\n");
  EXPECT_EQ(value("pids", "pids.max"), "33\n");
  EXPECT_NE(value("devices", "devices.list").find("c 10:229 r\n"), std::string::npos);
  EXPECT_EQ(value("devices", "devices.list").find("a *:*"), std::string::npos);
  for (const cgroup::Hierarchy& h : layout->v1)
    EXPECT_NE(ReadFile(h.mount + "/berth-oci-" + id + "/tasks").value_or(""), "") << h.mount;
  bundle->Put("/update.json", R"({"memory":{"limit":100663296},"pids":{"limit":-1}})");
  EXPECT_EQ(Oci({"update", "--resources", bundle->dir() + "/update.json", id}).exit_code, 0);
  EXPECT_EQ(value("memory", "memory.limit_in_bytes"), "100663296\n");
  EXPECT_EQ(value("pids", "pids.max"), "max\n");
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, DeviceRulesHold) {
  auto out = RunSh("mknod /dev/disk b 1 0; head -c 1 /dev/disk; head -c 1 /dev/zero | wc -c");
  EXPECT_NE(out.err.find("Operation not permitted"), std::string::npos) << out.err;
  EXPECT_EQ(out.out, "1\n");
}

TEST_F(Life, CgroupV2View) {
  v2_view = true;
  auto out = RunSh("cat /proc/self/mountinfo | grep cgroup2; mknod /dev/disk b 1 0; head -c 1 /dev/disk; head -c 1 /dev/zero | wc -c");
  EXPECT_NE(out.out.find(" / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2"), std::string::npos) << out.out << out.err;
  EXPECT_NE(out.err.find("/dev/disk: Operation not permitted"), std::string::npos) << out.err;
  EXPECT_TRUE(out.out.ends_with("1\n"));
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("h");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  auto exec = Oci({"exec", id, "sh", "-c", "ps | grep -c '[s]leep 1000'; head -c 1 /dev/disk"});
  EXPECT_EQ(exec.out, "1\n");
  EXPECT_EQ(Oci({"pause", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "paused");
  EXPECT_EQ(Oci({"resume", id}).exit_code, 0);
  EXPECT_EQ(Oci({"kill", "--all", id, "KILL"}).exit_code, 0);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, InterruptedCreationCanBeDeleted) {
  bundle->spec.process->args = {"true"};
  bundle->Write();
  std::string id = bundle->Id("i");
  ASSERT_EQ(mkdir((bundle->state() + "/" + id).c_str(), 0700), 0);
  bundle->Put("/state/" + id + "/config.json", json::ToText(bundle->spec, json::Omit::kEmpty));
  ASSERT_TRUE(cgroup::Create(**cgroup::Host(), "/berth-oci-" + id));
  EXPECT_EQ(Oci({"delete", id}).exit_code, 1);
  EXPECT_NE(Oci({"state", id}).err.find("is still being created"), std::string::npos);
  EXPECT_EQ(Oci({"delete", "--force", id}).exit_code, 0);
}

TEST_F(Cli, VersionHelpSpecFeatures) {
  auto out = Oci({"--version"});
  EXPECT_TRUE(out.out.starts_with("berth-oci version ")) << out.out;
  EXPECT_NE(out.out.find("\nspec: 1."), std::string::npos);
  EXPECT_EQ(Oci({"--help"}).exit_code, 0);
  EXPECT_NE(Oci({"create", "--help"}).out.find("--console-socket"), std::string::npos);
  EXPECT_EQ(Oci({"spec", "--bundle", bundle->dir()}).exit_code, 0);
  EXPECT_TRUE(Exists(bundle->dir() + "/config.json"));
  auto tree = json::ParseTree(Oci({"features"}).out, "features");
  ASSERT_TRUE(tree);
  EXPECT_EQ(tree->at("ociVersionMax").as_string(), "1.3.0");
}

}  // namespace
}  // namespace berth::runtime::oci
