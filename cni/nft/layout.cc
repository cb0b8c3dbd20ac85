#include "cni/nft/layout.h"

namespace berth::cni::nft {
namespace {

constexpr std::string_view kTable = R"(table {family} {table} {{
  set br {{ type ifname; }}
  set icc {{ type ifname . ifname; }}
  set pods {{ type ifname; }}
  set routed {{ type ifname; }}
  set internal {{ type ifname; }}
  set net_if {{ type {addr} . ifname; flags interval; }}
  set nets {{ type {addr}; flags interval; }}
  set masq {{ type {addr}; flags interval; }}
  map pub_ip {{ type {addr} . inet_proto . inet_service : {addr} . inet_service; }}
  map pub_any {{ type inet_proto . inet_service : {addr} . inet_service; }}
  map pub_range {{ type inet_proto . inet_service : {addr}; flags interval; }}
  set open {{ type {addr} . inet_proto . inet_service; }}
  set open_range {{ type {addr} . inet_proto . inet_service; flags interval; }}
  chain {layout} {{ }}
  chain admin {{
{admin}  }}
  chain pub {{
{skip}    dnat {family} to {family} daddr . meta l4proto . th dport map @pub_ip
    dnat {family} to meta l4proto . th dport map @pub_any
    dnat {family} to meta l4proto . th dport map @pub_range
  }}
  chain raw_pre {{
    type filter hook prerouting priority -300; policy accept;
    iifname "lo" accept
    iifname @br {family} daddr {loopback} drop
    {family} daddr @nets iifname != @br drop
  }}
  chain nat_pre {{
    type nat hook prerouting priority -100; policy accept;
    fib daddr type local jump pub
  }}
  chain nat_out {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump pub
  }}
  chain nat_post {{
    type nat hook postrouting priority 100; policy accept;
    ct status dnat {family} saddr . oifname @net_if masquerade fully-random
    oifname @br fib saddr type local masquerade fully-random
    {family} saddr . oifname @net_if return
    {family} saddr @masq {family} daddr != {multicast} masquerade fully-random
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname != @br oifname != @br accept
    jump admin
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
    iifname . oifname @icc accept
    oifname @routed accept
    oifname @pods ct status dnat accept
    ct status dnat {family} daddr . meta l4proto . th dport @open accept
    ct status dnat {family} daddr . meta l4proto . th dport @open_range accept
    iifname @internal drop
    oifname @br drop
  }}
}}
)";

constexpr std::string_view kSets[] = {"br",   "icc",  "pods",   "routed",  "internal",  "net_if",    "nets",
                                      "masq", "open", "pub_ip", "pub_any", "pub_range", "open_range"};

std::string Family(const Ip& ip) { return ip.family == 4 ? "ip" : "ip6"; }

void AddElement(std::string& out, const std::string& family, const std::string& table, std::string_view set,
                const std::string& element) {
  out += fmt::format("add element {} {} {} {{ {} }}\n", family, table, set, element);
}

std::string OneTable(const std::string& family, const std::string& table, const std::string& admin) {
  bool four = family == "ip";
  return fmt::format(
      fmt::runtime(kTable), fmt::arg("family", family), fmt::arg("table", table),
      fmt::arg("addr", four ? "ipv4_addr" : "ipv6_addr"), fmt::arg("layout", kLayout), fmt::arg("admin", admin),
      // A packet from ::1 cannot leave by another interface, whatever route_localnet does for IPv4.
      fmt::arg("skip", four ? "" : "    ip6 daddr ::1 return\n"), fmt::arg("loopback", four ? "127.0.0.0/8" : "::1"),
      fmt::arg("multicast", four ? "224.0.0.0/4" : "ff00::/8"));
}

}  // namespace

std::vector<PublishedPort> PortsOf(const AttachmentRow& row) {
  std::vector<PublishedPort> out;
  if (!row.native_ports) return out;
  for (const PortMapping& p : row.ports) {
    auto host = ParseIp(p.host_ip);
    for (int family : {4, 6}) {
      const Lease* lease = row.LeaseOf(family);
      if (!lease || (host && host->family != family)) continue;
      bool any = !host || host->IsZero();
      out.push_back({p.protocol, any ? "" : p.host_ip, p.host_port, lease->ip, p.container_port});
    }
  }
  return out;
}

