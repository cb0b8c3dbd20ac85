#pragma once
// What can be said of a specification without looking at the host. Errors are kInvalidArgument, naming the member and
// what would be right.
#include <string>
#include <string_view>

#include "base/error.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

// config.json. Unknown members are ignored, as the specification demands.
Result<Spec> ParseSpec(std::string_view text, std::string_view where);
Result<Process> ParseProcess(std::string_view text, std::string_view where);  // `exec --process`

Result<void> ValidateProcess(const Process& process, std::string_view at = "process");
Result<void> ValidateSpec(const Spec& spec);

// 1 to 1024 of [A-Za-z0-9_+.-], not "." or "..".
Result<void> ValidateId(const std::string& id);
// "net.ipv4.ip_forward" -> "net/ipv4/ip_forward"; refuses what is not namespaced by the spec's own namespaces.
Result<std::string> SysctlPath(const std::string& name, const Spec& spec);

}  // namespace berth::runtime::oci
