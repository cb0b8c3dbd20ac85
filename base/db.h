#pragma once
// SQLite, for what outlives the process. One Db per file; statements are cached by their text. WAL, synchronous=FULL: a
// commit has reached the disk when it returns. Thread-safe: a transaction holds the connection's mutex.
//
//   TRY(db.Transact([&](Db::Txn& t) -> Result<void> {
//     TRY(t.Exec("INSERT INTO pods(id, spec) VALUES(?, ?)", id, spec));
//     return {};
//   }));
//   TRY(t.Each("SELECT id, spec FROM pods WHERE phase = ?", [&](const Db::Row& r) { ids.push_back(r.Text(0)); }, phase));
//
// Arguments: integers, booleans, enums (as integers), strings, ids and whatever has str(), nullptr, std::optional of
// these. Errors: a taken key -> kAlreadyExists, a foreign key -> kConflict, a full disk -> kResourceExhausted, a damaged
// file -> kDataLoss, all with the file's name.
//
// Each folder owns its tables and makes them with `Migrate(folder, {step1, step2, ...})`: steps already done for that
// folder are skipped; a database written by a newer version is refused with an error that says so.
#include <concepts>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/error.h"

struct sqlite3;
struct sqlite3_stmt;

namespace berth {

class Db {
 public:
  class Row {
   public:
    std::string Text(int column) const;     // also for blobs
    int64_t Int(int column) const;
    bool IsNull(int column) const;

   private:
    friend class Db;
    explicit Row(sqlite3_stmt* s) : statement_(s) {}
    sqlite3_stmt* statement_;
  };

  using Value = std::variant<std::nullptr_t, int64_t, std::string>;

  class Txn {
   public:
    template <class... Args>
    Result<int> Exec(std::string_view sql, const Args&... args) {  // rows changed
      return db_.ExecValues(sql, {ToValue(args)...});
    }
    template <class F, class... Args>
    Result<void> Each(std::string_view sql, F&& f, const Args&... args) {
      return db_.EachValues(sql, std::forward<F>(f), {ToValue(args)...});
    }

   private:
    friend class Db;
    explicit Txn(Db& db) : db_(db) {}
    Db& db_;
  };

  static Result<std::unique_ptr<Db>> OpenFile(const std::string& path);  // made when missing, mode 0600
  static Result<std::unique_ptr<Db>> OpenMemory();
  ~Db();
  Db(const Db&) = delete;

  Result<void> Transact(const std::function<Result<void>(Txn&)>& body);  // commits when body succeeds, else rolls back
  // The same without waiting for the disk: the commit outlives the process but perhaps not a power cut, which is enough for
  // records of what a reboot removes anyway (links, addresses, processes). The file stays consistent, and a later commit
  // of the other kind brings this one to the disk too. Inside another transaction it is part of that one.
  Result<void> TransactUnsynced(const std::function<Result<void>(Txn&)>& body);
  Result<void> Migrate(std::string_view folder, const std::vector<std::string>& steps);
  template <class... Args>
  Result<int> Exec(std::string_view sql, const Args&... args) {  // a transaction of one statement
    std::lock_guard lock(mutex_);
    return ExecValues(sql, {ToValue(args)...});
  }
  template <class F, class... Args>
  Result<void> Each(std::string_view sql, F&& f, const Args&... args) {
    std::lock_guard lock(mutex_);
    return EachValues(sql, std::forward<F>(f), {ToValue(args)...});
  }

 private:
  Db() = default;
  template <class T>
  static Value ToValue(const T& v) {
    if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) return static_cast<int64_t>(v);
    else if constexpr (std::is_same_v<T, std::nullptr_t>) return nullptr;
    else if constexpr (requires { v.has_value(); *v; }) return v.has_value() ? ToValue(*v) : Value(nullptr);
    else if constexpr (requires { { v.str() } -> std::convertible_to<std::string>; }) return std::string(v.str());
    else return std::string(v);
  }
  Result<int> ExecValues(std::string_view sql, const std::vector<Value>& values);
  Result<void> EachValues(std::string_view sql, const std::function<void(const Row&)>& f, const std::vector<Value>& values);
  static Result<std::unique_ptr<Db>> Connect(const std::string& path, bool memory);
  Result<sqlite3_stmt*> Prepare(const std::string& sql, const std::vector<Value>& values);
  void PutBack(const std::string& sql, sqlite3_stmt* statement);
  Result<void> Script(const char* sql);
  std::unexpected<Error> Failure(std::string_view doing) const;

  std::recursive_mutex mutex_;  // recursive: Exec within Transact is part of that transaction
  std::string name_;
  sqlite3* db_ = nullptr;
  int depth_ = 0;               // of nested Transact calls; inner ones are savepoints
  std::unordered_map<std::string, sqlite3_stmt*> statements_;  // those not in use
};

}  // namespace berth
