// What the kernel says after we wrote: version 1, version 2 and both at once, whatever this machine has.
#include <dirent.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <functional>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/id.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/cgroup_oom.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/linux/devices.h"

namespace berth::runtime::cgroup {
namespace {

using namespace std::chrono_literals;
using oci::Resources;

Deadline Soon() { return Deadline::After(60s); }  // emulated machines are slow

class Cgroups : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    auto host = Host();
    if (!host) GTEST_SKIP() << host.error().what;
    layout = **host;
  }
  void TearDown() override {
    for (pid_t pid : children_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    for (const Group& g : groups_) {
      EXPECT_TRUE(KillAll(layout, g));
      EXPECT_TRUE(WaitEmpty(layout, g, Soon()));
      auto removed = Remove(layout, g, Soon());
      EXPECT_TRUE(removed) << removed.error().what;
    }
  }

  Group Make(const std::string& suffix = "") {
    Group g{"/berth-test-cg-" + RandomHex(8) + suffix};
    auto made = Create(layout, g.path);
    EXPECT_TRUE(made) << made.error().what;
    groups_.push_back({g.path.substr(0, g.path.find('/', 1))});
    return g;
  }
  bool Has(const char* controller) const { return layout.V1(controller) || layout.V2(controller); }
  // The content of a control file by its version 1 or version 2 name.
  std::string Read(const Group& g, const char* controller, const std::string& v1, const std::string& v2) const {
    auto dir = V1Dir(layout, controller, g);
    auto text = ReadControl(dir ? *dir + "/" + v1 : layout.v2 + g.path + "/" + v2);
    return text ? std::string(Trim(*text)) : text.error().what;
  }

  // Runs `body` in the group; returns once it is in.
  pid_t In(const Group& g, const std::function<void()>& body) {
    auto entry = OpenEntry(layout, g);
    EXPECT_TRUE(entry) << entry.error().what;
    int ready[2];
    EXPECT_EQ(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
      for (const unique_fd& fd : entry->tasks)
        if (write(fd.get(), "0", 1) != 1) _exit(111);
      if (entry->v2) {
        int procs = openat(entry->v2.get(), "cgroup.procs", O_WRONLY | O_CLOEXEC);
        if (write(procs, "0", 1) != 1) _exit(112);
        close(procs);
      }
      close(ready[0]);
      (void)!write(ready[1], "x", 1);
      close(ready[1]);
      body();
      _exit(0);
    }
    close(ready[1]);
    char c;
    EXPECT_EQ(read(ready[0], &c, 1), 1);
    close(ready[0]);
    children_.push_back(pid);
    return pid;
  }
  int Code(pid_t pid) {  // exit code, or 128 + signal
    int status = 0;
    waitpid(pid, &status, 0);
    std::erase(children_, pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int RunIn(const Group& g, const std::function<int()>& body) {
    return Code(In(g, [&] { _exit(body()); }));
  }

  Layout layout;
  std::vector<Group> groups_;
  std::vector<pid_t> children_;
};

#define OK(expr)                                        \
  do {                                                  \
    auto&& ok_result_ = (expr);                         \
    ASSERT_TRUE(ok_result_) << ok_result_.error().what; \
  } while (0)

[[noreturn]] void Sleep() {
  for (;;) pause();
}

void Touch(size_t bytes) {
  char* p = static_cast<char*>(malloc(bytes));
  for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
  asm volatile("" ::"r"(p) : "memory");
}

std::string BlockDevice() {  // "8:0" of a real disk
  DIR* d = opendir("/sys/block");
  std::string found;
  while (dirent* e = d ? readdir(d) : nullptr) {
    std::string name = e->d_name;
    if (name[0] == '.' || name.starts_with("loop") || name.starts_with("ram") || name.starts_with("zram")) continue;
    auto dev = ReadControl("/sys/block/" + name + "/dev");
    if (dev && found.empty()) found = Trim(*dev);
  }
  if (d) closedir(d);
  return found;
}

TEST_F(Cgroups, MemoryLimits) {
  if (!Has("memory")) GTEST_SKIP() << "needs the memory controller";
  Group g = Make();
  Resources r;
  r.memory = oci::Memory{.limit = 64 << 20, .reservation = 32 << 20, .swap = 96 << 20};
  r.memory->kernel = 1 << 20;  // ignored
  OK(Apply(layout, g, r));
  EXPECT_EQ(Read(g, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
  EXPECT_EQ(Read(g, "memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
  EXPECT_EQ(Read(g, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
            layout.V1("memory") ? "100663296" : "33554432");
  // Both up beyond what was, both down below it: in either case the other one has to move first.
  r = {};
  r.memory = oci::Memory{.limit = 256 << 20, .swap = 300 << 20};
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "memory", "memory.limit_in_bytes", "memory.max"), "268435456");
  r.memory = oci::Memory{.limit = 16 << 20, .swap = 16 << 20};
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "memory", "memory.limit_in_bytes", "memory.max"), "16777216");
  EXPECT_EQ(Read(g, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
            layout.V1("memory") ? "16777216" : "0");
  r.memory = oci::Memory{.limit = -1};
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "memory", "memory.limit_in_bytes", "memory.max"),
            layout.V1("memory") ? "9223372036854771712" : "max");

  r.memory = oci::Memory{.swappiness = 10};
  r.memory->disableOOMKiller = true;
  auto done = Update(layout, g, r);
  if (layout.V1("memory")) {
    OK(done);
    EXPECT_EQ(Read(g, "memory", "memory.swappiness", ""), "10");
    EXPECT_EQ(Keyed(Read(g, "memory", "memory.oom_control", ""), "oom_kill_disable"), 1U);
  } else {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Code::kFailedPrecondition);
    EXPECT_TRUE(done.error().what.starts_with("linux.resources.memory.swappiness: ")) << done.error().what;
  }
}

TEST_F(Cgroups, CpuLimits) {
  if (!Has("cpu") || !Has("cpuset")) GTEST_SKIP() << "needs the cpu and cpuset controllers";
  const bool v1 = layout.V1("cpu");
  Group g = Make();
  Resources r;
  r.cpu = oci::Cpu{.shares = 512, .period = 50000, .quota = 25000, .cpus = "0", .mems = "0", .burst = 5000};
  OK(Apply(layout, g, r));
  EXPECT_EQ(Read(g, "cpu", "cpu.shares", "cpu.weight"), v1 ? "512" : "59");
  EXPECT_EQ(Read(g, "cpu", "cpu.cfs_quota_us", "cpu.max"), v1 ? "25000" : "25000 50000");
  if (v1) {
    EXPECT_EQ(Read(g, "cpu", "cpu.cfs_period_us", ""), "50000");
  }
  EXPECT_EQ(Read(g, "cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "5000");
  EXPECT_EQ(Read(g, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
  EXPECT_EQ(Read(g, "cpuset", "cpuset.mems", "cpuset.mems"), "0");

  r.cpu = oci::Cpu{.period = 20000};  // the quota stays
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "cpu", "cpu.cfs_quota_us", "cpu.max"), v1 ? "25000" : "25000 20000");
  r.cpu = oci::Cpu{.quota = 4000};  // below the burst in force: the burst has to move first
  r.cpu->burst = 1000;
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "1000");
  r.cpu = oci::Cpu{.quota = -1};
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "cpu", "cpu.cfs_quota_us", "cpu.max"), v1 ? "-1" : "max 20000");
  r.cpu = oci::Cpu{.shares = 1000, .idle = 1};  // idle overrides the weight
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "cpu", "cpu.idle", "cpu.idle"), "1");

  // A quota that only fits the parent with the new period: the writes depend on each other and on the parent.
  Group parent = Make("/x"), outer{parent.path.substr(0, parent.path.rfind('/'))};
  r.cpu = oci::Cpu{.period = 100000, .quota = 50000};
  OK(Update(layout, outer, r));
  r.cpu = oci::Cpu{.period = 100000, .quota = 40000};
  OK(Apply(layout, parent, r));
  r.cpu = oci::Cpu{.period = 20000, .quota = 8000};
  OK(Update(layout, parent, r));
  EXPECT_EQ(Read(parent, "cpu", "cpu.cfs_quota_us", "cpu.max"), v1 ? "8000" : "8000 20000");
}

