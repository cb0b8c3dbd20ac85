#include "pods/table.h"

#include "base/json.h"

namespace berth::cni {
BOOST_DESCRIBE_STRUCT(Address, (), (cidr, gateway))
BOOST_DESCRIBE_STRUCT(AttachResult, (),
                      (network, interface, mac, host_interface, addresses, dns_servers, dns_searches, dns_options,
                       result_json))
}  // namespace berth::cni

namespace berth::pods {

// Numbers of phases are those of the enums, which therefore only ever grow at their ends.
static const std::vector<std::string> kMigrations = {
    R"sql(
    CREATE TABLE pods(
      id TEXT PRIMARY KEY, name TEXT NOT NULL, namespace TEXT NOT NULL, uid TEXT NOT NULL, attempt INTEGER NOT NULL,
      phase INTEGER NOT NULL, created_at INTEGER NOT NULL, spec TEXT NOT NULL, network TEXT NOT NULL,
      netns TEXT NOT NULL, monitor INTEGER NOT NULL, cgroup TEXT NOT NULL, stuck TEXT NOT NULL,
      removing INTEGER NOT NULL DEFAULT 0,
      UNIQUE(name, namespace, uid, attempt)) WITHOUT ROWID;
    CREATE TABLE containers(
      id TEXT PRIMARY KEY, pod TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
      phase INTEGER NOT NULL, created_at INTEGER NOT NULL, started_at INTEGER NOT NULL, finished_at INTEGER NOT NULL,
      pid INTEGER NOT NULL, exit_code INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
      image_id TEXT NOT NULL, image_name TEXT NOT NULL, image_ref TEXT NOT NULL, log_path TEXT NOT NULL,
      cgroup TEXT NOT NULL, user TEXT NOT NULL, stop_signal INTEGER NOT NULL, spec TEXT NOT NULL, oci TEXT,
      removing INTEGER NOT NULL DEFAULT 0,
      UNIQUE(pod, name, attempt)) WITHOUT ROWID;
    CREATE TABLE pods_facts(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    )sql",
};

Result<std::unique_ptr<Table>> Table::Open(Db& db) {
  TRY_CTX(db.Migrate("pods", kMigrations), "tables of pods");
  return std::unique_ptr<Table>(new Table(db));
}

static Result<void> RaiseFloor(Db::Txn& t, int64_t created_at) {
  TRY(
      t.Exec("INSERT INTO pods_facts(key, value) VALUES('created_floor', ?) "
             "ON CONFLICT(key) DO UPDATE SET value = excluded.value",
             std::to_string(created_at)));
  return {};
}

Result<void> Table::Insert(const PodState& p) {
  return db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
    TRY_CTX(
        t.Exec("INSERT INTO pods(id, name, namespace, uid, attempt, phase, created_at, spec, network, netns, monitor, "
               "cgroup, stuck) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
               p.id.str(), p.spec.name, p.spec.name_space, p.spec.uid, p.spec.attempt, p.phase, p.created_at,
               json::ToText(p.spec), json::ToText(p.network), p.netns_path, p.monitor, p.cgroup, p.stuck),
        "row of pod {}", p.id);
    return RaiseFloor(t, p.created_at);
  });
}

Result<void> Table::Update(const PodState& p) {
  int rows = TRY_CTX(Write("UPDATE pods SET phase = ?, network = ?, netns = ?, monitor = ?, cgroup = ?, stuck = ? "
                           "WHERE id = ?",
                           p.phase, json::ToText(p.network), p.netns_path, p.monitor, p.cgroup, p.stuck, p.id.str()),
                     "row of pod {}", p.id);
  if (rows == 0) return Err(Code::kInternal, "pod {}: has no row", p.id);
  return {};
}

Result<void> Table::MarkRemoving(const PodId& pod) {
  TRY_CTX(Write("UPDATE pods SET removing = 1 WHERE id = ?", pod.str()), "row of pod {}", pod);
  return {};
}

Result<void> Table::Drop(const PodId& pod) {
  return db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
    TRY_CTX(t.Exec("DELETE FROM containers WHERE pod = ?", pod.str()), "rows of pod {}", pod);
    TRY_CTX(t.Exec("DELETE FROM pods WHERE id = ?", pod.str()), "row of pod {}", pod);
    return {};
  });
}

Result<void> Table::Insert(const ContainerState& c) {
  return db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
    TRY_CTX(t.Exec("INSERT INTO containers(id, pod, name, attempt, phase, created_at, started_at, finished_at, pid, "
                   "exit_code, reason, message, image_id, image_name, image_ref, log_path, cgroup, user, stop_signal, "
                   "spec) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                   c.id.str(), c.pod.str(), c.spec.name, c.spec.attempt, c.phase, c.created_at, c.started_at,
                   c.finished_at, c.pid, c.exit_code, c.reason, c.message, c.image_id, c.image_name, c.image_ref,
                   c.log_path, c.cgroup, json::ToText(c.user), c.stop_signal, json::ToText(c.spec)),
            "row of container {}", c.id);
    return RaiseFloor(t, c.created_at);
  });
}

