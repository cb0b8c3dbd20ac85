#pragma once
// linux.netDevices of the OCI runtime-spec 1.3: network devices of the host that a container is given.
#include <map>
#include <string>

#include "base/error.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::net_devices {

// Moves each device from the caller's network namespace into that of the process `pidfd`: renamed where that is asked
// for
// ("lan%d": the first free number), with its permanent addresses of global scope, and up. They are never moved back:
// when the namespace ends the kernel returns physical ones to the host and removes the others. A move waits for RCU (12
// to 30 ms). kNotFound: no such device; kAlreadyExists: the name is taken inside; kFailedPrecondition: it cannot be
// moved (lo, bridges). Enters the other namespace for a moment: the caller must be single-threaded.
Result<void> Move(const std::map<std::string, oci::NetDevice>& devices, int pidfd);

}  // namespace berth::runtime::net_devices
