// What berthd says without serving: needs no root.
#include <stdlib.h>

#include "base/child.h"
#include "base/testing.h"
#include "cmd/berthd/lock_file.h"

namespace berth {
namespace {

using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

Result<CommandOutput> Berthd(std::vector<std::string> args) {
  const char* build = ::getenv("BERTH_BUILD_DIR");
  Command command;
  command.argv = {std::string(build ? build : ".") + "/cmd/berthd/berthd"};
  if (!Exists(command.argv[0])) command.argv[0] = std::string(build ? build : ".") + "/bin/berthd";
  command.argv.insert(command.argv.end(), args.begin(), args.end());
  return Run(command, Deadline::After(std::chrono::seconds(30)));
}

TEST(BerthdTest, Version) {
  auto r = Berthd({"version"});
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->exit_code, 0);
  EXPECT_TRUE(r->out.starts_with("berthd "));
}

TEST(BerthdTest, FailpointsOfEveryFolder) {
  auto r = Berthd({"failpoints"});
  ASSERT_TRUE(IsOk(r));
  for (const char* name : {"run_pod.network\n", "create_container.launch\n", "launcher.start_pod.spawned\n",
                           "network.attach.ledger\n", "pull_image.layer\n"})
    EXPECT_NE(r->out.find(name), std::string::npos) << name;
}

TEST(BerthdTest, ConfigShowsOrigins) {
  TempDir dir;
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "c.toml", "[log]\nlevel = \"warn\"\n")));
  auto r = Berthd({"--config", dir / "c.toml", "config", "--set", "log.format=json"});
  ASSERT_TRUE(IsOk(r));
  EXPECT_EQ(r->exit_code, 0) << r->err;
  EXPECT_NE(r->out.find("warn"), std::string::npos);
  EXPECT_NE(r->out.find("c.toml:2"), std::string::npos);
  EXPECT_NE(r->out.find("--set"), std::string::npos);
}

TEST(BerthdTest, WrongUseIsTwo) {
  for (const auto& args : std::vector<std::vector<std::string>>{{"--set", "nonsense"},
                                                                {"--set", "log.nope=1"},
                                                                {"--config", "/nonexistent.toml"},
                                                                {"--frobnicate"},
                                                                {"frobnicate"}}) {
    auto r = Berthd(args);
    ASSERT_TRUE(IsOk(r));
    EXPECT_EQ(r->exit_code, 2) << args[0];
    EXPECT_FALSE(r->err.empty());
  }
}

TEST(LockFileTest, SecondIsRefusedUntilTheFirstEnds) {
  TempDir dir;
  auto first = LockFile(dir / "lock", "the test");
  ASSERT_TRUE(IsOk(first));
  EXPECT_TRUE(IsErr(LockFile(dir / "lock", "the test"), Code::kConflict, fmt::format("pid {}", ::getpid())));
  first->reset();
  EXPECT_TRUE(IsOk(LockFile(dir / "lock", "the test")));
}

}  // namespace
}  // namespace berth
