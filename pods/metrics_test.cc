#include "pods/metrics.h"

#include "pods/testing/world.h"

namespace berth::pods {
namespace {

using berth::testing::IsOk;
using testing::Agent;
using testing::Ground;

const metrics::Family* Find(const std::vector<metrics::Family>& all, const std::string& name) {
  for (const auto& f : all)
    if (f.name == name) return &f;
  return nullptr;
}

std::string Label(const metrics::Sample& s, const std::string& name) {
  for (const auto& [k, v] : s.labels)
    if (k == name) return v;
  return "(none)";
}

TEST(PodMetricsTest, FamiliesCarryCadvisorsNames) {
  Ground ground;
  Agent agent(ground);
  runtime::cgroup::Layout layout;
  layout.v2 = ground.dir / "cg";
  layout.v2_controllers = {"cpu", "memory", "pids"};
  agent.core.cgroups = &layout;
  auto until = Deadline::Never();
  auto pod = RunPod(agent.core, Ground::Pod("web"), until).value();
  auto c = CreateContainer(agent.core, pod.str(), Ground::Container("nginx"), until).value();
  ASSERT_TRUE(IsOk(StartContainer(agent.core, c.str(), until)));
  std::string group = layout.v2 + FindContainer(agent.core, c.str())->cgroup;
  ASSERT_TRUE(IsOk(MakeDirs(group)));
  ASSERT_TRUE(
      IsOk(WriteFileAtomic(group + "/cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(group + "/memory.current", "5000\n")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(group + "/memory.stat", "anon 1000\nfile 3000\ninactive_file 2000\n")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(group + "/pids.current", "4\n")));

  auto families = ContainerFamilies(agent.core);
  for (const char* name : {"container_cpu_usage_seconds_total",
                           "container_cpu_user_seconds_total",
                           "container_cpu_system_seconds_total",
                           "container_memory_usage_bytes",
                           "container_memory_working_set_bytes",
                           "container_memory_rss",
                           "container_memory_cache",
                           "container_spec_memory_limit_bytes",
                           "container_processes",
                           "container_oom_events_total",
                           "container_start_time_seconds",
                           "container_last_seen",
                           "container_network_receive_bytes_total",
                           "container_network_receive_packets_total",
                           "container_network_receive_errors_total",
                           "container_network_receive_packets_dropped_total",
                           "container_network_transmit_bytes_total",
                           "container_network_transmit_packets_total",
                           "container_network_transmit_errors_total",
                           "container_network_transmit_packets_dropped_total"}) {
    const auto* f = Find(families, name);
    ASSERT_NE(f, nullptr) << name;
    EXPECT_EQ(f->samples.size(), 1u) << name;
    EXPECT_FALSE(f->help.empty());
  }
  const auto& cpu = Find(families, "container_cpu_usage_seconds_total")->samples[0];
  EXPECT_EQ(cpu.value, 3);
  EXPECT_EQ(Label(cpu, "container"), "nginx");
  EXPECT_EQ(Label(cpu, "pod"), "web");
  EXPECT_EQ(Label(cpu, "namespace"), "default");
  EXPECT_EQ(Label(cpu, "image"), "docker.io/library/app:1");
  EXPECT_EQ(Label(cpu, "name"), c.str());
  EXPECT_EQ(Label(cpu, "id"), "/berth/" + pod.str() + "/" + c.str());
  EXPECT_EQ(Find(families, "container_memory_working_set_bytes")->samples[0].value, 3000);
  const auto& net = Find(families, "container_network_receive_bytes_total")->samples[0];
  EXPECT_EQ(net.value, 100);
  EXPECT_EQ(Label(net, "container"), "POD");
  EXPECT_EQ(Label(net, "interface"), "eth0");

  auto agents = AgentFamilies(agent.core);
  EXPECT_EQ(Find(agents, "berth_pods")->samples.size(), 4u);
  EXPECT_EQ(Find(agents, "berth_containers")->samples[1].value, 1);
  Operation op(agent.core, "run_pod", "x");
  ASSERT_TRUE(IsOk(op.Stage("network", "attach")));
  EXPECT_EQ(Label(Find(AgentFamilies(agent.core), "berth_operations_running")->samples[0], "stage"), "network");
  agent.core.cgroups = nullptr;
}

}  // namespace
}  // namespace berth::pods
