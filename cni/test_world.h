#pragma once
// For tests that need the kernel: a network namespace that plays the host, others that play pods and the outside,
// servers in them, and questions to `ip` and `nft`. Everything goes with the object. Root only.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/db.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "cni/ip.h"
#include "cni/native_network.h"

namespace berth::cni::test {

inline unique_fd OpenNs() { return unique_fd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)); }

// Runs f in a thread of its own inside the namespace; what it opens stays there.
template <class F>
auto InNs(int netns, F f) {
  using T = decltype(f());
  if constexpr (std::is_void_v<T>) {
    std::thread([&] {
      if (setns(netns, CLONE_NEWNET) != 0) abort();
      f();
    }).join();
  } else {
    std::optional<T> out;
    std::thread([&] {
      if (setns(netns, CLONE_NEWNET) != 0) abort();
      out.emplace(f());
    }).join();
    return std::move(*out);
  }
}

inline std::string Shell(const std::string& command) {
  std::string out;
  FILE* pipe = popen(("{ " + command + "; } 2>&1").c_str(), "r");
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  int status = pclose(pipe);
  if (status != 0) out += fmt::format("[exit {}]", status);
  return out;
}

struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
  Endpoint(const std::string& ip, uint16_t port) {
    Ip parsed = *ParseIp(ip);
    std::string bytes = parsed.Bytes();
    if (parsed.family == 4) {
      auto* a = reinterpret_cast<sockaddr_in*>(&storage);
      a->sin_family = AF_INET, a->sin_port = htons(port), length = sizeof *a;
      memcpy(&a->sin_addr, bytes.data(), 4);
    } else {
      auto* a = reinterpret_cast<sockaddr_in6*>(&storage);
      a->sin6_family = AF_INET6, a->sin6_port = htons(port), length = sizeof *a;
      memcpy(&a->sin6_addr, bytes.data(), 16);
    }
  }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

inline std::string PeerText(const sockaddr_storage& s) {
  if (s.ss_family == AF_INET)
    return IpFromBytes({reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in*>(&s)->sin_addr), 4}).Text();
  return IpFromBytes({reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in6*>(&s)->sin6_addr), 16}).Text();
}

// Answers every TCP connection and every datagram on a port with "<name> <address of the client>".
class Server {
 public:
  Server(int netns, std::string name, uint16_t port, int family = 6, const std::string& bind_to = "")
      : name_(std::move(name)) {
    InNs(netns, [&] {
      int domain = family == 4 ? AF_INET : AF_INET6;
      tcp_.reset(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0));
      udp_.reset(socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      int off = 0, one = 1;
      for (int fd : {tcp_.get(), udp_.get()}) {
        if (domain == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        Endpoint e(bind_to.empty() ? (domain == AF_INET ? "0.0.0.0" : "::") : bind_to, port);
        if (bind(fd, e.get(), e.length) != 0) ADD_FAILURE() << "bind " << port << ": " << strerror(errno);
      }
      listen(tcp_.get(), 64);
    });
    thread_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) {
        pollfd fds[2] = {{tcp_.get(), POLLIN, 0}, {udp_.get(), POLLIN, 0}};
        poll(fds, 2, 50);
        sockaddr_storage peer{};
        socklen_t length = sizeof peer;
        if (fds[0].revents & POLLIN) {
          unique_fd c(accept4(tcp_.get(), reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC));
          std::string text = name_ + " " + Plain(PeerText(peer));
          if (c) (void)!write(c.get(), text.data(), text.size());
        }
        if (fds[1].revents & POLLIN) {
          char buffer[64];
          length = sizeof peer;
          if (recvfrom(udp_.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&peer), &length) >= 0) {
            std::string text = name_ + " " + Plain(PeerText(peer));
            sendto(udp_.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&peer), length);
          }
        }
      }
    });
  }

 private:
  static std::string Plain(std::string ip) { return ip.starts_with("::ffff:") ? ip.substr(7) : ip; }
  std::string name_;
  unique_fd tcp_, udp_;
  std::jthread thread_;
};

