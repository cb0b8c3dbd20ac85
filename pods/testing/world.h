#pragma once
// The core over fakes, for tests of verbs and of what stands above them. What a real machine keeps over a restart of
// the agent (database, directories, monitors, network, snapshots) is in `Ground`; an `Agent` is one life of the agent.
//
//   Ground ground;
//   Agent agent(ground);                     // recovers
//   auto pod = RunPod(agent.core, Ground::Pod("a"), Deadline::Never());
#include <memory>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/db.h"
#include "base/testing.h"
#include "cni/fake_network.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/layout.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/samples.h"
#include "pods/table.h"
#include "pods/testing/fake_store.h"
#include "runtime/fake_launcher.h"

namespace berth::pods::testing {

struct Ground {
  berth::testing::TempDir dir;
  std::shared_ptr<runtime::FakeWorld> world = std::make_shared<runtime::FakeWorld>();
  cni::FakeNetwork network;
  FakeStore images;
  FakeClock clock;
  runtime::Options options;
  std::unique_ptr<Db> db;
  std::string root, run;

  Ground() : root(dir / "lib"), run(dir / "run") {
    db = Db::OpenMemory().value();
    EXPECT_TRUE(berth::testing::IsOk(MakeDirs(root + "/pods")));
    EXPECT_TRUE(berth::testing::IsOk(MakeDirs(run + "/pods")));
    auto image = FakeStore::Small("docker.io/library/app:1");
    auto layer = images.snapshotter().Begin({}).value();
    EXPECT_TRUE(berth::testing::IsOk(layer->Write("layer")));
    EXPECT_TRUE(berth::testing::IsOk(layer->Commit(image.diff_ids[0], Deadline::Never())));
    images.Put(image);
  }
  static PodSpec Pod(const std::string& name) {
    PodSpec spec;
    spec.name = name;
    spec.name_space = "default";
    spec.uid = "uid-" + name;
    spec.labels = {{"app", name}};
    return spec;
  }
  static ContainerSpec Container(const std::string& name) {
    ContainerSpec spec;
    spec.name = name;
    spec.image = "docker.io/library/app:1";
    spec.labels = {{"io.kubernetes.container.name", name}};
    return spec;
  }
  size_t Rows(const std::string& table) {
    size_t n = 0;
    EXPECT_TRUE(berth::testing::IsOk(
        db->Each("SELECT count(*) FROM " + table, [&](const Db::Row& r) { n = static_cast<size_t>(r.Int(0)); })));
    return n;
  }
  // What is there of pods and containers, one line a thing; empty when nothing is left.
  std::vector<std::string> Remains();
};

struct Agent {
  explicit Agent(Ground& g, bool recover = true)
      : registry(g.clock),
        table(Table::Open(*g.db).value()),
        events(g.clock),
        samples(registry, g.clock, nullptr, nullptr),
        launcher(g.world),
        core{.registry = registry,
             .table = *table,
             .events = events,
             .samples = samples,
             .launcher = launcher,
             .network = g.network,
             .images = g.images,
             .runtime_options = g.options,
             .root = g.root,
             .run = g.run,
             .clock = g.clock,
             .operations = operations,
             .cgroups = nullptr} {
    if (recover) {
      EXPECT_TRUE(berth::testing::IsOk(Recover(core)));
    }
  }
  ~Agent() { registry.EndBackground(); }

  Registry registry;
  std::unique_ptr<Table> table;
  Events events;
  Samples samples;
  Operations operations;
  runtime::FakeLauncher launcher;  // its thread ends first
  Core core;
};

}  // namespace berth::pods::testing
