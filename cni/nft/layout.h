#pragma once
// The tables `ip <name>` and `ip6 <name>`: chains that never change and the sets and maps they look into, so that a pod
// or a published port costs elements and never a rule. This file is text in, text out.
//
//   set br          ifname                     our bridges
//   set icc         ifname . ifname            pairs whose pods may talk (a network with itself)
//   set pods        ifname                     networks into which whatever was DNATed may go, by us or by kube-proxy
//   set routed      ifname                     networks that may be entered without DNAT as well
//   set internal    ifname                     networks without a way out
//   set net_if      addr(interval) . ifname    subnet and bridge
//   set nets        addr(interval)             subnets that nobody reaches directly from outside
//   set masq        addr(interval)             subnets whose traffic to elsewhere is masqueraded
//   map pub_ip      addr . proto . port : addr . port     host ports on one address
//   map pub_any     proto . port : addr . port            host ports on every address
//   map pub_range   proto . port(interval) : addr         the same port range on both sides
//   set open        addr . proto . port        pod ports that may be entered by DNAT although the network is not in
//   `pods`;
//                                              open_range for intervals, apart because adding to an interval set costs
//                                              as much as the set is long
//
//   raw_pre  (prerouting -300)  127/8 never from a pod (route_localnet is on for our bridges); no direct access to
//   `nets` nat_pre, nat_out (-100)     to a local address: pub_ip, pub_any, pub_range nat_post (+100) hairpin,
//   localhost and `masq` forward  (0)                what concerns our bridges, after the chain `admin`, which belongs
//   to the administrator
//
// The version is the name of an empty chain; a table of another version is replaced in one transaction, with its
// elements from the ledger and with the rules of `admin`.
#include <string>
#include <string_view>
#include <vector>

#include "cni/ledger.h"

namespace berth::cni::nft {

inline constexpr std::string_view kLayout = "layout-1";

struct PublishedPort {
  std::string protocol;  // tcp, udp, sctp
  std::string host_ip;   // "": every address
  uint16_t host_port = 0;
  Ip to;  // the pod's address; its family chooses the table
  uint16_t to_port = 0;
};

// What all sets must hold.
struct Contents {
  std::vector<NetworkRow> networks;
  std::vector<PublishedPort> ports;
};

// The ports of a pod as elements: one for each address family that the pod has and the mapping's host address allows.
std::vector<PublishedPort> PortsOf(const AttachmentRow& row);

// Chains, sets and maps of both tables, without elements. `admin4` and `admin6`: rules to put into the admin chains.
std::string TableText(const std::string& table, const std::string& admin4 = "", const std::string& admin6 = "");
// Commands that empty all sets and fill them with `contents`. Run together with TableText or alone: one transaction.
std::string ContentsText(const std::string& table, const Contents& contents);
// The rules between the braces of `nft list chain`.
std::string RulesOf(std::string_view listing);

}  // namespace berth::cni::nft
