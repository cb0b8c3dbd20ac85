#include "cni/native_network.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/stat.h>

#include <unordered_set>

#include "base/failpoint.h"
#include "base/keyed_mutex.h"
#include "base/log.h"
#include "base/undo.h"
#include "cni/attach_plan.h"
#include "cni/conflist.h"
#include "cni/exec.h"
#include "cni/host_ports.h"
#include "cni/keeper.h"
#include "cni/ledger.h"
#include "cni/netlink/sysctl.h"
#include "cni/nft/ruleset.h"

namespace berth::cni {
namespace {

constexpr std::chrono::seconds kUndoTime{30};  // for taking back, when the caller's own time is over

uint64_t InodeOf(const std::string& path) {
  struct stat st;
  return !path.empty() && stat(path.c_str(), &st) == 0 ? st.st_ino : 0;
}

// With bridged frames going through the IP hooks, a pod's way to itself by a published port comes back by the same
// port.
bool Hairpin(const BridgeConfig& config) {
  return config.hairpin || netlink::GetSysctl("net/bridge/bridge-nf-call-iptables") == "1";
}

class NativeNetwork : public Network {
 public:
  explicit NativeNetwork(const Options& options) : options_(options), config_(options), sockets_(NETLINK_ROUTE) {}

  Result<void> Open(Db& db) {
    ledger_ = TRY(Ledger::Open(db));
    ruleset_ = TRY(nft::Ruleset::Open(options_.table, [this] { return Contents(); }));
    keeper_ = std::make_unique<Keeper>(*ruleset_, sockets_, options_.table);
    TRY(keeper_->Start());
    for (const AttachmentPtr& row : ledger_->All())
      if (auto held = Hold(*row); !held) log::Warn("host_port.lost", {{"pod", row->pod}, {"error", held.error()}});
    if (!ledger_->Networks().empty())
      if (auto done = ruleset_->Sync(Deadline::After(kUndoTime)); !done)
        log::Warn("nftables.failed", {{"error", done.error()}});
    return {};
  }

  Result<AttachResult> Attach(const Attachment& a, const Deadline& until) override;
  Result<void> Detach(const PodId& pod, const Deadline& until) override;
  Result<void> Collect(const std::vector<PodId>& live, const Deadline& until) override;
  NetworkStatus Status() override;
  Result<InterfaceStats> Stats(const PodId& pod) override;

 private:
  using ListPtr = std::shared_ptr<const NetworkList>;
  struct ReadyBridge {  // of the current configuration
    ListPtr list;
    netlink::Link link;
    int mtu = 0;
  };
  nft::Contents Contents();
  // Between the removal of a pod's elements and that of its row, a rebuild of the sets must not bring them back.
  void Leaving(const PodId& pod, bool begins) {
    std::lock_guard lock(leaving_mutex_);
    if (begins)
      leaving_.insert(pod);
    else
      leaving_.erase(pod);
  }
  Result<void> Hold(const AttachmentRow& row);
  // Bridge, sysctls and sets as the list wants them; remembered until the list changes or `again`.
  Result<ReadyBridge> EnsureBridge(const ListPtr& list, bool again, const Deadline& until);
  Result<void> PlugIn(const Attachment& a, const ListPtr& list, const AttachmentRow& row, ReadyBridge& bridge,
                      Undo& undo, const Deadline& until);
  Result<void> ClearStaleLink(const AttachmentRow& row, const Deadline& until);
  PluginCall Call(const std::string& command, const NetworkList& list, const PluginStep& step, const AttachmentRow& row,
                  const std::string& prev_result);
  Result<void> DeletePrograms(const AttachmentRow& row, const NetworkList& list, const Deadline& until);
  Result<void> DetachLocked(const AttachmentRow& row, const Deadline& until);

