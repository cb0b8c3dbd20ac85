#pragma once
// Links, addresses and routes: verbs of the kernel's nouns. Every call takes the socket, and with it the namespace, it
// acts in. Blocking is limited to the kernel's own work under RTNL; prices are in ARCHITECTURE.md.
#include <optional>
#include <string>
#include <vector>

#include "cni/ip.h"
#include "cni/netlink/socket.h"

namespace berth::cni::netlink {

using Mac = std::array<uint8_t, 6>;
std::string MacText(const Mac& mac);

struct Counters {
  uint64_t rx_bytes = 0, rx_packets = 0, rx_errors = 0, rx_dropped = 0;
  uint64_t tx_bytes = 0, tx_packets = 0, tx_errors = 0, tx_dropped = 0;
};

struct Link {
  int index = 0, master = 0, mtu = 0;
  std::string name, alias, kind;  // kind: "veth", "bridge"; empty for hardware
  Mac mac{};
  bool up = false;
  Counters counters;
};

Result<Link> FindLink(Socket& socket, const std::string& name, const Deadline& until);  // kNotFound
Result<Link> FindLink(Socket& socket, int index, const Deadline& until);
Result<std::vector<Link>> ListLinks(Socket& socket, const std::string& kind, const Deadline& until);  // of that kind

struct VethSpec {
  std::string name;           // host end; made up and enslaved
  std::string alias;          // of the host end: says whose it is
  int master = 0;             // index of the bridge
  std::string peer = "eth0";  // made inside the namespace, down
  int netns = -1;
  Mac mac{};  // of the peer
  int mtu = 1500;
  bool hairpin = false, isolated = false;  // of the bridge port
};
// Index of the peer in its namespace. On error nothing is left. Errors: kAlreadyExists with sys EEXIST when either name
// is taken (nothing changed); kResourceExhausted with sys EXFULL when the bridge has all the 1,023 ports it can have;
// kNotFound when the bridge is gone.
Result<int> CreateVeth(Socket& host, Socket& inside, const VethSpec& spec, const Deadline& until);

// Puts an existing link back onto a bridge, with its port's options. Missing is success.
Result<void> PlugBack(Socket& host, const std::string& name, int master, bool hairpin, bool isolated,
                      const Deadline& until);

struct Route {
  IpPrefix dst;
  std::optional<Ip> gateway;
  std::optional<uint32_t> mtu, advmss, priority, table, scope;
};
struct PodInterface {
  std::string name;
  int index = 0;
  Mac mac{};
  std::vector<IpPrefix> addresses;
  std::vector<Route> routes;
};
// lo up, addresses without duplicate address detection, interface up, routes: one send.
Result<void> ConfigurePod(Socket& inside, const PodInterface& spec, const Deadline& until);
Result<void> LoopbackUp(Socket& inside, const Deadline& until);

struct BridgeSpec {
  std::string name;
  int mtu = 0;                      // 0: leave it
  std::vector<IpPrefix> addresses;  // of the bridge itself; empty: layer 2 only
  bool force_addresses = false;     // replace other addresses of the same family instead of failing
};
// Makes what is missing, pins the hardware address (a bridge otherwise takes that of its lowest port), sets addresses,
// up. Errors: kFailedPrecondition when the name belongs to something that is no bridge, or has another address.
Result<Link> EnsureBridge(Socket& host, const BridgeSpec& spec, const Deadline& until);

// Takes the link down, and with it the bridge's port: from then on its addresses may be given to others. Leaving the
// bridge as well would wait for a grace period of the kernel; the link does that when it dies. Missing is success.
Result<void> Unplug(Socket& host, const std::string& name, const Deadline& until);
// Removes the links for good, all in one wait of the kernel (about 20 ms). Missing is success.
Result<void> DeleteLinks(Socket& host, const std::vector<int>& indexes, const Deadline& until);

// MTU of the interface that the default route leaves by; nothing without one.
std::optional<int> MtuOfWayOut(Socket& host, const Deadline& until);

}  // namespace berth::cni::netlink
