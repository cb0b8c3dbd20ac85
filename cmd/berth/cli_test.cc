#include <gtest/gtest.h>

#include <unistd.h>

#include "base/atomic_file.h"
#include "cmd/berth/log_reader.h"
#include "cmd/berth/table.h"

namespace berth::cli {
namespace {

TEST(Table, AlignsColumnsAndLeavesNoTrailingBlanks) {
  Table table({"A", "LONG"});
  table.Add({"value", "x"});
  EXPECT_EQ(table.Text(), "A      LONG\nvalue  x\n");
}

TEST(Table, SizesAreDecimal) {
  EXPECT_EQ(HumanSize(0), "0 B");
  EXPECT_EQ(HumanSize(999), "999 B");
  EXPECT_EQ(HumanSize(1500), "1.5 kB");
  EXPECT_EQ(HumanSize(123'000'000), "123 MB");
  EXPECT_EQ(HumanSize(999'999'999), "1.0 GB");
}

TEST(LogLine, FullAndPartial) {
  std::string storage;
  auto full = ParseLogLine("2026-01-02T03:04:05.000000001Z stdout F hello world", storage);
  ASSERT_TRUE(full);
  EXPECT_EQ(full->stream, "stdout");
  EXPECT_EQ(full->content, "hello world\n");
  auto partial = ParseLogLine("2026-01-02T03:04:05.000000001Z stderr P ab ", storage);
  ASSERT_TRUE(partial);
  EXPECT_EQ(partial->content, "ab ");
  auto empty = ParseLogLine("2026-01-02T03:04:05.000000001Z stdout F ", storage);
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->content, "\n");
  EXPECT_FALSE(ParseLogLine("nonsense", storage));
}

class LogFile : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/berth-log.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    dir_ = pattern;
    path_ = dir_ + "/c.log";
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_)); }
  void Append(const std::string& lines) {
    auto fd = Open(path_, O_WRONLY | O_CREAT | O_APPEND, 0644);
    ASSERT_TRUE(fd);
    ASSERT_TRUE(WriteAll(fd->get(), lines));
  }
  std::string dir_, path_;
};

TEST_F(LogFile, TailKeepsWholeLinesMadeOfPartialRecords) {
  Append("t1 stdout F one\nt2 stdout P tw\nt3 stdout F o\nt4 stdout F three\n");
  std::string got;
  LogReader reader(path_, {.tail = 2});
  ASSERT_TRUE(reader.ReadExisting([&](const LogRecord& r) { got += r.content; }));
  EXPECT_EQ(got, "two\nthree\n");
}

TEST_F(LogFile, FollowsAcrossRotation) {
  Append("t1 stdout F one\n");
  std::string got;
  auto sink = [&](const LogRecord& r) { got += r.content; };
  LogReader reader(path_, {});
  ASSERT_TRUE(reader.ReadExisting(sink));
  ASSERT_EQ(::rename(path_.c_str(), (path_ + ".1").c_str()), 0);
  Append("t2 stdout F two\nt3 stdout F thr");  // the last record is still being written
  ASSERT_TRUE(reader.ReadMore(sink));
  EXPECT_EQ(got, "one\ntwo\n");
  Append("ee\n");
  ASSERT_TRUE(reader.ReadMore(sink));
  EXPECT_EQ(got, "one\ntwo\nthree\n");
}

TEST_F(LogFile, MissingIsNotFound) {
  LogReader reader(path_, {});
  auto read = reader.ReadExisting([](const LogRecord&) {});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kNotFound);
}

}  // namespace
}  // namespace berth::cli
