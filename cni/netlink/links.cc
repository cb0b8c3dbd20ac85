#include "cni/netlink/links.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include "cni/netlink/sysctl.h"

namespace berth::cni::netlink {
namespace {

constexpr uint32_t kDoomedGroup = 0x62726474;  // links to be deleted together; a number nobody uses for anything else

class Nest {  // a nested attribute for the length of a scope
 public:
  Nest(nl_msg* msg, int type) : msg_(msg), start_(nla_nest_start(msg, type)) {}
  ~Nest() { nla_nest_end(msg_, start_); }
  Nest(const Nest&) = delete;

 private:
  nl_msg* msg_;
  nlattr* start_;
};

void PutLinkHeader(nl_msg* m, int family = AF_UNSPEC, int index = 0, unsigned flags = 0, unsigned change = 0) {
  ifinfomsg info{};
  info.ifi_family = family;
  info.ifi_index = index;
  info.ifi_flags = flags;
  info.ifi_change = change;
  nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
}

int AddressFamily(const Ip& ip) { return ip.family == 4 ? AF_INET : AF_INET6; }

void PutIp(nl_msg* m, int type, const Ip& ip) {
  std::string bytes = ip.Bytes();
  nla_put(m, type, bytes.size(), bytes.data());
}

std::string Text(const nlattr* a) {
  std::string_view text(static_cast<const char*>(nla_data(a)), nla_len(a));
  return std::string(text.substr(0, text.find('\0')));
}

Link ReadLink(std::string_view payload) {
  Link link;
  if (payload.size() < sizeof(ifinfomsg)) return link;
  auto* info = reinterpret_cast<const ifinfomsg*>(payload.data());
  link.index = info->ifi_index;
  link.up = info->ifi_flags & IFF_UP;
  size_t offset = NLMSG_ALIGN(sizeof(ifinfomsg));
  auto* head = reinterpret_cast<nlattr*>(const_cast<char*>(payload.data() + offset));
  int left = static_cast<int>(payload.size() - offset);
  nlattr* a;
  int rest;
  nla_for_each_attr(a, head, left, rest) {
    switch (nla_type(a)) {
      case IFLA_IFNAME:
        link.name = Text(a);
        break;
      case IFLA_IFALIAS:
        link.alias = Text(a);
        break;
      case IFLA_MASTER:
        link.master = static_cast<int>(nla_get_u32(a));
        break;
      case IFLA_MTU:
        link.mtu = static_cast<int>(nla_get_u32(a));
        break;
      case IFLA_ADDRESS:
        if (nla_len(a) == 6) memcpy(link.mac.data(), nla_data(a), 6);
        break;
      case IFLA_LINKINFO:
        if (nlattr* kind = nla_find(static_cast<nlattr*>(nla_data(a)), nla_len(a), IFLA_INFO_KIND))
          link.kind = Text(kind);
        break;
      case IFLA_STATS64: {
        rtnl_link_stats64 s{};
        memcpy(&s, nla_data(a), std::min<size_t>(sizeof s, nla_len(a)));
        link.counters = {s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped,
                         s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped};
        break;
      }
      default:
        break;
    }
  }
  return link;
}

Result<Link> GetLink(Socket& socket, const std::string& what, int index, const std::string& name, const Deadline& until,
                     bool counters = true) {
  Link link;
  auto done = socket.Query(
      RTM_GETLINK, 0, "look up link " + what,
      [&](nl_msg* m) {
        PutLinkHeader(m, AF_UNSPEC, index);
        if (!name.empty()) nla_put_string(m, IFLA_IFNAME, name.c_str());
        if (!counters) nla_put_u32(m, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
      },
      [&](int type, std::string_view payload) {
        if (type == RTM_NEWLINK) link = ReadLink(payload);
      },
      until);
  if (!done) {
    if (done.error().sys == ENODEV) return Err(Code::kNotFound, "link {}: does not exist", what);
    return std::unexpected(done.error());
  }
  return link;
}

// What an IPv6 link-local address is made of (RFC 4291, appendix A).
Ip LinkLocal(const Mac& mac) {
  uint8_t b[16] = {0xfe,   0x80,   0,    0,    0,      0,      0,     0, uint8_t(mac[0] ^ 2),
                   mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
  return IpFromBytes({reinterpret_cast<char*>(b), sizeof b});
}

void AddAddress(Batch& batch, int index, const std::string& name, const IpPrefix& address, int flags = NLM_F_EXCL) {
  batch.Add(RTM_NEWADDR, NLM_F_CREATE | flags, fmt::format("add {} to {}", address.Text(), name), [&](nl_msg* m) {
    ifaddrmsg info{};
    info.ifa_family = AddressFamily(address.ip);
    info.ifa_prefixlen = address.prefix;
    info.ifa_index = index;
    bool local = address.ip.family == 6 && (address.ip.value >> 118) == (0xfe80u >> 6);
    info.ifa_scope = local ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
    if (address.ip.family == 6) info.ifa_flags = IFA_F_NODAD;  // ours by the ledger, so detection would only delay
    nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
    PutIp(m, IFA_LOCAL, address.ip);
    PutIp(m, IFA_ADDRESS, address.ip);
    if (address.ip.family == 4 && address.prefix < 31)
      PutIp(m, IFA_BROADCAST, Subnet{address.Net().base, address.prefix}.Last());
  });
}

void AddRoute(Batch& batch, int index, const Route& route) {
  std::string via = route.gateway ? " via " + route.gateway->Text() : "";
  batch.Add(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, fmt::format("add route {}{}", route.dst.Text(), via),
            [&](nl_msg* m) {
              rtmsg info{};
              info.rtm_family = AddressFamily(route.dst.ip);
              info.rtm_dst_len = route.dst.prefix;
              info.rtm_table = RT_TABLE_MAIN;
              info.rtm_protocol = RTPROT_BOOT;
              info.rtm_type = RTN_UNICAST;
              uint32_t scope = route.gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
              info.rtm_scope = static_cast<unsigned char>(route.scope.value_or(scope));
              nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
              if (route.dst.prefix > 0) PutIp(m, RTA_DST, route.dst.Net().base);
              if (route.gateway) PutIp(m, RTA_GATEWAY, *route.gateway);
              nla_put_u32(m, RTA_OIF, index);
              if (route.priority) nla_put_u32(m, RTA_PRIORITY, *route.priority);
              if (route.table) nla_put_u32(m, RTA_TABLE, *route.table);
              if (route.mtu || route.advmss) {
                Nest metrics(m, RTA_METRICS);
                if (route.mtu) nla_put_u32(m, RTAX_MTU, *route.mtu);
                if (route.advmss) nla_put_u32(m, RTAX_ADVMSS, *route.advmss);
              }
            });
}

void AddLoopbackUp(Batch& batch) {
  batch.Add(RTM_NEWLINK, 0, "bring lo up", [](nl_msg* m) { PutLinkHeader(m, AF_UNSPEC, 1, IFF_UP, IFF_UP); });
}

void PutPortOptions(nl_msg* m, bool hairpin, bool isolated) {
  Nest info(m, IFLA_LINKINFO);
  nla_put_string(m, IFLA_INFO_SLAVE_KIND, "bridge");
  Nest data(m, IFLA_INFO_SLAVE_DATA);
  nla_put_u8(m, IFLA_BRPORT_MODE, hairpin);
  nla_put_u8(m, IFLA_BRPORT_ISOLATED, isolated);
}

void AddVeth(Batch& batch, const VethSpec& spec) {
  batch.Add(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, fmt::format("make {}", spec.name), [&](nl_msg* m) {
    PutLinkHeader(m);
    nla_put_string(m, IFLA_IFNAME, spec.name.c_str());
    nla_put_u32(m, IFLA_MTU, spec.mtu);
    nla_put_u32(m, IFLA_MASTER, spec.master);
    Nest info(m, IFLA_LINKINFO);
    nla_put_string(m, IFLA_INFO_KIND, "veth");
    Nest data(m, IFLA_INFO_DATA);
    Nest peer(m, VETH_INFO_PEER);
    PutLinkHeader(m);
    nla_put_string(m, IFLA_IFNAME, spec.peer.c_str());
    nla_put_u32(m, IFLA_MTU, spec.mtu);
    nla_put_u32(m, IFLA_NET_NS_FD, spec.netns);
    nla_put(m, IFLA_ADDRESS, spec.mac.size(), spec.mac.data());
  });
}

void AddPortUp(Batch& batch, const VethSpec& spec) {
  batch.Add(RTM_NEWLINK, 0, fmt::format("bring {} up", spec.name), [&](nl_msg* m) {
    PutLinkHeader(m, AF_UNSPEC, 0, IFF_UP, IFF_UP);
    nla_put_string(m, IFLA_IFNAME, spec.name.c_str());
    nla_put_string(m, IFLA_IFALIAS, spec.alias.c_str());
    if (spec.hairpin || spec.isolated) PutPortOptions(m, spec.hairpin, spec.isolated);
  });
}

}  // namespace

std::string MacText(const Mac& m) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5]);
}