TEST_F(Cgroups, RealtimeIsVersionOne) {
  if (!Has("cpu")) GTEST_SKIP() << "needs the cpu controller";
  Group g = Make();
  Resources r;
  r.cpu = oci::Cpu{.realtimeRuntime = 1000, .realtimePeriod = 900000};
  auto done = Apply(layout, g, r);
  if (layout.V1("cpu") && Exists(*V1Dir(layout, "cpu", g) + "/cpu.rt_runtime_us")) {
    OK(done);
    EXPECT_EQ(Read(g, "cpu", "cpu.rt_period_us", ""), "900000");
    EXPECT_EQ(Read(g, "cpu", "cpu.rt_runtime_us", ""), "1000");
  } else {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Code::kFailedPrecondition);
    EXPECT_NE(done.error().what.find("cpu.realtime"), std::string::npos) << done.error().what;
  }
}

TEST_F(Cgroups, PidsLimitZeroIsALimit) {
  if (!Has("pids")) GTEST_SKIP() << "needs the pids controller";
  Group g = Make();
  Resources r;
  r.pids = oci::Pids{0};
  OK(Apply(layout, g, r));
  EXPECT_EQ(Read(g, "pids", "pids.max", "pids.max"), "0");
  EXPECT_EQ(RunIn(g,
                  [] {
                    pid_t pid = fork();
                    if (pid == 0) _exit(0);
                    return pid < 0 ? errno : 0;
                  }),
            EAGAIN);
  r.pids = oci::Pids{-1};
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, "pids", "pids.max", "pids.max"), "max");
}

