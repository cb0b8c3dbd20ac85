#pragma once
// The soft limit of open descriptors (RLIMIT_NOFILE). A daemon that holds some per pod wants the hard limit; programs it
// starts must not inherit that, since those that use select(2) or close every possible descriptor suffer (systemd's rule).
#include <sys/resource.h>

#include <optional>

#include "base/error.h"

namespace berth {

// Raises our soft limit to the hard one and remembers what it was; `Run` and `Spawn` of base/child.h give children the
// old one back. Once, at start, before other threads run. Returns the limit now in force.
Result<rlim_t> RaiseDescriptorLimit();

// What children get: empty when it was never raised.
const std::optional<rlimit>& ChildDescriptorLimit();

}  // namespace berth
