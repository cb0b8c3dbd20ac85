#include "base/db.h"

#include <sys/stat.h>

#include <thread>

#include <gtest/gtest.h>

#include "base/id.h"
#include "base/testing.h"

namespace berth {
namespace {

using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

std::vector<std::string> Column(Db& db, std::string_view sql) {
  std::vector<std::string> out;
  EXPECT_TRUE(IsOk(db.Each(sql, [&](const Db::Row& r) { out.push_back(r.IsNull(0) ? "NULL" : r.Text(0)); })));
  return out;
}

const std::vector<std::string> kSteps = {"CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER) STRICT"};

TEST(Db, ValuesOfEveryKind) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(IsOk(db->Exec("CREATE TABLE v(a, b, c, d, e)")));
  enum class Color { kRed = 7 };
  const std::string bytes("a\0b\xFF", 4);
  EXPECT_EQ(*db->Exec("INSERT INTO v VALUES(?, ?, ?, ?, ?)", bytes, Color::kRed, std::optional<std::string>(), PodId("ab"), true), 1);
  ASSERT_TRUE(IsOk(db->Each("SELECT * FROM v", [&](const Db::Row& r) {
    EXPECT_EQ(r.Text(0), bytes);
    EXPECT_EQ(r.Int(1), 7);
    EXPECT_TRUE(r.IsNull(2));
    EXPECT_EQ(r.Text(3), "ab");
    EXPECT_EQ(r.Int(4), 1);
  })));
}

TEST(Db, TransactionsCommitOrLeaveNothing) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(IsOk(db->Migrate("pods", kSteps)));
  EXPECT_TRUE(IsErr(db->Transact([](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO t VALUES('a', 1)"));
    return Err(Code::kNotFound, "changed my mind");
  }), Code::kNotFound));
  EXPECT_TRUE(Column(*db, "SELECT id FROM t").empty());
  EXPECT_THROW((void)db->Transact([](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO t VALUES('a', 1)"));
    throw std::runtime_error("x");
  }), std::runtime_error);
  EXPECT_TRUE(Column(*db, "SELECT id FROM t").empty());
  EXPECT_TRUE(IsOk(db->Transact([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO t VALUES('a', 1)"));
    // An inner transaction that fails takes back only its own.
    EXPECT_FALSE(db->Transact([](Db::Txn& inner) -> Result<void> {
      TRY(inner.Exec("INSERT INTO t VALUES('b', 1)"));
      TRY(inner.Exec("INSERT INTO t VALUES('a', 1)"));
      return {};
    }));
    return {};
  })));
  EXPECT_EQ(Column(*db, "SELECT id FROM t"), std::vector<std::string>{"a"});
}

TEST(Db, UnsyncedCommitsAreThereAndTheSettingIsPutBack) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(db->Exec("CREATE TABLE t(a)"));
  EXPECT_TRUE(db->TransactUnsynced([](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO t VALUES(1)"));
    return {};
  }));
  EXPECT_FALSE(db->TransactUnsynced([](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("INSERT INTO t VALUES(2)"));
    return Err(Code::kConflict, "no");
  }));
  int64_t rows = 0, synchronous = 0;
  ASSERT_TRUE(db->Each("SELECT count(*) FROM t", [&](const Db::Row& r) { rows = r.Int(0); }));
  ASSERT_TRUE(db->Each("PRAGMA synchronous", [&](const Db::Row& r) { synchronous = r.Int(0); }));
  EXPECT_EQ(rows, 1);
  EXPECT_EQ(synchronous, 2) << "FULL";
}

TEST(Db, ErrorsHaveCodes) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(IsOk(db->Migrate("pods", {kSteps[0], "CREATE TABLE c(t TEXT REFERENCES t(id)) STRICT"})));
  ASSERT_TRUE(IsOk(db->Exec("INSERT INTO t VALUES('a', 1)")));
  EXPECT_TRUE(IsErr(db->Exec("INSERT INTO t VALUES('a', 1)"), Code::kAlreadyExists, "database :memory:"));
  EXPECT_TRUE(IsErr(db->Exec("INSERT INTO c VALUES('none')"), Code::kConflict));
  EXPECT_TRUE(IsErr(db->Exec("INSERT INTO nowhere VALUES(1)"), Code::kInternal, "nowhere"));
  EXPECT_TRUE(IsErr(db->Exec("DELETE FROM t; DELETE FROM c"), Code::kInternal, "one statement"));
  EXPECT_TRUE(IsErr(db->Exec("DELETE FROM t WHERE id = ?"), Code::kInternal, "0 values for 1"));
}

