#include "base/net_address.h"

#include <arpa/inet.h>

#include <charconv>

namespace berth {
namespace {

bool ParseNumber(std::string_view text, unsigned limit, unsigned& out) {
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
  return ec == std::errc() && end == text.data() + text.size() && out <= limit;
}

int FamilyOf(const std::string& address, unsigned char* bytes) {
  if (::inet_pton(AF_INET, address.c_str(), bytes) == 1) return AF_INET;
  if (::inet_pton(AF_INET6, address.c_str(), bytes) == 1) return AF_INET6;
  return 0;
}

}  // namespace

Result<HostPort> ParseIpPort(std::string_view text) {
  const auto bad = [&] {
    return Err(Code::kInvalidArgument, "\"{}\" is not an address and port, such as 127.0.0.1:9464 or [::1]:9464", text);
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad();
  std::string host(text.substr(0, colon));
  const bool brackets = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  unsigned char bytes[16];
  unsigned port = 0;
  const int family = FamilyOf(host, bytes);
  if (family == 0 || (family == AF_INET6) != brackets || !ParseNumber(text.substr(colon + 1), 65535, port)) return bad();
  return HostPort{std::move(host), static_cast<uint16_t>(port)};
}

std::string FormatHostPort(std::string_view host, uint16_t port) {
  return host.find(':') == std::string_view::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Result<Cidr> ParseCidr(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string address(text.substr(0, slash));
  unsigned char bytes[16] = {};
  Cidr cidr;
  cidr.family = FamilyOf(address, bytes);
  const int bits = cidr.family == AF_INET ? 32 : 128;
  unsigned prefix = 0;
  if (cidr.family == 0 || slash == std::string_view::npos || !ParseNumber(text.substr(slash + 1), bits, prefix))
    return Err(Code::kInvalidArgument, "\"{}\" is not a subnet, such as 10.89.0.0/16 or fd00:be27::/64", text);
  for (int bit = static_cast<int>(prefix); bit < bits; ++bit)
    if (bytes[bit / 8] & (0x80 >> (bit % 8)))
      return Err(Code::kInvalidArgument, "\"{}\" is an address in a subnet, not a subnet: bits after the first {} are set", text, prefix);
  cidr.prefix = static_cast<int>(prefix);
  return cidr;
}

}  // namespace berth
