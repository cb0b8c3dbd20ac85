#include "runtime/linux/net_devices.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "base/unique_fd.h"

namespace berth::runtime::net_devices {
namespace {

// One rtnetlink request: header, a fixed part, attributes.
class Request {
 public:
  template <class T>
  Request(uint16_t type, uint16_t flags, const T& fixed) {
    bytes_.resize(NLMSG_SPACE(sizeof fixed));
    auto* h = reinterpret_cast<nlmsghdr*>(bytes_.data());
    h->nlmsg_type = type;
    h->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    std::memcpy(NLMSG_DATA(h), &fixed, sizeof fixed);
  }
  Request& Add(uint16_t type, const void* data, size_t size) {
    rtattr attribute{static_cast<uint16_t>(RTA_LENGTH(size)), type};
    size_t at = bytes_.size();
    bytes_.resize(at + RTA_SPACE(size));
    std::memcpy(bytes_.data() + at, &attribute, sizeof attribute);
    std::memcpy(bytes_.data() + at + RTA_LENGTH(0), data, size);
    return *this;
  }
  Request& Add(uint16_t type, const std::string& text) { return Add(type, text.c_str(), text.size() + 1); }
  Request& Add(uint16_t type, uint32_t value) { return Add(type, &value, sizeof value); }
  const std::string& Finish() {
    reinterpret_cast<nlmsghdr*>(bytes_.data())->nlmsg_len = static_cast<uint32_t>(bytes_.size());
    return bytes_;
  }

 private:
  std::string bytes_;
};

// Sends and reads answers up to the acknowledgement or the end of a dump. errno in the error's `sys`.
Result<void> Ask(int socket, Request request, const std::function<void(const nlmsghdr*)>& take = {}) {
  const std::string& bytes = request.Finish();
  if (::send(socket, bytes.data(), bytes.size(), 0) < 0) return SysErr("rtnetlink");
  for (;;) {
    alignas(nlmsghdr) char buffer[32768];
    ssize_t n = ::recv(socket, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("rtnetlink");
    auto left = static_cast<uint32_t>(n);
    for (auto* h = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_type == NLMSG_DONE) return {};
      if (h->nlmsg_type == NLMSG_ERROR) {
        int error = -reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(h))->error;
        if (error == 0) return {};
        errno = error;
        return SysErr("rtnetlink");
      }
      if (take) take(h);
    }
  }
}

struct Link {
  int index = 0;
  unsigned flags = 0;
  std::string name;
};

Result<std::vector<Link>> Links(int socket) {
  std::vector<Link> found;
  TRY(Ask(socket, Request(RTM_GETLINK, NLM_F_DUMP, ifinfomsg{}), [&](const nlmsghdr* h) {
    if (h->nlmsg_type != RTM_NEWLINK) return;
    const auto* info = static_cast<const ifinfomsg*>(NLMSG_DATA(h));
    Link link{info->ifi_index, info->ifi_flags, ""};
    auto left = static_cast<int>(IFLA_PAYLOAD(h));
    for (const rtattr* a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left))
      if (a->rta_type == IFLA_IFNAME) link.name = static_cast<const char*>(RTA_DATA(a));
    found.push_back(std::move(link));
  }));
  return found;
}

const Link* Named(const std::vector<Link>& links, const std::string& name) {
  for (const Link& link : links)
    if (link.name == name) return &link;
  return nullptr;
}

struct Address {
  ifaddrmsg fixed{};
  std::vector<std::pair<uint16_t, std::string>> attributes;  // local, address, broadcast
  uint32_t flags = 0;
};

// Permanent addresses of global scope; what the kernel made itself (link-local, from router advertisements) comes
// again.
Result<std::vector<Address>> Addresses(int socket, int index) {
  std::vector<Address> found;
  TRY(Ask(socket, Request(RTM_GETADDR, NLM_F_DUMP, ifaddrmsg{}), [&](const nlmsghdr* h) {
    if (h->nlmsg_type != RTM_NEWADDR) return;
    const auto* info = static_cast<const ifaddrmsg*>(NLMSG_DATA(h));
    if (static_cast<int>(info->ifa_index) != index || info->ifa_scope != RT_SCOPE_UNIVERSE) return;
    Address address{*info, {}, info->ifa_flags};
    auto left = static_cast<int>(IFA_PAYLOAD(h));
    for (const rtattr* a = IFA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
      if (a->rta_type == IFA_FLAGS) std::memcpy(&address.flags, RTA_DATA(a), sizeof address.flags);
      if (a->rta_type == IFA_LOCAL || a->rta_type == IFA_ADDRESS || a->rta_type == IFA_BROADCAST)
        address.attributes.emplace_back(a->rta_type,
                                        std::string(static_cast<const char*>(RTA_DATA(a)), RTA_PAYLOAD(a)));
    }
    if (address.flags & IFA_F_PERMANENT) found.push_back(std::move(address));
  }));
  return found;
}

