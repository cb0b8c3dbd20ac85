#include "cni/attach_plan.h"

namespace berth::cni {
namespace {

bool ValidId(std::string_view id) {
  if (id.empty() || !isalnum(static_cast<unsigned char>(id[0]))) return false;
  return std::all_of(id.begin(), id.end(),
                     [](unsigned char c) { return isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool ValidInterface(std::string_view name) {
  return !name.empty() && name.size() <= 15 && name != "." && name != ".." &&
         name.find_first_of("/: \t\n") == std::string_view::npos;
}

}  // namespace

Result<void> CheckAttachment(const Attachment& a) {
  if (!ValidId(a.pod.str()))
    return Err(Code::kInvalidArgument,
               "pod: '{}' must begin with a letter or digit and go on with those, '_', '.' or '-'", a.pod);
  if (!ValidInterface(a.interface))
    return Err(Code::kInvalidArgument, "interface: '{}' must have 1 to 15 bytes without '/', ':' and space",
               a.interface);
  if (a.interface == "lo") return Err(Code::kInvalidArgument, "interface: 'lo' is the loopback interface");
  if (a.netns < 0) return Err(Code::kInvalidArgument, "netns: a descriptor of the pod's network namespace is needed");
  if (a.netlink < 0)
    return Err(Code::kInvalidArgument, "netlink: a socket inside the pod's network namespace is needed");
  return {};
}

Result<std::vector<PortMapping>> WantedPorts(const std::vector<PortMapping>& ports) {
  std::vector<PortMapping> out;
  for (size_t i = 0; i < ports.size(); ++i) {
    PortMapping p = ports[i];
    if (p.host_port == 0) continue;
    std::transform(p.protocol.begin(), p.protocol.end(), p.protocol.begin(),
                   [](unsigned char c) { return tolower(c); });
    if (p.protocol.empty()) p.protocol = "tcp";
    if (p.protocol != "tcp" && p.protocol != "udp" && p.protocol != "sctp")
      return Err(Code::kInvalidArgument, "ports[{}].protocol: '{}' must be tcp, udp or sctp", i, p.protocol);
    if (p.container_port == 0) return Err(Code::kInvalidArgument, "ports[{}].container_port: must be 1 to 65535", i);
    if (!p.host_ip.empty()) {
      auto ip = ParseIp(p.host_ip);
      if (!ip) return Wrap(ip.error(), "ports[{}].host_ip", i);
      if (ip->family == 6 && ip->value == 1)
        return Err(Code::kInvalidArgument, "ports[{}].host_ip: a port cannot be published on ::1; use 127.0.0.1", i);
      // One spelling for one address. 0.0.0.0 and :: stay: they bind one family.
      p.host_ip = ip->Text();
    }
    out.push_back(std::move(p));
  }
  return out;
}

std::string LinkName(const PodId& pod, int attempt) {
  const std::string& id = pod.str();
  size_t at = static_cast<size_t>(attempt) * 8;
  bool hex = id.size() >= at + 8 && std::all_of(id.begin() + at, id.begin() + at + 8,
                                                [](unsigned char c) { return isdigit(c) || (c >= 'a' && c <= 'f'); });
  if (hex) return "veth" + id.substr(at, 8);
  uint32_t hash = 2166136261u + attempt;  // FNV-1a
  for (unsigned char c : id) hash = (hash ^ c) * 16777619u;
  return fmt::format("veth{:08x}", hash);
}

std::string LinkAlias(const std::string& table, const PodId& pod) { return fmt::format("berth/{}/{}", table, pod); }

netlink::Mac MacFor(const AttachmentRow& row) {
  auto low = static_cast<uint32_t>(row.leases.empty() ? 0 : row.leases[0].ip.value);
  return {0x0a, 0x58, uint8_t(low >> 24), uint8_t(low >> 16), uint8_t(low >> 8), uint8_t(low)};
}

namespace {

std::vector<CniRoute> RoutesFor(const BridgeConfig& bridge, const AttachmentRow& row) {
  std::vector<CniRoute> routes = bridge.ipam.routes;
  auto has_default = [&](int family) {
    return std::any_of(routes.begin(), routes.end(), [&](const CniRoute& r) {
      auto dst = ParseIpPrefix(r.dst);
      return dst && dst->prefix == 0 && dst->ip.family == family && !r.gw.empty();
    });
  };
  if (bridge.is_default_gateway)
    for (const Lease& l : row.leases)
      if (l.gateway && !has_default(l.ip.family))
        routes.push_back({.dst = l.ip.family == 4 ? "0.0.0.0/0" : "::/0", .gw = l.gateway->Text()});
  return routes;
}

}  // namespace

netlink::PodInterface InterfaceFor(const BridgeConfig& bridge, const AttachmentRow& row, int index) {
  netlink::PodInterface out{.name = row.interface, .index = index, .mac = MacFor(row)};
  for (const Lease& l : row.leases) out.addresses.push_back({l.ip, l.prefix});
  auto number = [](const std::optional<int64_t>& n) {
    return n ? std::optional(static_cast<uint32_t>(*n)) : std::nullopt;
  };
  for (const CniRoute& r : RoutesFor(bridge, row)) {
    auto dst = ParseIpPrefix(r.dst);
    if (!dst) continue;  // checked when the configuration was read
    const Lease* lease = row.LeaseOf(dst->ip.family);
    if (!lease) continue;
    netlink::Route route{
        *dst, std::nullopt, number(r.mtu), number(r.advmss), number(r.priority), number(r.table), number(r.scope)};
    if (auto gw = ParseIp(r.gw))
      route.gateway = *gw;
    else if (!(r.scope && *r.scope == 253))
      route.gateway = lease->gateway;
    out.routes.push_back(std::move(route));
  }
  return out;
}

CniResult BridgeResult(const BridgeConfig& bridge, const netlink::Mac& bridge_mac, const AttachmentRow& row) {
  CniResult r;
  r.interfaces.push_back({.name = bridge.bridge, .mac = netlink::MacText(bridge_mac)});
  r.interfaces.push_back({.name = row.link});
  r.interfaces.push_back({.name = row.interface, .mac = netlink::MacText(MacFor(row)), .sandbox = row.netns_path});
  for (const Lease& l : row.leases) r.ips.push_back({l.Cidr(), l.gateway ? l.gateway->Text() : "", 2});
  r.routes = RoutesFor(bridge, row);
  r.dns = bridge.dns;
  return r;
}

AttachResult ToAttachResult(const AttachmentRow& row, const CniResult& result) {
  AttachResult out{.network = row.network, .interface = row.interface, .host_interface = row.link};
  for (const CniInterface& i : result.interfaces) {
    if (i.name == row.interface && !i.mac.empty()) out.mac = i.mac;  // the pod's end comes after the host's
    if (i.sandbox.empty() && out.host_interface.empty() && i.name.starts_with("veth")) out.host_interface = i.name;
  }
  // First those of the pod's interface; a chain may report others, as of a second device.
  for (bool ours : {true, false})
    for (const CniAddress& ip : result.ips) {
      bool on_ours = !ip.interface || result.interfaces[*ip.interface].name == row.interface;
      if (on_ours == ours) out.addresses.push_back({ip.address, ip.gateway});
    }
  out.dns_servers = result.dns.nameservers;
  out.dns_searches = result.dns.search;
  if (out.dns_searches.empty() && !result.dns.domain.empty()) out.dns_searches = {result.dns.domain};
  out.dns_options = result.dns.options;
  out.result_json = ResultJson(result, "1.1.0");
  return out;
}

}  // namespace berth::cni
