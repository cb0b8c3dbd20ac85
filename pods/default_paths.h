#pragma once
// What a container does not see of /proc and /sys unless it asks for more: the list that Docker masks, and that Kubernetes
// calls the default ProcMount. Clients whose protocol makes silence mean "nothing masked" (CRI) send these.
#include <string_view>

namespace berth::pods {

inline constexpr std::string_view kMaskedPaths[] = {"/proc/asound",     "/proc/acpi",        "/proc/interrupts",
                                                    "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
                                                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                                    "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
inline constexpr std::string_view kReadonlyPaths[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                                      "/proc/sysrq-trigger"};

}  // namespace berth::pods
