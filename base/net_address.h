#pragma once
// Where to listen or connect, as people write it.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace berth {

struct HostPort {
  std::string host;   // an IP address, without brackets
  uint16_t port = 0;
};
// "127.0.0.1:9464", "[::1]:9464". The host must be an IP address, the port a number from 0 (any) to 65535.
Result<HostPort> ParseIpPort(std::string_view text);
std::string FormatHostPort(std::string_view host, uint16_t port);  // with brackets where IPv6 needs them

// "10.89.0.0/16", "fd00::/64": the address has no bits below the prefix.
struct Cidr {
  int family = 0;     // AF_INET, AF_INET6
  int prefix = 0;
};
Result<Cidr> ParseCidr(std::string_view text);

}  // namespace berth
