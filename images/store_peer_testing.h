#pragma once
// For tests against peers: a real registry, real images, and a proxy that cuts connections.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/child.h"
#include "base/fd_stream.h"
#include "images/store_testing.h"

namespace berth::images {

struct Output {
  int code = 0;
  std::string out;
};

inline Output Shell(const std::string& script) {
  Command command;
  command.argv = {"/bin/sh", "-c", script};
  command.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"};
  auto done = Run(command, Deadline::After(std::chrono::seconds(120)));
  if (!done) return {-1, done.error().what};
  return {done->exit_code, done->out + done->err};
}

inline std::string MustShell(const std::string& script) {
  Output done = Shell(script);
  EXPECT_EQ(done.code, 0) << script << "\n" << done.out;
  while (done.out.ends_with('\n')) done.out.pop_back();
  return done.out;
}

inline std::string Tool(const std::string& name) { return std::string(::getenv("BERTH_SOURCE_DIR")) + "/tests/lib/" + name; }

// Each image is made once for all tests.
inline std::string MadeImage(const std::string& arguments) {
  static TempDir folder;
  static std::map<std::string, std::string> made;
  std::string& file = made[arguments];
  if (file.empty()) {
    file = fmt::format("{}/{}.tar", folder.path(), made.size());
    MustShell(fmt::format("{} {} --out {}", Tool("make_image"), arguments, file));
  }
  return file;
}

// A docker-registry, as tests/lib/registry starts it.
class RealRegistry {
 public:
  explicit RealRegistry(const std::string& options = "") {
    std::string text = MustShell(fmt::format("{} start --dir {}/r {}", Tool("registry"), dir_.path(), options));
    for (size_t start = 0; start < text.size();) {
      size_t end = std::min(text.find('\n', start), text.size());
      std::string line = text.substr(start, end - start);
      start = end + 1;
      if (size_t eq = line.find('='); eq != std::string::npos) env_[line.substr(0, eq)] = line.substr(eq + 1);
    }
  }
  ~RealRegistry() { (void)Shell(fmt::format("{} stop --dir {}/r", Tool("registry"), dir_.path())); }
  std::string host() const { return At("REGISTRY"); }
  std::string port() const { return host().substr(host().rfind(':') + 1); }
  std::string ca() const { return At("REGISTRY_CA"); }
  std::string log() const { return ReadFile(At("REGISTRY_LOG")).value_or(""); }
  std::string token_log() const { return ReadFile(dir_.path() + "/r/token.log").value_or(""); }
  // How often the registry answered so.
  size_t Served(const std::string& method, const std::string& part, const std::string& status = "200") const {
    std::string text = log();
    size_t count = 0;
    for (size_t start = 0; start < text.size();) {
      size_t end = std::min(text.find('\n', start), text.size());
      std::string line = text.substr(start, end - start);
      start = end + 1;
      if (line.find("msg=\"response completed\"") == std::string::npos) continue;
      count += line.find("http.request.method=" + method) != std::string::npos && line.find(part) != std::string::npos &&
               line.find("http.response.status=" + status) != std::string::npos;
    }
    return count;
  }
  std::string BlobFile(const Digest& digest) const {
    return fmt::format("{}/docker/registry/v2/blobs/sha256/{}/{}/data", At("REGISTRY_STORAGE"), digest.hex().substr(0, 2), digest.hex());
  }
  // Puts an image of tests/lib/make_image here as `name`; `options` are skopeo's.
  void Push(const std::string& arguments, const std::string& name, const std::string& options = "") const {
    MustShell(fmt::format("skopeo copy -q --insecure-policy --all --dest-tls-verify=false {} oci-archive:{} docker://{}/{}", options,
                          MadeImage(arguments), host(), name));
  }

 private:
  std::string At(const std::string& key) const {
    auto it = env_.find(key);
    return it == env_.end() ? "" : it->second;
  }
  TempDir dir_;
  std::map<std::string, std::string> env_;
};

// Passes bytes between clients and the registry, and misbehaves on the way.
class Proxy {
 public:
  explicit Proxy(std::string target_port) : target_(std::move(target_port)) {
    listen_ = ListenTcp("127.0.0.1", 0).value();
    sockaddr_in address{};
    socklen_t size = sizeof address;
    ::getsockname(listen_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~Proxy() {
    stop_->Cancel();
    thread_.join();
  }
  std::string host() const { return fmt::format("127.0.0.1:{}", port_); }
  // Each of the next connections is cut after so many bytes from the registry.
  void CutAfter(size_t bytes, int connections) { cut_ = bytes, cuts_left_ = connections; }
  // From now on, after so many bytes of a connection, nothing more comes.
  void StallAfter(size_t bytes) { stall_ = bytes; }
  // After the next cut no connection is accepted for use any more.
  void CutTheRestAtOnce() { closed_after_cut_ = true; }
  void Behave() { closed_after_cut_ = false; }
  int cuts_made() const { return cuts_made_; }
  bool stalled() const { return stalled_; }

 private:
  void Serve() {
    std::vector<std::thread> relays;
    Deadline until = Deadline::Never(stop_);
    while (until.WaitFor(listen_.get(), POLLIN, "a client")) {
      unique_fd client(::accept4(listen_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      auto server = ConnectTcp("127.0.0.1", target_, until);
      if (!client || !server || (closed_after_cut_ && cuts_made_ > 0)) continue;
      relays.emplace_back([this, until, c = std::move(client), s = std::move(*server)]() mutable { Relay(c.get(), s.get(), until); });
    }
    for (auto& t : relays) t.join();
  }
  void Relay(int client, int server, const Deadline& until) {
    size_t passed = 0;
    std::vector<char> chunk(64 << 10);
    while (true) {
      pollfd fds[3] = {{client, POLLIN, 0}, {server, POLLIN, 0}, {until.cancel_fd(), POLLIN, 0}};
      if (::poll(fds, 3, -1) < 0 || fds[2].revents != 0) return;
      for (int side = 0; side < 2; ++side) {
        if (fds[side].revents == 0) continue;
        ssize_t n = ::recv(fds[side].fd, chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return;
        if (n < 0) continue;
        if (side == 1) {
          passed += static_cast<size_t>(n);
          if (passed > stall_) {
            stalled_ = true;
            (void)until.WaitFor(until.cancel_fd(), POLLIN, "the end");
            return;
          }
          if (passed > cut_ && cuts_left_ > 0) {
            --cuts_left_;
            ++cuts_made_;
            return;
          }
        }
        for (ssize_t sent = 0; sent < n;) {
          ssize_t k = ::send(side == 0 ? server : client, chunk.data() + sent, static_cast<size_t>(n - sent), MSG_NOSIGNAL);
          if (k < 0 && errno == EAGAIN) {
            if (!until.WaitFor(side == 0 ? server : client, POLLOUT, "room")) return;
            continue;
          }
          if (k < 0) return;
          sent += k;
        }
      }
    }
  }
  std::string target_;
  unique_fd listen_;
  uint16_t port_ = 0;
  std::shared_ptr<CancelToken> stop_ = std::make_shared<CancelToken>();
  std::atomic<size_t> cut_ = SIZE_MAX, stall_ = SIZE_MAX;
  std::atomic<int> cuts_left_ = 0, cuts_made_ = 0;
  std::atomic<bool> stalled_ = false, closed_after_cut_ = false;
  std::thread thread_;
};

}  // namespace berth::images
