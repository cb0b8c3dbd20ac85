#pragma once
// Seccomp and AppArmor profiles that a container asks for.
#include <optional>

#include "base/error.h"
#include "pods/spec.h"
#include "runtime/oci/spec.h"

namespace berth::pods {

// None: unconfined (also for privileged containers, and for the silence of a caller). "default" is the built-in
// profile, or the file `default_profile` when configured; "localhost" the file that the request names. Files are in
// Docker's or the OCI form; rules that depend on capabilities are settled with the container's.
Result<std::optional<runtime::oci::Seccomp>> LoadSeccomp(const ContainerSpec& spec, const std::string& default_profile);

// kFailedPrecondition when the profile is not loaded in this kernel. `sys`: where sysfs is mounted.
Result<void> CheckAppArmor(const SecurityProfile& profile, const std::string& sys);

}  // namespace berth::pods
