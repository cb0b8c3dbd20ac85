#include <arpa/inet.h>

#include "images/registry/transport.h"

namespace berth::images {
namespace {

bool AllDigits(std::string_view s) {
  return !s.empty() && s.size() <= 5 && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// No blanks, controls or non-ASCII: nothing from outside may end a request line early.
bool TargetGood(std::string_view s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

Result<Url> Url::Parse(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return Err(Code::kInvalidArgument, "URL \"{}\": {}", text.substr(0, 200), why);
  };
  Url out;
  size_t mark = text.find("://");
  if (mark == std::string_view::npos) return bad("expected http:// or https://");
  out.scheme = text.substr(0, mark);
  std::transform(out.scheme.begin(), out.scheme.end(), out.scheme.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (out.scheme != "http" && out.scheme != "https") return bad("expected http:// or https://");
  std::string_view rest = text.substr(mark + 3);
  if (size_t hash = rest.find('#'); hash != std::string_view::npos) rest = rest.substr(0, hash);
  size_t end = rest.find_first_of("/?");
  std::string_view authority = rest.substr(0, end);
  if (end != std::string_view::npos) out.target = rest.substr(end);
  if (!out.target.starts_with('/')) out.target.insert(0, 1, '/');
  if (authority.find('@') != std::string_view::npos) return bad("user information is not accepted here");
  std::string_view port;
  if (authority.starts_with('[')) {
    size_t close = authority.find(']');
    if (close == std::string_view::npos) return bad("the host lacks its closing ]");
    out.host = authority.substr(1, close - 1);
    in6_addr address;
    if (::inet_pton(AF_INET6, out.host.c_str(), &address) != 1) return bad("the host is no IPv6 address");
    std::string_view after = authority.substr(close + 1);
    if (!after.empty() && !after.starts_with(':')) return bad("expected :port after the host");
    if (!after.empty()) port = after.substr(1);
    if (!after.empty() && port.empty()) return bad("the port is empty");
  } else {
    size_t colon = authority.find(':');
    out.host = authority.substr(0, colon);
    if (colon != std::string_view::npos) {
      port = authority.substr(colon + 1);
      if (port.empty()) return bad("the port is empty");
    }
    auto good = [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_'; };
    if (out.host.empty() || out.host.size() > 255 || !std::all_of(out.host.begin(), out.host.end(), good))
      return bad("the host is malformed");
  }
  if (!port.empty() && (!AllDigits(port) || std::stoi(std::string(port)) > 65535))
    return bad("the port is not a number from 1 to 65535");
  out.port = port.empty() ? (out.scheme == "https" ? "443" : "80") : std::string(port);
  if (out.target.size() > 16384) return bad("the path is too long");
  if (!TargetGood(out.target)) return bad("the path has characters that must be escaped");
  return out;
}

Result<Url> Url::Resolve(std::string_view location) const {
  if (location.empty()) return Err(Code::kInvalidArgument, "redirect without a Location header");
  size_t scheme_end = location.find("://");
  size_t first = location.find_first_of("/?#");
  if (scheme_end != std::string_view::npos && scheme_end < first) return Parse(location);
  if (location.starts_with("//")) return Parse(fmt::format("{}:{}", scheme, location));
  if (location.starts_with('/')) return Parse(Origin() + std::string(location));
  std::string_view base = std::string_view(target).substr(0, target.find('?'));
  if (location.starts_with('?')) return Parse(fmt::format("{}{}{}", Origin(), base, location));
  return Parse(fmt::format("{}{}{}", Origin(), base.substr(0, base.rfind('/') + 1), location));
}

std::string Url::Authority() const {
  std::string shown = host.find(':') != std::string::npos ? fmt::format("[{}]", host) : host;
  bool standard = port == (scheme == "https" ? "443" : "80");
  return standard ? shown : fmt::format("{}:{}", shown, port);
}

bool IsLoopbackHost(std::string_view host) {
  std::string name(host);
  if (name == "localhost" || name.ends_with(".localhost")) return true;
  in_addr four;
  if (::inet_pton(AF_INET, name.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  in6_addr six;
  return ::inet_pton(AF_INET6, name.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

Result<std::string> ReadBody(HttpResponse& response, size_t limit, std::string_view what, const Deadline& until) {
  std::string out;
  std::array<char, 16384> chunk;
  while (true) {
    size_t n = TRY(response.Read(chunk, until));
    if (n == 0) return out;
    if (out.size() + n > limit)
      return Err(Code::kInvalidArgument, "{}: the answer is larger than {} bytes", what, limit);
    out.append(chunk.data(), n);
  }
}

}  // namespace berth::images
