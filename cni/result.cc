#include "cni/result.h"

#include <charconv>

#include "base/json.h"
#include "cni/plugins/keys.h"

namespace berth::cni {
namespace {

json::Array Strings(const std::vector<std::string>& in) {
  json::Array out;
  for (const std::string& s : in) out.emplace_back(s);
  return out;
}

std::optional<int64_t> OptionalInt(Keys& keys, std::string_view key) {
  int64_t v = keys.Int(key, INT64_MIN + 1, INT64_MAX, INT64_MIN);
  return v == INT64_MIN ? std::nullopt : std::optional(v);
}

// Calls f with a reader for each object of the array `key`.
template <class F>
void EachObject(Keys& keys, std::string_view key, F f) {
  const json::Array* a = keys.Array(key);
  if (!a) return;
  for (size_t i = 0; i < a->size(); ++i) {
    std::string at = fmt::format("{}[{}]", key, i);
    if (!(*a)[i].is_object()) return keys.Fail(at, "expected object");
    Keys item((*a)[i].get_object(), keys.Where(at));
    f(item);
    keys.Adopt(item.error());
  }
}

}  // namespace

bool KnownVersion(std::string_view v) {
  return v == "0.3.0" || v == "0.3.1" || v == "0.4.0" || v == "1.0.0" || v == "1.1.0";
}

bool VersionAtLeast(std::string_view v, int major, int minor) {
  int a = 0, b = 0;
  auto [dot, ec] = std::from_chars(v.data(), v.data() + v.size(), a);
  if (ec == std::errc() && dot != v.data() + v.size()) std::from_chars(dot + 1, v.data() + v.size(), b);
  return std::pair(a, b) >= std::pair(major, minor);
}

std::string ResultJson(const CniResult& r, std::string_view version) {
  bool newest = VersionAtLeast(version, 1, 1), old = !VersionAtLeast(version, 1, 0);
  json::Object out{{"cniVersion", version}};
  json::Array interfaces, ips, routes;
  for (const CniInterface& i : r.interfaces) {
    json::Object o{{"name", i.name}};
    if (!i.mac.empty()) o["mac"] = i.mac;
    if (newest && i.mtu) o["mtu"] = *i.mtu;
    if (!i.sandbox.empty()) o["sandbox"] = i.sandbox;
    if (newest && !i.socket_path.empty()) o["socketPath"] = i.socket_path;
    if (newest && !i.pci_id.empty()) o["pciID"] = i.pci_id;
    interfaces.push_back(std::move(o));
  }
  for (const CniAddress& i : r.ips) {
    json::Object o;
    if (old) o["version"] = i.address.find(':') == std::string::npos ? "4" : "6";
    if (i.interface) o["interface"] = *i.interface;
    o["address"] = i.address;
    if (!i.gateway.empty()) o["gateway"] = i.gateway;
    ips.push_back(std::move(o));
  }
  for (const CniRoute& i : r.routes) {
    json::Object o{{"dst", i.dst}};
    if (!i.gw.empty()) o["gw"] = i.gw;
    if (newest) {
      if (i.mtu) o["mtu"] = *i.mtu;
      if (i.advmss) o["advmss"] = *i.advmss;
      if (i.priority) o["priority"] = *i.priority;
      if (i.table) o["table"] = *i.table;
      if (i.scope) o["scope"] = *i.scope;
    }
    routes.push_back(std::move(o));
  }
  if (!interfaces.empty()) out["interfaces"] = std::move(interfaces);
  if (!ips.empty()) out["ips"] = std::move(ips);
  if (!routes.empty()) out["routes"] = std::move(routes);
  json::Object dns;
  if (!r.dns.nameservers.empty()) dns["nameservers"] = Strings(r.dns.nameservers);
  if (!r.dns.domain.empty()) dns["domain"] = r.dns.domain;
  if (!r.dns.search.empty()) dns["search"] = Strings(r.dns.search);
  if (!r.dns.options.empty()) dns["options"] = Strings(r.dns.options);
  out["dns"] = std::move(dns);
  return json::Serialize(out);
}

Result<CniResult> ParseResult(std::string_view text, std::string_view where) {
  json::Value tree = TRY(json::ParseTree(text, where, 1 << 20));
  if (!tree.is_object()) return Err(Code::kInvalidArgument, "{}: expected an object", where);
  CniResult r;
  Keys keys(tree.get_object(), std::string(where));
  EachObject(keys, "interfaces", [&](Keys& k) {
    r.interfaces.push_back({k.Text("name"), k.Text("mac"), k.Text("sandbox"), OptionalInt(k, "mtu"),
                            k.Text("socketPath"), k.Text("pciID")});
  });
  EachObject(keys, "ips", [&](Keys& k) {
    r.ips.push_back({k.Text("address"), k.Text("gateway"), OptionalInt(k, "interface")});
    if (r.ips.back().address.find('/') == std::string::npos)
      k.Fail("address", "expected an address with prefix length");
  });
  EachObject(keys, "routes", [&](Keys& k) {
    r.routes.push_back({k.Text("dst"), k.Text("gw"), OptionalInt(k, "mtu"), OptionalInt(k, "advmss"),
                        OptionalInt(k, "priority"), OptionalInt(k, "table"), OptionalInt(k, "scope")});
  });
  if (const json::Object* dns = keys.Object("dns")) {
    Keys k(*dns, keys.Where("dns"));
    r.dns = {k.Texts("nameservers"), k.Texts("search"), k.Texts("options"), k.Text("domain")};
    if (k.error()) return std::unexpected(*k.error());
  }
  if (keys.error()) return std::unexpected(*keys.error());
  for (const CniAddress& ip : r.ips)
    if (ip.interface && (*ip.interface < 0 || *ip.interface >= static_cast<int64_t>(r.interfaces.size())))
      return Err(Code::kInvalidArgument, "{}.ips: interface {} is not an index into interfaces", where, *ip.interface);
  return r;
}

}  // namespace berth::cni