Result<void> Table::Update(const ContainerState& c, const runtime::oci::Spec* spec) {
  std::optional<std::string> oci;  // none: the column stays as it is
  if (spec != nullptr) oci = json::ToText(*spec, json::Omit::kEmpty);
  int rows = TRY_CTX(
      Write("UPDATE containers SET phase = ?, started_at = ?, finished_at = ?, pid = ?, exit_code = ?, "
            "reason = ?, message = ?, image_id = ?, image_name = ?, image_ref = ?, log_path = ?, "
            "cgroup = ?, user = ?, stop_signal = ?, oci = coalesce(?, oci) WHERE id = ?",
            c.phase, c.started_at, c.finished_at, c.pid, c.exit_code, c.reason, c.message, c.image_id, c.image_name,
            c.image_ref, c.log_path, c.cgroup, json::ToText(c.user), c.stop_signal, oci, c.id.str()),
      "row of container {}", c.id);
  if (rows == 0) return Err(Code::kInternal, "container {}: has no row", c.id);
  return {};
}

Result<void> Table::UpdateSpec(const ContainerState& c, const runtime::oci::Spec& spec) {
  int rows = TRY_CTX(Write("UPDATE containers SET spec = ?, oci = ? WHERE id = ?", json::ToText(c.spec),
                           json::ToText(spec, json::Omit::kEmpty), c.id.str()),
                     "row of container {}", c.id);
  if (rows == 0) return Err(Code::kInternal, "container {}: has no row", c.id);
  return {};
}

Result<void> Table::MarkRemoving(const ContainerId& container) {
  TRY_CTX(Write("UPDATE containers SET removing = 1 WHERE id = ?", container.str()), "row of container {}", container);
  return {};
}

Result<void> Table::Drop(const ContainerId& container) {
  TRY_CTX(Write("DELETE FROM containers WHERE id = ?", container.str()), "row of container {}", container);
  return {};
}

Result<Rows> Table::Load() {
  Rows rows;
  Result<void> bad;  // the first row that cannot be read
  auto keep = [&](Result<void> r) {
    if (bad.has_value() && !r.has_value()) bad = std::move(r);
  };
  TRY_CTX(db_.Each("SELECT id, phase, created_at, spec, network, netns, monitor, cgroup, stuck, removing FROM pods "
                   "ORDER BY created_at",
                   [&](const Db::Row& r) {
                     PodRow row;
                     PodState& p = row.state;
                     p.id = PodId(r.Text(0));
                     p.phase = static_cast<PodPhase>(r.Int(1));
                     p.created_at = r.Int(2);
                     keep([&]() -> Result<void> {
                       p.spec = TRY(json::Parse<PodSpec>(r.Text(3), "pod " + p.id.str() + ": spec"));
                       p.network = TRY(json::Parse<cni::AttachResult>(r.Text(4), "pod " + p.id.str() + ": network"));
                       return {};
                     }());
                     p.netns_path = r.Text(5);
                     p.monitor = static_cast<pid_t>(r.Int(6));
                     p.cgroup = r.Text(7);
                     p.stuck = r.Text(8);
                     row.removing = r.Int(9) != 0;
                     rows.pods.push_back(std::move(row));
                   }),
          "rows of pods");
  TRY_CTX(
      db_.Each("SELECT id, pod, phase, created_at, started_at, finished_at, pid, exit_code, reason, message, image_id, "
               "image_name, image_ref, log_path, cgroup, user, stop_signal, spec, removing FROM containers "
               "ORDER BY created_at",
               [&](const Db::Row& r) {
                 ContainerRow row;
                 ContainerState& c = row.state;
                 c.id = ContainerId(r.Text(0));
                 c.pod = PodId(r.Text(1));
                 c.phase = static_cast<ContainerPhase>(r.Int(2));
                 c.created_at = r.Int(3);
                 c.started_at = r.Int(4);
                 c.finished_at = r.Int(5);
                 c.pid = static_cast<pid_t>(r.Int(6));
                 c.exit_code = static_cast<int>(r.Int(7));
                 c.reason = r.Text(8);
                 c.message = r.Text(9);
                 c.image_id = r.Text(10);
                 c.image_name = r.Text(11);
                 c.image_ref = r.Text(12);
                 c.log_path = r.Text(13);
                 c.cgroup = r.Text(14);
                 c.stop_signal = static_cast<int>(r.Int(16));
                 keep([&]() -> Result<void> {
                   c.user = TRY(json::Parse<ResolvedUser>(r.Text(15), "container " + c.id.str() + ": user"));
                   c.spec = TRY(json::Parse<ContainerSpec>(r.Text(17), "container " + c.id.str() + ": spec"));
                   return {};
                 }());
                 row.removing = r.Int(18) != 0;
                 rows.containers.push_back(std::move(row));
               }),
      "rows of containers");
  TRY(bad);
  TRY_CTX(db_.Each("SELECT key, value FROM pods_facts",
                   [&](const Db::Row& r) {
                     if (r.Text(0) == "boot_id") rows.boot_id = r.Text(1);
                     if (r.Text(0) == "created_floor")
                       rows.created_floor = std::strtoll(r.Text(1).c_str(), nullptr, 10);
                   }),
          "facts of pods");
  return rows;
}

Result<runtime::oci::Spec> Table::OciSpec(const ContainerId& container) {
  std::string text;
  TRY_CTX(db_.Each(
              "SELECT oci FROM containers WHERE id = ? AND oci IS NOT NULL",
              [&](const Db::Row& r) { text = r.Text(0); }, container.str()),
          "specification of container {}", container);
  if (text.empty()) return Err(Code::kNotFound, "container {}: has no specification yet", container);
  return json::Parse<runtime::oci::Spec>(text, "container " + container.str() + ": specification");
}

Result<void> Table::SetBootId(const std::string& boot_id) {
  TRY_CTX(Write("INSERT INTO pods_facts(key, value) VALUES('boot_id', ?) "
                "ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                boot_id),
          "boot id");
  return {};
}

}  // namespace berth::pods
