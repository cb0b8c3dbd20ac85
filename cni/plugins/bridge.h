#pragma once
// bridge and portmap: configuration of the plugins that run in-process.
#include "cni/plugins/host_local.h"

namespace berth::cni {

struct BridgeConfig {
  std::string bridge = "cni0";
  bool is_gateway = false, is_default_gateway = false, force_address = false;
  bool ip_masq = false, hairpin = false, port_isolation = false;
  // Our own key "isolate": packets from outside the node reach the pods only where a port is published, as with Docker.
  // Without it the network is routed, as the reference plugin leaves it.
  bool isolate = false;
  int mtu = 0;  // 0: that of the way out, at most 1500
  HostLocal ipam;
  CniDns dns;  // overrides ipam's when not empty
};

// NotNative when the object uses a key or value we do not honour: the plugin then runs as a program.
Result<std::variant<BridgeConfig, NotNative>> ParseBridge(const json::Object& plugin, const std::string& where);
// portmap has nothing to keep: with snat (the default) and no further conditions it is our table.
Result<std::optional<NotNative>> ParsePortmap(const json::Object& plugin, const std::string& where);

}  // namespace berth::cni