Result<Link> FindLink(Socket& socket, const std::string& name, const Deadline& until) {
  return GetLink(socket, name, 0, name, until);
}

Result<Link> FindLink(Socket& socket, int index, const Deadline& until) {
  return GetLink(socket, fmt::format("{}", index), index, "", until);
}

Result<std::vector<Link>> ListLinks(Socket& socket, const std::string& kind, const Deadline& until) {
  std::vector<Link> links;
  TRY(socket.Query(
      RTM_GETLINK, NLM_F_DUMP, "list links",
      [&](nl_msg* m) {
        PutLinkHeader(m);
        Nest info(m, IFLA_LINKINFO);
        nla_put_string(m, IFLA_INFO_KIND, kind.c_str());
      },
      [&](int type, std::string_view payload) {
        if (type != RTM_NEWLINK) return;
        Link link = ReadLink(payload);
        if (link.kind == kind) links.push_back(std::move(link));
      },
      until, [&] { links.clear(); }));
  return links;
}

Result<void> PlugBack(Socket& host, const std::string& name, int master, bool hairpin, bool isolated,
                      const Deadline& until) {
  Batch batch;
  // The options can only be set once the link is a port.
  batch.Add(RTM_NEWLINK, 0, fmt::format("plug {} in", name), [&](nl_msg* m) {
    PutLinkHeader(m, AF_UNSPEC, 0, IFF_UP, IFF_UP);
    nla_put_string(m, IFLA_IFNAME, name.c_str());
    nla_put_u32(m, IFLA_MASTER, master);
  });
  batch.Add(RTM_NEWLINK, 0, fmt::format("set bridge port {}", name), [&](nl_msg* m) {
    PutLinkHeader(m);
    nla_put_string(m, IFLA_IFNAME, name.c_str());
    PutPortOptions(m, hairpin, isolated);
  });
  auto done = host.Run(batch, until);
  if (!done && done.error().sys == ENODEV) return {};
  return done;
}

