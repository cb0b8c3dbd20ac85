#include "runtime/linux/cgroup_settings.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "runtime/linux/cgroup_oom.h"
#include "runtime/linux/devices.h"

namespace berth::runtime::cgroup {
namespace {

using oci::Resources;

const Layout kV1{{{"/m", {"memory"}},
                  {"/c", {"cpu", "cpuacct"}},
                  {"/s", {"cpuset"}},
                  {"/p", {"pids"}},
                  {"/b", {"blkio"}},
                  {"/h", {"hugetlb"}},
                  {"/n", {"net_cls", "net_prio"}},
                  {"/r", {"rdma"}}},
                 "",
                 {}};
const Layout kV2{{}, "/cg", {"memory", "cpu", "cpuset", "pids", "io", "hugetlb", "rdma"}};
const Layout kHybrid{{{"/m", {"memory"}}}, "/cg", {"hugetlb"}};

// "memory.max=1; ..." of resources as they stand in config.json; the error's text when they are refused.
std::string Of(const Layout& layout, std::string_view text) {
  auto r = json::Parse<Resources>(text, "r");
  if (!r) return r.error().what;
  auto settings = SettingsOf(layout, *r);
  if (!settings) return settings.error().what;
  std::string out;
  for (const Setting& s : *settings) {
    out += s.file + "=" + s.value;
    if (!s.other_file.empty()) out += "|" + s.other_file + "=" + s.other_value;
    out += s.if_there ? "?; " : "; ";
  }
  return out;
}

TEST(Settings, Memory) {
  const char* all =
      R"({"memory":{"limit":100,"reservation":50,"swap":300,"kernel":7,"kernelTCP":8,"useHierarchy":true}})";
  EXPECT_EQ(Of(kV1, all),
            "memory.limit_in_bytes=100; memory.memsw.limit_in_bytes=300; memory.soft_limit_in_bytes=50; ");
  EXPECT_EQ(Of(kV2, all), "memory.swap.max=200; memory.max=100; memory.low=50; ");
  EXPECT_EQ(Of(kV1, R"({"memory":{"limit":-1}})"), "memory.limit_in_bytes=-1; memory.memsw.limit_in_bytes=-1?; ");
  EXPECT_EQ(Of(kV2, R"({"memory":{"limit":-1}})"), "memory.swap.max=max?; memory.max=max; ");
  EXPECT_EQ(Of(kV2, R"({"memory":{"limit":100,"swap":100}})"), "memory.swap.max=0?; memory.max=100; ");
  EXPECT_EQ(Of(kV1, R"({"memory":{"limit":0,"swap":0}})"), "");
  EXPECT_EQ(Of(kV1, R"({"memory":{"swappiness":0,"disableOOMKiller":true}})"),
            "memory.swappiness=0; memory.oom_control=1; ");
  EXPECT_EQ(Of(kV2, R"({"memory":{"disableOOMKiller":false}})"), "");
  EXPECT_EQ(Of(kV2, R"({"memory":{"disableOOMKiller":true}})"),
            "linux.resources.memory.disableOOMKiller: cgroup version 2 cannot disable the OOM killer");
  EXPECT_EQ(Of(kV1, R"({"memory":{"swappiness":101}})"), "linux.resources.memory.swappiness: 101 is not 0 to 100");
  EXPECT_EQ(Of(kV1, R"({"memory":{"limit":100,"swap":99}})"),
            "linux.resources.memory.swap: 99 is below memory.limit 100; it counts memory and swap together");
  EXPECT_EQ(Of(kV1, R"({"memory":{"limit":-2}})"), "linux.resources.memory.limit: -2: must be -1 (no limit) or bytes");
  EXPECT_EQ(Of(Layout{}, R"({"memory":{"reservation":5}})"),
            "linux.resources.memory.reservation: this host has no memory cgroup controller");
  EXPECT_EQ(Of(Layout{}, R"({"memory":{"limit":-1,"swap":-1}})"), "");
}

TEST(Settings, Cpu) {
  const char* all =
      R"({"cpu":{"shares":1024,"quota":25000,"period":50000,"burst":1000,"idle":0,"cpus":"0-1","mems":"0"}})";
  EXPECT_EQ(Of(kV1, all),
            "cpu.idle=0?; cpu.shares=1024; cpu.cfs_period_us=50000; cpu.cfs_quota_us=25000; cpu.cfs_burst_us=1000; "
            "cpuset.cpus=0-1; cpuset.mems=0; ");
  EXPECT_EQ(Of(kV2, all),
            "cpu.idle=0?; cpu.weight=100; cpu.max=25000 50000; cpu.max.burst=1000; cpuset.cpus=0-1; cpuset.mems=0; ");
  EXPECT_EQ(Of(kV2, R"({"cpu":{"quota":-1}})"), "cpu.max=max; ");
  EXPECT_EQ(Of(kV2, R"({"cpu":{"period":50000}})"), "cpu.max= 50000; ");
  EXPECT_EQ(Of(kV2, R"({"cpu":{"shares":5,"idle":1}})"), "cpu.idle=1; ");  // idle overrides the weight
  EXPECT_EQ(Of(kV1, R"({"cpu":{"shares":5,"idle":1}})"), "cpu.idle=1; ");
  EXPECT_EQ(Of(kV1, R"({"cpu":{"realtimeRuntime":9,"realtimePeriod":10}})"),
            "cpu.rt_period_us=10; cpu.rt_runtime_us=9; ");
  EXPECT_EQ(Of(kV2, R"({"cpu":{"realtimeRuntime":9}})"),
            "linux.resources.cpu.realtimeRuntime: cgroup version 2 has no realtime limits");
  EXPECT_EQ(Of(kV1, R"({"cpu":{"idle":2}})"), "linux.resources.cpu.idle: 2: must be 0 or 1");
  EXPECT_EQ(Of(kHybrid, R"({"cpu":{"shares":2}})"),
            "linux.resources.cpu.shares: this host has no cpu cgroup controller");
  EXPECT_EQ(Of(kHybrid, R"({"cpu":{"cpus":"0"}})"),
            "linux.resources.cpu.cpus: this host has no cpuset cgroup controller");
}

TEST(Settings, Pids) {
  EXPECT_EQ(Of(kV1, R"({"pids":{"limit":0}})"), "pids.max=0; ");
  EXPECT_EQ(Of(kV2, R"({"pids":{"limit":-1}})"), "pids.max=max; ");
  EXPECT_EQ(Of(kV2, R"({"pids":{}})"), "");
  EXPECT_EQ(Of(kHybrid, R"({"pids":{"limit":-1}})"), "");
  EXPECT_EQ(Of(kHybrid, R"({"pids":{"limit":0}})"),
            "linux.resources.pids.limit: this host has no pids cgroup controller");
}

TEST(Settings, BlockIo) {
  const char* all = R"({"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":100}],
    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":16,"rate":2}],
    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}],"throttleReadIOPSDevice":[{"major":8,"minor":16,"rate":4}],
    "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":5}]}})";
  EXPECT_EQ(Of(kV1, all),
            "blkio.weight=500|blkio.bfq.weight=500; blkio.weight_device=8:0 100|blkio.bfq.weight_device=8:0 100; "
            "blkio.throttle.read_bps_device=8:0 1; blkio.throttle.read_bps_device=8:16 2; "
            "blkio.throttle.write_bps_device=8:0 0; blkio.throttle.read_iops_device=8:16 4; "
            "blkio.throttle.write_iops_device=8:0 5; ");
  EXPECT_EQ(Of(kV2, all),
            "io.bfq.weight=500|io.weight=4950; io.bfq.weight=8:0 100|io.weight=8:0 910; "
            "io.max=8:0 rbps=1 wbps=max wiops=5; io.max=8:16 rbps=2 riops=4; ");
  EXPECT_EQ(Of(kV1, R"({"blockIO":{"leafWeight":20,"weightDevice":[{"major":8,"minor":0,"leafWeight":30}]}})"),
            "blkio.leaf_weight=20; blkio.leaf_weight_device=8:0 30; ");
  EXPECT_EQ(Of(kV2, R"({"blockIO":{"leafWeight":20}})"),
            "linux.resources.blockIO.leafWeight: cgroup version 2 has no leaf weights");
  EXPECT_EQ(Of(kV1, R"({"blockIO":{"weight":9}})"), "linux.resources.blockIO.weight: 9 is not 10 to 1000");
  EXPECT_EQ(Of(kHybrid, R"({"blockIO":{"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":1}]}})"),
            "linux.resources.blockIO.throttleWriteBpsDevice: this host has no io cgroup controller");
  EXPECT_EQ(Of(kHybrid, R"({"blockIO":{"weight":0}})"), "");
  EXPECT_EQ(IoWeight(10), 1U);
  EXPECT_EQ(IoWeight(100), 910U);
  EXPECT_EQ(IoWeight(1000), 10000U);
}

