#pragma once
// Capability sets of a container.
#include "base/error.h"
#include "pods/spec.h"
#include "runtime/oci/spec.h"

namespace berth::pods {

// The default set (Docker's 14), then ALL in add, then ALL in drop, then single names of add, then single names of
// drop. Names with or without CAP_, any case; an unknown one is kInvalidArgument. Privileged: every capability.
// Inheritable and ambient hold the ambient ones only, which must be in the set.
Result<runtime::oci::Capabilities> MakeCapabilities(const ContainerSpec& spec);

}  // namespace berth::pods