Result<int> CreateVeth(Socket& host, Socket& inside, const VethSpec& spec, const Deadline& until) {
  Batch batch;
  AddVeth(batch, spec);
  Failure failure;
  auto made = host.Run(batch, until, &failure);
  if (!made) {
    Error e = std::move(made.error());
    if (failure.err == EXFULL) {
      e.code = Code::kResourceExhausted;
      e.what = "the bridge has 1023 ports, and the kernel allows no more on one";
    }
    return std::unexpected(std::move(e));
  }
  // The port of a bridge needs no IPv6 of its own. With it, every link adds routes that the kernel walks through
  // whenever another link goes down: at 500 pods a detach took five times as long.
  SetSysctl(fmt::format("net/ipv6/conf/{}/disable_ipv6", spec.name), "1");
  Batch up;
  AddPortUp(up, spec);
  made = host.Run(up, until);
  // The kernel chooses the peer's number: it takes ours only together with one for the host's end.
  auto peer =
      made ? GetLink(inside, spec.peer, 0, spec.peer, until, false) : Result<Link>(std::unexpected(made.error()));
  if (peer) return peer->index;
  if (auto link = FindLink(host, spec.name, until)) (void)DeleteLinks(host, {link->index}, until);
  return std::unexpected(std::move(peer.error()));
}

Result<void> LoopbackUp(Socket& inside, const Deadline& until) {
  Batch batch;
  AddLoopbackUp(batch);
  return inside.Run(batch, until);
}

