// berth-oci as a program, on real containers of busybox. Asks the kernel from inside and outside what happened, and
// after each test that nothing is left.
#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

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
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) {
    return n.type == "network" || n.type == "ipc" || n.type == "uts" || n.type == "pid";
  });
  bundle->spec.hostname.clear();
  std::erase_if(bundle->spec.mounts, [](const Mount& m) { return m.type == "sysfs" || m.type == "cgroup"; });
  std::string out = Lines("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
  EXPECT_EQ(out, OwnNamespace("net") + "\n" + OwnNamespace("ipc") + "\n" + OwnNamespace("uts") + "\n" +
                     OwnNamespace("pid") + "\n");
}

TEST_F(Cli, StandardMountsAndDevices) {
  std::string out = Lines(
      "cat /proc/self/mountinfo; ls -l /dev /dev/pts; readlink /dev/ptmx; readlink /dev/fd; cat /dev/null; head -c 3 "
      "/dev/zero | wc -c");
  for (const char* want : {" / /proc rw,nosuid,nodev,noexec,relatime - proc proc", " /dev rw,nosuid - tmpfs",
                           " /dev/pts rw,nosuid,noexec", " /dev/shm rw,nosuid,nodev,noexec", " /dev/mqueue rw,",
                           " /sys ro,nosuid,nodev,noexec", "ptmxmode=666", "pts/ptmx\n/proc/self/fd\n", "3\n"})
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
  auto out = RunSh(
      "cat /etc/secret /proc/timer_list; ls /private /private2; stat -c %t:%T /etc/secret; echo x > /etc/secret; touch "
      "/private/y");
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
  EXPECT_EQ(out,
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:"
            "\t00000000a80425fb\nCapAmb:\t0000000000000000\n");
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
  for (const char* want :
       {"Umask:\t0027", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001", "Groups:\t5 7",
        "CapEff:\t0000000000000400", "CapAmb:\t0000000000000400", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1"})
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
      EXPECT_NE(out.out.find(uid ? "CapPrm:\t0000000000000000" : "CapPrm:\t00000000a80425fb"), std::string::npos)
          << out.out;
    }
  }
  bundle->spec.process->capabilities.reset();
  bundle->spec.process->noNewPrivileges = false;
  auto out = RunSh("grep -E 'Seccomp:|CapBnd' /proc/self/status");
  EXPECT_EQ(out.out, "CapBnd:\t0000000000000000\nSeccomp:\t2\n") << out.err;
}

TEST_F(Cli, SeccompThatForbidsAlmostEverything) {
  // getcwd, read, socket calls denied: every check of ours is done before the filter.
  Seccomp filter{"SCMP_ACT_ERRNO",
                 1,
                 {},
                 {},
                 {{{"execve", "capset", "exit_group", "brk", "arch_prctl", "mmap", "write", "prctl", "set_tid_address",
                    "set_robust_list", "rseq", "prlimit64", "readlink", "getrandom", "mprotect", "getuid"},
                   "SCMP_ACT_ALLOW",
                   {},
                   {}}}};
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
  EXPECT_EQ(Lines("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; pwd; echo $GREETING"),
            "16\n64\n0\n321\n/made/for/me\nhello world\n");
}

TEST_F(Cli, HomeComesFromPasswdWhenTheEnvironmentHasNone) {
  bundle->spec.process->env = {"PATH=/bin"};
  EXPECT_EQ(Lines("echo $HOME; umask"), "/\n0022\n");
  bundle->Put("/rootfs/etc/passwd",
              "root:x:0:0:root:/root:/bin/sh\nodd:x:10:1::/wrong:\nme:x:1000:1000:Me, Myself:/home/me:/bin/sh\n");
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
  auto out = RunSh(
      "cat /new/dir/file; echo; cat /run/secrets/inner; echo; cat /gone/deep/x/inner; echo; echo x > /new/dir/file; "
      "touch /run/secrets/y; touch /gone/deep/x/y");
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
    EXPECT_NE(out.err.find(std::string(" on ") + name + ": a symbolic link stands in the way"), std::string::npos)
        << out.err;
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
  bundle->Put("/rootfs/bin/junk",
              "\x7f"
              "ELFjunk",
              0755);
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
  fails(R"({"ociVersion":"1.0.0"})", "linux: missing");
  fails(R"({"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"x"},"linux":{}})",
        "process.cwd: \"x\": must be an absolute path");
  auto out = Oci({"run", "-b", "/no/bundle", "x"});
  EXPECT_NE(out.err.find("--bundle: /no/bundle"), std::string::npos) << out.err;
  EXPECT_NE(Oci({"run", "--speed", "x"}).err.find("unknown option --speed"), std::string::npos);
  EXPECT_NE(Oci({"fly"}).err.find("unknown command \"fly\""), std::string::npos);
  EXPECT_NE(Oci({"state", "../x"}).err.find("container id"), std::string::npos);
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