TEST(Settings, HugepagesNetworkRdmaUnified) {
  const char* pages = R"({"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]})";
  EXPECT_EQ(Of(kV1, pages), "hugetlb.2MB.rsvd.limit_in_bytes=4194304?; hugetlb.2MB.limit_in_bytes=4194304; ");
  EXPECT_EQ(Of(kHybrid, pages), "hugetlb.2MB.rsvd.max=4194304?; hugetlb.2MB.max=4194304; ");  // version 2 for the rest
  EXPECT_EQ(Of(kV1, R"({"hugepageLimits":[{"pageSize":"2mb","limit":1}]})"),
            "linux.resources.hugepageLimits.pageSize: \"2mb\": must be a size like 2MB or 1GB");
  EXPECT_EQ(Of(Layout{}, R"({"hugepageLimits":[{"pageSize":"2MB","limit":0}]})"), "");

  const char* network = R"({"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}})";
  EXPECT_EQ(Of(kV1, network), "net_cls.classid=1048577; net_prio.ifpriomap=eth0 5; ");
  EXPECT_EQ(Of(kV2, network),
            "linux.resources.network.classID: this host has no net_cls (version 1) cgroup controller");
  EXPECT_EQ(Of(kV1, R"({"network":{"priorities":[{"name":"a b","priority":5}]}})"),
            "linux.resources.network.priorities[0].name: \"a b\" is not the name of an interface");

  const char* rdma = R"({"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"mlx4_0":{"hcaObjects":7},"none":{}}})";
  EXPECT_EQ(Of(kV1, rdma), "rdma.max=mlx4_0 hca_object=7; rdma.max=mlx5_1 hca_handle=3 hca_object=10; ");
  EXPECT_EQ(Of(kV2, rdma), Of(kV1, rdma));
  EXPECT_EQ(Of(kHybrid, rdma), "linux.resources.rdma[\"mlx4_0\"]: this host has no rdma cgroup controller");

  EXPECT_EQ(Of(kV2, R"({"unified":{"memory.high":"5","x.unknown":"y"}})"), "memory.high=5; x.unknown=y; ");
  EXPECT_EQ(Of(kHybrid, R"({"unified":{"memory.high":"5"}})"),
            "linux.resources.unified: memory.high needs cgroup version 2, this host has memory in version 1");
  EXPECT_EQ(Of(kV1, R"({"unified":{"x.y":"5"}})"),
            "linux.resources.unified: x.y needs cgroup version 2, this host has all in version 1");
  for (const char* bad : {"../memory.max", "a/b.c", "nodot", ".x", ""})
    EXPECT_EQ(Of(kV2, fmt::format(R"({{"unified":{{"{}":"5"}}}})", bad)),
              fmt::format("linux.resources.unified: \"{}\" is not the name of a control file", bad));
  EXPECT_EQ(Of(kV2, R"({"unified":{"cgroup.procs":"1"}})"), "linux.resources.unified: cgroup.procs is not a limit");
}