TEST_F(Cgroups, BlockIo) {
  const bool v1 = layout.V1("blkio");
  if (!v1 && !layout.V2("io")) GTEST_SKIP() << "needs the blkio or io controller";
  std::string device = BlockDevice();
  if (device.empty()) GTEST_SKIP() << "needs a disk";
  auto major = static_cast<int64_t>(*Number(device.substr(0, device.find(':'))));
  auto minor = static_cast<int64_t>(*Number(device.substr(device.find(':') + 1)));
  Group g = Make();
  Resources r;
  r.blockIO = oci::BlockIO{};
  r.blockIO->throttleReadBpsDevice = {{major, minor, 1048576}};
  r.blockIO->throttleWriteBpsDevice = {{major, minor, 2097152}};
  r.blockIO->throttleWriteIOPSDevice = {{major, minor, 300}};
  OK(Apply(layout, g, r));
  if (v1) {
    EXPECT_EQ(Read(g, "blkio", "blkio.throttle.read_bps_device", ""), device + " 1048576");
    EXPECT_EQ(Read(g, "blkio", "blkio.throttle.write_bps_device", ""), device + " 2097152");
    EXPECT_EQ(Read(g, "blkio", "blkio.throttle.write_iops_device", ""), device + " 300");
  } else {
    EXPECT_EQ(Read(g, "io", "", "io.max"), device + " rbps=1048576 wbps=2097152 riops=max wiops=300");
  }
  r.blockIO->throttleReadBpsDevice = {{major, minor, 0}};  // none any more
  r.blockIO->throttleWriteBpsDevice.clear();
  r.blockIO->throttleWriteIOPSDevice.clear();
  OK(Update(layout, g, r));
  EXPECT_EQ(Read(g, v1 ? "blkio" : "io", "blkio.throttle.read_bps_device", "io.max"),
            v1 ? "" : device + " rbps=max wbps=2097152 riops=max wiops=300");
  // What stood in a device's line comes back when a later write fails.
  r.blockIO->throttleReadBpsDevice = {{major, minor, 7340032}};
  r.blockIO->throttleWriteBpsDevice = {{4094, 77, 1}};  // no such device
  auto failed = Update(layout, g, r);
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().what.find("blockIO.throttleWriteBpsDevice[0]"), std::string::npos) << failed.error().what;
  EXPECT_EQ(Read(g, v1 ? "blkio" : "io", "blkio.throttle.read_bps_device", "io.max"),
            v1 ? "" : device + " rbps=max wbps=2097152 riops=max wiops=300");

  r.blockIO = oci::BlockIO{.weight = 500};
  auto weight = Apply(layout, g, r);
  std::string bfq = Read(g, v1 ? "blkio" : "io", "blkio.bfq.weight", "io.bfq.weight"),
              plain = Read(g, v1 ? "blkio" : "io", "blkio.weight", "io.weight");
  if (weight) {
    EXPECT_TRUE(bfq == "500" || bfq == "default 500" || plain == "500" || plain == "default 4950") << bfq << plain;
  } else {  // no scheduler that knows weights is loaded
    EXPECT_EQ(weight.error().code, Code::kFailedPrecondition);
    EXPECT_NE(weight.error().what.find("linux.resources.blockIO.weight"), std::string::npos) << weight.error().what;
  }
  r.blockIO = oci::BlockIO{.leafWeight = 500};
  auto leaf = Apply(layout, g, r);
  ASSERT_FALSE(leaf);  // gone with cfq
  EXPECT_EQ(leaf.error().code, Code::kFailedPrecondition);
  EXPECT_NE(leaf.error().what.find("blockIO.leafWeight"), std::string::npos);
}

TEST_F(Cgroups, Hugepages) {
  Group g = Make();
  Resources r;
  r.hugepageLimits = {{"2MB", 4 << 20}};
  auto done = Apply(layout, g, r);
  if (!Has("hugetlb")) {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().what, "linux.resources.hugepageLimits: this host has no hugetlb cgroup controller");
    return;
  }
  if (!Exists("/sys/kernel/mm/hugepages/hugepages-2048kB")) GTEST_SKIP() << "needs pages of 2 MB";
  OK(done);
  EXPECT_EQ(Read(g, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "4194304");
  EXPECT_EQ(Read(g, "hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max"), "4194304");
  r.hugepageLimits = {{"3MB", 4 << 20}};
  auto bad = Apply(layout, g, r);
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().what.find("hugepageLimits[3MB]"), std::string::npos) << bad.error().what;
}

TEST_F(Cgroups, Rdma) {
  Group g = Make();
  Resources r;
  r.rdma["mlx5_9"] = oci::Rdma{.hcaHandles = 3, .hcaObjects = 4};
  auto done = Apply(layout, g, r);
  ASSERT_FALSE(done);  // no such device, or no such controller
  EXPECT_TRUE(done.error().what.starts_with("linux.resources.rdma[\"mlx5_9\"]: ")) << done.error().what;
}