std::string TableText(const std::string& table, const std::string& admin4, const std::string& admin6) {
  return OneTable("ip", table, admin4) + OneTable("ip6", table, admin6);
}

namespace {

// Subnets of one set, without those another one covers: interval sets refuse to overlap.
std::vector<Subnet> Widest(std::vector<Subnet> in) {
  std::vector<Subnet> out;
  for (const Subnet& s : in) {
    bool covered =
        std::any_of(in.begin(), in.end(), [&](const Subnet& o) { return o.prefix < s.prefix && o.Contains(s.base); });
    if (!covered && std::find(out.begin(), out.end(), s) == out.end()) out.push_back(s);
  }
  return out;
}

void AddNetworks(std::string& out, const std::string& table, const std::vector<NetworkRow>& networks) {
  std::map<std::string, std::vector<Subnet>> of_bridge;
  std::vector<Subnet> closed, masqueraded;
  for (const NetworkRow& n : networks) {
    std::string bridge = "\"" + n.bridge + "\"";
    for (const std::string family : {"ip", "ip6"}) {
      AddElement(out, family, table, "br", bridge);
      AddElement(out, family, table, "pods", bridge);
      if (!n.port_isolation) AddElement(out, family, table, "icc", bridge + " . " + bridge);
      if (!n.isolate) AddElement(out, family, table, "routed", bridge);
    }
    for (const std::string& text : n.subnets) {
      auto subnet = ParseSubnet(text);
      if (!subnet) continue;
      of_bridge[bridge].push_back(*subnet);
      if (n.isolate) closed.push_back(*subnet);
      if (n.masquerade) masqueraded.push_back(*subnet);
    }
  }
  for (const auto& [bridge, subnets] : of_bridge)
    for (const Subnet& s : Widest(subnets)) AddElement(out, Family(s.base), table, "net_if", s.Text() + " . " + bridge);
  for (const Subnet& s : Widest(closed)) AddElement(out, Family(s.base), table, "nets", s.Text());
  for (const Subnet& s : Widest(masqueraded)) AddElement(out, Family(s.base), table, "masq", s.Text());
}

}  // namespace

std::string ContentsText(const std::string& table, const Contents& contents) {
  std::string out;
  for (const std::string family : {"ip", "ip6"})
    for (std::string_view set : kSets)
      out += fmt::format("flush {} {} {} {}\n", set.starts_with("pub_") ? "map" : "set", family, table, set);
  AddNetworks(out, table, contents.networks);
  for (const PublishedPort& p : contents.ports) {
    std::string value = fmt::format("{} . {}", p.to.Text(), p.to_port);
    if (p.host_ip.empty())
      AddElement(out, Family(p.to), table, "pub_any", fmt::format("{} . {} : {}", p.protocol, p.host_port, value));
    else
      AddElement(out, Family(p.to), table, "pub_ip",
                 fmt::format("{} . {} . {} : {}", p.host_ip, p.protocol, p.host_port, value));
  }
  return out;
}

std::string RulesOf(std::string_view listing) {
  size_t chain = listing.find("chain ");
  size_t open = chain == std::string_view::npos ? chain : listing.find('{', chain);
  size_t close = listing.rfind('}');
  if (close != std::string_view::npos && close > 0)
    close = listing.rfind('}', close - 1);  // the table's, then the chain's
  if (open == std::string_view::npos || close == std::string_view::npos || close <= open) return "";
  std::string_view body = listing.substr(open + 1, close - open - 1);
  std::string out;
  while (!body.empty()) {
    size_t end = body.find('\n');
    std::string_view line = body.substr(0, end);
    body = end == std::string_view::npos ? "" : body.substr(end + 1);
    size_t first = line.find_first_not_of(" \t");
    if (first != std::string_view::npos) out += "    " + std::string(line.substr(first)) + "\n";
  }
  return out;
}

}  // namespace berth::cni::nft
