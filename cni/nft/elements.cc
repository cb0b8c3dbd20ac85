#include "cni/nft/elements.h"

#include <netinet/in.h>  // before the kernel's headers, which yield to it

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <poll.h>
#include <sys/socket.h>

namespace berth::cni::nft {
namespace {

void PadTo4(std::string& s) { s.resize((s.size() + 3) & ~size_t{3}, '\0'); }

void PutField(std::string& out, std::string_view bytes) {
  out += bytes;
  PadTo4(out);
}

std::string PortBytes(uint16_t port) { return {static_cast<char>(port >> 8), static_cast<char>(port & 255)}; }

char ProtocolNumber(const std::string& protocol) {
  if (protocol == "udp") return IPPROTO_UDP;
  if (protocol == "sctp") return static_cast<char>(IPPROTO_SCTP);
  return IPPROTO_TCP;
}

class Writer {  // messages one behind the other
 public:
  nlmsghdr* Begin(int type, int flags, uint32_t sequence, int family, uint16_t resource = 0) {
    scratch_.assign(kRoom, '\0');
    nlmsghdr* h = mnl_nlmsg_put_header(scratch_.data());
    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    h->nlmsg_seq = sequence;
    auto* g = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(h, sizeof(nfgenmsg)));
    g->nfgen_family = family;
    g->version = NFNETLINK_V0;
    g->res_id = htons(resource);
    return h;
  }
  void End(const nlmsghdr* h) { out_.append(reinterpret_cast<const char*>(h), h->nlmsg_len); }
  std::string Take() { return std::move(out_); }
  static constexpr size_t kRoom = 64 * 1024;

 private:
  std::string out_, scratch_;
};

constexpr size_t kElementsPerMessage = 500;  // about 45 bytes each; nested attributes end at 64 KiB

}  // namespace

std::string PortKeyBytes(const PublishedPort& p) {
  std::string key;
  if (!p.host_ip.empty()) PutField(key, ParseIp(p.host_ip).value_or(Ip{p.to.family}).Bytes());
  PutField(key, std::string(1, ProtocolNumber(p.protocol)));
  PutField(key, PortBytes(p.host_port));
  return key;
}

std::string PortValueBytes(const PublishedPort& p) {
  std::string value;
  PutField(value, p.to.Bytes());
  PutField(value, PortBytes(p.to_port));
  return value;
}

ElementBatch EncodePorts(const std::string& table, const std::vector<PublishedPort>& ports, bool add,
                         uint32_t sequence) {
  ElementBatch batch;
  Writer w;
  w.End(w.Begin(NFNL_MSG_BATCH_BEGIN, 0, sequence++, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
  batch.first = sequence;
  for (int family : {4, 6}) {
    for (bool any : {true, false}) {
      std::vector<const PublishedPort*> group;
      for (const PublishedPort& p : ports)
        if (p.to.family == family && p.host_ip.empty() == any) group.push_back(&p);
      for (size_t at = 0; at < group.size(); at += kElementsPerMessage) {
        nlmsghdr* h =
            w.Begin((NFNL_SUBSYS_NFTABLES << 8) | (add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM),
                    NLM_F_ACK | (add ? NLM_F_CREATE : 0), sequence++, family == 4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
        mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table.c_str());
        mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, any ? "pub_any" : "pub_ip");
        nlattr* list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
        for (size_t i = at; i < std::min(group.size(), at + kElementsPerMessage); ++i) {
          nlattr* element = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
          std::string key = PortKeyBytes(*group[i]), value = PortValueBytes(*group[i]);
          nlattr* k = mnl_attr_nest_start(h, NFTA_SET_ELEM_KEY);
          mnl_attr_put(h, NFTA_DATA_VALUE, key.size(), key.data());
          mnl_attr_nest_end(h, k);
          if (add) {
            nlattr* v = mnl_attr_nest_start(h, NFTA_SET_ELEM_DATA);
            mnl_attr_put(h, NFTA_DATA_VALUE, value.size(), value.data());
            mnl_attr_nest_end(h, v);
          }
          mnl_attr_nest_end(h, element);
        }
        mnl_attr_nest_end(h, list);
        w.End(h);
        ++batch.messages;
      }
    }
  }
  w.End(w.Begin(NFNL_MSG_BATCH_END, 0, sequence++, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
  batch.bytes = w.Take();
  return batch;
}

Result<void> ElementSocket::Open() {
  fd_.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER));
  if (!fd_) return SysErr("open nftables socket");
  return {};
}

Result<int> ElementSocket::Exchange(const std::string& bytes, uint32_t first, uint32_t messages,
                                    const Deadline& until) {
  while (send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != ENOBUFS) return SysErr("nftables send");
    TRY(until.WaitFor(fd_.get(), POLLOUT, "the nftables socket"));
  }
  std::string buffer(64 * 1024, '\0');
  int failed = 0;
  for (uint32_t answered = 0; answered < messages;) {
    ssize_t n = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      TRY(until.WaitFor(fd_.get(), POLLIN, "the kernel's nftables answer"));
      continue;
    }
    if (n < 0) return SysErr("nftables receive");
    int left = static_cast<int>(n);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(h, left);
         h = mnl_nlmsg_next(h, &left)) {
      uint32_t index = h->nlmsg_seq - first;
      int err = 0;
      if (h->nlmsg_type == NLMSG_ERROR) err = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(h))->error;
      // An error of the batch as a whole carries the number of its first message, and nothing else follows.
      if (index == UINT32_MAX && err != 0) return err;
      if (index >= messages) continue;
      ++answered;
      if (failed == 0) failed = err;
    }
  }
  return failed;
}

Result<void> ElementSocket::Apply(const std::string& table, const std::vector<PublishedPort>& ports, bool add,
                                  const Deadline& until) {
  if (ports.empty()) return {};
  std::lock_guard lock(mutex_);
  ElementBatch batch = EncodePorts(table, ports, add, sequence_);
  sequence_ += batch.messages + 2;
  int err = TRY(Exchange(batch.bytes, batch.first, batch.messages, until));
  if (err == 0) return {};
  return std::unexpected(
      Error{CodeFromErrno(err),
            fmt::format("{} elements of nftables table {}: {}", add ? "add" : "remove", table, ErrnoText(err)), err,
            std::source_location::current()});
}

Result<bool> ElementSocket::Intact(const std::string& table, const Deadline& until) {
  std::lock_guard lock(mutex_);
  for (int family : {NFPROTO_IPV4, NFPROTO_IPV6}) {
    Writer w;
    uint32_t sequence = sequence_++;
    nlmsghdr* h = w.Begin((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN, 0, sequence, family);
    mnl_attr_put_strz(h, NFTA_CHAIN_TABLE, table.c_str());
    mnl_attr_put_strz(h, NFTA_CHAIN_NAME, std::string(kLayout).c_str());
    w.End(h);
    int err = TRY(Exchange(w.Take(), sequence, 1, until));
    if (err == ENOENT) return false;
    if (err != 0)
      return std::unexpected(Error{CodeFromErrno(err), "ask for nftables table " + table + ": " + ErrnoText(err), err,
                                   std::source_location::current()});
  }
  return true;
}

}  // namespace berth::cni::nft