// net_cls and net_prio exist as version 1 only: mounted for the test where nobody has.
TEST_F(Cgroups, NetworkClassAndPriorities) {
  pid_t pid = fork();
  if (pid == 0) {
    char dir[] = "/tmp/berth-net-XXXXXX";
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 || !mkdtemp(dir) ||
        mount("none", dir, "tmpfs", 0, nullptr) < 0)
      _exit(1);
    Layout own;
    for (const char* name : {"net_cls", "net_prio"}) {
      std::string at = std::string(dir) + "/" + name;
      mkdir(at.c_str(), 0755);
      if (mount("none", at.c_str(), "cgroup", 0, name) < 0) _exit(77);
      own.v1.push_back({at, {name}});
    }
    auto group = Create(own, "/berth-test-net");
    Resources r;
    r.network = oci::NetworkResources{.classID = 0x100001, .priorities = {{"lo", 7}}};
    int bad = 0;
    if (!group || !Apply(own, *group, r)) bad = 2;
    if (!bad && ReadNumber(own.v1[0].mount + "/berth-test-net/net_cls.classid") != 0x100001U) bad = 3;
    if (!bad && Keyed(ReadControl(own.v1[1].mount + "/berth-test-net/net_prio.ifpriomap").value_or(""), "lo") != 7U)
      bad = 4;
    if (group && !Remove(own, *group, Deadline::After(5s))) bad = 5;
    for (const Hierarchy& h : own.v1) umount(h.mount.c_str());
    umount(dir);
    rmdir(dir);
    _exit(bad);
  }
  int code = Code(pid);
  if (code == 77) GTEST_SKIP() << "this kernel has no net_cls";
  EXPECT_EQ(code, 0);
  if (layout.V1("net_cls")) return;
  Group g = Make();
  Resources r;
  r.network = oci::NetworkResources{.classID = 1};
  auto done = Apply(layout, g, r);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::kFailedPrecondition);
  EXPECT_NE(done.error().what.find("network.classID: this host has no net_cls"), std::string::npos);
}

TEST_F(Cgroups, UnifiedFiles) {
  Group g = Make();
  Resources r;
  r.unified = {{"memory.high", "1048576000"}};
  if (!layout.unified()) {
    auto done = Apply(layout, g, r);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Code::kFailedPrecondition);
    EXPECT_NE(done.error().what.find("memory.high needs cgroup version 2"), std::string::npos) << done.error().what;
    if (!layout.V2("hugetlb")) return;
    r.unified = {{"hugetlb.2MB.max", "2097152"}};
    OK(Apply(layout, g, r));
    EXPECT_EQ(Read(g, "hugetlb", "", "hugetlb.2MB.max"), "2097152");
    return;
  }
  r.unified["memory.oom.group"] = "1";
  r.unified["cgroup.max.depth"] = "3";
  r.unified["cpu.max"] = "30000 60000";
  OK(Apply(layout, g, r));
  EXPECT_EQ(Read(g, "memory", "", "memory.high"), "1048576000");
  EXPECT_EQ(Read(g, "memory", "", "memory.oom.group"), "1");
  EXPECT_EQ(Read(g, "cpu", "", "cpu.max"), "30000 60000");
  EXPECT_EQ(Read(g, "cpu", "", "cgroup.max.depth"), "3");
  // A controller that groups do not get unasked is handed down on the way.
  for (const char* name : {"misc", "rdma"}) {
    if (!layout.V2(name)) continue;
    Group nested = Make("/a/b");
    EXPECT_FALSE(Exists(layout.v2 + nested.path + "/" + name + ".max"));
    r.unified = {{std::string(name) + ".max", "nonesuch hca_handle=1"}};
    auto refused = Apply(layout, nested, r);
    EXPECT_FALSE(refused);  // no such resource, but the file was there to say so
    EXPECT_TRUE(Exists(layout.v2 + nested.path + "/" + name + ".max")) << name;
  }
  r.unified = {{"memory.nonesuch", "1"}};
  auto unknown = Apply(layout, g, r);
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().what.find("unified[\"memory.nonesuch\"]"), std::string::npos) << unknown.error().what;
}

