// User and time namespaces, and life without root, with berth-oci as a program; what the kernel says is what counts.
#include <sched.h>

#include "runtime/linux/namespaces.h"
#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

class UserNs : public Life {
 protected:
  void SetUp() override {
    Life::SetUp();
    if (!bundle) return;
    ASSERT_EQ(chmod(bundle->dir().c_str(), 0755), 0);
    std::string own = "chown -R 200000:300000 " + bundle->rootfs();
    ASSERT_EQ(system(own.c_str()), 0);
    Linux& l = *bundle->spec.linux;
    l.namespaces.push_back({"user", ""});
    l.uidMappings = {{0, 200000, 1000}};
    l.gidMappings = {{0, 300000, 1000}};
  }
};

TEST_F(UserNs, MapsIdsAndOwnsTheOtherNamespaces) {
  std::string out = Lines(
      "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; grep -E 'Groups|CapEff|CapBnd' /proc/self/status; "
      "touch /tmp/x; "
      "stat -c %u:%g /tmp/x; mount -t tmpfs x /tmp 2>&1 || true");
  EXPECT_NE(out.find("         0     200000       1000\n         0     300000       1000\n0\n0\n"), std::string::npos)
      << out;
  EXPECT_NE(out.find("Groups:\t \n"), std::string::npos) << out;
  EXPECT_NE(out.find("CapEff:\t00000000a80425fb"), std::string::npos) << out;
  EXPECT_NE(out.find("0:0\n"), std::string::npos) << out;
  struct stat st;
  ASSERT_EQ(stat((bundle->rootfs() + "/tmp/x").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 200000U);
  EXPECT_EQ(st.st_gid, 300000U);
  // With the right to administer, everything is the container's own: mounts, network, host name.
  auto& caps = *bundle->spec.process->capabilities;
  for (auto* set : {&caps.bounding, &caps.effective, &caps.permitted})
    for (const char* name : {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}) set->push_back(name);
  auto admin = RunSh("mount -t tmpfs x /tmp && hostname elsewhere && hostname; grep -c . /proc/net/dev");
  EXPECT_EQ(admin.out, "elsewhere\n3\n") << admin.err;
}

TEST_F(UserNs, StandardMountsAndDevices) {
  bundle->spec.linux->maskedPaths = {"/proc/kcore", "/proc/timer_list", "/sys/firmware"};
  bundle->spec.linux->readonlyPaths = {"/proc/sys"};
  auto out = RunSh(
      "cat /proc/self/mountinfo; stat -c '%n %t:%T' /dev/null /dev/zero /dev/tty; echo x > /dev/null; head -c 2 "
      "/dev/zero | wc "
      "-c; stat -c 'mq %u:%g' /dev/mqueue; cat /proc/kcore; ls /sys/firmware; echo 1 > /proc/sys/net/ipv4/ip_forward; readlink /dev/ptmx");
  for (const char* want :
       {" /proc rw,nosuid,nodev,noexec,relatime - proc proc", " /dev rw,nosuid - tmpfs", " /dev/pts rw,nosuid,noexec",
        " /dev/shm rw,nosuid,nodev,noexec", " /dev/mqueue rw,", " /sys ro,nosuid,nodev,noexec", "/dev/null 1:3",
        "/dev/zero 1:5", "/dev/tty 5:0", "\n2\n", "mq 0:0\n", "pts/ptmx\n"})
    EXPECT_NE(out.out.find(want), std::string::npos) << want << "\n" << out.out << out.err;
  EXPECT_NE(out.err.find("Read-only file system"), std::string::npos) << out.err;
}

TEST_F(UserNs, NamespacesOfTheHostAreShownByItsOwnMounts) {
  std::erase_if(bundle->spec.linux->namespaces,
                [](const Namespace& n) { return n.type == "network" || n.type == "ipc" || n.type == "pid"; });
  auto out = RunSh("grep -E ' /(sys|proc|dev/mqueue) ' /proc/self/mountinfo; readlink /proc/self/ns/net; touch /sys/x");
  EXPECT_NE(out.out.find(" /sys ro,nosuid,nodev,noexec"), std::string::npos) << out.out << out.err;
  EXPECT_NE(out.out.find(" /proc "), std::string::npos) << out.out;
  char net[64] = {};
  ASSERT_GT(readlink("/proc/self/ns/net", net, sizeof net - 1), 0);
  EXPECT_NE(out.out.find(net), std::string::npos) << out.out;
  EXPECT_NE(out.err.find("Read-only file system"), std::string::npos) << out.err;
}

TEST_F(UserNs, UsersInside) {
  Process& p = *bundle->spec.process;
  p.user = {33, 34, {}, {35}};
  p.rlimits = {{"RLIMIT_NOFILE", 64, 32}};
  p.oomScoreAdj = 300;
  p.noNewPrivileges = true;
  EXPECT_EQ(Lines("id -u; id -g; id -G; ulimit -n; cat /proc/self/oom_score_adj; grep CapEff /proc/self/status"),
            "33\n34\n34 35\n32\n300\nCapEff:\t0000000000000000\n");
}

TEST_F(UserNs, WithoutARootInside) {
  bundle->spec.linux->uidMappings = {{50, 200050, 1}};
  bundle->spec.linux->gidMappings = {{60, 300060, 1}};
  bundle->spec.process->user = {50, 60, {}, {}};
  ASSERT_EQ(system(("chown -R 200050:300060 " + bundle->rootfs()).c_str()), 0);
  EXPECT_EQ(Lines("id -u; id -g; touch /tmp/mine; stat -c %u /tmp/mine; cat /proc/self/uid_map | wc -l"),
            "50\n60\n50\n1\n");
}

TEST_F(UserNs, ExecAndLife) {
  bundle->Sh("exec sleep 1000");
  bundle->Write();
  std::string id = bundle->Id("a");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "created");
  ASSERT_EQ(Oci({"start", id}).exit_code, 0);
  auto out =
      Oci({"exec", id, "sh", "-c",
           "cat /proc/self/uid_map; id -u; ps | grep -c '[s]leep 1000'; hostname; grep CapEff /proc/self/status"});
  EXPECT_EQ(out.out, "         0     200000       1000\n0\n1\ninside\nCapEff:\t00000000a80425fb\n") << out.err;
  out = Oci({"exec", "--user", "7:8", id, "sh", "-c", "id -u; id -g; exit 5"});
  EXPECT_EQ(out.out, "7\n8\n") << out.err;
  EXPECT_EQ(out.exit_code, 5);
  EXPECT_EQ(Oci({"exec", id, "nosuch"}).exit_code, 127);
  EXPECT_EQ(Oci({"kill", id, "KILL"}).exit_code, 0);
  EXPECT_EQ(Oci({"delete", "--force", id}).exit_code, 0);
}

