#include "config/keys.h"

#include <sys/socket.h>

#include <set>

#include "base/net_address.h"
#include "base/utf8.h"

namespace berth::config {
namespace {

// What a chain of members leads to: Follow<&Config::server, &ServerOptions::socket>(config).
template <auto... Members>
auto& Follow(auto& owner) {
  return (owner .* ... .* Members);
}

template <class Owner, auto... Members>
Value Get(const Owner& owner, std::span<const std::string_view> choices) {
  const auto& field = Follow<Members...>(owner);
  using T = std::remove_cvref_t<decltype(field)>;
  if constexpr (std::is_enum_v<T>) return std::string(choices[static_cast<size_t>(field)]);
  else if constexpr (std::is_same_v<T, bool>) return field;
  else if constexpr (std::is_integral_v<T>) return static_cast<int64_t>(field);
  else return field;
}

template <class Owner, auto... Members>
void Set(Owner& owner, const Value& value, std::span<const std::string_view> choices) {
  auto& field = Follow<Members...>(owner);
  using T = std::remove_cvref_t<decltype(field)>;
  if constexpr (std::is_enum_v<T>) field = static_cast<T>(std::ranges::find(choices, std::get<std::string>(value)) - choices.begin());
  else if constexpr (std::is_same_v<T, bool>) field = std::get<bool>(value);
  else if constexpr (std::is_integral_v<T>) field = static_cast<T>(std::get<int64_t>(value));
  else field = std::get<T>(value);
}

struct Rules {
  std::span<const std::string_view> choices = {};
  int64_t low = 0, high = 0;
  Check check = nullptr;
  std::string (*check_all)(const std::vector<std::string>&) = nullptr;
};

template <class Owner, auto... Members>
Key<Owner> At(std::string_view path, Type type, std::string_view about, Rules r = {}) {
  return {path, type, about, Get<Owner, Members...>, Set<Owner, Members...>, r.choices, r.low, r.high, r.check, r.check_all};
}

bool OnlyOf(std::string_view text, std::string_view more) {
  return std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || more.find(c) != more.npos;
  });
}

std::string AbsolutePath(std::string& text) {
  constexpr std::string_view kExpected = "an absolute path without . and .. parts";
  if (!text.starts_with('/') || text.find_first_of(std::string_view("\0\n", 2)) != text.npos) return std::string(kExpected);
  std::string usual;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('/', at), text.size());
    const std::string part = text.substr(at, end - at);
    if (part == "." || part == "..") return std::string(kExpected);
    if (!part.empty()) (usual += '/') += part;
    at = end + 1;
  }
  text = usual.empty() ? "/" : usual;
  return "";
}

std::string PathOrEmpty(std::string& text) {
  if (text.empty()) return "";
  const std::string wrong = AbsolutePath(text);
  return wrong.empty() ? "" : wrong + ", or \"\"";
}

std::string Group(std::string& text) {
  if (text.size() > 32 || !OnlyOf(text, "_.-") || text.starts_with('-')) return "the name or number of a group, or \"\"";
  return "";
}

std::string AddressOrEmpty(std::string& text) {
  if (text.empty() || ParseIpPort(text)) return "";
  return "an IP address with a port such as \"127.0.0.1:9464\" or \"[::1]:9464\", or \"\" to serve none";
}

std::string Address(std::string& text) {
  if (ParseIpPort(text)) return "";
  return "an IP address with a port such as \"127.0.0.1:0\" or \"[::1]:10010\"";
}

std::string LinkName(std::string& text) {
  // IFNAMSIZ less the final zero; the kernel also refuses '/', ':' and spaces (dev_valid_name).
  if (text.empty() || text.size() > 15 || text == "." || text == ".." || !OnlyOf(text, "_.-"))
    return "an interface name: up to 15 letters, digits, '-', '_' or '.'";
  return "";
}