TEST_F(Cgroups, AFailedUpdateLeavesEverythingAsItWas) {
  if (!Has("memory") || !Has("cpu") || !Has("cpuset")) GTEST_SKIP() << "needs memory, cpu and cpuset";
  Group g = Make();
  Resources r;
  r.memory = oci::Memory{.limit = 64 << 20, .reservation = 1 << 20, .swap = 64 << 20};
  r.cpu = oci::Cpu{.shares = 512, .period = 50000, .quota = 25000};
  OK(Apply(layout, g, r));
  auto all = [&] {
    std::string text;
    for (auto [c, v1, v2] : {std::tuple{"memory", "memory.limit_in_bytes", "memory.max"},
                             {"memory", "memory.memsw.limit_in_bytes", "memory.swap.max"},
                             {"memory", "memory.soft_limit_in_bytes", "memory.low"},
                             {"cpu", "cpu.shares", "cpu.weight"},
                             {"cpu", "cpu.cfs_quota_us", "cpu.max"},
                             {"cpu", "cpu.cfs_period_us", "cpu.max"},
                             {"cpuset", "cpuset.mems", "cpuset.mems"}})
      text += Read(g, c, v1, v2) + "\n";
    return text;
  };
  const std::string before = all();
  r.memory = oci::Memory{.limit = 128 << 20, .reservation = 2 << 20, .swap = 256 << 20};
  r.cpu = oci::Cpu{.shares = 2048, .period = 20000, .quota = 5000, .cpus = "4000-5000", .mems = "0"};
  auto failed = Update(layout, g, r);
  ASSERT_FALSE(failed);
  EXPECT_TRUE(failed.error().what.starts_with("linux.resources.cpu.cpus: ")) << failed.error().what;
  EXPECT_EQ(failed.error().what.find("could not be taken back"), std::string::npos) << failed.error().what;
  EXPECT_EQ(all(), before);
}

TEST_F(Cgroups, MemoryBelowUseIsRefused) {
  if (!Has("memory")) GTEST_SKIP() << "needs the memory controller";
  Group g = Make();
  int filled[2];
  ASSERT_EQ(pipe2(filled, O_CLOEXEC), 0);
  pid_t pid = In(g, [&] {
    Touch(40 << 20);
    (void)!write(filled[1], "x", 1);
    Sleep();
  });
  char c;
  ASSERT_EQ(read(filled[0], &c, 1), 1);
  close(filled[0]);
  close(filled[1]);
  Resources r;
  r.memory = oci::Memory{.limit = 10 << 20, .swap = 10 << 20};
  r.memory->checkBeforeUpdate = true;
  std::string before = Read(g, "memory", "memory.limit_in_bytes", "memory.max");
  auto done = Update(layout, g, r);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::kConflict) << done.error().what;
  EXPECT_EQ(Read(g, "memory", "memory.limit_in_bytes", "memory.max"), before);
  EXPECT_EQ(kill(pid, 0), 0);
}

// ---- Freezer and signals

void ForkWithoutEnd() {  // a tree that always has new members, and never more than a few
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    pid_t pid = fork();
    if (pid == 0) {
      if (fork() == 0) _exit(0);
      _exit(0);
    }
  }
}

void FreezeForkers(const Layout& layout, const Group& g) {
  for (int round = 0; round < 3; ++round) {
    auto frozen = Freeze(layout, g, true, Soon());
    ASSERT_TRUE(frozen) << frozen.error().what;
    EXPECT_TRUE(*IsFrozen(layout, g));
    auto first = Processes(layout, g);
    std::this_thread::sleep_for(50ms);
    auto second = Processes(layout, g);
    ASSERT_TRUE(first && second);
    EXPECT_EQ(*first, *second);  // nobody was born, nobody died
    EXPECT_FALSE(first->empty());
    auto thawed = Freeze(layout, g, false, Soon());
    ASSERT_TRUE(thawed) << thawed.error().what;
    EXPECT_FALSE(*IsFrozen(layout, g));
    auto moved = Deadline::After(30s);  // it goes on
    while (*Processes(layout, g) == *second && !moved.expired()) std::this_thread::sleep_for(1ms);
    EXPECT_NE(*Processes(layout, g), *second);
  }
  auto killed = KillAll(layout, g);
  ASSERT_TRUE(killed) << killed.error().what;
  auto empty = WaitEmpty(layout, g, Soon());
  EXPECT_TRUE(empty) << empty.error().what;
}

TEST_F(Cgroups, FreezesAndKillsWhatForksWithoutEnd) {
  if (layout.v2.empty() && !layout.V1("freezer")) GTEST_SKIP() << "needs a freezer";
  Group g = Make();
  for (int i = 0; i < 3; ++i) In(g, ForkWithoutEnd);
  FreezeForkers(layout, g);
}

TEST_F(Cgroups, TheVersionOneFreezerDoesSoToo) {
  if (!layout.V1("freezer")) GTEST_SKIP() << "needs the version 1 freezer";
  Group g = Make();
  for (int i = 0; i < 3; ++i) In(g, ForkWithoutEnd);
  Layout only = layout;
  only.v2.clear();
  only.v2_controllers.clear();
  FreezeForkers(only, g);
}

TEST_F(Cgroups, SignalsReachTheWholeSubtree) {
  Group g = Make();
  pid_t a = In(g, Sleep), b = In(g, Sleep);
  OK(SignalAll(layout, g, SIGTERM));
  EXPECT_EQ(Code(a), 128 + SIGTERM);
  EXPECT_EQ(Code(b), 128 + SIGTERM);
}

// ---- Creation and removal

