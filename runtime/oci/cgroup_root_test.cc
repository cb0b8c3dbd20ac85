// Cgroups as a user of berth-oci meets them: limits of config.json, update, and the scopes of systemd.
#include "base/json.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/oci/cli_fixture.h"
#include "runtime/oci/stats_json.h"

namespace berth::runtime::oci {
namespace {

class CgroupCli : public Life {
 protected:
  void SetUp() override {
    Life::SetUp();
    if (!IsSkipped()) layout = **cgroup::Host();
  }
  std::string Value(const std::string& group, const char* controller, const char* v1, const char* v2) {
    auto dir = cgroup::V1Dir(layout, controller, {group});
    auto text = cgroup::ReadControl(dir ? *dir + "/" + v1 : layout.v2 + group + "/" + v2);
    return text ? std::string(cgroup::Trim(*text)) : text.error().what;
  }
  bool Has(const char* controller) { return layout.V1(controller) || layout.V2(controller); }
  cgroup::Layout layout;
};

TEST_F(CgroupCli, NoForkIsALimitAndExecStillEnters) {
  if (!Has("pids")) GTEST_SKIP() << "needs the pids controller";
  Resources r;
  r.pids = Pids{0};
  bundle->spec.linux->resources = r;
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("p");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Value("/berth-oci-" + id, "pids", "pids.max", "pids.max"), "0");
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  auto exec = Oci({"exec", id, "cat", "/proc/self/cgroup"});
  EXPECT_EQ(exec.exit_code, 0) << exec.err;
  EXPECT_EQ(exec.out.find("/.."), std::string::npos) << exec.out;  // inside: its own group is the root
  auto fork = Oci({"exec", id, "sh", "-c", "cat /proc/self/status; true"});
  EXPECT_NE(fork.exit_code, 0);
  EXPECT_NE(fork.err.find("fork"), std::string::npos) << fork.err;
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(CgroupCli, TheSamePathIsTheSamePlace) {
  bundle->spec.process->args = {"sleep", "1000"};
  std::string name = bundle->Id("s");
  bundle->spec.linux->cgroupsPath = name + "/deep/er";
  bundle->Write();
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), name}), 0) << Log();
  const std::string group = "/berth-oci-" + name + "/deep/er";
  EXPECT_FALSE(cgroup::Processes(layout, {group})->empty());
  // Spelt otherwise it is the same group, which has a process.
  bundle->spec.linux->cgroupsPath = name + "//deep/er/";
  bundle->Write();
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), name + "2"}), 1);
  EXPECT_NE(Log().find("has processes"), std::string::npos) << Log();
  EXPECT_EQ(Oci({"delete", "-f", name}).exit_code, 0);  // TearDown looks for what is left, parents too
}

TEST_F(CgroupCli, AFrozenGroupIsRefused) {
  std::string id = bundle->Id("f"), group = "/berth-oci-" + id;
  bundle->spec.process->args = {"true"};
  bundle->Write();
  ASSERT_TRUE(cgroup::Create(layout, group));
  ASSERT_TRUE(cgroup::Freeze(layout, {group}, true, Deadline::After(std::chrono::seconds(10))));
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("is frozen"), std::string::npos) << Log();
  ASSERT_TRUE(cgroup::Freeze(layout, {group}, false, Deadline::After(std::chrono::seconds(10))));
  EXPECT_TRUE(cgroup::Remove(layout, {group}, Deadline::After(std::chrono::seconds(10))));
}

