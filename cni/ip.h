#pragma once
// IP addresses and subnets as values: both families in one type, ordered, with arithmetic. No DNS, no zones.
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace berth::cni {

using Uint128 = unsigned __int128;

struct Ip {
  int family = 4;     // 4 or 6
  Uint128 value = 0;  // host order; the low 32 bits for IPv4
  auto operator<=>(const Ip&) const = default;
  int bits() const { return family == 4 ? 32 : 128; }
  std::string Bytes() const;  // network order, 4 or 16 bytes
  std::string Text() const;
  bool IsZero() const { return value == 0; }
};

// Errors: kInvalidArgument "'x' is not an IP address". An IPv4-mapped IPv6 address stays IPv6.
Result<Ip> ParseIp(std::string_view text);
Ip IpFromBytes(std::string_view bytes);  // 4 or 16 bytes

struct Subnet {
  Ip base;  // host bits are zero
  int prefix = 0;
  auto operator<=>(const Subnet&) const = default;
  bool Contains(const Ip& ip) const;
  Ip Last() const;  // highest address
  std::string Text() const;
};

// "10.1.0.0/16". Errors: kInvalidArgument; host bits that are set are refused with the subnet that was probably meant.
Result<Subnet> ParseSubnet(std::string_view text);
// "10.1.0.5/16" as address and prefix length.
struct IpPrefix {
  Ip ip;
  int prefix = 0;
  std::string Text() const { return fmt::format("{}/{}", ip.Text(), prefix); }
  Subnet Net() const;
};
Result<IpPrefix> ParseIpPrefix(std::string_view text);

}  // namespace berth::cni
