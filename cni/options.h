#pragma once
// What the configuration decides about pod networks. Filled by config/.
#include <string>
#include <vector>

namespace berth::cni {

struct Options {
  std::string config_dir = "/etc/cni/net.d";  // first conflist in lexical order; none: the built-in default below
  std::vector<std::string> plugin_dirs = {"/opt/cni/bin", "/usr/lib/cni"};
  bool built_in_default = true;  // false: NetworkReady stays false until a conflist appears
  std::string bridge = "berth0";
  std::vector<std::string> subnets = {"10.89.0.0/16", "fd00:be27::/64"};  // one IPv4 and/or one IPv6
  std::string table = "berth";                                            // nftables table name in families ip and ip6
};

}  // namespace berth::cni