TEST_F(UserNs, ByPath) {
  auto ns = namespaces::MakeUser({{0, 200000, 500}}, {{0, 300000, 500}});
  ASSERT_TRUE(ns) << ns.error().what;
  for (Namespace& n : bundle->spec.linux->namespaces)
    if (n.type == "user") n.path = fmt::format("/proc/{}/fd/{}", getpid(), ns->get());
  bundle->spec.linux->uidMappings.clear();
  bundle->spec.linux->gidMappings.clear();
  EXPECT_EQ(Lines("cat /proc/self/uid_map; id -u"), "         0     200000        500\n0\n");
  for (Namespace& n : bundle->spec.linux->namespaces)
    if (n.type == "user") n.path = "/proc/self/ns/net";
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("linux.namespaces[6].path: /proc/self/ns/net is not a user namespace"), std::string::npos)
      << out.err;
}

// A network namespace of the host can only be joined before the user namespace is.
TEST_F(UserNs, WithANetworkNamespaceOfTheHost) {
  unique_fd own = *Open("/proc/self/ns/net", O_RDONLY);
  ASSERT_EQ(unshare(CLONE_NEWNET), 0);
  unique_fd other = *Open("/proc/self/ns/net", O_RDONLY);
  ASSERT_EQ(setns(own.get(), CLONE_NEWNET), 0);
  for (Namespace& n : bundle->spec.linux->namespaces)
    if (n.type == "network") n.path = fmt::format("/proc/{}/fd/{}", getpid(), other.get());
  struct stat st;
  ASSERT_EQ(fstat(other.get(), &st), 0);
  bundle->spec.mounts.erase(bundle->spec.mounts.begin() + 5, bundle->spec.mounts.end());
  EXPECT_EQ(Lines("readlink /proc/self/ns/net"), fmt::format("net:[{}]\n", st.st_ino));
}

TEST_F(UserNs, Terminal) {
  bundle->spec.process->terminal = true;
  bundle->Sh("tty; stat -c '%u %t' $(tty)");
  bundle->Write();
  Command c;
  c.argv = {"/usr/bin/script", "-qec",
            Program() + " --root " + bundle->state() + " run -b " + bundle->dir() + " " + bundle->Id("t"), "/dev/null"};
  c.env = {"PATH=/usr/bin:/bin"};
  auto out = berth::Run(c, Deadline::After(std::chrono::seconds(60)));
  ASSERT_TRUE(out);
  for (const char* want : {"/dev/pts/0", "0 88"}) EXPECT_NE(out->out.find(want), std::string::npos) << out->out << out->err;
}

