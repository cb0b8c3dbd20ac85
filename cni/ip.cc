#include "cni/ip.h"

#include <arpa/inet.h>

#include <charconv>
#include <cstring>

namespace berth::cni {
namespace {

Uint128 HostMask(int bits, int prefix) {  // ones where the host part is
  int host = bits - prefix;
  if (host == 0) return 0;
  if (host == 128) return ~Uint128(0);
  return (Uint128(1) << host) - 1;
}

}  // namespace

std::string Ip::Bytes() const {
  std::string out(bits() / 8, '\0');
  Uint128 v = value;
  for (size_t i = out.size(); i-- > 0; v >>= 8) out[i] = static_cast<char>(v & 255);
  return out;
}

std::string Ip::Text() const {
  char buffer[INET6_ADDRSTRLEN];
  inet_ntop(family == 4 ? AF_INET : AF_INET6, Bytes().data(), buffer, sizeof buffer);
  return buffer;
}

Ip IpFromBytes(std::string_view bytes) {
  Ip ip{.family = bytes.size() == 4 ? 4 : 6};
  for (unsigned char c : bytes) ip.value = (ip.value << 8) | c;
  return ip;
}

Result<Ip> ParseIp(std::string_view text) {
  unsigned char buffer[16];
  std::string copy(text);
  if (copy.size() == text.size() && copy.find('\0') == std::string::npos) {
    if (inet_pton(AF_INET, copy.c_str(), buffer) == 1) return IpFromBytes({reinterpret_cast<char*>(buffer), 4});
    if (inet_pton(AF_INET6, copy.c_str(), buffer) == 1) return IpFromBytes({reinterpret_cast<char*>(buffer), 16});
  }
  return Err(Code::kInvalidArgument, "'{}' is not an IP address", text);
}

bool Subnet::Contains(const Ip& ip) const {
  return ip.family == base.family && (ip.value & ~HostMask(ip.bits(), prefix)) == base.value;
}

Ip Subnet::Last() const { return {base.family, base.value | HostMask(base.bits(), prefix)}; }

std::string Subnet::Text() const { return fmt::format("{}/{}", base.Text(), prefix); }

Subnet IpPrefix::Net() const { return {{ip.family, ip.value & ~HostMask(ip.bits(), prefix)}, prefix}; }

Result<IpPrefix> ParseIpPrefix(std::string_view text) {
  size_t slash = text.find('/');
  if (slash == std::string_view::npos)
    return Err(Code::kInvalidArgument, "'{}' is not an address with a prefix length, such as 10.1.0.0/16", text);
  IpPrefix out;
  out.ip = TRY(ParseIp(text.substr(0, slash)));
  std::string_view digits = text.substr(slash + 1);
  auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), out.prefix);
  if (ec != std::errc() || end != digits.data() + digits.size() || out.prefix < 0 || out.prefix > out.ip.bits())
    return Err(Code::kInvalidArgument, "'{}': the prefix length must be 0 to {}", text, out.ip.bits());
  return out;
}

Result<Subnet> ParseSubnet(std::string_view text) {
  IpPrefix p = TRY(ParseIpPrefix(text));
  Subnet net = p.Net();
  if (net.base != p.ip)
    return Err(Code::kInvalidArgument, "'{}' has host bits set; the subnet is {}", text, net.Text());
  return net;
}

}  // namespace berth::cni
