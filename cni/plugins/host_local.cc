#include "cni/plugins/host_local.h"

#include <fstream>
#include <sstream>

#include "cni/plugins/keys.h"

namespace berth::cni {
namespace {

Result<Ip> AddressIn(const Subnet& subnet, Keys& keys, std::string_view key, const Ip& otherwise) {
  std::string text = keys.Text(key);
  if (text.empty()) return otherwise;
  auto ip = ParseIp(text);
  if (!ip) return Wrap(ip.error(), "{}", keys.Where(key));
  if (!subnet.Contains(*ip))
    return Err(Code::kInvalidArgument, "{}: {} is not in {}", keys.Where(key), text, subnet.Text());
  return *ip;
}

// Null when the object has no subnet (the short form of a configuration that uses `ranges` only).
Result<std::optional<Range>> ParseRange(Keys& keys) {
  std::string text = keys.Text("subnet");
  if (text.empty()) return std::optional<Range>();
  auto subnet = ParseSubnet(text);
  if (!subnet) return Wrap(subnet.error(), "{}", keys.Where("subnet"));
  int spare = subnet->base.bits() - subnet->prefix;
  if (spare < 2)
    return Err(Code::kInvalidArgument, "{}: {} is too small, at least /{} is needed", keys.Where("subnet"), text,
               subnet->base.bits() - 2);
  Range r{.subnet = *subnet};
  int family = subnet->base.family;
  Ip first{family, subnet->base.value + 1}, last = subnet->Last();
  if (family == 4) last.value -= 1;  // the broadcast address
  r.gateway = TRY(AddressIn(*subnet, keys, "gateway", first));
  r.start = TRY(AddressIn(*subnet, keys, "rangeStart", first));
  r.end = TRY(AddressIn(*subnet, keys, "rangeEnd", last));
  if (r.end < r.start)
    return Err(Code::kInvalidArgument, "{}: {} lies before rangeStart {}", keys.Where("rangeEnd"), r.end.Text(),
               r.start.Text());
  return std::optional(r);
}

bool Overlap(const Range& a, const Range& b) {
  return a.start.family == b.start.family && a.start <= b.end && b.start <= a.end;
}

CniDns ReadResolvConf(const std::string& path) {
  CniDns dns;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, word;
    if (!(words >> key) || key[0] == '#' || key[0] == ';') continue;
    std::vector<std::string> rest;
    while (words >> word) rest.push_back(word);
    if (key == "nameserver" && !rest.empty()) dns.nameservers.push_back(rest[0]);
    if (key == "domain" && !rest.empty()) dns.domain = rest[0];
    if (key == "search") dns.search = rest;
    if (key == "options") dns.options.insert(dns.options.end(), rest.begin(), rest.end());
  }
  return dns;
}

}  // namespace

Result<std::variant<HostLocal, NotNative>> ParseHostLocal(const json::Object& ipam, const std::string& where) {
  using Out = std::variant<HostLocal, NotNative>;
  HostLocal out;
  Keys keys(ipam, where);
  keys.Ignore("type");
  keys.Ignore("name");
  if (auto single = TRY(ParseRange(keys))) out.sets.push_back({*single});
  if (const json::Array* sets = keys.Array("ranges")) {
    for (size_t i = 0; i < sets->size(); ++i) {
      std::string at = fmt::format("{}[{}]", keys.Where("ranges"), i);
      if (!(*sets)[i].is_array() || (*sets)[i].get_array().empty())
        return Err(Code::kInvalidArgument, "{}: expected a list of ranges, such as [{{\"subnet\": \"10.1.0.0/16\"}}]",
                   at);
      RangeSet set;
      const json::Array& members = (*sets)[i].get_array();
      for (size_t j = 0; j < members.size(); ++j) {
        std::string here = fmt::format("{}[{}]", at, j);
        if (!members[j].is_object()) return Err(Code::kInvalidArgument, "{}: expected object", here);
        Keys range_keys(members[j].get_object(), here);
        auto range = TRY(ParseRange(range_keys));
        if (range_keys.error()) return std::unexpected(*range_keys.error());
        if (!range) return Err(Code::kInvalidArgument, "{}.subnet: missing", here);
        if (!set.empty() && set[0].start.family != range->start.family)
          return Err(Code::kInvalidArgument, "{}: one set cannot hold IPv4 and IPv6; give each its own list", at);
        for (const Range& other : set)
          if (Overlap(other, *range)) return Err(Code::kInvalidArgument, "{}: overlaps another range of the set", here);
        if (std::string unread = range_keys.Unread(); !unread.empty()) return Out(NotNative{range_keys.Where(unread)});
        set.push_back(*range);
      }
      for (const RangeSet& other : out.sets)
        for (const Range& a : other)
          for (const Range& b : set)
            if (Overlap(a, b)) return Err(Code::kInvalidArgument, "{}: overlaps an earlier range set", at);
      out.sets.push_back(std::move(set));
    }
  }
  if (const json::Array* routes = keys.Array("routes")) {
    for (size_t i = 0; i < routes->size(); ++i) {
      std::string here = fmt::format("{}[{}]", keys.Where("routes"), i);
      if (!(*routes)[i].is_object()) return Err(Code::kInvalidArgument, "{}: expected object", here);
      Keys r((*routes)[i].get_object(), here);
      CniRoute route{.dst = r.Text("dst"), .gw = r.Text("gw")};
      for (auto [key, field] : {std::pair("mtu", &route.mtu),
                                {"advmss", &route.advmss},
                                {"priority", &route.priority},
                                {"table", &route.table},
                                {"scope", &route.scope}})
        if (int64_t n = r.Int(key, 0, UINT32_MAX, -1); n >= 0) *field = n;
      if (r.error()) return std::unexpected(*r.error());
      if (auto dst = ParseIpPrefix(route.dst); !dst) return Wrap(dst.error(), "{}", r.Where("dst"));
      if (!route.gw.empty())
        if (auto gw = ParseIp(route.gw); !gw) return Wrap(gw.error(), "{}", r.Where("gw"));
      if (std::string unread = r.Unread(); !unread.empty()) return Out(NotNative{r.Where(unread)});
      out.routes.push_back(std::move(route));
    }
  }
  if (std::string path = keys.Text("resolvConf"); !path.empty()) out.dns = ReadResolvConf(path);
  if (std::string dir = keys.Text("dataDir"); !dir.empty() && dir != "/var/lib/cni/networks")
    return Out(NotNative{keys.Where("dataDir")});
  if (keys.error()) return std::unexpected(*keys.error());
  if (out.sets.empty()) return Err(Code::kInvalidArgument, "{}: 'subnet' or 'ranges' is needed", where);
  if (std::string unread = keys.Unread(); !unread.empty()) return Out(NotNative{keys.Where(unread)});
  return Out(std::move(out));
}

}  // namespace berth::cni
