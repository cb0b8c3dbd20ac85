#pragma once
// A network in memory, for tests of what stands above the seam. Passes network_contract.h like the native one.
//
// Addresses are 10.99.0.2, .3, ... and never used twice. Every call is recorded in `calls` ("attach <pod>").
// Thread-safe; the public members may be changed between calls.
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cni/network.h"

namespace berth::cni {

class FakeNetwork : public Network {
 public:
  // When set, the next call of that kind fails with it, once.
  std::optional<Error> fail_attach, fail_detach, fail_collect;
  // Runs inside Attach before anything is recorded: to block, or to look.
  std::function<void(const Attachment&)> on_attach;
  NetworkStatus status{.ready = true};
  std::vector<std::string> calls;

  Result<AttachResult> Attach(const Attachment& a, const Deadline& until) override {
    if (on_attach) on_attach(a);
    std::lock_guard lock(mutex_);
    calls.push_back("attach " + a.pod.str());
    if (auto e = std::exchange(fail_attach, std::nullopt)) return std::unexpected(*e);
    if (a.pod.empty()) return Err(Code::kInvalidArgument, "pod: empty id");
    if (!status.ready) return Err(Code::kFailedPrecondition, "{}", status.message);
    TRY(until.Check("the fake network"));
    if (attached_.contains(a.pod)) return Err(Code::kAlreadyExists, "pod {}: already attached", a.pod);
    std::vector<PortMapping> ports;
    for (const PortMapping& p : a.ports) {
      if (p.host_port == 0) continue;
      if (p.container_port == 0) return Err(Code::kInvalidArgument, "ports: container_port: must be 1 to 65535");
      for (const auto& [pod, other] : attached_)
        for (const PortMapping& q : other.ports)
          if (Clash(p, q))
            return Err(Code::kConflict, "host port {}/{}: taken by pod {}", p.host_port, p.protocol, pod);
      for (const PortMapping& q : ports)
        if (Clash(p, q))
          return Err(Code::kConflict, "host port {}/{}: taken by pod {}", p.host_port, p.protocol, a.pod);
      ports.push_back(p);
    }
    unsigned n = ++last_;
    AttachResult r{.network = "fake",
                   .interface = a.interface,
                   .mac = fmt::format("0a:58:0a:63:{:02x}:{:02x}", n >> 8, n & 255),
                   .host_interface = "veth" + a.pod.str().substr(0, 8)};
    r.addresses.push_back({fmt::format("10.99.{}.{}/16", n >> 8, n & 255), "10.99.0.1"});
    r.result_json = fmt::format(R"({{"cniVersion":"1.1.0","interfaces":[{{"name":"{0}","mac":"{1}","sandbox":"{2}"}}],)"
                                R"("ips":[{{"interface":0,"address":"{3}","gateway":"10.99.0.1"}}]}})",
                                r.interface, r.mac, a.netns_path, r.addresses[0].cidr);
    attached_[a.pod] = {r, std::move(ports)};
    return r;
  }

  Result<void> Detach(const PodId& pod, const Deadline&) override {
    std::lock_guard lock(mutex_);
    calls.push_back("detach " + pod.str());
    if (auto e = std::exchange(fail_detach, std::nullopt)) return std::unexpected(*e);
    attached_.erase(pod);
    return {};
  }

  Result<void> Collect(const std::vector<PodId>& live, const Deadline&) override {
    std::lock_guard lock(mutex_);
    calls.push_back("collect");
    if (auto e = std::exchange(fail_collect, std::nullopt)) return std::unexpected(*e);
    std::set<PodId> keep(live.begin(), live.end());
    std::erase_if(attached_, [&](const auto& entry) { return !keep.contains(entry.first); });
    return {};
  }

  NetworkStatus Status() override { return status; }

  Result<InterfaceStats> Stats(const PodId& pod) override {
    std::lock_guard lock(mutex_);
    auto it = attached_.find(pod);
    if (it == attached_.end()) return Err(Code::kNotFound, "pod {}: not attached to a network", pod);
    return InterfaceStats{
        .name = it->second.result.interface, .rx_bytes = 100, .rx_packets = 2, .tx_bytes = 50, .tx_packets = 1};
  }

  std::vector<PodId> attached() {
    std::lock_guard lock(mutex_);
    std::vector<PodId> pods;
    for (const auto& [pod, entry] : attached_) pods.push_back(pod);
    return pods;
  }

 private:
  struct Entry {
    AttachResult result;
    std::vector<PortMapping> ports;
  };
  static bool Clash(const PortMapping& a, const PortMapping& b) {
    auto any = [](const std::string& ip) { return ip.empty() || ip == "0.0.0.0" || ip == "::"; };
    return a.protocol == b.protocol && a.host_port == b.host_port &&
           (any(a.host_ip) || any(b.host_ip) || a.host_ip == b.host_ip);
  }
  std::mutex mutex_;
  std::map<PodId, Entry> attached_;
  unsigned last_ = 1;
};

}  // namespace berth::cni
