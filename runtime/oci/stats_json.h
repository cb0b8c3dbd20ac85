#pragma once
// `data` of `events --stats`, in the shape that runc writes and containerd and cAdvisor read (runc's types/events.go).
#include "base/json.h"
#include "runtime/linux/cgroup_stats.h"

namespace berth::runtime::oci {

// Read with kAllStats. Members are left out where runc leaves them out: zeros marked omitempty there.
json::Value StatsDocument(const cgroup::Stats& stats);

}  // namespace berth::runtime::oci