TEST_F(Life, TimeNamespace) {
  bundle->spec.linux->namespaces.push_back({"time", ""});
  bundle->spec.linux->timeOffsets = {{"monotonic", {86400, 5}}, {"boottime", {1000000, 0}}};
  auto out = RunSh("readlink /proc/self/ns/time; cat /proc/self/timens_offsets; cat /proc/uptime");
  EXPECT_EQ(out.exit_code, 0) << out.err;
  char own[64] = {};
  ASSERT_GT(readlink("/proc/self/ns/time", own, sizeof own - 1), 0);
  EXPECT_EQ(out.out.find(own), std::string::npos);
  EXPECT_NE(out.out.find("monotonic       86400         5\nboottime      1000000         0\n"), std::string::npos)
      << out.out;
  double inside = strtod(out.out.substr(out.out.rfind("0\n", out.out.size() - 3) + 2).c_str(), nullptr);
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  EXPECT_NEAR(inside, static_cast<double>(now.tv_sec) + 1000000, 60) << out.out;
  // A process that is added lives in it too.
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("t");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  ASSERT_EQ(Oci({"start", id}).exit_code, 0);
  auto exec = Oci({"exec", id, "cat", "/proc/self/timens_offsets"});
  EXPECT_EQ(exec.out, "monotonic       86400         5\nboottime      1000000         0\n") << exec.err;
  Oci({"delete", "-f", id});
  bundle->spec.linux->timeOffsets = {{"boottime", {-100000000000, 0}}};
  auto bad = RunSh("true");
  EXPECT_NE(bad.err.find("linux.timeOffsets: write time offsets: "), std::string::npos) << bad.err;
}

TEST_F(UserNs, TimeNamespaceIsOwnedByIt) {
  bundle->spec.linux->namespaces.push_back({"time", ""});
  bundle->spec.linux->timeOffsets = {{"monotonic", {7, 0}}};
  EXPECT_EQ(Lines("head -n 1 /proc/self/timens_offsets; cat /proc/self/uid_map | wc -l"),
            "monotonic           7         0\n1\n");
}

// ---- Without root

class Rootless : public UserNs {
 protected:
  static constexpr uid_t kUser = 65534;  // nobody: newuidmap wants a name
  void SetUp() override {
    UserNs::SetUp();
    if (!bundle) return;
    std::string dir = bundle->dir();
    std::string prepare =
        fmt::format("cp {} {}/berth-oci && mkdir {}/run && chown -R 65534:65534 {}", Program(), dir, dir, dir);
    ASSERT_EQ(system(prepare.c_str()), 0);
    bundle->Put("/sub", "65534:400000:65536\n");
    bundle->spec.linux->uidMappings = {{0, kUser, 1}};
    bundle->spec.linux->gidMappings = {{0, kUser, 1}};
  }
  void TearDown() override {
    if (bundle) {
      EXPECT_EQ(Left(), "");
    }
    UserNs::TearDown();
  }
  std::string Left() {
    auto out = Sh("ls " + bundle->dir() + "/run/berth-oci 2>/dev/null");
    return out.out;
  }
  // As that user, in a mount namespace whose subordinate ids are ours. $OCI is the runtime.
  CommandOutput Sh(const std::string& script) {
    bundle->Write();
    Command c;
    std::string dir = bundle->dir();
    c.argv = {"/usr/bin/unshare",
              "-m",
              "/bin/sh",
              "-c",
              "touch /etc/subuid /etc/subgid; mount --bind " + dir + "/sub /etc/subuid && mount --bind " + dir +
                  "/sub /etc/subgid && cd " + dir +
                  " && exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \"$1\"",
              "sh",
              script};
    c.env = {"PATH=/usr/bin:/bin:/usr/sbin", "XDG_RUNTIME_DIR=" + dir + "/run", "OCI=" + dir + "/berth-oci",
             "ID=" + bundle->Id("r")};
    auto out = berth::Run(c, Deadline::After(std::chrono::seconds(60)));
    EXPECT_TRUE(out) << out.error().what;
    return out ? *out : CommandOutput{};
  }
  CommandOutput RunInside(const std::string& script) {
    bundle->Sh(script);
    return Sh("exec $OCI run $ID");
  }
};

