#include "base/error.h"

#include <gtest/gtest.h>

#include "base/secret.h"
#include "base/testing.h"
#include "base/undo.h"
#include "base/unique_fd.h"
#include "base/utf8.h"

namespace berth {
namespace {

using testing::IsErr;

Result<int> Half(int n) {
  if (n % 2 != 0) return Err(Code::kInvalidArgument, "{} is odd", n);
  return n / 2;
}
Result<int> Quarter(int n) { return Half(TRY(Half(n))); }
Result<int> Named(int n) { return TRY_CTX(Half(n), "half of {}", n); }

TEST(Error, TryPassesValuesAndErrors) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_TRUE(IsErr(Quarter(6), Code::kInvalidArgument, "3 is odd"));
}

TEST(Error, WrapPrependsAndKeeps) {
  auto r = Named(5);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().what, "half of 5: 5 is odd");
  EXPECT_EQ(r.error().code, Code::kInvalidArgument);
  EXPECT_NE(std::string_view(r.error().at.function_name()).find("Half"), std::string_view::npos);
}

TEST(Error, SysErrKeepsErrno) {
  errno = ENOSPC;
  Result<void> r = SysErr("write {}", "x");
  EXPECT_EQ(r.error().sys, ENOSPC);
  EXPECT_EQ(r.error().code, Code::kResourceExhausted);
  EXPECT_EQ(r.error().what, "write x: No space left on device");
}

TEST(Error, EveryCodeHasARow) {
  for (int c = 0; c <= static_cast<int>(Code::kInternal); ++c) {
    EXPECT_FALSE(CodeName(static_cast<Code>(c)).empty());
    EXPECT_GE(GrpcStatus(static_cast<Code>(c)), 0);
    EXPECT_GE(HttpStatus(static_cast<Code>(c)), 300);
  }
}

TEST(Secret, PrintsStars) { EXPECT_EQ(fmt::format("{}", Secret("hunter2")), "***"); }

TEST(UniqueFd, OwnsAndMoves) {
  auto [read_end, write_end] = std::move(*Pipe());
  const int number = read_end.get();
  EXPECT_EQ(::fcntl(number, F_GETFD), FD_CLOEXEC);
  unique_fd moved = std::move(read_end);
  EXPECT_FALSE(read_end);
  moved = std::move(write_end);  // closes what it had
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
  auto copy = moved.Duplicate();
  ASSERT_TRUE(copy);
  EXPECT_NE(copy->get(), moved.get());
}

TEST(UniqueFd, OpenNamesThePath) { EXPECT_TRUE(IsErr(Open("/no/such/file", O_RDONLY), Code::kNotFound, "open /no/such/file")); }

TEST(Undo, RunsNewestFirstAndAllOfIt) {
  std::string ran;
  {
    Undo undo;
    undo.Last("z", [&] { return ran += 'z', Result<void>(); });
    undo.Add("a", [&] { return ran += 'a', Result<void>(); });
    undo.Add("b", [&] { return ran += 'b', Result<void>(); });
  }
  EXPECT_EQ(ran, "baz");
}

TEST(Undo, LastStaysWhenAStepFails) {
  std::string ran;
  Undo undo;
  undo.Last("z", [&] { return ran += 'z', Result<void>(); });
  undo.Add("a", [&] { return ran += 'a', Result<void>(); });
  undo.Add("b", [&]() -> Result<void> { return Err(Code::kInternal, "no"); });
  EXPECT_FALSE(undo.Run());
  EXPECT_EQ(ran, "a");
  EXPECT_TRUE(undo.Run());  // nothing left
  EXPECT_EQ(ran, "a");
}

TEST(Undo, KeepUndoesNothing) {
  bool ran = false;
  {
    Undo undo;
    undo.Add("a", [&] { return ran = true, Result<void>(); });
    undo.Last("b", [&] { return ran = true, Result<void>(); });
    undo.Keep();
  }
  EXPECT_FALSE(ran);
}

TEST(Utf8, Sequences) {
  EXPECT_EQ(Utf8Sequence("a"), 1u);
  EXPECT_EQ(Utf8Sequence("\xC3\xA4"), 2u);
  EXPECT_EQ(Utf8Sequence("\xE2\x82\xAC"), 3u);
  EXPECT_EQ(Utf8Sequence("\xF0\x9F\x98\x80"), 4u);
  for (const char* bad : {"\x80", "\xC0\x80", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80"})
    EXPECT_EQ(Utf8Sequence(bad), 0u) << bad;
  EXPECT_EQ(ToUtf8("a\xFF\xC3\xA4"), "a\xEF\xBF\xBD\xC3\xA4");
}

}  // namespace
}  // namespace berth