std::string TableName(std::string& text) {
  if (text.empty() || text.size() > 31 || !OnlyOf(text, "_") || !OnlyOf(text.substr(0, 1), "") || (text[0] >= '0' && text[0] <= '9'))
    return "an nftables table name: a letter, then up to 30 letters, digits or '_'";
  return "";
}

std::string Subnet(std::string& text) {
  const auto cidr = ParseCidr(text);
  if (cidr && cidr->family == AF_INET && cidr->prefix >= 8 && cidr->prefix <= 29) return "";
  if (cidr && cidr->family == AF_INET6 && cidr->prefix >= 16 && cidr->prefix <= 124) return "";
  return "a subnet such as \"10.89.0.0/16\" (/8 to /29) or \"fd00:be27::/64\" (/16 to /124), no bits set after its prefix";
}

std::string Subnets(const std::vector<std::string>& list) {
  int v4 = 0, v6 = 0;
  for (const std::string& text : list) (ParseCidr(text)->family == AF_INET ? v4 : v6)++;
  if (v4 > 1 || v6 > 1 || v4 + v6 == 0) return "one IPv4 subnet, one IPv6 subnet, or one of each";
  return "";
}

std::string ImageName(std::string& text) {
  if (text.empty() || text.size() > 512 || !OnlyOf(text, "/._:@-+[]")) return "an image such as \"registry.k8s.io/pause:3.9\" or an id";
  return "";
}

std::string NotEmpty(const std::vector<std::string>& list) { return list.empty() ? "at least one directory" : ""; }

std::string Mirror(std::string& text) {
  std::string_view rest = text;
  bool good = false;
  for (const std::string_view scheme : {"https://", "http://"})
    if (!good && rest.starts_with(scheme)) {
      rest.remove_prefix(scheme.size());
      good = true;
    }
  while (rest.ends_with('/')) rest.remove_suffix(1);
  const size_t slash = rest.find('/');
  std::string host(rest.substr(0, slash));
  good = good && CheckRegistryHost(host).empty() && (slash == rest.npos || OnlyOf(rest.substr(slash), "/._-"));
  if (!good) return "a URL such as \"https://mirror.example.org\" or \"http://127.0.0.1:5000\"";
  text.resize(rest.data() + rest.size() - text.data());
  return "";
}

constexpr std::string_view kLevels[] = {"debug", "info", "warn", "error"};          // in the order of log::Level
constexpr std::string_view kFormats[] = {"logfmt", "json"};                         // in the order of log::Format
constexpr std::string_view kHandlerTypes[] = {"oci"};
constexpr std::string_view kSnapshotters[] = {"auto", "erofs", "directory"};

}  // namespace

std::string CheckRegistryHost(std::string& host) {
  constexpr std::string_view kExpected = "a registry host such as \"registry.k8s.io\" or \"127.0.0.1:5000\"";
  if (ParseIpPort(host)) return "";  // also the bracketed form of IPv6
  const size_t colon = host.find(':');
  const std::string name = host.substr(0, colon);
  bool good = !name.empty() && name.size() <= 253 && OnlyOf(name, ".-") && !name.starts_with('.') && !name.starts_with('-');
  if (colon != host.npos) good = good && ParseIpPort("127.0.0.1" + host.substr(colon)).has_value();
  return good ? "" : std::string(kExpected);
}

std::string CheckHandlerName(std::string& name) {
  // As Kubernetes has it for a RuntimeClass: a DNS label. "berth" is the native runtime.
  const bool good = !name.empty() && name.size() <= 63 && name.front() != '-' && name.back() != '-' && name != "berth" &&
                    std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
  return good ? "" : "the name of a runtime handler: up to 63 of a-z, 0-9 and '-', and not \"berth\"";
}

