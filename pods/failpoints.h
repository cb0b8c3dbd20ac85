#pragma once
// Every step at which a test may kill the agent or make a verb fail (base/failpoint.h): the stages of the verbs.
#include <array>
#include <string_view>

namespace berth::pods {

inline constexpr std::array<std::string_view, 30> kFailpoints = {
    "run_pod.row",
    "run_pod.dirs",
    "run_pod.monitor",
    "run_pod.network",
    "run_pod.files",
    "run_pod.ready",
    "stop_pod.row",
    "stop_pod.kill",
    "stop_pod.network",
    "stop_pod.monitor",
    "stop_pod.cgroup",
    "stop_pod.stopped",
    "remove_pod.stop",
    "remove_pod.mark",
    "remove_pod.containers",
    "remove_pod.dirs",
    "remove_pod.drop",
    "create_container.row",
    "create_container.snapshot",
    "create_container.spec",
    "create_container.launch",
    "create_container.created",
    "start_container.exec",
    "start_container.running",
    "stop_container.signal",
    "remove_container.kill",
    "remove_container.mark",
    "remove_container.delete",
    "remove_container.snapshot",
    "remove_container.drop",
};

}  // namespace berth::pods
