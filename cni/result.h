#pragma once
// The result of a CNI ADD (specification 1.1.0, section 5) as a value, and its JSON in every version we speak.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace berth::cni {

struct CniInterface {
  std::string name, mac;
  std::string sandbox;  // path of the namespace; empty: on the host
  std::optional<int64_t> mtu;
  std::string socket_path, pci_id;
};

struct CniAddress {
  std::string address;  // CIDR
  std::string gateway;
  std::optional<int64_t> interface;  // index into interfaces
};

struct CniRoute {
  std::string dst, gw;  // CIDR; gw may be empty
  std::optional<int64_t> mtu, advmss, priority, table, scope;
};

struct CniDns {
  std::vector<std::string> nameservers, search, options;
  std::string domain;
  bool empty() const { return nameservers.empty() && search.empty() && options.empty() && domain.empty(); }
};

struct CniResult {
  std::vector<CniInterface> interfaces;
  std::vector<CniAddress> ips;
  std::vector<CniRoute> routes;
  CniDns dns;
};

// Versions of the specification this node speaks: 0.3.0 to 1.1.0.
bool KnownVersion(std::string_view version);
bool VersionAtLeast(std::string_view version, int major, int minor);

// As `version` writes it: before 1.0.0 every address carries "version": "4" or "6"; fields of 1.1.0 are left out below.
std::string ResultJson(const CniResult& result, std::string_view version);
// Errors: kInvalidArgument naming `where` and the key.
Result<CniResult> ParseResult(std::string_view text, std::string_view where);

}  // namespace berth::cni