TEST_F(CgroupCli, StatsHaveRuncsShape) {
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("e");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  auto stats = cgroup::ReadStats(layout, {"/berth-oci-" + id}, cgroup::kAllStats);
  ASSERT_TRUE(stats) << stats.error().what;
  auto doc = json::ParseTree(json::Serialize(StatsDocument(*stats)), "stats");
  ASSERT_TRUE(doc);
  const json::Object& o = doc->as_object();
  for (const char* member : {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"})
    EXPECT_TRUE(o.contains(member)) << member;
  EXPECT_GT(o.at("cpu").at("usage").at("total").to_number<uint64_t>(), 0U);
  EXPECT_TRUE(o.at("cpu").at("usage").as_object().contains("kernel"));
  if (Has("memory")) {
    EXPECT_GT(o.at("memory").at("usage").at("usage").to_number<uint64_t>(), 0U);
    EXPECT_EQ(o.at("memory").at("usage").at("limit").to_number<uint64_t>(), UINT64_MAX);
    EXPECT_GT(o.at("memory").at("raw").as_object().size(), 20U);
  }
  if (Has("pids")) {
    EXPECT_EQ(o.at("pids").at("current").to_number<uint64_t>(), 1U);
  }
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

// ---- systemd. tests/lib/with_systemd brings one up where another program is process 1.

class Scope : public CgroupCli {
 protected:
  void SetUp() override {
    CgroupCli::SetUp();
    if (!IsSkipped() && !Exists("/run/systemd/private")) GTEST_SKIP() << "needs systemd as process 1";
  }
  std::string Systemctl(std::vector<std::string> args) {
    args.insert(args.begin(), "/usr/bin/systemctl");
    Command c;
    c.argv = args;
    c.env = {"PATH=/usr/bin:/bin", "SYSTEMD_PAGER="};
    auto out = berth::Run(c, Deadline::After(std::chrono::seconds(60)));
    return out ? out->out + out->err : out.error().what;
  }
  std::string Show(const std::string& unit, const char* property) {
    std::string text = Systemctl({"show", "--value", "-p", property, unit});
    return std::string(cgroup::Trim(text));
  }
};

TEST_F(Scope, AContainerIsATransientUnit) {
  Resources r;
  r.memory = Memory{.limit = 64 << 20, .swap = 64 << 20};
  r.cpu = Cpu{.shares = 512, .period = 50000, .quota = 25000, .cpus = "0"};
  r.pids = Pids{33};
  bundle->spec.linux->resources = r;
  bundle->spec.annotations["org.systemd.property.TimeoutStopSec"] = "7";
  bundle->spec.process->args = {"sleep", "1000"};
  std::string id = bundle->Id("u"), unit = "prefix-" + id + ".scope";
  bundle->spec.linux->cgroupsPath = "berthtest-a.slice:prefix:" + id;
  bundle->Write();
  ASSERT_EQ(Detached({"--systemd-cgroup", "create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Show(unit, "ActiveState"), "active");
  EXPECT_EQ(Show(unit, "Slice"), "berthtest-a.slice");
  EXPECT_EQ(Show(unit, "Description"), "container " + id);
  EXPECT_EQ(Show(unit, "Delegate"), "yes");
  EXPECT_EQ(Show(unit, "Transient"), "yes");
  EXPECT_EQ(Show(unit, "TimeoutStopUSec"), "7s");
  EXPECT_EQ(Show(unit, "TasksMax"), "33");
  EXPECT_EQ(Show(unit, "CPUQuotaPerSecUSec"), "500ms");
  const std::string group = Show(unit, "ControlGroup");
  EXPECT_EQ(group, "/berthtest.slice/berthtest-a.slice/" + unit);
  auto limits = [&](const char* memory) {
    EXPECT_EQ(Value(group, "memory", "memory.limit_in_bytes", "memory.max"), memory);
    EXPECT_EQ(Value(group, "cpu", "cpu.shares", "cpu.weight"), layout.V1("cpu") ? "512" : "59");
    EXPECT_EQ(Value(group, "cpu", "cpu.cfs_quota_us", "cpu.max"), layout.V1("cpu") ? "25000" : "25000 50000");
    EXPECT_EQ(Value(group, "pids", "pids.max", "pids.max"), "33");
    EXPECT_EQ(Value(group, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
  };
  limits("67108864");
  auto processes = [&] { return cgroup::Processes(layout, {group}).value_or(std::vector<pid_t>{}).size(); };
  EXPECT_EQ(processes(), 1U);  // the scope's first process has gone
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "running");

  bundle->Put("/update.json", R"({"memory":{"limit":100663296,"swap":100663296}})");
  auto update = Oci({"update", "--resources", bundle->dir() + "/update.json", id});
  EXPECT_EQ(update.exit_code, 0) << update.err;
  limits("100663296");
  if (layout.unified()) {
    EXPECT_EQ(Show(unit, "MemoryMax"), "100663296");
  }
  // What systemd writes again when it reloads its units is what it has been told.
  Systemctl({"daemon-reload"});
  limits("100663296");
  auto exec = Oci({"exec", id, "sh", "-c",
                   "head -c 1 /dev/zero | wc -c; mknod /tmp/b b 8 0; head -c 1 /tmp/b; cat /proc/self/cgroup"});
  EXPECT_TRUE(exec.out.starts_with("1\n")) << exec.out << exec.err;
  EXPECT_NE(exec.err.find("Operation not permitted"), std::string::npos) << exec.err;

  EXPECT_EQ(Oci({"pause", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "paused");
  EXPECT_EQ(Oci({"resume", id}).exit_code, 0);

  // The same unit a second time: refused, and the first lives on.
  EXPECT_EQ(Detached({"--systemd-cgroup", "create", "--bundle", bundle->dir(), id + "again"}), 1);
  EXPECT_NE(Log().find("systemd: StartTransientUnit: "), std::string::npos) << Log();
  EXPECT_EQ(StatusOf(id), "running");
  EXPECT_EQ(processes(), 1U);

  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
  EXPECT_EQ(Show(unit, "LoadState"), "not-found");
  EXPECT_FALSE(Exists(layout.v2 + group));
}

TEST_F(Scope, RunAndFailureLeaveNoUnit) {
  std::string id = bundle->Id("r");
  bundle->Sh("exit 7");
  bundle->Write();
  auto run = Oci({"--systemd-cgroup", "run", "--bundle", bundle->dir(), id});
  EXPECT_EQ(run.exit_code, 7) << run.err;
  EXPECT_EQ(Show("berth-oci-" + id + ".scope", "LoadState"), "not-found");
  bundle->spec.process->args = {"/no/such/program"};
  bundle->Write();
  EXPECT_EQ(Detached({"--systemd-cgroup", "create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("/no/such/program"), std::string::npos) << Log();
  EXPECT_EQ(Show("berth-oci-" + id + ".scope", "LoadState"), "not-found");
  bundle->spec.annotations["org.systemd.property.NoSuchProperty"] = "true";
  bundle->spec.process->args = {"true"};
  bundle->Write();
  EXPECT_EQ(Detached({"--systemd-cgroup", "create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("NoSuchProperty"), std::string::npos) << Log();
}

TEST_F(CgroupCli, WithoutSystemdTheDriverSaysSo) {
  if (Exists("/run/systemd/private")) GTEST_SKIP() << "needs a machine without systemd as process 1";
  bundle->spec.process->args = {"true"};
  bundle->Write();
  EXPECT_EQ(Detached({"--systemd-cgroup", "create", "--bundle", bundle->dir(), bundle->Id("n")}), 1);
  EXPECT_NE(Log().find("--systemd-cgroup: systemd does not answer here"), std::string::npos) << Log();
}

}  // namespace
}  // namespace berth::runtime::oci
