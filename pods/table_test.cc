#include "pods/table.h"

#include "base/testing.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;

PodState SomePod() {
  PodState p;
  p.id = NewPodId();
  p.spec.name = "web";
  p.spec.name_space = "default";
  p.spec.uid = "u1";
  p.spec.attempt = 2;
  p.spec.labels = {{"app", "web"}};
  p.spec.ports = {{.protocol = "udp", .host_port = 53, .container_port = 5353, .host_ip = "127.0.0.1"}};
  p.spec.namespaces.pid = Namespace::kPod;
  p.created_at = 1234;
  p.cgroup = "/berth/" + p.id.str();
  return p;
}

class TableTest : public ::testing::Test {
 protected:
  std::unique_ptr<Db> db = Db::OpenMemory().value();
  std::unique_ptr<Table> table = Table::Open(*db).value();
};

TEST_F(TableTest, PodComesBackAsItWas) {
  auto p = SomePod();
  ASSERT_TRUE(IsOk(table->Insert(p)));
  p.phase = PodPhase::kReady;
  p.network.interface = "eth0";
  p.network.addresses = {{"10.89.0.2/16", "10.89.0.1"}, {"fd00::2/64", ""}};
  p.network.result_json = R"({"cniVersion":"1.1.0"})";
  p.monitor = 42;
  p.netns_path = "/proc/42/ns/net";
  ASSERT_TRUE(IsOk(table->Update(p)));
  auto rows = table->Load();
  ASSERT_TRUE(IsOk(rows));
  ASSERT_EQ(rows->pods.size(), 1u);
  const PodState& q = rows->pods[0].state;
  EXPECT_EQ(q.id, p.id);
  EXPECT_EQ(q.phase, PodPhase::kReady);
  EXPECT_EQ(q.spec.ports[0].host_ip, "127.0.0.1");
  EXPECT_EQ(q.spec.namespaces.pid, Namespace::kPod);
  EXPECT_EQ(q.spec.attempt, 2u);
  EXPECT_EQ(q.network.addresses[1].cidr, "fd00::2/64");
  EXPECT_EQ(q.network.result_json, p.network.result_json);
  EXPECT_EQ(q.monitor, 42);
  EXPECT_EQ(q.cgroup, p.cgroup);
  EXPECT_FALSE(rows->pods[0].removing);
  EXPECT_EQ(rows->created_floor, 1234);
}

TEST_F(TableTest, IdentityIsUnique) {
  auto p = SomePod(), q = p;
  q.id = NewPodId();
  ASSERT_TRUE(IsOk(table->Insert(p)));
  EXPECT_TRUE(IsErr(table->Insert(q), Code::kAlreadyExists));
  q.spec.attempt = 3;
  EXPECT_TRUE(IsOk(table->Insert(q)));
}

TEST_F(TableTest, ContainerComesBackAsItWas) {
  auto p = SomePod();
  ASSERT_TRUE(IsOk(table->Insert(p)));
  ContainerState c;
  c.id = NewContainerId();
  c.pod = p.id;
  c.spec.name = "nginx";
  c.spec.image = "nginx";
  c.spec.env = {"A=ü", "B="};
  c.spec.mounts = {{.container_path = "/d",
                    .host_path = "/srv",
                    .read_only = true,
                    .recursive_read_only = false,
                    .relabel = false,
                    .propagation = Propagation::kHostToContainer}};
  c.spec.masked_paths = std::vector<std::string>{};
  c.spec.run_as_user = 7;
  c.created_at = 99;
  ASSERT_TRUE(IsOk(table->Insert(c)));
  EXPECT_TRUE(IsErr(table->OciSpec(c.id), Code::kNotFound));
  c.phase = ContainerPhase::kExited;
  c.started_at = 100;
  c.finished_at = 200;
  c.exit_code = 137;
  c.reason = "OOMKilled";
  c.message = "m";
  c.user = {.uid = 7, .gid = 8, .groups = {8, 9}};
  c.stop_signal = 3;
  runtime::oci::Spec spec;
  spec.process = runtime::oci::Process{};
  spec.process->args = {"nginx"};
  spec.process->cwd = "/x";
  ASSERT_TRUE(IsOk(table->Update(c, &spec)));
  ASSERT_TRUE(IsOk(table->Update(c)));  // keeps the specification
  auto rows = table->Load();
  ASSERT_TRUE(IsOk(rows));
  ASSERT_EQ(rows->containers.size(), 1u);
  const ContainerState& d = rows->containers[0].state;
  EXPECT_EQ(d.pod, p.id);
  EXPECT_EQ(d.spec.env, c.spec.env);
  EXPECT_EQ(d.spec.mounts[0].propagation, Propagation::kHostToContainer);
  ASSERT_TRUE(d.spec.masked_paths.has_value());
  EXPECT_FALSE(d.spec.readonly_paths.has_value());
  EXPECT_EQ(d.spec.run_as_user, 7);
  EXPECT_EQ(d.phase, ContainerPhase::kExited);
  EXPECT_EQ(d.exit_code, 137);
  EXPECT_EQ(d.user.groups, (std::vector<uint32_t>{8, 9}));
  EXPECT_EQ(d.stop_signal, 3);
  auto back = table->OciSpec(c.id);
  ASSERT_TRUE(IsOk(back));
  EXPECT_EQ(back->process->args, spec.process->args);
  EXPECT_EQ(back->process->cwd, "/x");
}

TEST_F(TableTest, RemovalMarksAndDrops) {
  auto p = SomePod();
  ContainerState c;
  c.id = NewContainerId();
  c.pod = p.id;
  c.spec.name = "a";
  ASSERT_TRUE(IsOk(table->Insert(p)));
  ASSERT_TRUE(IsOk(table->Insert(c)));
  ASSERT_TRUE(IsOk(table->MarkRemoving(p.id)));
  ASSERT_TRUE(IsOk(table->MarkRemoving(c.id)));
  auto rows = table->Load();
  EXPECT_TRUE(rows->pods[0].removing);
  EXPECT_TRUE(rows->containers[0].removing);
  ASSERT_TRUE(IsOk(table->Drop(p.id)));
  rows = table->Load();
  EXPECT_TRUE(rows->pods.empty());
  EXPECT_TRUE(rows->containers.empty());
  EXPECT_TRUE(IsOk(table->Drop(p.id)));
  EXPECT_TRUE(IsOk(table->Drop(c.id)));
  EXPECT_TRUE(IsErr(table->Update(p), Code::kInternal, "no row"));
}

TEST_F(TableTest, OpensAgainAndKeepsFacts) {
  ASSERT_TRUE(IsOk(table->SetBootId("one")));
  ASSERT_TRUE(IsOk(table->SetBootId("two")));
  auto again = Table::Open(*db);
  ASSERT_TRUE(IsOk(again));
  EXPECT_EQ((*again)->Load()->boot_id, "two");
}

TEST_F(TableTest, DamagedRowIsNamed) {
  auto p = SomePod();
  ASSERT_TRUE(IsOk(table->Insert(p)));
  ASSERT_TRUE(db->Exec("UPDATE pods SET spec = '{\"name\": 3}'").has_value());
  EXPECT_TRUE(IsErr(table->Load(), Code::kInvalidArgument, p.id.str()));
}

}  // namespace
}  // namespace berth::pods
