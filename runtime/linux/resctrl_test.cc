// On a tree of plain directories: no machine of ours has resctrl. What the kernel itself does is not shown here.
#include "runtime/linux/resctrl.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/atomic_file.h"

namespace berth::runtime::resctrl {
namespace {

class Resctrl : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/berth-resctrl-XXXXXX";
    root = mkdtemp(name);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(root)); }
  void Class(const std::string& name, std::string_view schemata) {
    ASSERT_TRUE(MakeDirs(root + "/" + name + "/mon_groups"));
    ASSERT_TRUE(WriteFileAtomic(root + "/" + name + "/schemata", schemata));
    ASSERT_TRUE(WriteFileAtomic(root + "/" + name + "/tasks", ""));
  }
  std::string Wrong(const oci::IntelRdt& want) {
    auto group = Prepare(root, want, "c1");
    return group ? "ok" : group.error().what;
  }
  std::string root;
};

TEST_F(Resctrl, AnExistingClassIsComparedNotChanged) {
  Class("gold", "    L3:0=00ff;1=f\n    MB:0=50;1=100\n");
  EXPECT_EQ(Wrong({"gold", "L3:0=FF;1=0f", "MB:0=50", {}, false}), "ok");
  EXPECT_EQ(Wrong({"gold", "L3:0=f0", "", {}, false}),
            "linux.intelRdt: class " + root + "/gold exists with other schemata than L3:0=f0");
  EXPECT_NE(Wrong({"gold", "", "", {"L2:0=f"}, false}), "ok");
  EXPECT_EQ(ReadFile(root + "/gold/schemata").value_or(""), "    L3:0=00ff;1=f\n    MB:0=50;1=100\n");
  auto group = Prepare(root, {"gold", "", "", {}, true}, "c1");
  ASSERT_TRUE(group) << group.error().what;
  EXPECT_FALSE(group->made);
  EXPECT_EQ(group->monitoring, root + "/gold/mon_groups/c1");
  EXPECT_TRUE(Exists(group->monitoring));
  ASSERT_TRUE(Remove(*group));
  EXPECT_FALSE(Exists(root + "/gold/mon_groups/c1"));
  EXPECT_TRUE(Exists(root + "/gold"));
}

TEST_F(Resctrl, AClassWithoutSchemataMustBeThere) {
  EXPECT_EQ(Wrong({"gold", "", "", {}, false}), "linux.intelRdt.closID: there is no class " + root + "/gold");
  EXPECT_EQ(Wrong({"/", "", "", {}, false}), "ok");
}

TEST_F(Resctrl, ItsOwnClassGoesWithTheContainer) {
  auto group = Prepare(root, {}, "c1");
  ASSERT_TRUE(group) << group.error().what;
  EXPECT_TRUE(group->made);
  EXPECT_TRUE(Exists(root + "/c1"));
  EXPECT_NE(Wrong({}), "ok") << "a second one of this name";
  ASSERT_TRUE(Remove(*group));
  EXPECT_FALSE(Exists(root + "/c1"));
}

TEST_F(Resctrl, WhatFailsLeavesNothing) {
  // Plain directories have no schemata file that could be written.
  EXPECT_NE(Wrong({"", "L3:0=f", "", {}, false}), "ok");
  EXPECT_FALSE(Exists(root + "/c1"));
  EXPECT_NE(Wrong({"silver", "L3:0=f", "", {}, false}), "ok");
  EXPECT_FALSE(Exists(root + "/silver"));
}

TEST_F(Resctrl, BadInputNamesTheMember) {
  EXPECT_EQ(Wrong({"../x", "", "", {}, false}), "linux.intelRdt.closID: \"../x\": must be a file name, or /");
  EXPECT_EQ(Wrong({"x", "", "L3:0=1", {}, false}), "linux.intelRdt.memBwSchema: \"L3:0=1\": must begin with MB:");
  EXPECT_EQ(Wrong({"x", "", "", {"L3:0=1\nMB:0=1"}, false}),
            "linux.intelRdt: \"L3:0=1\nMB:0=1\": a schema has one line");
}

}  // namespace
}  // namespace berth::runtime::resctrl