TEST_F(Rootless, RunsWithItsOwnId) {
  auto out = RunInside(
      "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; echo $$; stat -c %t:%T /dev/null; touch /x && stat -c "
      "%u /x; grep -c . /proc/net/dev; exit 9");
  EXPECT_EQ(out.out, "0\n         0      65534          1\ndeny\n1\n1:3\n0\n3\n") << out.err;
  EXPECT_EQ(out.exit_code, 9);
  EXPECT_EQ(out.err, "");
}

TEST_F(Rootless, RunsWithSubordinateIds) {
  if (access("/usr/bin/newuidmap", X_OK) < 0) GTEST_SKIP() << "needs newuidmap (package uidmap)";
  bundle->spec.linux->uidMappings = {{0, kUser, 1}, {1, 400000, 1000}};
  bundle->spec.linux->gidMappings = {{0, kUser, 1}, {1, 400000, 1000}};
  bundle->spec.process->user = {5, 6, {}, {7}};
  auto out = RunInside("id -u; id -G; cat /proc/self/uid_map; grep ' /dev/pts ' /proc/self/mountinfo");
  EXPECT_TRUE(out.out.starts_with("5\n6 7\n         0      65534          1\n         1     400000       1000\n"))
      << out.out << out.err;
  EXPECT_NE(out.out.find("gid=400004"), std::string::npos) << out.out;
  bundle->spec.linux->uidMappings = {{0, kUser, 1}, {1, 700000, 1000}};
  out = RunInside("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("linux.uidMappings: newuidmap: "), std::string::npos) << out.err;
}

TEST_F(Rootless, WholeLife) {
  bundle->Sh("echo started > /log; exec sleep 1000");
  auto out =
      Sh("$OCI create $ID >/dev/null 2>err </dev/null || { cat err; exit 1; }; $OCI state $ID | grep -o '\"status\": "
         "*\"[a-z]*\"'; $OCI start $ID; "
         "$OCI exec $ID sh -c 'id -u; ps | grep -c \"[s]leep 1000\"; hostname'; $OCI ps --format json $ID | grep -c ,; "
         "$OCI list -q | wc -l; "
         "$OCI pause $ID; $OCI kill $ID KILL; $OCI delete --force $ID; $OCI list -q | wc -l");
  EXPECT_EQ(out.out, "\"status\": \"created\"\n0\n1\ninside\n0\n1\n0\n") << out.out << out.err;
  EXPECT_NE(out.err.find("has no cgroup"), std::string::npos) << out.err;
}

TEST_F(Rootless, BindsKeepLockedFlags) {
  // What the host has mounted nosuid,nodev stays so, and a remount inside cannot open it.
  bundle->spec.mounts.push_back({"/mnt", "bind", bundle->dir() + "/src", {"rbind", "rw"}, {}, {}});
  bundle->spec.mounts.push_back({"/mnt", "", "", {"remount", "bind", "ro"}, {}, {}});
  bundle->Sh("grep ' /mnt ' /proc/self/mountinfo; touch /mnt/x");
  ASSERT_EQ(mkdir((bundle->dir() + "/src").c_str(), 0777), 0);
  ASSERT_EQ(system(("mount -t tmpfs -o nosuid,nodev,noexec,mode=777 x " + bundle->dir() + "/src").c_str()), 0);
  auto out = Sh("exec $OCI run $ID");
  bundle->spec.mounts[bundle->spec.mounts.size() - 2].options = {"rbind", "exec"};
  auto refused = Sh("exec $OCI run $ID");
  EXPECT_EQ(system(("umount " + bundle->dir() + "/src").c_str()), 0);
  EXPECT_NE(out.out.find(" /mnt ro,nosuid,nodev,noexec"), std::string::npos) << out.out << out.err;
  EXPECT_NE(out.err.find("Read-only file system"), std::string::npos) << out.err;
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("mounts[7].options: flags of the mount at"), std::string::npos) << refused.err;
}

TEST_F(Rootless, AsksForWhatItNeeds) {
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "user"; });
  bundle->spec.linux->uidMappings.clear();
  bundle->spec.linux->gidMappings.clear();
  auto out = RunInside("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("linux.namespaces: without root a container needs a user namespace"), std::string::npos)
      << out.err;
}

TEST_F(Rootless, LimitsAreWarnedOfOrRefused) {
  bundle->spec.linux->resources = Resources{.pids = Pids{50}};
  auto out = RunInside("echo fine");
  EXPECT_EQ(out.out, "fine\n");
  EXPECT_NE(out.err.find("warning: linux.resources: ignored, no cgroup can be made"), std::string::npos) << out.err;
  out = Sh("exec $OCI --rootless false run $ID");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("Permission denied"), std::string::npos) << out.err;
}

}  // namespace
}  // namespace berth::runtime::oci