Result<void> SetUp(int socket, int index, bool up) {
  ifinfomsg info{};
  info.ifi_index = index;
  info.ifi_flags = up ? static_cast<unsigned>(IFF_UP) : 0U;
  info.ifi_change = static_cast<unsigned>(IFF_UP);
  return Ask(socket, Request(RTM_NEWLINK, NLM_F_ACK, info));
}

Result<unique_fd> RouteSocket() {
  unique_fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return SysErr("open rtnetlink");
  return fd;
}

Result<unique_fd> RouteSocketOf(int pidfd) {
  unique_fd own(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!own || ::setns(pidfd, CLONE_NEWNET) < 0) return SysErr("enter the container's network namespace");
  auto fd = RouteSocket();
  if (::setns(own.get(), CLONE_NEWNET) < 0) ::abort();  // nothing that follows would be where it believes to be
  return fd;
}

struct Mover {
  int outside, inside;
  unique_fd target;  // the namespace

  Result<void> One(const std::string& name, const std::string& wanted) {
    auto here = TRY(Links(outside));
    const Link* link = Named(here, name);
    if (!link) return Err(Code::kNotFound, "this host has no network device of that name");
    auto before = TRY(Links(inside));
    if (Named(before, wanted))
      return Err(Code::kAlreadyExists, "the container already has a network device {}", wanted);
    auto addresses = TRY(Addresses(outside, link->index));
    if (link->flags & IFF_UP) TRY_CTX(SetUp(outside, link->index, false), "take it down");

    // The name only counts where the old one is taken: the rest is renamed below.
    ifinfomsg info{};
    info.ifi_index = link->index;
    Request move(RTM_NEWLINK, NLM_F_ACK, info);
    move.Add(IFLA_NET_NS_FD, static_cast<uint32_t>(target.get())).Add(IFLA_IFNAME, wanted);
    if (auto moved = Ask(outside, std::move(move)); !moved) {
      int sys = moved.error().sys;
      if (link->flags & IFF_UP) (void)SetUp(outside, link->index, true);
      if (sys == EINVAL)
        return Err(Code::kFailedPrecondition, "this device cannot be moved to another network namespace");
      return Wrap(std::move(moved).error(), "move it");
    }
    const Link* arrived = nullptr;
    auto after = TRY(Links(inside));
    for (const Link& other : after) {
      bool was_there = false;
      for (const Link& old : before) was_there = was_there || old.index == other.index;
      if (!was_there && (!arrived || other.index == link->index)) arrived = &other;
    }
    if (!arrived) return Err(Code::kInternal, "it did not arrive in the container's network namespace");
    bool as_template = wanted.find('%') != std::string::npos;
    if (as_template ? arrived->name == name : arrived->name != wanted) {
      ifinfomsg it{};
      it.ifi_index = arrived->index;
      Request rename(RTM_NEWLINK, NLM_F_ACK, it);
      rename.Add(IFLA_IFNAME, wanted);
      TRY_CTX(Ask(inside, std::move(rename)), "rename it to {}", wanted);
    }
    for (const Address& address : addresses) {
      ifaddrmsg fixed = address.fixed;
      fixed.ifa_index = static_cast<uint32_t>(arrived->index);
      constexpr uint32_t kKept = IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN;
      fixed.ifa_flags = static_cast<uint8_t>(address.flags & kKept);
      Request add(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, fixed);
      for (const auto& [type, bytes] : address.attributes) add.Add(type, bytes.data(), bytes.size());
      add.Add(IFA_FLAGS, address.flags & kKept);
      if (auto added = Ask(inside, std::move(add)); !added && added.error().sys != EEXIST)
        return Wrap(std::move(added).error(), "add its addresses");
    }
    TRY_CTX(SetUp(inside, arrived->index, true), "bring it up");
    return {};
  }
};

}  // namespace

Result<void> Move(const std::map<std::string, oci::NetDevice>& devices, int pidfd) {
  unique_fd outside = TRY(RouteSocket());
  unique_fd inside = TRY(RouteSocketOf(pidfd));
  unique_fd target(::ioctl(inside.get(), SIOCGSKNS));
  if (!target) return SysErr("find the container's network namespace");
  Mover mover{outside.get(), inside.get(), std::move(target)};
  for (const auto& [name, device] : devices)
    TRY_CTX(mover.One(name, device.name.empty() ? name : device.name), "linux.netDevices.{}", name);
  return {};
}

}  // namespace berth::runtime::net_devices