TEST_F(Cgroups, UsedAndFrozenGroupsAreRefused) {
  Group g = Make();
  pid_t pid = In(g, Sleep);
  auto used = Create(layout, g.path);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().code, Code::kConflict);
  EXPECT_TRUE(Ensure(layout, g.path));
  kill(pid, SIGKILL);
  Code(pid);
  OK(WaitEmpty(layout, g, Soon()));
  OK(Create(layout, g.path));
  if (layout.v2.empty() && !layout.V1("freezer")) return;
  OK(Freeze(layout, g, true, Soon()));
  auto frozen = Create(layout, g.path);
  ASSERT_FALSE(frozen);
  EXPECT_EQ(frozen.error().code, Code::kConflict);
  EXPECT_NE(frozen.error().what.find("is frozen"), std::string::npos) << frozen.error().what;
  auto below = Create(layout, g.path + "/new");
  ASSERT_FALSE(below);
  EXPECT_EQ(below.error().code, Code::kConflict);
  EXPECT_NE(below.error().what.find("is frozen"), std::string::npos) << below.error().what;
  for (const Hierarchy& h : layout.v1) EXPECT_FALSE(Exists(h.mount + g.path + "/new"));  // nothing stays behind
  if (!layout.v2.empty()) {
    EXPECT_FALSE(Exists(layout.v2 + g.path + "/new"));
  }
  OK(Freeze(layout, g, false, Soon()));
  OK(Create(layout, g.path));
}

TEST_F(Cgroups, RemovalTakesWhatTheContainerMade) {
  Group g = Make();
  auto each = [&](const std::string& below, auto f) {
    for (const Hierarchy& h : layout.v1) f(h.mount + g.path + below);
    if (!layout.v2.empty()) f(layout.v2 + g.path + below);
  };
  for (const char* sub : {"/init", "/init/deep", "/init/deep/er", "/other"})
    each(sub, [](const std::string& dir) { EXPECT_EQ(mkdir(dir.c_str(), 0755), 0) << dir; });
  OK(Ensure(layout, g.path + "/init/deep"));  // a version 1 cpuset is empty until somebody fills it
  pid_t pid = In({g.path + "/init/deep"}, Sleep);
  auto busy = Remove(layout, g, Deadline::After(300ms));
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().code, Code::kDeadlineExceeded);
  EXPECT_NE(busy.error().what.find("to become empty"), std::string::npos) << busy.error().what;
  EXPECT_EQ(Processes(layout, g).value(), std::vector<pid_t>{pid});
  // The process ends while the removal waits.
  std::thread later([&] {
    std::this_thread::sleep_for(100ms);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  });
  auto removed = Remove(layout, g, Soon());
  later.join();
  std::erase(children_, pid);
  OK(removed);
  each("", [](const std::string& dir) { EXPECT_FALSE(Exists(dir)) << dir; });
  OK(Remove(layout, g, Soon()));  // twice is the same
  OK(Create(layout, "/berth-test-cg-a" + g.path));
  OK(Remove(layout, {"/berth-test-cg-a" + g.path}, Soon()));
  RemoveEmptyParents(layout, {"/berth-test-cg-a" + g.path}, "/berth-test-");
  for (const Hierarchy& h : layout.v1) EXPECT_FALSE(Exists(h.mount + "/berth-test-cg-a"));
  if (!layout.v2.empty()) {
    EXPECT_FALSE(Exists(layout.v2 + "/berth-test-cg-a"));
  }
}