std::span<const Key<Config>> Keys() {
  using enum Type;
  using C = Config;
  static const std::vector<Key<Config>> keys = {
      At<C, &C::root>("root", kText, "Data that survives a reboot: the database, layers, snapshots, pods.", {.check = AbsolutePath}),
      At<C, &C::run>("run", kText, "Data of this boot, on a tmpfs: sockets, layer mounts, pods.", {.check = AbsolutePath}),

      At<C, &C::server, &ServerOptions::socket>("server.socket", kText, "CRI endpoint. Unless set, berth.sock below `run`.",
                                                {.check = AbsolutePath}),
      At<C, &C::server, &ServerOptions::mode>("server.mode", kMode, "File mode of the socket.", {.low = 0, .high = 0777}),
      At<C, &C::server, &ServerOptions::group>("server.group", kText,
                                               "Group of the socket and its directory, a name or number; \"\": the daemon's own.",
                                               {.check = Group}),
      At<C, &C::server, &ServerOptions::directory_mode>("server.directory_mode", kMode, "File mode of the directory of the socket.",
                                                        {.low = 0, .high = 0777}),

      At<C, &C::streaming, &cri::streaming::Options::address>(
          "streaming.address", kText, "Where clients of exec, attach and port-forward connect; port 0: any free one, told in the URL.",
          {.check = Address}),
      At<C, &C::streaming, &cri::streaming::Options::tls_certificate>(
          "streaming.tls_certificate", kText, "PEM file; with tls_key these clients are served over TLS. \"\": without.", {.check = PathOrEmpty}),
      At<C, &C::streaming, &cri::streaming::Options::tls_key>("streaming.tls_key", kText, "PEM file with the certificate's key.",
                                                              {.check = PathOrEmpty}),
      At<C, &C::streaming, &cri::streaming::Options::sessions>("streaming.sessions", kInteger, "Such clients at the same time.",
                                                               {.low = 1, .high = 65536}),

      At<C, &C::metrics, &MetricsOptions::address>("metrics.address", kText,
                                                   "Where /metrics and /healthz are served over HTTP; \"\": nowhere.",
                                                   {.check = AddressOrEmpty}),

      At<C, &C::log, &LogOptions::level>("log.level", kText, "The least severe level that is logged.", {.choices = kLevels}),
      At<C, &C::log, &LogOptions::format>("log.format", kText, "How a line looks.", {.choices = kFormats}),

      At<C, &C::runtime, &runtime::Options::shim>("runtime.shim", kText,
                                                  "Program that watches over a pod; \"\": berth-shim beside berthd.",
                                                  {.check = PathOrEmpty}),
      At<C, &C::runtime, &runtime::Options::cgroup_root>("runtime.cgroup_root", kText,
                                                         "Cgroup of the pods that name no parent.", {.check = AbsolutePath}),
      At<C, &C::runtime, &runtime::Options::seccomp_profile>("runtime.seccomp_profile", kText,
                                                             "Default seccomp profile in Docker's JSON form; \"\": the built-in one.",
                                                             {.check = PathOrEmpty}),

      At<C, &C::cni, &cni::Options::config_dir>("cni.config_dir", kText,
                                                "The first *.conflist here, in lexical order, is the pod network.",
                                                {.check = AbsolutePath}),
      At<C, &C::cni, &cni::Options::plugin_dirs>("cni.plugin_dirs", kList, "Where plugins of others are looked for.",
                                                 {.check = AbsolutePath, .check_all = NotEmpty}),
      At<C, &C::cni, &cni::Options::built_in_default>("cni.built_in_default", kBool,
                                                      "Without a conflist: use the bridge below (true) or report the network as not ready (false)."),
      At<C, &C::cni, &cni::Options::bridge>("cni.bridge", kText, "Bridge of the built-in network.", {.check = LinkName}),
      At<C, &C::cni, &cni::Options::subnets>("cni.subnets", kList, "Its addresses: an IPv4 subnet, an IPv6 subnet or one of each.",
                                             {.check = Subnet, .check_all = Subnets}),
      At<C, &C::cni, &cni::Options::table>("cni.table", kText, "nftables table, in families ip and ip6, that holds our rules.",
                                           {.check = TableName}),

      At<C, &C::images, &images::Options::snapshotter>("images.snapshotter", kText,
                                                       "How layers become a root file system; auto: erofs where the kernel can.",
                                                       {.choices = kSnapshotters}),
      At<C, &C::images, &images::Options::parallel_downloads>("images.parallel_downloads", kInteger,
                                                              "Blobs fetched at the same time, for all pulls together.",
                                                              {.low = 1, .high = 64}),
      At<C, &C::images, &images::Options::pinned>("images.pinned", kList,
                                                  "Images that clients' garbage collection is told to leave alone: references or ids.",
                                                  {.check = ImageName}),
  };
  return keys;
}

