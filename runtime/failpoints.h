#pragma once
// The failpoints of this folder (base/failpoint.h), for `berthd failpoints` and the recovery tests.
#include <string_view>

namespace berth::runtime {

inline constexpr std::string_view kFailpoints[] = {
    "launcher.start_pod.spawned",         // the spawner was asked; the monitor may or may not exist
    "launcher.stop_pod.monitor_gone",     // the monitor has ended, cgroups and socket are there
    "launcher.create_container.cgroup",   // the cgroup exists, no process is in it
    "launcher.create_container.created",  // the monitor has the container, the caller does not know
    "launcher.foreign.bundle",            // of another runtime: its bundle exists, with nothing in it
    "launcher.foreign.mounted",           // the root filesystem is attached there, the runtime was not yet called
    "launcher.foreign.created",           // the runtime has made it, the caller does not know
    "launcher.foreign.deleted",           // the runtime has forgotten it, the bundle is there
    "launcher.delete_container.forgotten",  // the monitor has forgotten it, the cgroup is there
};

}  // namespace berth::runtime
