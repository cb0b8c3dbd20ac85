#pragma once
// The seam between pods and networks. The native implementation drives rtnetlink and nftables itself; foreign CNI
// plugins are run behind the same seam.
//
// Thread-safe. Addresses, ports, links and rules are written to the ledger (tables in berth.db) before the kernel
// change, so that Detach and Collect work after a crash, and when the namespace is already gone.
#include <map>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/undo.h"

namespace berth::cni {

struct PortMapping {
  std::string protocol = "tcp";  // tcp, udp, sctp
  uint16_t host_port = 0;        // 0: nothing to publish
  uint16_t container_port = 0;
  std::string host_ip;  // empty: every address
};

struct Attachment {
  PodId pod;
  std::string name, name_space, uid;  // K8S_POD_NAME, K8S_POD_NAMESPACE, K8S_POD_UID for plugins
  std::string interface = "eth0";
  int netns = -1;          // borrowed for the call
  int netlink = -1;        // NETLINK_ROUTE socket inside the pod's namespace, borrowed
  std::string netns_path;  // for plugins that are programs
  std::vector<PortMapping> ports;
};

struct Address {
  std::string cidr;     // "10.88.0.5/16"
  std::string gateway;  // may be empty
  std::string Ip() const { return cidr.substr(0, cidr.find('/')); }
};

struct AttachResult {
  std::string network;  // name of the conflist
  std::string interface, mac;
  std::string host_interface;      // veth end on the host
  std::vector<Address> addresses;  // primary first
  std::vector<std::string> dns_servers, dns_searches, dns_options;
  std::string result_json;  // CNI result, version 1.1.0
};

struct NetworkStatus {
  bool ready = false;
  std::string reason;   // CamelCase: NetworkPluginNotReady
  std::string message;  // "cni plugin not initialized: ..." names file, key and fix
};

struct InterfaceStats {
  std::string name;
  uint64_t rx_bytes = 0, rx_packets = 0, rx_errors = 0, rx_dropped = 0;
  uint64_t tx_bytes = 0, tx_packets = 0, tx_errors = 0, tx_dropped = 0;
};

class Network {
 public:
  virtual ~Network() = default;
  // lo up, interface made, addresses, routes, ports. On error nothing is left. A host port that is taken is kConflict
  // and names who has it.
  virtual Result<AttachResult> Attach(const Attachment& attachment, const Deadline& until) = 0;
  // Idempotent; works without the namespace, and after a crash in the middle of Attach.
  virtual Result<void> Detach(const PodId& pod, const Deadline& until) = 0;
  // Removes everything whose pod is not in `live`: ledger rows, links, nft elements. Called once at start.
  virtual Result<void> Collect(const std::vector<PodId>& live, const Deadline& until) = 0;
  virtual NetworkStatus Status() = 0;
  // Counters of the pod's interface as the pod sees them (rx is what the pod received).
  virtual Result<InterfaceStats> Stats(const PodId& pod) = 0;
};

}  // namespace berth::cni
