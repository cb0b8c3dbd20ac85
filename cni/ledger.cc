#include "cni/ledger.h"

#include "base/undo.h"

namespace berth::cni {
namespace {

const std::vector<std::string> kSteps = {
    R"sql(
CREATE TABLE cni_networks(name TEXT PRIMARY KEY, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cni_attachments(pod TEXT PRIMARY KEY, network TEXT NOT NULL, interface TEXT NOT NULL, bridge TEXT NOT NULL,
  link TEXT NOT NULL, netns TEXT NOT NULL, netns_inode INTEGER NOT NULL, name TEXT NOT NULL, namespace TEXT NOT NULL,
  uid TEXT NOT NULL, native_ports INTEGER NOT NULL, conflist TEXT NOT NULL, result TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cni_leases(network TEXT NOT NULL, address TEXT NOT NULL, prefix INTEGER NOT NULL, gateway TEXT NOT NULL,
  range_set INTEGER NOT NULL, pod TEXT NOT NULL, PRIMARY KEY(network, address)) WITHOUT ROWID;
CREATE TABLE cni_ports(protocol TEXT NOT NULL, host_port INTEGER NOT NULL, host_ip TEXT NOT NULL,
  container_port INTEGER NOT NULL, pod TEXT NOT NULL, PRIMARY KEY(protocol, host_port, host_ip)) WITHOUT ROWID;
CREATE TABLE cni_cursors(network TEXT NOT NULL, range_set INTEGER NOT NULL, address TEXT NOT NULL,
  PRIMARY KEY(network, range_set)) WITHOUT ROWID;
)sql",
};

bool AnyAddress(const std::string& ip) { return ip.empty() || ip == "0.0.0.0" || ip == "::"; }

// Whether two bindings of one port meet. An unspecified address covers its family; the empty one both.
bool Meet(const std::string& a, const std::string& b) {
  if (a.empty() || b.empty() || a == b) return true;
  bool six_a = a.find(':') != std::string::npos, six_b = b.find(':') != std::string::npos;
  return six_a == six_b && (AnyAddress(a) || AnyAddress(b));
}

std::string PortKey(const PortMapping& p) { return fmt::format("{}/{}", p.protocol, p.host_port); }

}  // namespace

Result<std::unique_ptr<Ledger>> Ledger::Open(Db& db) {
  std::unique_ptr<Ledger> ledger(new Ledger(db));
  TRY_CTX(db.Migrate("cni", kSteps), "network ledger");
  TRY_CTX(ledger->Load(), "network ledger");
  return ledger;
}

Result<void> Ledger::Load() {
  std::unordered_map<PodId, std::shared_ptr<AttachmentRow>> rows;
  std::optional<Error> bad;
  auto address = [&](const std::string& text) {
    auto ip = ParseIp(text);
    if (!ip && !bad) bad = Error{Code::kDataLoss, "cni_leases.address: " + ip.error().what};
    return ip.value_or(Ip{});
  };
  TRY(db_.Each("SELECT name, spec FROM cni_networks", [&](const Db::Row& r) {
    auto spec = json::Parse<NetworkRow>(r.Text(1), "cni_networks." + r.Text(0));
    if (spec)
      networks_[r.Text(0)] = *spec;
    else if (!bad)
      bad = spec.error();
  }));
  TRY(db_.Each(
      "SELECT pod, network, interface, bridge, link, netns, netns_inode, name, namespace, uid, native_ports, conflist, "
      "result FROM cni_attachments",
      [&](const Db::Row& r) {
        auto row = std::make_shared<AttachmentRow>();
        row->pod = PodId(r.Text(0));
        row->network = r.Text(1), row->interface = r.Text(2), row->bridge = r.Text(3), row->link = r.Text(4);
        row->netns_path = r.Text(5), row->netns_inode = r.Int(6);
        row->name = r.Text(7), row->name_space = r.Text(8), row->uid = r.Text(9);
        row->native_ports = r.Int(10) != 0, row->conflist = r.Text(11), row->result = r.Text(12);
        rows[row->pod] = row;
      }));
  TRY(db_.Each(
      "SELECT network, address, prefix, gateway, range_set, pod FROM cni_leases ORDER BY range_set",
      [&](const Db::Row& r) {
        auto it = rows.find(PodId(r.Text(5)));
        if (it == rows.end()) return;
        Lease lease{address(r.Text(1)), static_cast<int>(r.Int(2)), std::nullopt, static_cast<size_t>(r.Int(4))};
        if (std::string gw = r.Text(3); !gw.empty()) lease.gateway = address(gw);
        it->second->leases.push_back(lease);
        leases_[{r.Text(0), lease.ip}] = it->first;
      }));
  TRY(db_.Each("SELECT protocol, host_port, host_ip, container_port, pod FROM cni_ports", [&](const Db::Row& r) {
    auto it = rows.find(PodId(r.Text(4)));
    if (it == rows.end()) return;
    PortMapping p{r.Text(0), static_cast<uint16_t>(r.Int(1)), static_cast<uint16_t>(r.Int(3)), r.Text(2)};
    it->second->ports.push_back(p);
    ports_[PortKey(p)].emplace_back(p.host_ip, it->first);
  }));
  TRY(db_.Each("SELECT network, range_set, address FROM cni_cursors", [&](const Db::Row& r) {
    cursors_[{r.Text(0), static_cast<size_t>(r.Int(1))}] = address(r.Text(2));
  }));
  if (bad) return std::unexpected(*bad);
  for (auto& [pod, row] : rows) {
    if (!row->link.empty()) links_[row->link] = pod;
    pods_[pod] = row;
  }
  return {};
}

// The pool is rebuilt when the configuration changed its ranges; leases of the network stay taken.
Ledger::Pool& Ledger::PoolOf(const std::string& network, size_t index, const RangeSet& set) {
  auto key = std::pair(network, index);
  auto it = pools_.find(key);
  if (it != pools_.end() && it->second.set == set) return it->second;
  Pool pool{set, Gaps(set), std::nullopt};
  if (it != pools_.end())
    pool.last = it->second.last;
  else if (auto c = cursors_.find(key); c != cursors_.end())
    pool.last = c->second;
  for (auto l = leases_.lower_bound({network, Ip{}}); l != leases_.end() && l->first.first == network; ++l)
    pool.gaps.TakeExactly(l->first.second);
  return pools_.insert_or_assign(key, std::move(pool)).first->second;
}

Result<void> Ledger::TakePorts(const AttachmentRow& row) {
  for (const PortMapping& p : row.ports) {
    auto& taken = ports_[PortKey(p)];
    for (const auto& [ip, pod] : taken)
      if (Meet(ip, p.host_ip))
        return Err(Code::kConflict, "host port {}{}{}/{}: taken by pod {}", p.host_ip, p.host_ip.empty() ? "" : ":",
                   p.host_port, p.protocol, pod);
    taken.emplace_back(p.host_ip, row.pod);
  }
  return {};
}

void Ledger::Forget(const AttachmentRow& row) {
  for (const Lease& l : row.leases) {
    auto it = leases_.find({row.network, l.ip});
    if (it == leases_.end() || it->second != row.pod) continue;
    leases_.erase(it);
    // All sets of the network: the configuration may have moved the range to another index meanwhile.
    for (auto pool = pools_.lower_bound({row.network, 0}); pool != pools_.end() && pool->first.first == row.network;
         ++pool)
      pool->second.gaps.Free(l.ip);
  }
  for (const PortMapping& p : row.ports) {
    auto it = ports_.find(PortKey(p));
    if (it == ports_.end()) continue;
    std::erase_if(it->second, [&](const auto& entry) { return entry.second == row.pod && entry.first == p.host_ip; });
    if (it->second.empty()) ports_.erase(it);
  }
  if (auto it = links_.find(row.link); it != links_.end() && it->second == row.pod) links_.erase(it);
  pods_.erase(row.pod);
}

// What programs keep is on the disk and outlives a power cut, so their DEL has to be remembered over it.
Result<void> Ledger::Commit(const AttachmentRow& row, const std::function<Result<void>(Db::Txn&)>& body) {
  return row.conflist.empty() ? db_.TransactUnsynced(body) : db_.Transact(body);
}

Result<AttachmentPtr> Ledger::Insert(AttachmentRow row, const std::vector<RangeSet>& sets) {
  AttachmentPtr made;
  {
    std::lock_guard lock(mutex_);
    if (pods_.contains(row.pod)) return Err(Code::kAlreadyExists, "pod {}: already attached to a network", row.pod);
    if (auto taken = TakePorts(row); !taken) {
      Forget(row);
      return std::unexpected(taken.error());
    }
    for (size_t i = 0; i < sets.size(); ++i) {
      Pool& pool = PoolOf(row.network, i, sets[i]);
      auto ip = pool.gaps.Take(pool.last);
      if (!ip) {
        Forget(row);
        return Err(Code::kResourceExhausted, "network {}: no address is free in {} to {}", row.network,
                   sets[i].front().start.Text(), sets[i].back().end.Text());
      }
      pool.last = *ip;
      const Range* range = RangeOf(sets[i], *ip);
      row.leases.push_back({*ip, range->subnet.prefix, range->gateway, i});
      leases_[{row.network, *ip}] = row.pod;
    }
    if (!row.link.empty()) links_[row.link] = row.pod;
    made = std::make_shared<const AttachmentRow>(std::move(row));
    pods_[made->pod] = made;
  }
  const AttachmentRow& r = *made;
  auto written = Commit(r, [&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec(
        "INSERT INTO cni_attachments(pod, network, interface, bridge, link, netns, netns_inode, name, namespace, uid, "
        "native_ports, conflist, result) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
        r.pod.str(), r.network, r.interface, r.bridge, r.link, r.netns_path, r.netns_inode, r.name, r.name_space, r.uid,
        r.native_ports, r.conflist, r.result));
    for (const Lease& l : r.leases) {
      std::string ip = l.ip.Text();
      TRY(t.Exec("INSERT INTO cni_leases(network, address, prefix, gateway, range_set, pod) VALUES(?,?,?,?,?,?)",
                 r.network, ip, l.prefix, l.gateway ? l.gateway->Text() : std::string(), l.set, r.pod.str()));
      TRY(t.Exec("INSERT OR REPLACE INTO cni_cursors(network, range_set, address) VALUES(?,?,?)", r.network, l.set,
                 ip));
    }
    for (const PortMapping& p : r.ports)
      TRY(t.Exec("INSERT INTO cni_ports(protocol, host_port, host_ip, container_port, pod) VALUES(?,?,?,?,?)",
                 p.protocol, p.host_port, p.host_ip, p.container_port, r.pod.str()));
    return {};
  });
  if (!written) {
    std::lock_guard lock(mutex_);
    Forget(r);
    return Wrap(written.error(), "network ledger");
  }
  return made;
}

Result<void> Ledger::SetResult(const PodId& pod, std::string result, std::string link) {
  std::shared_ptr<AttachmentRow> row;
  {
    std::lock_guard lock(mutex_);
    auto it = pods_.find(pod);
    if (it == pods_.end()) return Err(Code::kNotFound, "pod {}: not attached to a network", pod);
    row = std::make_shared<AttachmentRow>(*it->second);
  }
  row->result = std::move(result);
  if (row->link.empty()) row->link = std::move(link);
  TRY_CTX(Commit(*row,
                 [&](Db::Txn& t) -> Result<void> {
                   TRY(t.Exec("UPDATE cni_attachments SET result = ?, link = ? WHERE pod = ?", row->result, row->link,
                              pod.str()));
                   return {};
                 }),
          "network ledger");
  std::lock_guard lock(mutex_);
  if (!row->link.empty()) links_[row->link] = pod;
  pods_[pod] = row;
  return {};
}

Result<void> Ledger::Remove(const PodId& pod) {
  AttachmentPtr row = Find(pod);
  if (!row) return {};
  TRY_CTX(db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
    TRY(t.Exec("DELETE FROM cni_attachments WHERE pod = ?", pod.str()));
    for (const Lease& l : row->leases)
      TRY(t.Exec("DELETE FROM cni_leases WHERE network = ? AND address = ?", row->network, l.ip.Text()));
    for (const PortMapping& p : row->ports)
      TRY(t.Exec("DELETE FROM cni_ports WHERE protocol = ? AND host_port = ? AND host_ip = ?", p.protocol, p.host_port,
                 p.host_ip));
    return {};
  }),
          "network ledger");
  std::lock_guard lock(mutex_);
  Forget(*row);
  return {};
}