TEST_F(Cgroups, DelegationIsVersionTwo) {
  if (!layout.unified()) {
    Group g = Make();
    OK(Delegate(layout, g, 12345));  // does nothing: a delegated version 1 group is an escape
    for (const Hierarchy& h : layout.v1) {
      struct stat st;
      ASSERT_EQ(stat((h.mount + g.path).c_str(), &st), 0);
      EXPECT_EQ(st.st_uid, 0U);
    }
    return;
  }
  Group g = Make();
  OK(Delegate(layout, g, 12345));
  for (const char* file : {"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"}) {
    struct stat st;
    ASSERT_EQ(stat((layout.v2 + g.path + file).c_str(), &st), 0);
    EXPECT_EQ(st.st_uid, 12345U) << file;
  }
  struct stat st;
  ASSERT_EQ(stat((layout.v2 + g.path + "/cgroup.freeze").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0U);
}

// ---- OOM

TEST_F(Cgroups, OomIsCountedAndTold) {
  if (!Has("memory")) GTEST_SKIP() << "needs the memory controller";
  Group g = Make();
  Resources r;
  r.memory = oci::Memory{.limit = 16 << 20, .swap = 16 << 20};
  OK(Apply(layout, g, r));
  EXPECT_EQ(ReadOom(layout, g).value(), OomFacts{});
  auto watch = OomWatch::Open(layout, g);
  OK(watch);
  unique_fd kept = std::move(*OpenOom(layout, g));
  pollfd p{watch->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  pid_t pid = In(g, [] { Touch(128 << 20); });
  EXPECT_EQ(Code(pid), 128 + SIGKILL);
  OomFacts told;
  while (told.kills == 0) {
    ASSERT_TRUE(Soon().WaitFor(watch->fd(), POLLIN, "the OOM event"));
    auto facts = watch->Take();
    OK(facts);
    told = *facts;
    if (layout.V1("memory") && told.kills == 0) told = ReadOom(layout, g).value();
  }
  EXPECT_EQ(told.kills, 1U);
  EXPECT_EQ(ReadOom(layout, g)->kills, 1U);
  if (!layout.V1("memory")) {
    EXPECT_GT(ReadOom(layout, g)->limit_hits, 0U);
  }  // 6.18 leaves version 1's failcnt at 0
  char text[512];
  ssize_t n = pread(kept.get(), text, sizeof text, 0);  // what a monitor does
  ASSERT_GT(n, 0);
  EXPECT_EQ(ParseOom({text, static_cast<size_t>(n)}).kills, 1U);
  OK(Remove(layout, g, Soon()));
  auto gone = watch->Take();
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, Code::kNotFound);
  auto missing = ReadOom(layout, g);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
}

TEST_F(Cgroups, OomGroupKillsAll) {
  if (!layout.V2("memory") || layout.V1("memory")) GTEST_SKIP() << "needs the memory controller in cgroup version 2";
  Group g = Make();
  Resources r;
  r.memory = oci::Memory{.limit = 16 << 20, .swap = 16 << 20};
  r.unified["memory.oom.group"] = "1";
  OK(Apply(layout, g, r));
  pid_t bystander = In(g, Sleep), eater = In(g, [] { Touch(128 << 20); });
  EXPECT_EQ(Code(eater), 128 + SIGKILL);
  EXPECT_EQ(Code(bystander), 128 + SIGKILL);
  EXPECT_GE(ReadOom(layout, g)->kills, 2U);
}

// ---- Devices

int Try(const char* path, int flags) {
  int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno;
  close(fd);
  return 0;
}

std::vector<uint32_t> ProgramIds(const std::string& dir) {
  unique_fd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  uint32_t ids[64] = {};
  bpf_attr query{};
  query.query.target_fd = static_cast<uint32_t>(fd.get());
  query.query.attach_type = BPF_CGROUP_DEVICE;
  query.query.prog_ids = reinterpret_cast<uint64_t>(ids);
  query.query.prog_cnt = 64;
  if (syscall(SYS_bpf, BPF_PROG_QUERY, &query, sizeof query) < 0) return {};
  return {ids, ids + query.query.prog_cnt};
}

class DeviceRules : public Cgroups, public ::testing::WithParamInterface<bool> {  // true: version 2
 protected:
  void SetUp() override {
    Cgroups::SetUp();
    if (IsSkipped()) return;
    if (GetParam()) {
      if (layout.v2.empty()) GTEST_SKIP() << "needs cgroup version 2";
      std::erase_if(layout.v1, [](const Hierarchy& h) { return h.controllers == std::vector<std::string>{"devices"}; });
      if (layout.V1("devices")) GTEST_SKIP() << "devices are mounted with another controller";
    } else if (!layout.V1("devices")) {
      GTEST_SKIP() << "needs devices in cgroup version 1";
    }
  }
};

TEST_P(DeviceRules, OpensAreAllowedAndRefused) {
  Group g = Make();
  Resources r;
  r.devices = {{false, "a", "rwm", {}, {}}, {true, "c", "rwm", 1, 3}, {true, "c", "r", 1, 5}};
  OK(Apply(layout, g, r));
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/null", O_RDWR); }), 0);
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/zero", O_RDONLY); }), 0);
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/zero", O_RDWR); }), EPERM);
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/full", O_RDONLY); }), EPERM);
  std::string node = "/tmp/berth-node-" + RandomHex(8);
  EXPECT_EQ(RunIn(g, [&] { return mknod(node.c_str(), S_IFCHR | 0600, makedev(1, 5)) < 0 ? errno : 0; }), EPERM);
  EXPECT_EQ(RunIn(g, [&] { return mknod(node.c_str(), S_IFCHR | 0600, makedev(1, 3)) < 0 ? errno : 0; }), 0);
  unlink(node.c_str());

  // One process opens what both rule sets allow, all the time: it is never refused.
  std::string stop = "/tmp/berth-stop-" + RandomHex(8);
  pid_t hammer = In(g, [&] {
    while (access(stop.c_str(), F_OK) != 0)
      for (int i = 0; i < 100; ++i)
        if (int err = Try("/dev/null", O_RDWR)) _exit(err);
  });
  for (int round = 0; round < 50; ++round) {
    r.devices = {{false, "a", "rwm", {}, {}}, {true, "c", "rwm", 1, 3}, {true, "c", "rw", 1, round % 2 ? 5 : 7}};
    OK(Update(layout, g, r));
  }
  unique_fd flag(open(stop.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  EXPECT_EQ(Code(hammer), 0);
  unlink(stop.c_str());
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/zero", O_RDWR); }), 0);
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/full", O_RDONLY); }), EPERM);

  // Loaded once, attached to many; an update replaces.
  if (GetParam()) {
    Group other = Make();
    OK(Apply(layout, other, r));
    auto ids = ProgramIds(layout.v2 + g.path);
    EXPECT_EQ(ids.size(), 1U);
    EXPECT_EQ(ids, ProgramIds(layout.v2 + other.path));
  }
  r.devices = {{true, "a", "rwm", {}, {}}};
  auto all = Update(layout, g, r);
  OK(all);
  EXPECT_EQ(RunIn(g, [] { return Try("/dev/full", O_RDONLY); }), 0);
}

INSTANTIATE_TEST_SUITE_P(Version, DeviceRules, ::testing::Bool(),
                         [](const auto& info) { return info.param ? std::string("Two") : std::string("One"); });

// ---- Statistics

TEST_F(Cgroups, StatsSayWhatWasUsed) {
  Group g = Make();
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  std::string file = "/var/tmp/berth-io-" + RandomHex(8);
  In(g, [&] {
    Touch(8 << 20);
    int fd = open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    std::string block(1 << 20, 'x');
    (void)!write(fd, block.data(), block.size());
    fsync(fd);
    for (long i = 0; i < 50000000; ++i) asm volatile("");
    (void)!write(ready[1], "x", 1);
    Sleep();
  });
  char c;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  unlink(file.c_str());
  auto got = ReadStats(layout, g, kAllStats);
  OK(got);
  const Stats& s = *got;
  EXPECT_GT(s.cpu_usage_ns, 1000000U);
  if (Has("memory")) {
    EXPECT_GE(s.memory_usage, 8U << 20);
    EXPECT_GE(s.memory_rss, 8U << 20);
    EXPECT_GE(s.active_anon + s.inactive_anon, 8U << 20);
    EXPECT_GE(s.memory_working_set, 8U << 20);
    EXPECT_GT(s.page_faults, 10U);  // pages of any size
    EXPECT_EQ(s.memory_limit, 0U);
    EXPECT_FALSE(s.memory_stat.empty());
    EXPECT_GE(s.swap.usage, 8U << 20);
  }
  if (Has("pids")) {
    EXPECT_EQ(s.pids, 1U);
  }
  if (Has("cpuset")) {
    ASSERT_TRUE(s.cpuset);
    EXPECT_FALSE(s.cpuset->cpus.empty());
  }
  if (layout.V1("cpuacct")) {
    EXPECT_FALSE(s.cpu_usage_each_ns.empty());
  }
  if (Has("hugetlb") && Exists("/sys/kernel/mm/hugepages/hugepages-2048kB")) {
    EXPECT_TRUE(s.hugetlb.contains("2MB"));
  }
  if (!layout.v2.empty() && ReadControl(layout.v2 + g.path + "/cpu.pressure")) {
    EXPECT_TRUE(s.cpu_pressure.has_value());
  }
  auto io = [&] {
    for (const IoEntry& e : s.io_bytes)
      if (e.op == "Write" && e.value >= 1U << 20) return true;
    return false;
  };
  if (layout.V2("io") && !layout.V1("blkio")) {
    EXPECT_TRUE(io());
  }  // version 1 does not count what the page cache writes
  EXPECT_EQ(ReadStats(layout, {g.path + "-none"}).error().code, Code::kNotFound);
}

// The verifier refuses what cannot be reached and what is too long a way: it takes whatever rules we make of chance.
TEST(DevicePrograms, PassTheVerifier) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  std::mt19937 random(11);
  auto pick = [&](unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random); };
  auto number = [&]() -> std::optional<int64_t> { return pick(4) == 0 ? std::nullopt : std::optional<int64_t>(pick(3)); };
  for (int round = 0; round < 300; ++round) {
    std::vector<oci::DeviceRule> rules;
    for (unsigned n = pick(12); n > 0; --n) {
      static const char* const kAccess[] = {"rwm", "rwm", "r", "w", "m", "rw"};
      static const char* const kTypes[] = {"c", "c", "c", "b", "a"};
      rules.push_back({pick(4) != 0, kTypes[pick(5)], kAccess[pick(6)], number(), number()});
    }
    const auto code = DeviceProgram(rules);
    std::string log(1 << 16, '\0');
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = reinterpret_cast<uint64_t>(code.data());
    attr.insn_cnt = static_cast<uint32_t>(code.size());
    attr.license = reinterpret_cast<uint64_t>("Apache-2.0");
    attr.log_buf = reinterpret_cast<uint64_t>(log.data());
    attr.log_size = static_cast<uint32_t>(log.size());
    attr.log_level = 1;
    const int fd = static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
    ASSERT_GE(fd, 0) << "round " << round << ": " << log.c_str();
    ::close(fd);
  }
}

}  // namespace
}  // namespace berth::runtime::cgroup
