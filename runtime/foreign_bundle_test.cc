#include "runtime/foreign_bundle.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "runtime/handler_features.h"

namespace berth::runtime {
namespace {

std::string Types(const oci::Spec& spec) {
  std::string out;
  for (const auto& n : spec.linux->namespaces) out += n.type + "=" + n.path + " ";
  return out;
}

TEST(ForeignSpec, NamesThePodsNamespacesAndTheBundle) {
  oci::Spec spec;
  spec.process.emplace();
  spec.linux.emplace().namespaces = {{"mount", ""}, {"pid", ""}};
  spec.mounts = {{"/dev/shm", "tmpfs", "shm", {"nosuid", "size=65536k"}, {}, {}},
                 {"/data", "bind", "/srv", {"rbind"}, {}, {}}};
  spec.annotations = {{"io.kubernetes.cri.container-type", "container"}, {"io.kubernetes.cri.container-name", "c"}};
  auto made = ForeignSpec(spec, {.bundle = "/run/b", .monitor = 7, .own_net = true, .shm = true, .terminal = true});
  EXPECT_EQ(Types(made), "mount= pid= network=/proc/7/ns/net uts=/proc/7/ns/uts ipc=/proc/7/ns/ipc ");
  EXPECT_EQ(made.root->path, "/run/b/rootfs");
  EXPECT_EQ(made.mounts[0].source, "/run/b/shm");
  EXPECT_EQ(made.mounts[0].type, "bind");
  EXPECT_EQ(made.mounts[1].source, "/srv");
  EXPECT_TRUE(made.process->terminal);
  EXPECT_FALSE(made.annotations.contains("io.kubernetes.cri.container-type"));
  EXPECT_TRUE(made.annotations.contains("io.kubernetes.cri.container-name"));
}

TEST(ForeignSpec, LeavesTheHostsNamespacesAlone) {
  oci::Spec spec;
  spec.linux.emplace().namespaces = {{"mount", ""}, {"pid", ""}};
  spec.mounts = {{"/dev/shm", "tmpfs", "shm", {"nosuid"}, {}, {}}};
  auto made = ForeignSpec(spec, {.bundle = "/b", .monitor = 7, .pid_owner = 9});
  EXPECT_EQ(Types(made), "mount= pid=/proc/9/ns/pid ");
  EXPECT_EQ(made.mounts[0].type, "tmpfs");
}

TEST(ForeignSpec, DocumentHasNoEmptyMembers) {
  auto tree = json::ParseTree(R"({"a":"","b":[],"c":{"d":{"e":""}},"f":0,"g":false,"h":[{"path":"","type":"pid"}],
                                  "annotations":{"x":""},"args":["",1]})",
                              "test");
  ASSERT_TRUE(tree.has_value());
  EXPECT_EQ(json::Serialize(WithoutEmpty(*tree)),
            R"({"f":0,"g":false,"h":[{"type":"pid"}],"annotations":{"x":""},"args":["",1]})");
}

TEST(ForeignLog, LastErrorCounts) {
  EXPECT_EQ(LastError(""), "");
  EXPECT_EQ(LastError("not json\n{\"level\":\"warning\",\"msg\":\"w\"}\n"), "");
  EXPECT_EQ(LastError("{\"level\":\"error\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\n{\"level\":\"info\","
                      "\"msg\":\"c\"}"),
            "b");
}

TEST(ForeignLog, ProgramsThatCannotRunAreTold) {
  EXPECT_EQ(WhyNotRun("unable to start container process: exec: \"x\": executable file not found in $PATH"), ENOENT);
  EXPECT_EQ(WhyNotRun("exec: \"/x\": stat /x: no such file or directory: unknown"), ENOENT);
  EXPECT_EQ(WhyNotRun("executable file `x` not found in $PATH: No such file or directory"), ENOENT);
  EXPECT_EQ(WhyNotRun("exec: \"/etc/passwd\": permission denied"), EACCES);
  EXPECT_EQ(WhyNotRun("open executable: Permission denied"), EACCES);
  EXPECT_EQ(WhyNotRun("mount `x` to `y`: No such file or directory"), 0);
  EXPECT_EQ(WhyNotRun("open `/sys/fs/cgroup`: permission denied"), 0);
}

TEST(HandlerFeatures, AreReadFromTheRuntimesOwnWords) {
  EXPECT_TRUE(ReadFeatures(R"({"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":{}})").recursive_read_only);
  EXPECT_FALSE(ReadFeatures(R"({"mountOptions":["ro"]})").recursive_read_only);
  EXPECT_FALSE(ReadFeatures("Incorrect Usage").recursive_read_only);
  const Deadline soon = Deadline::After(std::chrono::seconds(10));
  EXPECT_TRUE(testing::IsErr(AskFeatures({.path = "/no/such/runtime"}, soon), Code::kFailedPrecondition, "/no/such/runtime"));
  EXPECT_TRUE(testing::IsOk(AskFeatures({.path = "/bin/false"}, soon)));
}

TEST(ForeignBundle, IsFoundByItsRecord) {
  testing::TempDir dir;
  const ContainerId id = NewContainerId();
  const std::string run = dir.path();
  EXPECT_TRUE(testing::IsErr(ForeignBundle::Find(run, id), Code::kNotFound, ""));
  auto made = ForeignBundle::Make(run, id, {.path = "/bin/r", .type = "oci", .root = "", .options = {"--x", "y"}});
  ASSERT_TRUE(testing::IsOk(made));
  EXPECT_TRUE(testing::IsErr(ForeignBundle::Make(run, id, {}), Code::kAlreadyExists, ""));
  auto found = ForeignBundle::Find(run, id);
  ASSERT_TRUE(testing::IsOk(found));
  const std::vector<std::string> words = {
      "/bin/r",       "--x",  "y",    "--root", run + "/oci", "--log", found->Path("kill.log"),
      "--log-format", "json", "kill", id.str()};
  EXPECT_EQ(found->Words("kill", {"kill", id.str()}), words);
  EXPECT_EQ(ForeignBundle::List(run), std::vector<ContainerId>{id});
  EXPECT_TRUE(testing::IsOk(found->Remove()));
  EXPECT_TRUE(ForeignBundle::List(run).empty());
}

}  // namespace
}  // namespace berth::runtime