// What the server at the address says to a client in the namespace; "refused", "timeout" or another reason otherwise.
// `from`: address the client binds to.
inline std::string Ask(int netns, const std::string& ip, uint16_t port, bool udp = false, int wait_ms = 2000,
                       const std::string& from = "") {
  return InNs(netns, [&]() -> std::string {
    Endpoint e(ip, port);
    unique_fd fd(socket(e.get()->sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!from.empty()) {
      Endpoint f(from, 0);
      if (bind(fd.get(), f.get(), f.length) != 0) return strerror(errno);
    }
    if (connect(fd.get(), e.get(), e.length) != 0 && errno != EINPROGRESS) return strerror(errno);
    if (udp && send(fd.get(), "?", 1, 0) < 0) return strerror(errno);
    pollfd p{fd.get(), POLLIN, 0};
    if (poll(&p, 1, wait_ms) == 0) return "timeout";
    char buffer[256];
    ssize_t n = recv(fd.get(), buffer, sizeof buffer, 0);
    if (n < 0) return errno == ECONNREFUSED ? "refused" : strerror(errno);
    return std::string(buffer, n);
  });
}

class World {
 public:
  World() {
    if (geteuid() != 0) return;
    home_ = OpenNs();
    if (unshare(CLONE_NEWNET) != 0) return;
    host_ = OpenNs();
    usable_ = true;
    Shell("ip link set lo up");
    char path[] = "/tmp/berth-cni-XXXXXX";
    dir_ = mkdtemp(path);
    options_.config_dir = dir_ + "/net.d";
    options_.plugin_dirs = {"/usr/lib/cni"};
  }
  ~World() {
    network_.reset();
    db_.reset();
    if (home_) setns(home_.get(), CLONE_NEWNET);
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }
  World(const World&) = delete;

  bool Usable() const { return usable_; }
  Options& options() { return options_; }
  const std::string& dir() const { return dir_; }
  int host() const { return host_.get(); }
  Network& network() {
    if (!network_) Open();
    return *network_;
  }
  void Open() {  // also: what a restart of the agent does
    network_.reset();
    db_.reset();
    db_ = *Db::OpenFile(dir_ + "/berth.db");
    auto opened = OpenNetwork(options_, *db_);
    if (!opened) ADD_FAILURE() << opened.error().what;
    network_ = std::move(*opened);
  }
  void Close() { network_.reset(); }
  Db& db() { return *db_; }

  Attachment Pod(std::vector<PortMapping> ports = {}) {
    Attachment a{.pod = NewPodId(), .name = "pod", .name_space = "default", .uid = "u1", .ports = std::move(ports)};
    Namespace& ns = namespaces_[a.pod];
    std::thread([&] {
      if (unshare(CLONE_NEWNET) != 0) abort();
      ns.ns = OpenNs();
      ns.netlink.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
    }).join();
    a.netns = ns.ns.get();
    a.netlink = ns.netlink.get();
    a.netns_path = fmt::format("/proc/{}/fd/{}", getpid(), a.netns);
    return a;
  }
  void DropNamespace(const PodId& pod) { namespaces_.erase(pod); }
  uint16_t FreePort() { return next_port_++; }

  // A namespace beside the host: 192.0.2.2 and fd02::2, the host is .1; it has routes to everything behind the host.
  int Outside() {
    if (!outside_) {
      std::thread([&] {
        if (unshare(CLONE_NEWNET) != 0) abort();
        outside_ = OpenNs();
      }).join();
      std::string out = Shell(fmt::format(
          "ip link add up0 type veth peer name eth0 netns /proc/{}/fd/{} && ip addr add 192.0.2.1/24 dev up0 && "
          "ip addr add fd02::1/64 dev up0 nodad && ip link set up0 up",
          getpid(), outside_.get()));
      EXPECT_EQ(out, "");
      out = InNs(outside_.get(), [] {
        return Shell(
            "ip link set lo up && ip addr add 192.0.2.2/24 dev eth0 && ip addr add fd02::2/64 dev eth0 nodad && "
            "ip link set eth0 up && ip route add default via 192.0.2.1 && ip -6 route add default via fd02::1");
      });
      EXPECT_EQ(out, "");
    }
    return outside_.get();
  }
  void WriteConfig(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(options_.config_dir);
    std::string path = options_.config_dir + "/" + name, temporary = dir_ + "/new";
    FILE* f = fopen(temporary.c_str(), "w");
    fwrite(text.data(), 1, text.size(), f);
    fclose(f);
    std::filesystem::rename(temporary, path);
  }

 private:
  struct Namespace {
    unique_fd ns, netlink;
  };
  bool usable_ = false;
  unique_fd home_, host_, outside_;
  std::string dir_;
  Options options_;
  std::unique_ptr<Db> db_;
  std::unique_ptr<Network> network_;
  std::map<PodId, Namespace> namespaces_;
  uint16_t next_port_ = 8080;
};

}  // namespace berth::cni::test
