#include "base/atomic_file.h"

#include <sys/stat.h>

#include <gtest/gtest.h>

#include "base/testing.h"
#include "base/unique_fd.h"

namespace berth {
namespace {

using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

TEST(AtomicFile, ReplacesWholeAndLeavesNoTemporary) {
  TempDir dir;
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "f", "one", 0600)));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "f", "two two", 0640)));
  EXPECT_EQ(*ReadFile(dir / "f"), "two two");
  struct stat st{};
  ASSERT_EQ(::stat((dir / "f").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
  ASSERT_TRUE(IsOk(MakeDirs(dir / "d/f")));
  EXPECT_FALSE(WriteFileAtomic(dir / "d/f", "x"));  // a directory is in the way
  ASSERT_EQ(::rmdir((dir / "d/f").c_str()), 0);
  EXPECT_EQ(::rmdir((dir / "d").c_str()), 0) << "a temporary file was left";
}

TEST(AtomicFile, ReadHasALimit) {
  TempDir dir;
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "f", std::string(10'000, 'x'))));
  EXPECT_EQ(ReadFile(dir / "f", 10'000)->size(), 10'000u);
  EXPECT_TRUE(IsErr(ReadFile(dir / "f", 9'999), Code::kInvalidArgument, "9999 bytes"));
  EXPECT_FALSE(ReadFile("/proc/self/status")->empty());  // claims to have no bytes
  EXPECT_TRUE(IsErr(ReadFile(dir / "none"), Code::kNotFound, "none"));
}

TEST(AtomicFile, WriteExistingNamesPathAndValue) {
  TempDir dir;
  EXPECT_TRUE(IsErr(WriteExisting(dir / "none", "7"), Code::kNotFound, "\"7\""));
  EXPECT_FALSE(Exists(dir / "none"));
}

TEST(AtomicFile, MakeDirs) {
  TempDir dir;
  EXPECT_TRUE(IsOk(MakeDirs(dir / "a/b/c/", 0700)));
  EXPECT_TRUE(IsOk(MakeDirs(dir / "a/b/c")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "a/f", "")));
  EXPECT_TRUE(IsErr(MakeDirs(dir / "a/f"), Code::kInvalidArgument, "a/f"));
  EXPECT_TRUE(IsErr(MakeDirs(dir / "a/f/g"), Code::kInvalidArgument, "a/f"));
}

TEST(RemoveTree, FollowsNoLink) {
  TempDir dir;
  ASSERT_TRUE(IsOk(MakeDirs(dir / "keep")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "keep/f", "x")));
  ASSERT_TRUE(IsOk(MakeDirs(dir / "t/a/b")));
  ASSERT_EQ(::symlink("../keep", (dir / "t/link").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (dir / "t/a/dangling").c_str()), 0);
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(IsOk(Open(dir / ("t/a/b/" + std::to_string(i)), O_CREAT | O_WRONLY, 0600)));
  EXPECT_TRUE(IsOk(RemoveTree(dir / "t")));
  EXPECT_FALSE(Exists(dir / "t"));
  EXPECT_EQ(*ReadFile(dir / "keep/f"), "x");
  EXPECT_TRUE(IsOk(RemoveTree(dir / "t")));
  EXPECT_TRUE(IsOk(RemoveTree(dir / "no/such/parent")));
  ASSERT_EQ(::symlink("keep", (dir / "top").c_str()), 0);
  EXPECT_TRUE(IsOk(RemoveTree(dir / "top")));
  EXPECT_TRUE(Exists(dir / "keep/f"));
  EXPECT_TRUE(IsErr(RemoveTree("/"), Code::kInvalidArgument));
  EXPECT_TRUE(IsErr(RemoveTree(dir / ".."), Code::kInvalidArgument));
}

TEST(RemoveTree, DeeperThanPathsAndDescriptors) {
  TempDir dir;
  ASSERT_TRUE(IsOk(MakeDirs(dir / "deep")));
  unique_fd at = std::move(*Open(dir / "deep", O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(::mkdirat(at.get(), "directory", 0700), 0);
    at = std::move(*OpenAt(at.get(), "directory", O_RDONLY | O_DIRECTORY));
  }
  EXPECT_TRUE(IsOk(RemoveTree(dir / "deep")));
  EXPECT_FALSE(Exists(dir / "deep"));
}

}  // namespace
}  // namespace berth
