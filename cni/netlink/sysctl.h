#pragma once
// net.* settings of the process's own network namespace.
#include <string>

namespace berth::cni::netlink {

// "net/ipv4/ip_forward". Nothing happens when it has the value already. False when the file is missing (a protocol that
// is not there) or cannot be written; that is logged.
bool SetSysctl(const std::string& name, const std::string& value);
std::string GetSysctl(const std::string& name);  // "" when missing

// Turns on routing for the families. Interfaces that take their IPv6 default route from router advertisements keep
// doing so, which they otherwise stop when forwarding is on.
void EnableForwarding(bool ipv4, bool ipv6);

}  // namespace berth::cni::netlink
