#pragma once
// Names of resource limits and signals, as OCI documents and command lines spell them.
#include <optional>
#include <string>
#include <string_view>

namespace berth::runtime {

std::optional<unsigned> RlimitNumber(std::string_view name);  // "RLIMIT_NOFILE"; exactly as in the specification
std::string_view RlimitName(unsigned resource);
// "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1": any case, prefix optional. nullopt when it is no signal (0
// included).
std::optional<int> SignalNumber(std::string_view name);
std::string SignalName(int signal);  // "SIGTERM"; "SIGRTMIN+3"; the number when unknown

}  // namespace berth::runtime