Result<void> ConfigurePod(Socket& inside, const PodInterface& spec, const Deadline& until) {
  Batch batch;
  AddLoopbackUp(batch);
  bool six = std::any_of(spec.addresses.begin(), spec.addresses.end(), [](auto& a) { return a.ip.family == 6; });
  if (six) {
    // The kernel's own link-local address would be subject to detection for a second; ours is not.
    batch.Add(RTM_NEWLINK, 0, fmt::format("set address mode of {}", spec.name), [&](nl_msg* m) {
      PutLinkHeader(m, AF_UNSPEC, spec.index);
      Nest families(m, IFLA_AF_SPEC);
      Nest inet6(m, AF_INET6);
      nla_put_u8(m, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    });
    AddAddress(batch, spec.index, spec.name, {LinkLocal(spec.mac), 64});
  }
  for (const IpPrefix& address : spec.addresses) AddAddress(batch, spec.index, spec.name, address);
  batch.Add(RTM_NEWLINK, 0, fmt::format("bring {} up", spec.name),
            [&](nl_msg* m) { PutLinkHeader(m, AF_UNSPEC, spec.index, IFF_UP, IFF_UP); });
  for (const Route& route : spec.routes) AddRoute(batch, spec.index, route);
  auto done = inside.Run(batch, until);
  if (!done && six && (done.error().sys == EACCES || done.error().sys == EOPNOTSUPP))
    return Err(Code::kFailedPrecondition,
               "{}: IPv6 is disabled in the pod's namespace (net.ipv6.conf.default.disable_ipv6); enable it, or leave "
               "only IPv4 subnets in the network's configuration",
               done.error().what);
  return done;
}

Result<void> Unplug(Socket& host, const std::string& name, const Deadline& until) {
  Batch batch;
  batch.Add(RTM_NEWLINK, 0, fmt::format("unplug {}", name), [&](nl_msg* m) {
    PutLinkHeader(m, AF_UNSPEC, 0, 0, IFF_UP);
    nla_put_string(m, IFLA_IFNAME, name.c_str());
  });
  auto done = host.Run(batch, until);
  // Without NLM_F_CREATE a name that does not exist is ENODEV; older kernels say EINVAL.
  if (!done && done.error().sys == ENODEV) return {};
  return done;
}

Result<void> DeleteLinks(Socket& host, const std::vector<int>& indexes, const Deadline& until) {
  if (indexes.empty()) return {};
  Batch batch;
  if (indexes.size() == 1) {
    batch.Add(RTM_DELLINK, 0, fmt::format("delete link {}", indexes[0]),
              [&](nl_msg* m) { PutLinkHeader(m, AF_UNSPEC, indexes[0]); });
  } else {
    for (int index : indexes)
      batch.Add(RTM_NEWLINK, 0, fmt::format("mark link {}", index), [&](nl_msg* m) {
        PutLinkHeader(m, AF_UNSPEC, index);
        nla_put_u32(m, IFLA_GROUP, kDoomedGroup);
      });
    batch.Add(RTM_DELLINK, 0, "delete links", [&](nl_msg* m) {
      PutLinkHeader(m);
      nla_put_u32(m, IFLA_GROUP, kDoomedGroup);
    });
  }
  Failure failure;
  auto done = host.Run(batch, until, &failure);
  if (!done && done.error().sys == ENODEV) return {};
  return done;
}

std::optional<int> MtuOfWayOut(Socket& host, const Deadline& until) {
  for (const char* anywhere : {"192.0.2.1", "2001:db8::1"}) {  // documentation addresses: only a default route has them
    Ip dst = *ParseIp(anywhere);
    int oif = 0;
    auto asked = host.Query(
        RTM_GETROUTE, 0, "look up the default route",
        [&](nl_msg* m) {
          rtmsg info{};
          info.rtm_family = AddressFamily(dst);
          info.rtm_dst_len = dst.bits();
          nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
          PutIp(m, RTA_DST, dst);
        },
        [&](int type, std::string_view payload) {
          if (type != RTM_NEWROUTE || payload.size() < sizeof(rtmsg)) return;
          if (reinterpret_cast<const rtmsg*>(payload.data())->rtm_type != RTN_UNICAST) return;
          size_t offset = NLMSG_ALIGN(sizeof(rtmsg));
          nlattr* a = nla_find(reinterpret_cast<nlattr*>(const_cast<char*>(payload.data() + offset)),
                               static_cast<int>(payload.size() - offset), RTA_OIF);
          if (a) oif = static_cast<int>(nla_get_u32(a));
        },
        until);
    if (!asked || oif == 0) continue;
    if (auto link = FindLink(host, oif, until); link && link->mtu >= 1280) return link->mtu;
  }
  return std::nullopt;
}

}  // namespace berth::cni::netlink
