#include "cni/plugins/bridge.h"

#include "cni/plugins/keys.h"

namespace berth::cni {

Result<std::variant<BridgeConfig, NotNative>> ParseBridge(const json::Object& plugin, const std::string& where) {
  using Out = std::variant<BridgeConfig, NotNative>;
  BridgeConfig c;
  Keys keys(plugin, where);
  for (const char* key : {"type", "name", "cniVersion", "capabilities"}) keys.Ignore(key);
  c.bridge = keys.Text("bridge", c.bridge);
  c.is_gateway = keys.Bool("isGateway");
  c.is_default_gateway = keys.Bool("isDefaultGateway");
  c.is_gateway |= c.is_default_gateway;
  c.force_address = keys.Bool("forceAddress");
  c.ip_masq = keys.Bool("ipMasq");
  c.hairpin = keys.Bool("hairpinMode");
  c.port_isolation = keys.Bool("portIsolation");
  c.isolate = keys.Bool("isolate");
  c.mtu = static_cast<int>(keys.Int("mtu", 0, 65535));
  std::string foreign;
  // Values under which these keys change nothing; any other needs the program.
  for (const char* key : {"promiscMode", "macspoofchk", "enabledad", "disableContainerInterface"})
    if (keys.Bool(key)) foreign = keys.Where(key);
  if (keys.Int("vlan", 0, 4094) != 0) foreign = keys.Where("vlan");
  if (const json::Array* trunk = keys.Array("vlanTrunk"); trunk && !trunk->empty()) foreign = keys.Where("vlanTrunk");
  keys.Ignore("preserveDefaultVlan");
  if (std::string b = keys.Text("ipMasqBackend"); !b.empty() && b != "nftables") foreign = keys.Where("ipMasqBackend");
  if (const json::Object* dns = keys.Object("dns")) {
    Keys k(*dns, keys.Where("dns"));
    c.dns = {k.Texts("nameservers"), k.Texts("search"), k.Texts("options"), k.Text("domain")};
    if (k.error()) return std::unexpected(*k.error());
  }
  const json::Object* ipam = keys.Object("ipam");
  if (keys.error()) return std::unexpected(*keys.error());
  if (c.bridge.empty() || c.bridge.size() > 15 || c.bridge == "." || c.bridge == ".." ||
      c.bridge.find_first_of("/: \t\n\"\\") != std::string::npos)
    return Err(Code::kInvalidArgument, "{}: '{}' is not an interface name (1 to 15 bytes, no '/', ':' or space)",
               keys.Where("bridge"), c.bridge);
  if (c.mtu != 0 && c.mtu < 68) return Err(Code::kInvalidArgument, "{}: must be 0 or 68 to 65535", keys.Where("mtu"));
  if (!foreign.empty()) return Out(NotNative{foreign});
  if (!ipam || ipam->empty()) return Out(NotNative{keys.Where("ipam")});
  Keys ipam_keys(*ipam, keys.Where("ipam"));
  std::string type = ipam_keys.Text("type");
  if (ipam_keys.error()) return std::unexpected(*ipam_keys.error());
  if (type.empty()) return Err(Code::kInvalidArgument, "{}: missing", ipam_keys.Where("type"));
  if (type != "host-local") return Out(NotNative{ipam_keys.Where("type")});
  auto host_local = TRY(ParseHostLocal(*ipam, keys.Where("ipam")));
  if (auto* not_native = std::get_if<NotNative>(&host_local)) return Out(*not_native);
  c.ipam = std::get<HostLocal>(std::move(host_local));
  if (c.dns.empty()) c.dns = c.ipam.dns;
  if (std::string unread = keys.Unread(); !unread.empty()) return Out(NotNative{keys.Where(unread)});
  return Out(std::move(c));
}

Result<std::optional<NotNative>> ParsePortmap(const json::Object& plugin, const std::string& where) {
  Keys keys(plugin, where);
  for (const char* key : {"type", "name", "cniVersion", "capabilities", "markMasqBit"}) keys.Ignore(key);
  bool snat = keys.Bool("snat", true), masq_all = keys.Bool("masqAll");
  std::string backend = keys.Text("backend");
  if (keys.error()) return std::unexpected(*keys.error());
  std::optional<NotNative> out;
  if (!snat) out = NotNative{keys.Where("snat")};
  if (masq_all) out = NotNative{keys.Where("masqAll")};
  if (!backend.empty() && backend != "nftables") out = NotNative{keys.Where("backend")};
  if (std::string unread = keys.Unread(); !unread.empty()) out = NotNative{keys.Where(unread)};
  return out;
}

}  // namespace berth::cni