TEST(Db, ExecCountsOnlyItsOwnChanges) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(IsOk(db->Migrate("pods", kSteps)));
  EXPECT_EQ(*db->Exec("INSERT INTO t VALUES('a', 1), ('b', 2)"), 2);
  EXPECT_EQ(*db->Exec("UPDATE t SET n = 3 WHERE id = ?", "none"), 0);
  EXPECT_EQ(*db->Exec("CREATE TABLE other(x)"), 0);
}

TEST(Db, CallbacksMayUseTheSameStatement) {
  auto db = std::move(*Db::OpenMemory());
  ASSERT_TRUE(IsOk(db->Migrate("pods", kSteps)));
  ASSERT_TRUE(IsOk(db->Exec("INSERT INTO t VALUES('a', 1), ('b', 2)")));
  int pairs = 0;
  ASSERT_TRUE(IsOk(db->Each("SELECT id FROM t", [&](const Db::Row&) {
    EXPECT_TRUE(IsOk(db->Each("SELECT id FROM t", [&](const Db::Row&) { ++pairs; })));
  })));
  EXPECT_EQ(pairs, 4);
}

TEST(Db, MigratesOnceAndRefusesTheFuture) {
  TempDir dir;
  const std::string path = dir / "x.db";
  {
    auto db = std::move(*Db::OpenFile(path));
    ASSERT_TRUE(IsOk(db->Migrate("pods", kSteps)));
    ASSERT_TRUE(IsOk(db->Migrate("pods", kSteps)));
    ASSERT_TRUE(IsOk(db->Exec("INSERT INTO t VALUES('a', 1)")));
    ASSERT_TRUE(IsOk(db->Migrate("pods", {kSteps[0], "ALTER TABLE t ADD COLUMN m INTEGER; UPDATE t SET m = n + 1"})));
    EXPECT_EQ(Column(*db, "SELECT m FROM t"), std::vector<std::string>{"2"});
    EXPECT_TRUE(IsErr(db->Migrate("cni", {"CREATE TABLE a(x)", "nonsense"}), Code::kInternal, "migrate cni to step 2"));
    EXPECT_EQ(Column(*db, "SELECT count(*) FROM sqlite_master WHERE name = 'a'"), std::vector<std::string>{"0"});
  }
  auto db = std::move(*Db::OpenFile(path));
  EXPECT_TRUE(IsErr(db->Migrate("pods", kSteps), Code::kFailedPrecondition, "newer version"));
  EXPECT_EQ(Column(*db, "SELECT id FROM t"), std::vector<std::string>{"a"});
}

TEST(Db, FilesArePrivateAndDurable) {
  TempDir dir;
  auto db = std::move(*Db::OpenFile(dir / "x.db"));
  ASSERT_TRUE(IsOk(db->Exec("CREATE TABLE t(x)")));
  for (const char* name : {"x.db", "x.db-wal"}) {
    struct stat st{};
    ASSERT_EQ(::stat((dir / name).c_str(), &st), 0) << name;
    EXPECT_EQ(st.st_mode & 0777, 0600u) << name;
  }
  EXPECT_EQ(Column(*db, "PRAGMA journal_mode"), std::vector<std::string>{"wal"});
  EXPECT_EQ(Column(*db, "PRAGMA synchronous"), std::vector<std::string>{"2"});
  EXPECT_EQ(Column(*db, "PRAGMA foreign_keys"), std::vector<std::string>{"1"});
}

TEST(Db, DamageIsNamed) {
  TempDir dir;
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "x.db", std::string(8192, 'z'))));
  EXPECT_TRUE(IsErr(Db::OpenFile(dir / "x.db"), Code::kDataLoss, dir / "x.db"));
  EXPECT_TRUE(IsErr(Db::OpenFile(dir / "no/x.db"), Code::kNotFound, "no/x.db"));
}

TEST(Db, ManyThreads) {
  TempDir dir;
  auto db = std::move(*Db::OpenFile(dir / "x.db"));
  ASSERT_TRUE(IsOk(db->Exec("CREATE TABLE t(n INTEGER)")));
  ASSERT_TRUE(IsOk(db->Exec("INSERT INTO t VALUES(0)")));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i)
        EXPECT_TRUE(IsOk(db->Transact([](Db::Txn& t) -> Result<void> {
          int64_t n = 0;
          TRY(t.Each("SELECT n FROM t", [&](const Db::Row& r) { n = r.Int(0); }));
          TRY(t.Exec("UPDATE t SET n = ?", n + 1));
          return {};
        })));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(Column(*db, "SELECT n FROM t"), std::vector<std::string>{"100"});
}

}  // namespace
}  // namespace berth