std::span<const Key<images::RegistryOptions>> RegistryKeys() {
  using enum Type;
  using R = images::RegistryOptions;
  static const std::vector<Key<R>> keys = {
      At<R, &R::mirrors>("mirrors", kList, "URLs tried in order before the host itself.", {.check = Mirror}),
      At<R, &R::plain_http>("plain_http", kBool, "Talk HTTP to the host itself; loopback hosts always may."),
      At<R, &R::skip_verify>("skip_verify", kBool, "Accept any certificate."),
      At<R, &R::ca_file>("ca_file", kText, "Certificates in PEM form to trust besides the system's; \"\": none.", {.check = PathOrEmpty}),
  };
  return keys;
}

std::span<const Key<runtime::Handler>> HandlerKeys() {
  using enum Type;
  using H = runtime::Handler;
  static const std::vector<Key<H>> keys = {
      At<H, &H::path>("path", kText, "The OCI runtime's program.", {.check = AbsolutePath}),
      At<H, &H::type>("type", kText, "How it is driven: oci, the command line that OCI runtimes share.", {.choices = kHandlerTypes}),
      At<H, &H::root>("root", kText, "Its state directory; \"\": one in each pod's own directory.", {.check = PathOrEmpty}),
      At<H, &H::options>("options", kList, "Global options of the program, put before its command."),
  };
  return keys;
}

std::string_view SectionOf(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == path.npos ? std::string_view() : path.substr(0, dot);
}

std::string QuoteToml(std::string_view text) {
  std::string out = "\"";
  const std::string valid = ToUtf8(text);
  for (const char c : valid) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (u < 0x20 || u == 0x7f) out += fmt::format("\\u{:04X}", u);
    else out += c;
  }
  return out += '"';
}

std::string FormatToml(const Value& value, Type type) {
  if (const bool* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const int64_t* i = std::get_if<int64_t>(&value)) return type == Type::kMode ? fmt::format("0o{:o}", *i) : std::to_string(*i);
  if (const std::string* s = std::get_if<std::string>(&value)) return QuoteToml(*s);
  std::string out = "[";
  for (const std::string& item : std::get<std::vector<std::string>>(value)) out += (out.size() > 1 ? ", " : "") + QuoteToml(item);
  return out += ']';
}

int EditDistance(std::string_view a, std::string_view b) {
  // Rows of the usual table; two back for the swap of neighbours.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string Nearest(std::string_view text, std::span<const std::string> candidates) {
  if (text.size() > 100) return "";
  const std::string_view name = text.substr(text.rfind('.') + 1);
  std::string best;
  int best_distance = std::max<int>(2, static_cast<int>(text.size()) / 4) + 1;
  for (const std::string& candidate : candidates) {
    int distance = EditDistance(text, candidate);
    // The right name in the wrong table.
    const std::string_view last = std::string_view(candidate).substr(candidate.rfind('.') + 1);
    if (name.size() > 2 && EditDistance(name, last) <= (name.size() > 4 ? 1 : 0)) distance = std::min(distance, 1 + EditDistance(name, last));
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace berth::config