  const Options options_;
  ConfigDir config_;
  netlink::SocketPool sockets_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<nft::Ruleset> ruleset_;
  HostPorts host_ports_;
  KeyedMutex pod_locks_;
  std::mutex bridge_mutex_;
  std::optional<ReadyBridge> ready_;
  std::mutex leaving_mutex_;
  std::unordered_set<PodId> leaving_;
  std::unique_ptr<Keeper> keeper_;  // last: its thread uses the others
};

nft::Contents NativeNetwork::Contents() {
  nft::Contents contents{.networks = ledger_->Networks()};
  for (const AttachmentPtr& row : ledger_->All()) {
    std::lock_guard lock(leaving_mutex_);
    if (leaving_.contains(row->pod)) continue;
    for (nft::PublishedPort& p : nft::PortsOf(*row)) contents.ports.push_back(std::move(p));
  }
  return contents;
}

Result<void> NativeNetwork::Hold(const AttachmentRow& row) {
  // A program's addresses are not known before it has run: IPv4 is what all of them have.
  return host_ports_.Hold(row.pod, row.ports, row.leases.empty() || row.LeaseOf(4), row.LeaseOf(6));
}

Result<NativeNetwork::ReadyBridge> NativeNetwork::EnsureBridge(const ListPtr& list, bool again, const Deadline& until) {
  std::lock_guard lock(bridge_mutex_);
  if (!again && ready_ && ready_->list == list) return *ready_;
  const BridgeConfig& config = *list->bridge();
  NetworkRow row{.name = list->name,
                 .bridge = config.bridge,
                 .masquerade = config.ip_masq,
                 .isolate = config.isolate,
                 .port_isolation = config.port_isolation};
  netlink::BridgeSpec spec{.name = config.bridge, .force_addresses = config.force_address};
  bool four = false, six = false;
  for (const RangeSet& set : config.ipam.sets)
    for (const Range& range : set) {
      row.subnets.push_back(range.subnet.Text());
      (range.subnet.base.family == 4 ? four : six) = true;
      IpPrefix gateway{range.gateway, range.subnet.prefix};
      if (config.is_gateway && std::none_of(spec.addresses.begin(), spec.addresses.end(),
                                            [&](const IpPrefix& p) { return p.ip == gateway.ip; }))
        spec.addresses.push_back(gateway);
    }
  // Pods that were attached before the configuration changed keep their subnets in the sets.
  std::vector<AttachmentPtr> pods = ledger_->All();
  bool used = std::any_of(pods.begin(), pods.end(), [&](const AttachmentPtr& p) { return p->network == list->name; });
  for (const NetworkRow& old : ledger_->Networks())
    if (used && old.name == row.name && old.bridge == row.bridge)
      for (const std::string& subnet : old.subnets)
        if (std::find(row.subnets.begin(), row.subnets.end(), subnet) == row.subnets.end())
          row.subnets.push_back(subnet);

  TRY(ledger_->PutNetwork(row));
  auto socket = TRY(sockets_.Take());
  ReadyBridge ready{.list = list};
  ready.mtu = config.mtu ? config.mtu : std::min(1500, netlink::MtuOfWayOut(*socket, until).value_or(1500));
  spec.mtu = config.mtu ? config.mtu : ready.mtu < 1500 ? ready.mtu : 0;
  ready.link = TRY_CTX(netlink::EnsureBridge(*socket, spec, until), "network {}", list->name);
  if (config.is_gateway) {
    // Ports published on 127.0.0.1 are translated to pods; the raw_pre chain keeps pods from the host's own 127/8.
    if (four && list->publishes_ports())
      netlink::SetSysctl(fmt::format("net/ipv4/conf/{}/route_localnet", config.bridge), "1");
    netlink::EnableForwarding(four, six);
  }
  TRY_CTX(ruleset_->Sync(until), "network {}", list->name);
  // When the bridge had been deleted, the links of running pods lost their place on it.
  bool hairpin = Hairpin(config);
  for (const AttachmentPtr& pod : pods)
    if (pod->bridge == config.bridge)
      if (auto link = netlink::FindLink(*socket, pod->link, until); link && link->master != ready.link.index)
        TRY(netlink::PlugBack(*socket, pod->link, ready.link.index, hairpin, config.port_isolation, until));
  ready_ = ready;
  return ready;
}

// A link of this pod that a Detach has unplugged but whose namespace lives on, or that was left by a crash before the
// ledger knew. Its name being ours in the ledger now, it is deleted.
Result<void> NativeNetwork::ClearStaleLink(const AttachmentRow& row, const Deadline& until) {
  auto socket = TRY(sockets_.Take());
  auto link = netlink::FindLink(*socket, row.link, until);
  if (!link) return Err(Code::kAlreadyExists, "interface {} exists in the pod's namespace already", row.interface);
  if (link->alias != LinkAlias(options_.table, row.pod))
    return Err(Code::kAlreadyExists, "interface {} exists on the host and is not this pod's", row.link);
  return netlink::DeleteLinks(*socket, {link->index}, until);
}

Result<void> NativeNetwork::PlugIn(const Attachment& a, const ListPtr& list, const AttachmentRow& row,
                                   ReadyBridge& bridge, Undo& undo, const Deadline& until) {
  const BridgeConfig& config = *list->bridge();
  netlink::Socket inside = netlink::Socket::Borrow(a.netlink);
  netlink::VethSpec veth{.name = row.link,
                         .alias = LinkAlias(options_.table, row.pod),
                         .peer = row.interface,
                         .netns = a.netns,
                         .mac = MacFor(row)};
  veth.hairpin = Hairpin(config);
  veth.isolated = config.port_isolation;
  int index = 0;
  bool renewed = false, cleared = false;
  for (;;) {
    veth.master = bridge.link.index;
    veth.mtu = bridge.mtu;
    auto socket = TRY(sockets_.Take());
    auto made = netlink::CreateVeth(*socket, inside, veth, until);
    if (made) {
      index = *made;
      break;
    }
    int err = made.error().sys;
    if (err == EXFULL)
      return Err(Code::kResourceExhausted, "bridge {}: {}; end pods, or spread them over nodes", config.bridge,
                 made.error().what);
    if (err == EEXIST && !std::exchange(cleared, true)) {
      TRY(ClearStaleLink(row, until));
    } else if ((err == EINVAL || err == ENODEV || err == EOPNOTSUPP) && !std::exchange(renewed, true)) {
      bridge = TRY(EnsureBridge(list, true, until));  // somebody deleted the bridge
    } else {
      return Wrap(made.error(), "interface {}", row.interface);
    }
  }
  undo.Add("delete link", [this, name = row.link]() -> Result<void> {
    auto socket = TRY(sockets_.Take());
    Deadline time = Deadline::After(kUndoTime);
    auto link = netlink::FindLink(*socket, name, time);
    if (!link)
      return link.error().code == Code::kNotFound ? Result<void>() : Result<void>(std::unexpected(link.error()));
    return netlink::DeleteLinks(*socket, {link->index}, time);
  });
  TRY(FailpointError("network.attach.veth"));
  TRY(netlink::ConfigurePod(inside, InterfaceFor(config, row, index), until));
  TRY(FailpointError("network.attach.address"));
  return {};
}

PluginCall NativeNetwork::Call(const std::string& command, const NetworkList& list, const PluginStep& step,
                               const AttachmentRow& row, const std::string& prev_result) {
  PluginCall call{.command = command,
                  .type = step.type,
                  .config = step.config,
                  .network = list.name,
                  .version = list.version,
                  .container = row.pod.str(),
                  .netns_path = row.netns_path,
                  .interface = row.interface,
                  .args = KubernetesArgs(row.pod, row.name, row.name_space, row.uid),
                  .prev_result = prev_result,
                  .dirs = options_.plugin_dirs};
  // The path may name another namespace by now (a reused process number): then the plugin is told that ours is gone.
  if (command == "DEL" && InodeOf(row.netns_path) != row.netns_inode) call.netns_path.clear();
  if (step.capabilities.contains("portMappings") && !row.ports.empty()) {
    json::Array ports;
    for (const PortMapping& p : row.ports) {
      json::Object o{{"hostPort", p.host_port}, {"containerPort", p.container_port}, {"protocol", p.protocol}};
      if (!p.host_ip.empty()) o["hostIP"] = p.host_ip;
      ports.push_back(std::move(o));
    }
    call.runtime_config["portMappings"] = std::move(ports);
  }
  return call;
}

Result<void> NativeNetwork::DeletePrograms(const AttachmentRow& row, const NetworkList& list, const Deadline& until) {
  std::optional<Error> first;
  for (size_t i = list.plugins.size(); i-- > 0;) {
    const PluginStep& step = list.plugins[i];
    if (step.kind != PluginStep::Kind::kProgram) continue;
    auto done = RunPlugin(Call("DEL", list, step, row, row.result), until);
    if (!done && done.error().code != Code::kNotFound && !first) first = done.error();
  }
  if (first) return std::unexpected(*first);
  return {};
}

Result<AttachResult> NativeNetwork::Attach(const Attachment& a, const Deadline& until) {
  TRY(CheckAttachment(a));
  std::vector<PortMapping> ports = TRY(WantedPorts(a.ports));
  ConfigDir::Loaded loaded = config_.Current();
  ListPtr list = loaded.list;
  if (!list) return Err(Code::kFailedPrecondition, "{}", loaded.message);
  auto lock = TRY(pod_locks_.Acquire(a.pod.str(), until, "pod " + a.pod.Short()));
  if (ledger_->Find(a.pod)) return Err(Code::kAlreadyExists, "pod {}: already attached to a network", a.pod);
  if (!ports.empty() && !list->publishes_ports()) {
    // As with other runtimes: the network's own plugin may publish ports by what it reads from the cluster.
    log::Warn("host_port.no_plugin", {{"pod", a.pod}, {"network", list->name}, {"ports", ports.size()}});
    ports.clear();
  }

  const BridgeConfig* config = list->bridge();
  ReadyBridge bridge;
  if (config) bridge = TRY(EnsureBridge(list, false, until));
  AttachmentRow wanted{.pod = a.pod,
                       .network = list->name,
                       .interface = a.interface,
                       .netns_path = a.netns_path,
                       .netns_inode = InodeOf(a.netns_path),
                       .name = a.name,
                       .name_space = a.name_space,
                       .uid = a.uid,
                       .ports = std::move(ports)};
  if (config) {
    wanted.bridge = config->bridge;
    for (int attempt = 0; attempt < 8; ++attempt)
      if (wanted.link = LinkName(a.pod, attempt); !ledger_->LinkTaken(wanted.link)) break;
    for (const PortMapping& p : wanted.ports) {
      auto host = ParseIp(p.host_ip);
      bool has = !host || std::any_of(config->ipam.sets.begin(), config->ipam.sets.end(),
                                      [&](const RangeSet& s) { return s[0].start.family == host->family; });
      if (!has)
        return Err(Code::kInvalidArgument, "ports: host_ip {}: network {} has no IPv{}", p.host_ip, list->name,
                   host->family);
    }
  }
  wanted.native_ports = std::any_of(list->plugins.begin(), list->plugins.end(),
                                    [](auto& p) { return p.kind == PluginStep::Kind::kPortmap; });
  if (!list->native()) {
    wanted.conflist = list->text;
    if (a.netns_path.empty())
      return Err(Code::kInvalidArgument, "netns_path: network {} runs plugins as programs, which need a path",
                 list->name);
  }

  Undo undo;
  AttachmentPtr row = TRY(ledger_->Insert(wanted, config ? config->ipam.sets : std::vector<RangeSet>()));
  undo.Last("drop network ledger row", [&] {
    auto dropped = ledger_->Remove(a.pod);
    Leaving(a.pod, false);
    return dropped;
  });
  TRY(FailpointError("network.attach.ledger"));
  if (!row->ports.empty()) {
    TRY(Hold(*row));
    undo.Add("release host ports", [&]() -> Result<void> {
      host_ports_.Release(a.pod);
      return {};
    });
  }
  TRY(FailpointError("network.attach.ports"));

  CniResult result;
  std::string previous;
  bool lo_up = false, undo_programs = false;
  for (const PluginStep& step : list->plugins) {
    switch (step.kind) {
      case PluginStep::Kind::kLoopback:
        break;  // with the interface, or below
      case PluginStep::Kind::kBridge:
        TRY(PlugIn(a, list, *row, bridge, undo, until));
        lo_up = true;
        result = BridgeResult(*config, bridge.link.mac, *row);
        break;
      case PluginStep::Kind::kPortmap: {
        std::vector<nft::PublishedPort> published = nft::PortsOf(*row);
        if (published.empty()) break;
        undo.Add("remove published ports", [this, &a, published] {
          Leaving(a.pod, true);
          return ruleset_->Unpublish(published, Deadline::After(kUndoTime));
        });
        TRY(ruleset_->Publish(published, until));
        keeper_->FlushUdp(published);
        TRY(FailpointError("network.attach.nft"));
        break;
      }
      case PluginStep::Kind::kProgram: {
        if (!std::exchange(lo_up, true)) {
          netlink::Socket inside = netlink::Socket::Borrow(a.netlink);
          TRY(netlink::LoopbackUp(inside, until));
        }
        if (!std::exchange(undo_programs, true))  // a failed ADD is followed by a DEL of the whole list
          undo.Add("run DEL of the plugins",
                   [this, row, list] { return DeletePrograms(*row, *list, Deadline::After(kUndoTime)); });
        previous = result.ips.empty() && result.interfaces.empty() ? "" : ResultJson(result, list->version);
        std::string out = TRY(RunPlugin(Call("ADD", *list, step, *row, previous), until));
        result = TRY(ParseResult(out, "cni plugin " + step.type + ": result"));
        TRY(FailpointError("network.attach.program"));
        break;
      }
    }
  }
  if (!lo_up) {
    netlink::Socket inside = netlink::Socket::Borrow(a.netlink);
    TRY(netlink::LoopbackUp(inside, until));
  }
  AttachResult out = ToAttachResult(*row, result);
  if (!row->conflist.empty()) TRY(ledger_->SetResult(a.pod, ResultJson(result, list->version), out.host_interface));
  undo.Keep();
  return out;
}

Result<void> NativeNetwork::DetachLocked(const AttachmentRow& row, const Deadline& until) {
  std::optional<Error> first;
  auto note = [&](Result<void> done) {
    if (!done && !first) first = done.error();
  };
  if (!row.conflist.empty()) {
    auto list = ParseConflist(row.conflist, "network " + row.network);
    note(list ? DeletePrograms(row, *list, until) : Result<void>(std::unexpected(list.error())));
  }
  struct Scope {
    NativeNetwork& network;
    const PodId& pod;
    ~Scope() { network.Leaving(pod, false); }
  } scope{*this, row.pod};
  Leaving(row.pod, true);
  std::vector<nft::PublishedPort> published = nft::PortsOf(row);
  if (!published.empty()) {
    note(ruleset_->Unpublish(published, until));
    keeper_->FlushUdp(published);
    Failpoint("network.detach.nft");
  }
  if (!row.bridge.empty()) {
    auto socket = sockets_.Take();
    note(socket ? netlink::Unplug(**socket, row.link, until) : Result<void>(std::unexpected(socket.error())));
    keeper_->Reap(row.link, LinkAlias(options_.table, row.pod));
    Failpoint("network.detach.link");
  }
  if (first) return Wrap(*first, "detach pod {}", row.pod);  // the row stays, and the next attempt begins again
  host_ports_.Release(row.pod);
  return ledger_->Remove(row.pod);
}

Result<void> NativeNetwork::Detach(const PodId& pod, const Deadline& until) {
  auto lock = TRY(pod_locks_.Acquire(pod.str(), until, "pod " + pod.Short()));
  AttachmentPtr row = ledger_->Find(pod);
  if (!row) return {};
  return DetachLocked(*row, until);
}

Result<void> NativeNetwork::Collect(const std::vector<PodId>& live, const Deadline& until) {
  std::unordered_set<PodId> keep(live.begin(), live.end());
  std::optional<Error> first;
  auto note = [&](Result<void> done) {
    if (!done && !first) first = done.error();
  };
  for (const AttachmentPtr& row : ledger_->All()) {
    if (keep.contains(row->pod)) continue;
    auto lock = TRY(pod_locks_.Acquire(row->pod.str(), until, "pod " + row->pod.Short()));
    AttachmentPtr now = ledger_->Find(row->pod);
    if (!now) continue;
    note(DetachLocked(*now, until));
    log::Info("network.collected", {{"pod", row->pod}, {"network", row->network}});
  }
  auto socket = TRY(sockets_.Take());
  std::vector<int> orphans;
  std::string prefix = LinkAlias(options_.table, PodId(""));
  for (const netlink::Link& link : TRY(netlink::ListLinks(*socket, "veth", until))) {
    if (!link.alias.starts_with(prefix)) continue;
    AttachmentPtr row = ledger_->Find(PodId(link.alias.substr(prefix.size())));
    if (!row || row->link != link.name) orphans.push_back(link.index);
  }
  if (!orphans.empty()) log::Info("network.orphans", {{"links", orphans.size()}});
  note(netlink::DeleteLinks(*socket, orphans, until));
  auto loaded = config_.Current();
  note(ledger_->DropUnused(loaded.list ? loaded.list->name : ""));
  // Elements that no row owns go with a rebuild of the sets.
  if (!ledger_->Networks().empty() || TRY(ruleset_->Intact(until))) note(ruleset_->Sync(until));
  if (first) return std::unexpected(*first);
  return {};
}

NetworkStatus NativeNetwork::Status() {
  auto loaded = config_.Current();
  auto not_ready = [](std::string why) { return NetworkStatus{false, "NetworkPluginNotReady", std::move(why)}; };
  if (!loaded.list) return not_ready(loaded.message);
  for (const PluginStep& step : loaded.list->plugins)
    if (step.kind == PluginStep::Kind::kProgram)
      if (auto found = FindPlugin(step.type, options_.plugin_dirs); !found)
        return not_ready(fmt::format("network {}: {}", loaded.list->name, found.error().what));
  if (!ledger_->Networks().empty())
    if (auto repaired = ruleset_->Repair(Deadline::After(kUndoTime)); !repaired)
      return not_ready("nftables: " + repaired.error().what);
  return {true, "", loaded.message};
}

Result<InterfaceStats> NativeNetwork::Stats(const PodId& pod) {
  AttachmentPtr row = ledger_->Find(pod);
  if (!row) return Err(Code::kNotFound, "pod {}: not attached to a network", pod);
  if (row->link.empty())
    return Err(Code::kFailedPrecondition, "pod {}: network {} named no interface on the host to read", pod,
               row->network);
  auto socket = TRY(sockets_.Take());
  netlink::Link link = TRY(netlink::FindLink(*socket, row->link, Deadline::After(kUndoTime)));
  const netlink::Counters& c = link.counters;
  // What the host's end sent is what the pod received.
  return InterfaceStats{row->interface, c.tx_bytes,   c.tx_packets, c.tx_errors, c.tx_dropped,
                        c.rx_bytes,     c.rx_packets, c.rx_errors,  c.rx_dropped};
}

}  // namespace

Result<std::unique_ptr<Network>> OpenNetwork(const Options& options, Db& db) {
  auto network = std::make_unique<NativeNetwork>(options);
  TRY(network->Open(db));
  return std::unique_ptr<Network>(std::move(network));
}

}  // namespace berth::cni