TEST(Settings, LinesOfDevices) {
  EXPECT_EQ(LineOf("8:16 rbps=1\n8:1 rbps=2\n", "8:1"), "8:1 rbps=2");
  EXPECT_EQ(LineOf("8:16 rbps=1\n", "8:1"), "");
  EXPECT_EQ(LineOf("default 100\n8:0 5\n", "default"), "default 100");
}

// ---- Device rules on version 1

std::string Flat(const std::vector<oci::DeviceRule>& rules) {
  auto set = FlattenRules(rules);
  if (!set) return set.error().what;
  std::string out = set->allows_all ? "all but" : "nothing but";
  for (const auto& e : set->exceptions) out += fmt::format(" {}{}:{}/{}", e.type, e.major, e.minor, e.access);
  return out;
}

TEST(Devices, RulesComeToASet) {  // 1 mknod, 2 read, 4 write
  EXPECT_EQ(Flat({}), "nothing but");
  EXPECT_EQ(Flat({{false, "a", "rwm", {}, {}}, {true, "c", "r", 1, 3}, {true, "c", "w", 1, 3}}), "nothing but c1:3/6");
  EXPECT_EQ(Flat({{true, "c", "rwm", 1, 3}, {false, "c", "w", 1, {}}}),
            "nothing but c1:3/3");  // the wider one covers it
  EXPECT_EQ(Flat({{true, "c", "rw", 1, 3}, {false, "c", "rw", {}, {}}}), "nothing but");
  EXPECT_EQ(Flat({{true, "c", "rwm", 1, 3}, {true, "a", "rwm", {}, {}}, {false, "b", "rw", 8, {}}}), "all but b8:-1/6");
  EXPECT_EQ(Flat({{true, "c", "m", {}, {}}, {true, "b", "m", -1, -1}}), "nothing but c-1:-1/1 b-1:-1/1");
  EXPECT_EQ(
      Flat({{true, "c", "rw", 10, {}}, {false, "c", "w", 10, 2}}),
      "linux.resources.devices[1]: takes a part of what an earlier rule (c 10:* rw) allows; cgroup version 1 cannot "
      "do that");
  EXPECT_EQ(Flat({{true, "c", "r", 10, {}}, {false, "c", "w", 10, 2}}), "nothing but c10:-1/2");  // nothing to take
}

TEST(Oom, CountsOfBothVersions) {
  OomFacts v2 = ParseOom("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
  EXPECT_EQ(v2, (OomFacts{5, 4, 6, 3, false}));
  OomFacts v1 = ParseOom("oom_kill_disable 1\nunder_oom 1\noom_kill 7\n");
  EXPECT_EQ(v1, (OomFacts{7, 0, 0, 0, true}));
}

}  // namespace
}  // namespace berth::runtime::cgroup
