#pragma once
// The failpoints of this folder (base/failpoint.h), for `berthd failpoints` and the recovery tests.
#include <string_view>

namespace berth::runtime {

inline constexpr std::string_view kFailpoints[] = {
    "launcher.start_pod.spawned",         // the spawner was asked; the monitor may or may not exist
    "launcher.stop_pod.monitor_gone",     // the monitor has ended, cgroups and socket are there
    "launcher.create_container.cgroup",   // the cgroup exists, no process is in it
    "launcher.create_container.created",  // the monitor has the container, the caller does not know
    "launcher.delete_container.forgotten",  // the monitor has forgotten it, the cgroup is there
};

}  // namespace berth::runtime
