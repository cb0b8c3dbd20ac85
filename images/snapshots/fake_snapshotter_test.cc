#include "images/snapshots/fake_snapshotter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/testing.h"

namespace berth::images {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

Digest Add(FakeSnapshotter& fake, const std::string& bytes, const std::vector<Digest>& parents = {}) {
  auto writer = fake.Begin(parents);
  EXPECT_TRUE(IsOk(writer));
  EXPECT_TRUE(IsOk((*writer)->Write(bytes)));
  auto committed = (*writer)->Commit(Digest::Of(bytes), Deadline::Never());
  EXPECT_TRUE(IsOk(committed));
  EXPECT_EQ(*committed, bytes.size());
  return Digest::Of(bytes);
}

TEST(FakeSnapshotter, KeepsTheContractOfLayers) {
  FakeSnapshotter fake;
  Digest layer = Add(fake, "bytes");
  EXPECT_EQ(Add(fake, "bytes"), layer);
  EXPECT_EQ((*fake.Find(layer))->bytes, 5u);
  auto tar = fake.OpenTar(layer);
  ASSERT_TRUE(IsOk(tar));
  char bytes[8];
  EXPECT_EQ(read(tar->get(), bytes, sizeof bytes), 5);
  EXPECT_TRUE(IsErr(fake.OpenTar(Digest::Of("none")), Code::kNotFound));
  auto wrong = fake.Begin({});
  ASSERT_TRUE(IsOk((*wrong)->Write("other")));
  EXPECT_TRUE(IsErr((*wrong)->Commit(layer, Deadline::Never()), Code::kDataLoss));
  auto orphan = fake.Begin({Digest::Of("none")});
  EXPECT_TRUE(IsErr((*orphan)->Commit(Digest::Of(""), Deadline::Never()), Code::kNotFound));
  EXPECT_EQ(fake.open_writers(), 2);
  wrong->reset();
  orphan->reset();
  EXPECT_EQ(fake.open_writers(), 0);
  EXPECT_THAT(fake.layers(), ElementsAre(layer));
  EXPECT_EQ((*fake.LayersUsage()).bytes, 5u);
}

TEST(FakeSnapshotter, KeepsTheContractOfOwners) {
  FakeSnapshotter fake;
  Digest layer = Add(fake, "bytes");
  auto root = fake.Prepare("a", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  ASSERT_EQ(mkdirat(root->mount.get(), "etc", 0755), 0);
  auto again = fake.Prepare("a", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(again));
  EXPECT_EQ(faccessat(again->mount.get(), "etc", F_OK, 0), 0);
  EXPECT_EQ((*fake.OwnerUsage("a")).inodes, 1u);
  EXPECT_TRUE(IsErr(fake.Prepare("a", {}, false, Deadline::Never()), Code::kConflict));
  EXPECT_TRUE(IsErr(fake.RemoveLayer(layer), Code::kConflict, "a"));
  EXPECT_TRUE(IsOk(fake.Drop("a")));
  EXPECT_TRUE(IsOk(fake.Drop("a")));
  EXPECT_TRUE(IsErr(fake.OwnerUsage("a"), Code::kNotFound));
  ASSERT_TRUE(IsOk(fake.Prepare("b", {layer}, true, Deadline::Never())));
  ASSERT_TRUE(IsOk(fake.Prepare("c", {layer}, true, Deadline::Never())));
  EXPECT_TRUE(IsOk(fake.Collect({"c"})));
  EXPECT_THAT(fake.owners(), ElementsAre("c"));
  EXPECT_TRUE(IsOk(fake.Drop("c")));
  EXPECT_TRUE(IsOk(fake.RemoveLayer(layer)));
  EXPECT_THAT(fake.layers(), IsEmpty());
}

TEST(FakeSnapshotter, FailsOnceWhenAsked) {
  FakeSnapshotter fake;
  fake.FailNext("begin", Code::kResourceExhausted, "disk is full");
  EXPECT_TRUE(IsErr(fake.Begin({}), Code::kResourceExhausted, "disk is full"));
  EXPECT_TRUE(IsOk(fake.Begin({})));
  fake.FailNext("prepare", Code::kInternal, "no");
  EXPECT_TRUE(IsErr(fake.Prepare("a", {}, false, Deadline::Never()), Code::kInternal));
  EXPECT_THAT(fake.owners(), IsEmpty());
}

}  // namespace
}  // namespace berth::images
