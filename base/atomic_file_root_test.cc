// RemoveTree and mounts, in a mount namespace of its own.
#include <sched.h>
#include <sys/mount.h>

#include <gtest/gtest.h>

#include "base/testing.h"

namespace berth {
namespace {

using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

TEST(RemoveTreeRoot, StopsAtMountPoints) {
  if (::unshare(CLONE_NEWNS) < 0) GTEST_SKIP() << "no mount namespace (CAP_SYS_ADMIN): " << ErrnoText(errno);
  ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  TempDir dir;
  ASSERT_TRUE(IsOk(MakeDirs(dir / "t/a/mounted")));
  ASSERT_EQ(::mount("tmpfs", (dir / "t/a/mounted").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "t/a/mounted/precious", "x")));
  EXPECT_TRUE(IsErr(RemoveTree(dir / "t"), Code::kConflict, "mounted in it is a mount point"));
  EXPECT_TRUE(IsErr(RemoveTree(dir / "t/a/mounted"), Code::kConflict, "is a mount point"));
  EXPECT_TRUE(Exists(dir / "t/a/mounted/precious"));
  ASSERT_EQ(::umount((dir / "t/a/mounted").c_str()), 0);
  EXPECT_TRUE(IsOk(RemoveTree(dir / "t")));
}

}  // namespace
}  // namespace berth
