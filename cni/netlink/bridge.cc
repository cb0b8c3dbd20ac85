#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/random.h>

#include "cni/netlink/links.h"
#include "cni/netlink/sysctl.h"

namespace berth::cni::netlink {
namespace {

void Header(nl_msg* m, int index, unsigned flags = 0, unsigned change = 0) {
  ifinfomsg info{};
  info.ifi_index = index;
  info.ifi_flags = flags;
  info.ifi_change = change;
  nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
}

Result<void> MakeBridge(Socket& host, const BridgeSpec& spec, const Deadline& until) {
  Mac mac;
  if (getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size())) return SysErr("getrandom");
  mac[0] = (mac[0] & 0xfc) | 0x02;  // locally administered, unicast
  Batch batch;
  batch.Add(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, fmt::format("make bridge {}", spec.name), [&](nl_msg* m) {
    Header(m, 0);
    nla_put_string(m, IFLA_IFNAME, spec.name.c_str());
    nla_put(m, IFLA_ADDRESS, mac.size(), mac.data());
    if (spec.mtu) nla_put_u32(m, IFLA_MTU, spec.mtu);
    nlattr* info = nla_nest_start(m, IFLA_LINKINFO);
    nla_put_string(m, IFLA_INFO_KIND, "bridge");
    nla_nest_end(m, info);
  });
  auto made = host.Run(batch, until);
  if (!made && made.error().sys == EEXIST) return {};  // somebody was faster
  return made;
}

struct Held {
  IpPrefix address;
  bool link_local = false;
};

Result<std::vector<Held>> Addresses(Socket& host, int index, const Deadline& until) {
  std::vector<Held> out;
  // The kernel filters by ifa_index only for strict sockets, so the others are passed over here.
  TRY(host.Query(
      RTM_GETADDR, NLM_F_DUMP, "list addresses",
      [&](nl_msg* m) {
        ifaddrmsg info{};
        info.ifa_index = index;
        nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
      },
      [&](int type, std::string_view payload) {
        if (type != RTM_NEWADDR || payload.size() < sizeof(ifaddrmsg)) return;
        auto* info = reinterpret_cast<const ifaddrmsg*>(payload.data());
        if (static_cast<int>(info->ifa_index) != index) return;
        size_t offset = NLMSG_ALIGN(sizeof(ifaddrmsg));
        auto* head = reinterpret_cast<nlattr*>(const_cast<char*>(payload.data() + offset));
        int left = static_cast<int>(payload.size() - offset);
        nlattr* a = nla_find(head, left, IFA_LOCAL);
        if (!a) a = nla_find(head, left, IFA_ADDRESS);
        if (!a || (nla_len(a) != 4 && nla_len(a) != 16)) return;
        Ip ip = IpFromBytes({static_cast<const char*>(nla_data(a)), static_cast<size_t>(nla_len(a))});
        out.push_back({{ip, info->ifa_prefixlen}, info->ifa_scope == RT_SCOPE_LINK});
      },
      until, [&] { out.clear(); }));
  return out;
}

void PutAddress(Batch& batch, int type, int flags, const std::string& what, int index, const IpPrefix& address) {
  batch.Add(type, flags, what, [&](nl_msg* m) {
    ifaddrmsg info{};
    info.ifa_family = address.ip.family == 4 ? AF_INET : AF_INET6;
    info.ifa_prefixlen = address.prefix;
    info.ifa_index = index;
    if (address.ip.family == 6) info.ifa_flags = IFA_F_NODAD;
    nlmsg_append(m, &info, sizeof info, NLMSG_ALIGNTO);
    std::string bytes = address.ip.Bytes();
    nla_put(m, IFA_LOCAL, bytes.size(), bytes.data());
    nla_put(m, IFA_ADDRESS, bytes.size(), bytes.data());
    if (address.ip.family == 4 && address.prefix < 31) {
      std::string last = Subnet{address.Net().base, address.prefix}.Last().Bytes();
      nla_put(m, IFA_BROADCAST, last.size(), last.data());
    }
  });
}

}  // namespace

Result<Link> EnsureBridge(Socket& host, const BridgeSpec& spec, const Deadline& until) {
  auto found = FindLink(host, spec.name, until);
  if (!found && found.error().code != Code::kNotFound) return found;
  if (!found) {
    TRY(MakeBridge(host, spec, until));
    found = TRY(FindLink(host, spec.name, until));
  }
  Link link = *found;
  if (link.kind != "bridge")
    return Err(Code::kFailedPrecondition, "interface {} exists and is {}, not a bridge; choose another bridge name",
               spec.name, link.kind.empty() ? "hardware" : "a " + link.kind);
  // Before the first address: none of them waits for duplicate detection, and routers do not configure a gateway.
  SetSysctl(fmt::format("net/ipv6/conf/{}/disable_ipv6", spec.name), "0");
  SetSysctl(fmt::format("net/ipv6/conf/{}/accept_dad", spec.name), "0");
  SetSysctl(fmt::format("net/ipv6/conf/{}/accept_ra", spec.name), "0");

  Batch batch;
  if (!spec.addresses.empty()) {
    for (const Held& held : TRY(Addresses(host, link.index, until))) {
      if (held.link_local) continue;
      bool wanted = false, in_the_way = false;
      for (const IpPrefix& a : spec.addresses) {
        if (a.ip == held.address.ip && a.prefix == held.address.prefix)
          wanted = true;
        else if (a.ip.family != held.address.ip.family)
          continue;
        else if (a.ip.family == 4)
          in_the_way = true;
        else if (a.Net().Contains(held.address.ip) || held.address.Net().Contains(a.ip))
          in_the_way = true;
      }
      if (wanted || !in_the_way) continue;
      if (!spec.force_addresses)
        return Err(Code::kFailedPrecondition,
                   "bridge {} has the address {}, which is not the network's gateway; set forceAddress or remove it",
                   spec.name, held.address.Text());
      PutAddress(batch, RTM_DELADDR, 0, fmt::format("remove {} from {}", held.address.Text(), spec.name), link.index,
                 held.address);
    }
    for (const IpPrefix& a : spec.addresses)
      PutAddress(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, fmt::format("add {} to {}", a.Text(), spec.name),
                 link.index, a);
  }
  batch.Add(RTM_NEWLINK, 0, fmt::format("bring {} up", spec.name), [&](nl_msg* m) {
    Header(m, link.index, IFF_UP, IFF_UP);
    nla_put(m, IFLA_ADDRESS, link.mac.size(), link.mac.data());
    if (spec.mtu) nla_put_u32(m, IFLA_MTU, spec.mtu);
  });
  TRY(host.Run(batch, until));
  if (spec.mtu) link.mtu = spec.mtu;
  return link;
}

}  // namespace berth::cni::netlink
