#pragma once
// Rows of pods and containers in berth.db: written before what they describe is made, dropped after it is gone.
//
// Thread-safe. Every call is one transaction that outlives the agent when it returns, without waiting for the disk (4
// ms on an ordinary one): after a power cut no process exists any more, and recovery fixes what differs. WalSync
// (wal_sync.h) bounds what can be lost to a second. Specs are JSON of spec.h; columns that queries or people need are
// columns.
#include <memory>
#include <string>
#include <vector>

#include "base/db.h"
#include "pods/state.h"
#include "runtime/oci/spec.h"

namespace berth::pods {

struct PodRow {
  PodState state;
  bool removing = false;  // a removal was under way
};
struct ContainerRow {
  ContainerState state;
  bool removing = false;
};
struct Rows {
  std::vector<PodRow> pods;
  std::vector<ContainerRow> containers;
  std::string boot_id;  // of the kernel that the rows speak of; empty: first start
  int64_t created_floor = 0;
};

class Table {
 public:
  // Makes or migrates the tables. kFailedPrecondition when a newer version wrote them.
  static Result<std::unique_ptr<Table>> Open(Db& db);

  Result<void> Insert(const PodState& pod);  // kAlreadyExists when the identity has a row
  Result<void> Update(const PodState& pod);  // everything but spec, identity and created_at
  Result<void> MarkRemoving(const PodId& pod);
  Result<void> Drop(const PodId& pod);  // with rows of its containers; missing = success

  Result<void> Insert(const ContainerState& container);
  // With `spec`: also the OCI specification that the container was made from.
  Result<void> Update(const ContainerState& container, const runtime::oci::Spec* spec = nullptr);
  Result<void> UpdateSpec(const ContainerState& container, const runtime::oci::Spec& spec);  // both forms of it
  Result<void> MarkRemoving(const ContainerId& container);
  Result<void> Drop(const ContainerId& container);

  Result<Rows> Load();
  Result<runtime::oci::Spec> OciSpec(const ContainerId& container);  // kNotFound before `created`
  Result<void> SetBootId(const std::string& boot_id);

 private:
  explicit Table(Db& db) : db_(db) {}
  template <class... Args>
  Result<int> Write(std::string_view sql, const Args&... args) {  // rows changed
    int rows = 0;
    auto done = db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
      rows = TRY(t.Exec(sql, args...));
      return {};
    });
    if (!done) return std::unexpected(std::move(done).error());
    return rows;
  }
  Db& db_;
};

}  // namespace berth::pods
