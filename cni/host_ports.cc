#include "cni/host_ports.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "cni/ip.h"
#include "cni/netlink/sysctl.h"

namespace berth::cni {
namespace {

void Option(int fd, int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); }

std::string Where(const PortMapping& p) {
  return fmt::format("host port {}{}{}/{}", p.host_ip, p.host_ip.empty() ? "" : ":", p.host_port, p.protocol);
}

// The port may also be the near end of somebody's outgoing connection.
std::string EphemeralHint(uint16_t port) {
  unsigned low = 0, high = 0;
  std::string range = netlink::GetSysctl("net/ipv4/ip_local_port_range");
  if (sscanf(range.c_str(), "%u %u", &low, &high) != 2 || port < low || port > high) return "";
  return fmt::format(
      "; outgoing connections take ports from {} to {} too: choose another, or put it into "
      "net.ipv4.ip_local_reserved_ports",
      low, high);
}

Result<unique_fd> Bind(const PortMapping& p, const Ip& ip) {
  int family = ip.family == 4 ? AF_INET : AF_INET6;
  bool udp = p.protocol == "udp";
  int protocol = udp ? IPPROTO_UDP : p.protocol == "sctp" ? IPPROTO_SCTP : IPPROTO_TCP;
  unique_fd fd(socket(family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
  if (!fd) {
    if (errno == EPROTONOSUPPORT || errno == ESOCKTNOSUPPORT)
      return Err(Code::kFailedPrecondition, "{}: the kernel has no {}; load its module or remove the port", Where(p),
                 p.protocol);
    return SysErr("{}: open socket", Where(p));
  }
  if (family == AF_INET6) Option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  Option(fd.get(), IPPROTO_IP, IP_FREEBIND, 1);  // an address that comes and goes (keepalived) may be away now
  if (udp) {
    // Datagrams that were not translated must not pile up.
    sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    sock_fprog program{1, &drop};
    setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
  } else {
    // Sockets in TIME_WAIT, left by a server that has ended, do not count as taken.
    Option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  }
  sockaddr_in6 six{};
  sockaddr_in four{};
  std::string bytes = ip.Bytes();
  four.sin_family = AF_INET, six.sin6_family = AF_INET6;
  four.sin_port = six.sin6_port = htons(p.host_port);
  memcpy(ip.family == 4 ? static_cast<void*>(&four.sin_addr) : &six.sin6_addr, bytes.data(), bytes.size());
  auto* address = ip.family == 4 ? reinterpret_cast<sockaddr*>(&four) : reinterpret_cast<sockaddr*>(&six);
  socklen_t length = ip.family == 4 ? sizeof four : sizeof six;
  // Listening is what makes a clash certain in both directions; afterwards the socket keeps the port without listening,
  // so that connections which are not translated are refused instead of hanging.
  bool ok = bind(fd.get(), address, length) == 0 && (udp || listen(fd.get(), 0) == 0);
  if (!ok) {
    if (errno == EADDRINUSE)
      return Err(Code::kConflict, "{}: taken by another program on {}{}", Where(p), ip.Text(),
                 EphemeralHint(p.host_port));
    return SysErr("{}: reserve on {}", Where(p), ip.Text());
  }
  if (!udp) {
    shutdown(fd.get(), SHUT_RDWR);
    Option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 0);
  }
  return fd;
}

}  // namespace

Result<void> HostPorts::Hold(const PodId& pod, const std::vector<PortMapping>& ports, bool four, bool six) {
  std::vector<unique_fd> mine;
  for (const PortMapping& p : ports) {
    std::vector<Ip> addresses;
    if (p.host_ip.empty()) {
      if (four) addresses.push_back({4, 0});
      if (six) addresses.push_back({6, 0});
    } else {
      addresses.push_back(TRY(ParseIp(p.host_ip)));
    }
    for (const Ip& ip : addresses) mine.push_back(TRY(Bind(p, ip)));
  }
  if (mine.empty()) return {};
  std::lock_guard lock(mutex_);
  auto& held = held_[pod];
  for (unique_fd& fd : mine) held.push_back(std::move(fd));
  return {};
}

void HostPorts::Release(const PodId& pod) {
  std::vector<unique_fd> dropped;
  std::lock_guard lock(mutex_);
  auto it = held_.find(pod);
  if (it == held_.end()) return;
  dropped = std::move(it->second);
  held_.erase(it);
}

}  // namespace berth::cni
