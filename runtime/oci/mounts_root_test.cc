// Mounts, devices, the root and network devices of containers, as mountinfo and friends tell it.
#include <sched.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

class Mounts : public Life {
 protected:
  std::string Src() {
    std::string dir = bundle->dir() + "/src";
    mkdir(dir.c_str(), 0755);
    return dir;
  }
  void Add(const std::string& destination, const std::string& type, const std::string& source,
           std::vector<std::string> options) {
    bundle->spec.mounts.push_back({destination, type, source, std::move(options), {}, {}});
  }
  std::string Info(const std::string& point) { return Lines("grep ' " + point + " ' /proc/self/mountinfo"); }
};

TEST_F(Mounts, OptionsReachTheKernel) {
  struct {
    std::vector<std::string> options;
    const char* want;
  } cases[] = {
      {{"ro", "nosuid", "nodev", "noexec"}, " ro,nosuid,nodev,noexec,"},
      {{"noatime"}, " rw,noatime "},
      {{"nodiratime", "strictatime"}, " rw,nodiratime "},
      {{"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "defaults", "async", "loud"}, " rw,relatime "},
      {{"nosymfollow"}, ",nosymfollow "},
      {{"sync", "dirsync"}, ",sync,dirsync"},
      {{"lazytime"}, ",lazytime"},
      {{"size=4k", "mode=700"}, "size=4k,mode=700"}};
  Add("/mnt", "tmpfs", "tmpfs", {});
  for (const auto& c : cases) {
    bundle->spec.mounts.back().options = c.options;
    std::string info = Info("/mnt");
    EXPECT_NE((info + " ").find(c.want), std::string::npos) << c.want << "\n" << info;
  }
  bundle->spec.mounts.back().options = {"iversion", "silent", "norelatime", "nolazytime", "noiversion"};
  EXPECT_NE(Info("/mnt").find("tmpfs"), std::string::npos);
  bundle->spec.mounts.back().options = {"nonsense"};
  auto out = RunSh("true");
  EXPECT_EQ(out.err, "berth-oci: mount tmpfs on /mnt: Invalid argument\n");
}

TEST_F(Mounts, BindOptionsAndRecursion) {
  std::string src = Src();
  ASSERT_EQ(mkdir((src + "/below").c_str(), 0755), 0);
  ASSERT_EQ(mount("x", (src + "/below").c_str(), "tmpfs", 0, ""), 0);
  Add("/mnt", "bind", src, {"rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"});
  EXPECT_NE(Info("/mnt").find(" ro,nosuid,nodev,noexec,noatime "), std::string::npos);
  EXPECT_NE(Info("/mnt/below").find(" ro,nosuid,nodev,noexec,noatime "), std::string::npos);
  bundle->spec.mounts.back().options = {"rbind", "ro", "nosymfollow"};
  EXPECT_NE(Info("/mnt").find(" ro,relatime,nosymfollow"), std::string::npos) << Info("/mnt");
  EXPECT_NE(Info("/mnt/below").find(" rw,"), std::string::npos);
  bundle->spec.mounts.back().options = {"bind"};
  EXPECT_EQ(RunSh("grep /mnt/below /proc/self/mountinfo").out, "");
  ASSERT_EQ(umount((src + "/below").c_str()), 0);
}

TEST_F(Mounts, Propagation) {
  std::string src = Src();
  ASSERT_EQ(mount("x", src.c_str(), "tmpfs", 0, ""), 0);
  ASSERT_EQ(mount(nullptr, src.c_str(), nullptr, MS_SHARED, nullptr), 0);
  Add("/mnt", "bind", src, {"rbind", "rshared"});
  EXPECT_NE(Info("/mnt").find("shared:"), std::string::npos);
  bundle->spec.mounts.back().options = {"bind", "slave"};
  EXPECT_NE(Info("/mnt").find("master:"), std::string::npos);
  bundle->spec.mounts.back().options = {"rbind", "runbindable"};
  EXPECT_NE(Info("/mnt").find("unbindable"), std::string::npos);
  bundle->spec.mounts.back().options = {"rbind", "private"};
  EXPECT_EQ(Info("/mnt").find("shared:"), std::string::npos);
  bundle->spec.mounts.back().options = {"rbind"};
  EXPECT_EQ(Info("/mnt").find("master:"), std::string::npos);
  ASSERT_EQ(umount(src.c_str()), 0);
}

TEST_F(Mounts, RemountKeepsWhatItDoesNotName) {
  std::string src = Src();
  Add("/mnt", "bind", src, {"bind", "nosuid", "nodev"});
  Add("/mnt", "", "", {"remount", "bind", "ro"});
  EXPECT_NE(Info("/mnt").find(" ro,nosuid,nodev"), std::string::npos) << Info("/mnt");
  bundle->spec.mounts.back().options = {"remount", "bind", "suid"};
  EXPECT_NE(Info("/mnt").find(" rw,nodev"), std::string::npos) << Info("/mnt");
  bundle->spec.mounts.resize(bundle->spec.mounts.size() - 2);
  Add("/tmp", "tmpfs", "tmpfs", {"nosuid", "noexec", "size=64k"});
  Add("/tmp", "", "", {"remount", "size=128k"});
  std::string info = Info("/tmp");
  EXPECT_NE(info.find(" rw,nosuid,noexec"), std::string::npos) << info;
  EXPECT_NE(info.find("size=128k"), std::string::npos) << info;
}

TEST_F(Mounts, TmpfsLooksLikeWhatItCovers) {
  ASSERT_EQ(mkdir((bundle->rootfs() + "/narrow").c_str(), 0710), 0);
  Add("/narrow", "tmpfs", "tmpfs", {});
  Add("/made", "tmpfs", "tmpfs", {});
  EXPECT_EQ(Lines("stat -c %a /narrow /made"), "710\n1777\n");
}

TEST_F(Mounts, TmpCopyUp) {
  std::string top = bundle->rootfs() + "/data";
  ASSERT_EQ(mkdir(top.c_str(), 0751), 0);
  ASSERT_EQ(mkdir((top + "/deep").c_str(), 0700), 0);
  bundle->Put("/rootfs/data/deep/file", std::string(3 << 20, 'x'), 0640);
  bundle->Put("/rootfs/data/set", "x", 0644);
  ASSERT_EQ(chown((top + "/set").c_str(), 7, 8), 0);
  ASSERT_EQ(chmod((top + "/set").c_str(), 06755), 0);
  ASSERT_EQ(symlink("/etc/shadow", (top + "/link").c_str()), 0);
  ASSERT_EQ(mkfifo((top + "/fifo").c_str(), 0600), 0);
  Add("/data", "tmpfs", "tmpfs", {"tmpcopyup", "size=16m"});
  EXPECT_EQ(Lines("cd /data; stat -c '%n %a %u:%g %s' . set deep deep/file | grep -v '^\\.'; stat -c %a .; readlink "
                  "link; test -p fifo && echo fifo; touch new; "
                  "grep -c ' /data .*tmpfs' /proc/self/mountinfo"),
            "set 6755 7:8 1\ndeep 700 0:0 60\ndeep/file 640 0:0 3145728\n751\n/etc/shadow\nfifo\n1\n");
  EXPECT_FALSE(Exists(top + "/new"));
  bundle->spec.mounts.back().options = {"tmpcopyup", "size=64k"};
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("copy file up into /data: No space left on device"), std::string::npos) << out.err;
}

TEST_F(Mounts, IdMapped) {
  std::string src = Src();
  // /tmp of this machine may be a filesystem that cannot do it: a tmpfs can since 6.3, ext4 since 5.12.
  bundle->Put("/src/file", "x");
  ASSERT_EQ(chown((src + "/file").c_str(), 5, 6), 0);
  Add("/mnt", "bind", src, {"bind", "idmap"});
  auto out = RunSh("true");
  EXPECT_NE(
      out.err.find("mounts[7].options: idmap needs uidMappings and gidMappings of the mount, or a user namespace"),
      std::string::npos)
      << out.err;
  bundle->spec.mounts.back().uidMappings = {{5, 1005, 10}};
  bundle->spec.mounts.back().gidMappings = {{6, 2006, 10}};
  out = RunSh("stat -c %u:%g /mnt/file");
  if (out.err.find("cannot be id-mapped on this kernel") != std::string::npos)
    GTEST_SKIP() << "the filesystem of /tmp cannot be id-mapped on this kernel";
  EXPECT_EQ(out.out, "1005:2006\n") << out.err;
  // The container's own user namespace by default: files of the host's root are those of its root.
  ASSERT_EQ(system(("chown -R 200000:200000 " + bundle->rootfs()).c_str()), 0);
  ASSERT_EQ(chmod(bundle->dir().c_str(), 0755), 0);
  Linux& l = *bundle->spec.linux;
  l.namespaces.push_back({"user", ""});
  l.uidMappings = l.gidMappings = {{0, 200000, 1000}};
  bundle->spec.mounts.back().uidMappings.clear();
  bundle->spec.mounts.back().gidMappings.clear();
  bundle->spec.mounts.back().options = {"rbind", "ridmap"};
  out = RunSh("stat -c %u:%g /mnt/file; touch /mnt/new");
  EXPECT_EQ(out.out, "5:6\n") << out.err;
  struct stat st;
  ASSERT_EQ(stat((src + "/new").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0U);
}

TEST_F(Mounts, OverProcAndSys) {
  bundle->Put("/uptime", "fake\n");
  Add("/proc/uptime", "bind", bundle->dir() + "/uptime", {"bind"});
  EXPECT_EQ(Lines("cat /proc/uptime"), "fake\n");
  for (const char* where : {"/proc/self/attr", "/proc/sys/net", "/proc/1", "/proc/../proc/self"}) {
    bundle->spec.mounts.back() = {where, "bind", bundle->dir(), {"rbind"}, {}, {}};
    auto out = RunSh("true");
    EXPECT_EQ(out.exit_code, 1) << where;
    EXPECT_NE(out.err.find("inside procfs nothing may be mounted"), std::string::npos) << where << out.err;
  }
  bundle->spec.mounts.back() = {"/proc/version", "bind", bundle->dir() + "/uptime", {"bind"}, {}, {}};
  EXPECT_NE(RunSh("true").err.find("inside procfs nothing may be mounted"), std::string::npos);
  bundle->spec.mounts.back() = {"/proc", "bind", bundle->dir(), {"rbind"}, {}, {}};
  EXPECT_NE(RunSh("true").err.find("mount " + bundle->dir() + " on /proc"), std::string::npos);
  bundle->spec.mounts.back() = {"/mnt", "proc", "proc", {}, {}, {}};
  EXPECT_NE(RunSh("true").err.find("mounts[7].destination: procfs belongs on /proc, not /mnt"), std::string::npos);
  // Through a link of the image too.
  ASSERT_EQ(symlink("/proc/sys", (bundle->rootfs() + "/detour").c_str()), 0);
  bundle->spec.mounts.back() = {"/detour/kernel", "bind", bundle->dir(), {"rbind"}, {}, {}};
  EXPECT_NE(RunSh("true").err.find("inside procfs nothing may be mounted"), std::string::npos);
}

TEST_F(Mounts, RootPropagation) {
  for (const char* p : {"shared", "rshared"}) {
    bundle->spec.linux->rootfsPropagation = p;
    EXPECT_NE(Info("/").find("shared:"), std::string::npos) << p;
  }
  bundle->spec.linux->rootfsPropagation = "unbindable";
  EXPECT_NE(Info("/").find("unbindable"), std::string::npos);
  bundle->spec.linux->rootfsPropagation = "private";
  EXPECT_EQ(Info("/").find("shared:"), std::string::npos);
  // A slave follows the mount it was cloned from; what is mounted for the container does not travel back.
  ASSERT_EQ(mount(bundle->rootfs().c_str(), bundle->rootfs().c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount(nullptr, bundle->rootfs().c_str(), nullptr, MS_SHARED, nullptr), 0);
  bundle->spec.linux->rootfsPropagation = "rslave";
  size_t before = HostMounts();
  EXPECT_NE(Info("/").find("master:"), std::string::npos);
  EXPECT_EQ(HostMounts(), before);
  bundle->spec.linux->rootfsPropagation = "shared";
  EXPECT_NE(Info("/").find("shared:"), std::string::npos);
  EXPECT_EQ(HostMounts(), before);
  ASSERT_EQ(umount(bundle->rootfs().c_str()), 0);
}

TEST_F(Mounts, ReadonlyRootKeepsItsOtherFlags) {
  ASSERT_EQ(mount(bundle->rootfs().c_str(), bundle->rootfs().c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount(nullptr, bundle->rootfs().c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_NODEV | MS_NOSUID, nullptr), 0);
  bundle->spec.root->readonly = true;
  std::string info = Info("/");
  EXPECT_NE(info.find(" ro,nosuid,nodev"), std::string::npos) << info;
  ASSERT_EQ(umount(bundle->rootfs().c_str()), 0);
}

TEST_F(Mounts, CgroupTree) {
  std::string out =
      Lines("grep cgroup /proc/self/mountinfo | wc -l; ls /sys/fs/cgroup; cat /proc/self/cgroup | head -1");
  EXPECT_NE(out.find(":/\n"), std::string::npos) << out;
  bundle->spec.mounts.back().options = {"rw"};
  v2_view = true;
  EXPECT_EQ(Lines("mkdir /sys/fs/cgroup/mine && test -e /sys/fs/cgroup/mine/cgroup.procs && echo made; rmdir "
                  "/sys/fs/cgroup/mine 2>/dev/null; true"),
            "made\n");
  // Without a cgroup namespace version 2 shows the tree that paths speak of.
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "cgroup"; });
  bundle->spec.mounts.back().options = {"ro"};
  EXPECT_EQ(Lines("test -d /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup) && echo there"), "there\n");
}

TEST_F(Mounts, CgroupsAreDelegated) {
  v2_view = true;
  bundle->spec.mounts.back().options = {"rw"};
  bundle->spec.process->user.uid = 1000;
  EXPECT_EQ(Lines("cd /sys/fs/cgroup; stat -c %u . cgroup.procs cgroup.subtree_control cgroup.threads; mkdir sub && "
                  "echo 0 > sub/cgroup.procs; "
                  "stat -c %u cgroup.freeze; echo 0 > cgroup.procs && rmdir sub"),
            "1000\n1000\n1000\n1000\n0\n");
  bundle->spec.mounts.back().options = {"ro"};
  EXPECT_EQ(Lines("stat -c %u /sys/fs/cgroup"), "0\n");
}

TEST_F(Mounts, Devices) {
  bundle->spec.linux->devices = {{"c", "/dev/fuse", 10, 229, 0640, 1, 2}, {"b", "/dev/deep/disk", 7, 0, {}, {}, {}},
                                 {"p", "/run/pipe", 0, 0, 0600, {}, {}},  {"u", "/dev/mem2", 1, 1, 0400, {}, {}},
                                 {"c", "/dev/null", 1, 3, 0622, 5, {}},   {"c", "/dev/ptmx", 5, 2, {}, {}, {}},
                                 {"c", "/dev/pts/0", 136, 0, {}, {}, {}}};
  EXPECT_EQ(
      Lines(
          "stat -c '%n %F %t:%T %a %u:%g' /dev/fuse /dev/deep/disk /run/pipe /dev/mem2 /dev/null; readlink /dev/ptmx"),
      "/dev/fuse character special file a:e5 640 1:2\n/dev/deep/disk block special file 7:0 666 0:0\n"
      "/run/pipe fifo 0:0 600 0:0\n/dev/mem2 character special file 1:1 400 0:0\n"
      "/dev/null character special file 1:3 622 5:0\npts/ptmx\n");
  bundle->spec.linux->devices = {{"c", "/etc/passwd", 1, 3, {}, {}, {}}};
  bundle->Put("/rootfs/etc/passwd", "root:x:0:0::/:/bin/sh\n");
  auto out = RunSh("true");
  EXPECT_EQ(out.err, "berth-oci: make device /etc/passwd: another file is there\n");
  // In a user namespace they are the host's own.
  ASSERT_EQ(system(("chown -R 200000:200000 " + bundle->rootfs()).c_str()), 0);
  ASSERT_EQ(chmod(bundle->dir().c_str(), 0755), 0);
  Linux& l = *bundle->spec.linux;
  l.namespaces.push_back({"user", ""});
  l.uidMappings = l.gidMappings = {{0, 200000, 1000}};
  l.devices = {{"c", "/dev/renamed", 1, 9, {}, {}, {}}};
  EXPECT_EQ(Lines("stat -c %t:%T /dev/renamed; head -c 4 /dev/renamed | wc -c"), "1:9\n4\n");
  l.devices = {{"c", "/dev/none", 4000, 77, {}, {}, {}}};
  out = RunSh("true");
  EXPECT_NE(out.err.find("linux.devices[0]: in a user namespace devices come from the host, which has no file for "
                         "character device 4000:77"),
            std::string::npos)
      << out.err;
}

TEST_F(Mounts, WithoutPivot) {
  bundle->Sh(
      "ls /; grep -c ' / ' /proc/self/mountinfo; cat /../../etc/hostname; test -e /proc/1/root/etc/apt && echo leak; "
      "true");
  bundle->Write();
  auto out = Oci({"run", "--no-pivot", "--bundle", bundle->dir(), bundle->Id("a")});
  EXPECT_EQ(out.exit_code, 0) << out.err;
  EXPECT_NE(out.out.find("bin\n"), std::string::npos) << out.out;
  EXPECT_EQ(out.out.find("leak"), std::string::npos) << out.out;
  EXPECT_EQ(out.out.find("/boot"), std::string::npos) << out.out;
}

TEST_F(Mounts, WithoutAMountNamespace) {
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "mount"; });
  char own[64] = {};
  ASSERT_GT(readlink("/proc/self/ns/mnt", own, sizeof own - 1), 0);
  auto mounted = [&] {
    std::string text = ReadFile("/proc/self/mountinfo").value_or("");
    return text.find(bundle->rootfs()) != std::string::npos;
  };
  EXPECT_EQ(Lines("readlink /proc/self/ns/mnt; ls / | head -1; test -e /etc/apt || echo hidden; echo $$; cd /..; ls | head -1"),
            std::string(own) + "\nbin\nhidden\n1\nbin\n");
  EXPECT_FALSE(mounted());
  bundle->spec.process->args = {"nosuch"};
  EXPECT_EQ(RunNow().exit_code, 127);
  EXPECT_FALSE(mounted());
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("h");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_TRUE(mounted());
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  EXPECT_EQ(Oci({"exec", id, "sh", "-c", "ls / | head -1; test -e /etc/apt || echo hidden; ls /proc/1/fd | wc -l"}).out, "bin\nhidden\n3\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
  EXPECT_FALSE(mounted());
}

TEST_F(Mounts, MountNamespaceByPath) {
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  pid_t holder = fork();
  if (holder == 0) {
    char ok = unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 ? 'y' : 'n';
    if (write(ready[1], &ok, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char ok = 0;
  ASSERT_EQ(read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 'y');
  std::string path = fmt::format("/proc/{}/ns/mnt", holder);
  char link[64] = {};
  ASSERT_GT(readlink(path.c_str(), link, sizeof link - 1), 0);
  for (Namespace& n : bundle->spec.linux->namespaces)
    if (n.type == "mount") n.path = path;
  EXPECT_EQ(Lines("readlink /proc/self/ns/mnt; ls / | head -1; test -e /etc/apt || echo hidden"),
            std::string(link) + "\nbin\nhidden\n");
  // Whoever lives there keeps his root.
  EXPECT_TRUE(Exists(fmt::format("/proc/{}/root/etc/apt", holder)));
  for (Namespace& n : bundle->spec.linux->namespaces)
    if (n.type == "mount") n.path = "/proc/self/ns/mnt";
  auto out = RunSh("true");
  EXPECT_NE(out.err.find("linux.namespaces[4].path: /proc/self/ns/mnt is the runtime's own mount namespace"),
            std::string::npos)
      << out.err;
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(Mounts, NetDevices) {
  // The host's side in a namespace of its own: the test leaves this machine's network alone.
  unique_fd own = *Open("/proc/self/ns/net", O_RDONLY);
  ASSERT_EQ(unshare(CLONE_NEWNET), 0);
  auto restore = [&] { EXPECT_EQ(setns(own.get(), CLONE_NEWNET), 0); };
  if (system("ip link add bt0 type veth peer name bp0 && ip link add bt1 type veth peer name bp1 && ip link set bt1 "
             "mtu 1400 address 02:00:00:00:00:77 && "
             "ip addr add 10.77.0.5/24 broadcast 10.77.0.255 dev bt1 && ip addr add fd77::5/64 nodad dev bt1 && ip "
             "addr add 10.78.0.1/32 scope link dev bt1 && ip link set bt1 up") != 0) {
    restore();
    GTEST_SKIP() << "needs iproute2 and veth";
  }
  auto& devices = bundle->spec.linux->netDevices;
  devices = {{"bt0", {"lan%d"}}, {"bt1", {"wan"}}};
  bundle->Put("/rootfs/bin/ip", ReadFile("/bin/busybox").value_or(""), 0755);
  auto out = RunSh(
      "cat /sys/class/net/wan/mtu /sys/class/net/wan/address; ip addr show wan; ls /sys/class/net | tr '\\n' ' '");
  EXPECT_TRUE(out.out.starts_with("1400\n02:00:00:00:00:77\n")) << out.out << out.err;
  for (const char* want :
       {"UP", "inet 10.77.0.5/24 brd 10.77.0.255 scope global wan", "inet6 fd77::5/64 scope global", "lan0 lo wan "})
    EXPECT_NE(out.out.find(want), std::string::npos) << want << "\n" << out.out;
  EXPECT_EQ(out.out.find("10.78.0.1"), std::string::npos) << out.out;
  // A veth ends with the namespace that it was moved into.
  EXPECT_EQ(system("ip link add bt2 type veth peer name bp2"), 0);
  devices = {{"bt9", {}}};
  EXPECT_NE(RunSh("true").err.find("linux.netDevices.bt9: this host has no network device of that name"),
            std::string::npos);
  devices = {{"bt2", {"lo"}}};
  EXPECT_NE(RunSh("true").err.find("linux.netDevices.bt2: the container already has a network device lo"),
            std::string::npos);
  devices = {{"lo", {"lo2"}}};
  out = RunSh("true");
  EXPECT_NE(out.err.find("linux.netDevices.lo: this device cannot be moved to another network namespace"),
            std::string::npos)
      << out.err;
  devices = {{"bt2", {}}};
  EXPECT_EQ(RunSh("ip link show bt2 | grep -c ',UP'; grep -c . /proc/net/dev").out, "1\n4\n");
  restore();
}

}  // namespace
}  // namespace berth::runtime::oci
