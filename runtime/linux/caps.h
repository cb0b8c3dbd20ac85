#pragma once
// Capability names and sets. A set is a mask: bit n is capability n of <linux/capability.h>.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace berth::runtime::caps {

using Set = uint64_t;

std::optional<unsigned> Number(std::string_view name);  // "CAP_NET_RAW", "net_raw": any case, prefix optional
std::string_view Name(unsigned number);                 // "CAP_NET_RAW"; empty when unknown
const std::vector<std::string>& AllNames();             // in order of number
// Unknown names are left out and appended to *unknown ("CAP_FOO").
Set FromNames(const std::vector<std::string>& names, std::vector<std::string>* unknown);
std::vector<std::string> ToNames(Set set);
Set OwnBounding();  // of this process, read once; what no child can exceed
Set Default();      // Docker's fourteen

}  // namespace berth::runtime::caps
