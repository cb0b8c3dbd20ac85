#pragma once
// Who has which address, link and host port: tables in berth.db, written before the kernel is changed, and an index in
// memory over them. Thread-safe. What is in the ledger after a crash is what may be left in the kernel. Commits do not
// wait for the disk, as a power cut that loses them takes what they describe along; those of plugin programs do.
//
//   cni_networks     a network that has been set up: bridge, subnets, how it is routed; needed to rebuild the rules
//   cni_attachments  one row a pod
//   cni_leases       (network, address) of a pod
//   cni_ports        host ports of a pod
//   cni_cursors      the last address given, per network and range set: round robin goes on after a restart
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/db.h"
#include "base/json.h"
#include "cni/ip.h"
#include "cni/ipam.h"
#include "cni/network.h"

namespace berth::cni {

// What the fixed chains need to know of a network (nft/layout.h).
struct NetworkRow {
  std::string name, bridge;
  std::vector<std::string> subnets;  // CIDR
  bool masquerade = false;
  bool isolate = false;         // from outside only published ports
  bool port_isolation = false;  // pods of it do not see each other
  bool operator==(const NetworkRow&) const = default;
};
BOOST_DESCRIBE_STRUCT(NetworkRow, (), (name, bridge, subnets, masquerade, isolate, port_isolation))

struct Lease {
  Ip ip;
  int prefix = 0;
  std::optional<Ip> gateway;
  size_t set = 0;  // index of the range set
  std::string Cidr() const { return fmt::format("{}/{}", ip.Text(), prefix); }
};

struct AttachmentRow {
  PodId pod;
  std::string network, interface, bridge;
  std::string link;  // host end, "" when a program makes it
  std::string netns_path;
  uint64_t netns_inode = 0;           // 0: unknown; tells whether the path still is that namespace
  std::string name, name_space, uid;  // of the pod, for CNI_ARGS at DEL
  bool native_ports = false;          // ports are elements of our table
  std::string conflist;               // the list it was attached with, when programs have to run at DEL; else ""
  std::string result;                 // of ADD, for such lists
  std::vector<Lease> leases;
  std::vector<PortMapping> ports;  // host_port is never 0
  const Lease* LeaseOf(int family) const {
    for (const Lease& l : leases)
      if (l.ip.family == family) return &l;
    return nullptr;
  }
};
using AttachmentPtr = std::shared_ptr<const AttachmentRow>;

class Ledger {
 public:
  static Result<std::unique_ptr<Ledger>> Open(Db& db);  // db outlives it

  // Takes one address from each set, fills row.leases, and writes everything in one transaction. Errors: kAlreadyExists
  // (pod), kResourceExhausted (a range is full; names it), kConflict (host port; names the pod that has it).
  Result<AttachmentPtr> Insert(AttachmentRow row, const std::vector<RangeSet>& sets);
  Result<void> SetResult(const PodId& pod, std::string result, std::string link);
  Result<void> Remove(const PodId& pod);  // idempotent; addresses and ports are free afterwards
  AttachmentPtr Find(const PodId& pod) const;
  std::vector<AttachmentPtr> All() const;
  bool LinkTaken(const std::string& link) const;

  Result<void> PutNetwork(const NetworkRow& network);  // inserts or replaces; nothing is written when equal
  std::vector<NetworkRow> Networks() const;
  // Networks without attachments but `keep`, and leases and ports of pods that have no row.
  Result<void> DropUnused(const std::string& keep);

 private:
  explicit Ledger(Db& db) : db_(db) {}
  struct Pool {  // one range set of one network
    RangeSet set;
    Gaps gaps;
    std::optional<Ip> last;
  };
  Result<void> Load();
  Pool& PoolOf(const std::string& network, size_t index, const RangeSet& set);
  Result<void> TakePorts(const AttachmentRow& row);
  Result<void> Commit(const AttachmentRow& row, const std::function<Result<void>(Db::Txn&)>& body);
  void Forget(const AttachmentRow& row);

  Db& db_;
  mutable std::mutex mutex_;  // never held while the database works
  std::unordered_map<PodId, AttachmentPtr> pods_;
  std::unordered_map<std::string, PodId> links_;
  std::map<std::pair<std::string, Ip>, PodId> leases_;  // network, address
  std::map<std::pair<std::string, size_t>, Pool> pools_;
  std::map<std::pair<std::string, size_t>, Ip> cursors_;
  std::map<std::string, std::vector<std::pair<std::string, PodId>>> ports_;  // "tcp/80" -> (host_ip, pod)
  std::map<std::string, NetworkRow> networks_;
};

}  // namespace berth::cni
