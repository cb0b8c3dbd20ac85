#pragma once
// host-local: configuration. The leases themselves are in the ledger, not in files, so that finding a free address does
// not read a directory and leases die with what they were for.
#include <variant>

#include "base/json.h"
#include "cni/ipam.h"
#include "cni/result.h"

namespace berth::cni {

// Names the key (or value) because of which a plugin cannot run in-process and is run as a program instead.
struct NotNative {
  std::string why;
};

struct HostLocal {
  std::vector<RangeSet> sets;  // one address is taken from each
  std::vector<CniRoute> routes;
  CniDns dns;  // from resolvConf
};

// Defaults as the reference plugin has them: gateway the first address, start the first, end the last usable one; /31,
// /32, /127 and /128 and overlapping sets are refused. Errors name the key.
Result<std::variant<HostLocal, NotNative>> ParseHostLocal(const json::Object& ipam, const std::string& where);

}  // namespace berth::cni
