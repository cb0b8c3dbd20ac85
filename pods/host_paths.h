#pragma once
// What a container's request names on the host: bind sources and devices. Looked up when the container is created.
#include <vector>

#include "base/error.h"
#include "pods/spec.h"
#include "runtime/oci/spec.h"

namespace berth::pods {

// Makes missing bind sources as directories, follows symbolic links in them, and checks that the mount below a source
// can propagate as asked (bidirectional: shared; host to container: shared or slave). Errors name mounts[i]. The answer
// is `mounts` with real paths.
Result<std::vector<Mount>> ResolveMounts(const std::vector<Mount>& mounts);

// Device nodes for `devices` (a directory stands for every device below it), or, when privileged, all of the host's but
// the terminals and what every container has of its own.
Result<std::vector<runtime::oci::Device>> FindDevices(const std::vector<DeviceSpec>& devices, bool privileged);

}  // namespace berth::pods
