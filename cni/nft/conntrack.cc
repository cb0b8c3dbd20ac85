#include "cni/nft/conntrack.h"

#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

namespace berth::cni::nft {
namespace {

struct Tuple {
  std::string source, destination;  // network order
  uint8_t protocol = 0;
  uint16_t source_port = 0, destination_port = 0;
};

// libmnl's own loops do not compile as C++.
template <class F>
void Each(const char* at, const char* end, F f) {
  for (auto* a = reinterpret_cast<const nlattr*>(at);
       mnl_attr_ok(a, static_cast<int>(end - reinterpret_cast<const char*>(a))); a = mnl_attr_next(a))
    f(a);
}
template <class F>
void EachIn(const nlattr* nest, F f) {
  auto* at = static_cast<const char*>(mnl_attr_get_payload(nest));
  Each(at, at + mnl_attr_get_payload_len(nest), f);
}

Tuple ReadTuple(const nlattr* nest) {
  Tuple t;
  auto bytes = [](const nlattr* x) {
    return std::string(static_cast<const char*>(mnl_attr_get_payload(x)), mnl_attr_get_payload_len(x));
  };
  EachIn(nest, [&](const nlattr* group) {
    int type = mnl_attr_get_type(group);
    if (type != CTA_TUPLE_IP && type != CTA_TUPLE_PROTO) return;
    EachIn(group, [&](const nlattr* a) {
      int k = mnl_attr_get_type(a);
      if (type == CTA_TUPLE_IP) {
        if (k == CTA_IP_V4_SRC || k == CTA_IP_V6_SRC) t.source = bytes(a);
        if (k == CTA_IP_V4_DST || k == CTA_IP_V6_DST) t.destination = bytes(a);
      } else {
        if (k == CTA_PROTO_NUM) t.protocol = mnl_attr_get_u8(a);
        if (k == CTA_PROTO_SRC_PORT) t.source_port = ntohs(mnl_attr_get_u16(a));
        if (k == CTA_PROTO_DST_PORT) t.destination_port = ntohs(mnl_attr_get_u16(a));
      }
    });
  });
  return t;
}

bool Concerns(const Tuple& original, const Tuple& reply, const PublishedPort& p) {
  if (original.protocol != IPPROTO_UDP) return false;
  if (original.destination_port == p.host_port &&
      (p.host_ip.empty() || original.destination == ParseIp(p.host_ip).value_or(Ip{}).Bytes()))
    return true;
  return reply.source_port == p.to_port && reply.source == p.to.Bytes();
}

nlmsghdr* Header(std::string& room, int type, int flags, uint32_t sequence, int family) {
  room.assign(4096, '\0');
  nlmsghdr* h = mnl_nlmsg_put_header(room.data());
  h->nlmsg_type = (NFNL_SUBSYS_CTNETLINK << 8) | type;
  h->nlmsg_flags = NLM_F_REQUEST | flags;
  h->nlmsg_seq = sequence;
  auto* g = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(h, sizeof(nfgenmsg)));
  g->nfgen_family = family;
  g->version = NFNETLINK_V0;
  return h;
}

// Sends and reads up to the end of the dump, or the acknowledgement. Value: errno of the kernel, or 0.
Result<int> Exchange(int fd, const nlmsghdr* request, const std::function<void(const nlmsghdr*)>& f,
                     const Deadline& until) {
  if (send(fd, request, request->nlmsg_len, MSG_NOSIGNAL) < 0) return SysErr("conntrack send");
  std::string buffer(64 * 1024, '\0');
  for (;;) {
    ssize_t n = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      TRY(until.WaitFor(fd, POLLIN, "the kernel's conntrack answer"));
      continue;
    }
    if (n < 0) return SysErr("conntrack receive");
    int left = static_cast<int>(n);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(h, left);
         h = mnl_nlmsg_next(h, &left)) {
      if (h->nlmsg_seq != request->nlmsg_seq) continue;
      if (h->nlmsg_type == NLMSG_DONE) return 0;
      if (h->nlmsg_type == NLMSG_ERROR) return -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(h))->error;
      f(h);
    }
  }
}

}  // namespace

Result<int> FlushUdp(const std::vector<PublishedPort>& ports, const Deadline& until) {
  unique_fd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER));
  if (!fd) return SysErr("open conntrack socket");
  uint32_t sequence = 1;
  int removed = 0;
  std::string room;
  for (int family : {AF_INET, AF_INET6}) {
    if (std::none_of(ports.begin(), ports.end(), [&](auto& p) { return p.to.family == (family == AF_INET ? 4 : 6); }))
      continue;
    std::vector<std::string> doomed;  // the entries' own tuple and id, as they came
    int err = TRY(Exchange(
        fd.get(), Header(room, IPCTNL_MSG_CT_GET, NLM_F_DUMP, sequence++, family),
        [&](const nlmsghdr* h) {
          Tuple original, reply;
          std::string keep;
          auto* at = reinterpret_cast<const char*>(h);
          Each(at + NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(nfgenmsg)), at + h->nlmsg_len, [&](const nlattr* a) {
            int type = mnl_attr_get_type(a);
            if (type == CTA_TUPLE_ORIG) original = ReadTuple(a);
            if (type == CTA_TUPLE_REPLY) reply = ReadTuple(a);
            if (type == CTA_TUPLE_ORIG || type == CTA_ID || type == CTA_ZONE)
              keep.append(reinterpret_cast<const char*>(a), MNL_ALIGN(a->nla_len));
          });
          for (const PublishedPort& p : ports)
            if (Concerns(original, reply, p)) {
              doomed.push_back(keep);
              break;
            }
        },
        until));
    if (err == ENOENT || err == EOPNOTSUPP || err == EINVAL) continue;  // nothing is tracked here
    if (err != 0)
      return std::unexpected(Error{CodeFromErrno(err), "list conntrack entries: " + ErrnoText(err), err, {}});
    for (const std::string& entry : doomed) {
      nlmsghdr* h = Header(room, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, sequence++, family);
      memcpy(reinterpret_cast<char*>(h) + h->nlmsg_len, entry.data(), entry.size());
      h->nlmsg_len += entry.size();
      if (TRY(Exchange(
              fd.get(), h, [](auto*) {}, until)) == 0)
        ++removed;
    }
  }
  return removed;
}

}  // namespace berth::cni::nft
