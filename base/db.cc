#include "base/db.h"

#include <fcntl.h>
#include <sqlite3.h>

#include "base/atomic_file.h"
#include "base/unique_fd.h"

namespace berth {
namespace {

constexpr int kBusyMs = 5000;               // another process (sqlite3 shell, a second berthd) may hold it briefly
constexpr size_t kMaxCached = 256;          // statements; texts are constants, this only bounds generated ones
constexpr std::string_view kSettings =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
    "CREATE TABLE IF NOT EXISTS berth_migrations(folder TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;";

Code CodeOf(int extended) {
  switch (extended) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_ROWID: return Code::kAlreadyExists;
    case SQLITE_CONSTRAINT_FOREIGNKEY: return Code::kConflict;
    default: break;
  }
  switch (extended & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return Code::kUnavailable;
    case SQLITE_FULL:
    case SQLITE_TOOBIG:
    case SQLITE_NOMEM: return Code::kResourceExhausted;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return Code::kDataLoss;
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM: return Code::kFailedPrecondition;
    default: return Code::kInternal;
  }
}

}  // namespace

std::string Db::Row::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes ? std::string(static_cast<const char*>(bytes), size) : std::string();
}
int64_t Db::Row::Int(int column) const { return sqlite3_column_int64(statement_, column); }
bool Db::Row::IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

std::unexpected<Error> Db::Failure(std::string_view doing) const {
  const int extended = sqlite3_extended_errcode(db_);
  const int sys = (extended & 0xff) == SQLITE_IOERR || (extended & 0xff) == SQLITE_CANTOPEN ? sqlite3_system_errno(db_) : 0;
  std::string what = fmt::format("database {}: {}: {}", name_, doing, sqlite3_errmsg(db_));
  if (sys != 0) what += ": " + ErrnoText(sys);
  const Code code = sys == ENOSPC || sys == EDQUOT ? Code::kResourceExhausted : CodeOf(extended);
  return std::unexpected(Error{code, std::move(what), sys, std::source_location::current()});
}

Result<std::unique_ptr<Db>> Db::Connect(const std::string& path, bool memory) {
  std::unique_ptr<Db> db(new Db);
  db->name_ = path;
  // The connection's own mutex is off: ours covers whole transactions.
  const int rc = sqlite3_open_v2(path.c_str(), &db->db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (!db->db_) return Err(Code::kResourceExhausted, "database {}: out of memory", path);
  if (rc != SQLITE_OK) return db->Failure("open");
  sqlite3_extended_result_codes(db->db_, 1);
  sqlite3_busy_timeout(db->db_, kBusyMs);
  TRY(db->Script(std::string(kSettings).c_str()));
  std::string mode;
  TRY(db->Each("PRAGMA journal_mode", [&](const Row& row) { mode = row.Text(0); }));
  if (!memory && mode != "wal")
    return Err(Code::kFailedPrecondition, "database {}: write-ahead log is not possible here (journal mode {})", path, mode);
  return db;
}

Result<std::unique_ptr<Db>> Db::OpenFile(const std::string& path) {
  // Made by us for its mode. Only when missing: closing a descriptor of a database that is open would drop its locks.
  const int made = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (made < 0 && errno != EEXIST) return SysErr("make database {}", path);
  if (made >= 0) {
    ::close(made);
    const size_t slash = path.find_last_of('/');
    TRY(SyncDirectory(slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash)));
  }
  return Connect(path, false);
}

Result<std::unique_ptr<Db>> Db::OpenMemory() { return Connect(":memory:", true); }

Db::~Db() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close_v2(db_);
}

Result<void> Db::Script(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return Failure(sql);
  return {};
}

Result<sqlite3_stmt*> Db::Prepare(const std::string& sql, const std::vector<Value>& values) {
  sqlite3_stmt* statement = nullptr;
  // A statement in use is out of the cache, so that a callback may run the same text again.
  if (auto cached = statements_.find(sql); cached != statements_.end()) {
    statement = cached->second;
    statements_.erase(cached);
  } else {
    const char* rest = nullptr;
    if (sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()) + 1, SQLITE_PREPARE_PERSISTENT, &statement, &rest) != SQLITE_OK)
      return Failure(sql);
    if (!statement || std::string_view(rest).find_first_not_of(" \t\r\n;") != std::string_view::npos) {
      sqlite3_finalize(statement);
      return Err(Code::kInternal, "database {}: {}: not exactly one statement", name_, sql);
    }
  }
  const int wanted = sqlite3_bind_parameter_count(statement);
  if (wanted != static_cast<int>(values.size())) {
    PutBack(sql, statement);
    return Err(Code::kInternal, "database {}: {}: {} values for {} parameters", name_, sql, values.size(), wanted);
  }
  for (int i = 0; i < wanted; ++i) {
    int rc = SQLITE_OK;
    if (const auto* number = std::get_if<int64_t>(&values[i])) rc = sqlite3_bind_int64(statement, i + 1, *number);
    else if (const auto* text = std::get_if<std::string>(&values[i]))
      rc = sqlite3_bind_text64(statement, i + 1, text->data(), text->size(), SQLITE_STATIC, SQLITE_UTF8);
    if (rc != SQLITE_OK) {
      auto failure = Failure(sql);
      PutBack(sql, statement);
      return failure;
    }
  }
  return statement;
}