AttachmentPtr Ledger::Find(const PodId& pod) const {
  std::lock_guard lock(mutex_);
  auto it = pods_.find(pod);
  return it == pods_.end() ? nullptr : it->second;
}

std::vector<AttachmentPtr> Ledger::All() const {
  std::lock_guard lock(mutex_);
  std::vector<AttachmentPtr> out;
  out.reserve(pods_.size());
  for (const auto& [pod, row] : pods_) out.push_back(row);
  return out;
}

bool Ledger::LinkTaken(const std::string& link) const {
  std::lock_guard lock(mutex_);
  return links_.contains(link);
}

Result<void> Ledger::PutNetwork(const NetworkRow& network) {
  {
    std::lock_guard lock(mutex_);
    auto it = networks_.find(network.name);
    if (it != networks_.end() && it->second == network) return {};
  }
  TRY_CTX(db_.Exec("INSERT OR REPLACE INTO cni_networks(name, spec) VALUES(?, ?)", network.name, json::ToText(network)),
          "network ledger");
  std::lock_guard lock(mutex_);
  networks_[network.name] = network;
  return {};
}

std::vector<NetworkRow> Ledger::Networks() const {
  std::lock_guard lock(mutex_);
  std::vector<NetworkRow> out;
  for (const auto& [name, row] : networks_) out.push_back(row);
  return out;
}

Result<void> Ledger::DropUnused(const std::string& keep) {
  TRY_CTX(db_.TransactUnsynced([&](Db::Txn& t) -> Result<void> {
    for (const char* table : {"cni_leases", "cni_ports"})
      TRY(t.Exec(fmt::format("DELETE FROM {} WHERE pod NOT IN (SELECT pod FROM cni_attachments)", table)));
    return {};
  }),
          "network ledger");
  std::vector<std::string> unused;
  {
    std::lock_guard lock(mutex_);
    std::set<std::string> used{keep};
    for (const auto& [pod, row] : pods_) used.insert(row->network);
    for (const auto& [name, row] : networks_)
      if (!used.contains(name)) unused.push_back(name);
  }
  for (const std::string& name : unused) {
    TRY_CTX(db_.Exec("DELETE FROM cni_networks WHERE name = ?", name), "network ledger");
    std::lock_guard lock(mutex_);
    networks_.erase(name);
  }
  return {};
}

}  // namespace berth::cni