void Db::PutBack(const std::string& sql, sqlite3_stmt* statement) {
  sqlite3_reset(statement);
  sqlite3_clear_bindings(statement);
  if (statements_.size() >= kMaxCached || !statements_.try_emplace(sql, statement).second) sqlite3_finalize(statement);
}

Result<void> Db::EachValues(std::string_view sql, const std::function<void(const Row&)>& f, const std::vector<Value>& values) {
  const std::string text(sql);
  sqlite3_stmt* const statement = TRY(Prepare(text, values));
  // Also when f throws: an unfinished statement would keep the transaction open.
  struct Return {
    Db& db;
    const std::string& sql;
    sqlite3_stmt* statement;
    ~Return() { db.PutBack(sql, statement); }
  } back{*this, text, statement};
  for (;;) {
    const int rc = sqlite3_step(statement);
    if (rc == SQLITE_DONE) return {};
    if (rc != SQLITE_ROW) return Failure(text);
    f(Row(statement));
  }
}

Result<int> Db::ExecValues(std::string_view sql, const std::vector<Value>& values) {
  const int64_t before = sqlite3_total_changes64(db_);
  TRY(EachValues(sql, [](const Row&) {}, values));
  // changes() keeps the number of the last statement that changed something; total_changes() tells whether this one did.
  return sqlite3_total_changes64(db_) == before ? 0 : sqlite3_changes(db_);
}

Result<void> Db::Transact(const std::function<Result<void>(Txn&)>& body) {
  std::lock_guard lock(mutex_);
  struct Scope {
    Db& db;
    bool open = false;
    const char* rollback;
    ~Scope() {
      --db.depth_;
      // Fails harmlessly when SQLite rolled back by itself (disk full).
      if (open) sqlite3_exec(db.db_, rollback, nullptr, nullptr, nullptr);
    }
  } scope{*this, false, depth_ == 0 ? "ROLLBACK" : "ROLLBACK TO berth; RELEASE berth"};
  const bool outer = depth_++ == 0;
  TRY(Script(outer ? "BEGIN IMMEDIATE" : "SAVEPOINT berth"));
  scope.open = true;
  Txn txn(*this);
  TRY(body(txn));
  TRY(Script(outer ? "COMMIT" : "RELEASE berth"));
  scope.open = false;
  return {};
}

Result<void> Db::TransactUnsynced(const std::function<Result<void>(Txn&)>& body) {
  std::lock_guard lock(mutex_);
  if (depth_ > 0) return Transact(body);
  // In WAL mode NORMAL syncs at checkpoints only. The setting is the connection's, which is ours while we hold the mutex.
  struct Scope {
    Db& db;
    ~Scope() { (void)db.Script("PRAGMA synchronous=FULL"); }
  } scope{*this};
  TRY(Script("PRAGMA synchronous=NORMAL"));
  return Transact(body);
}

Result<void> Db::Migrate(std::string_view folder, const std::vector<std::string>& steps) {
  return Transact([&](Txn& t) -> Result<void> {
    int64_t version = 0;
    TRY(t.Each("SELECT version FROM berth_migrations WHERE folder = ?", [&](const Row& r) { version = r.Int(0); }, folder));
    const auto known = static_cast<int64_t>(steps.size());
    if (version > known)
      return Err(Code::kFailedPrecondition,
                 "database {}: written by a newer version: the tables of {} are at step {}, this program knows {}", name_,
                 folder, version, known);
    if (version == known) return {};
    for (int64_t i = version; i < known; ++i)
      TRY_CTX(Script(steps[i].c_str()), "migrate {} to step {}", folder, i + 1);
    TRY(t.Exec("INSERT INTO berth_migrations(folder, version) VALUES(?, ?) "
               "ON CONFLICT(folder) DO UPDATE SET version = excluded.version", folder, known));
    return {};
  });
}

}  // namespace berth
