#pragma once
// Places where a test may make the process die, to prove that a crash there leaves nothing behind.
//
//   Failpoint("run_pod.network");
//
// BERTH_FAILPOINT=run_pod.network in berthd's environment makes it kill itself with SIGKILL when it gets there the first
// time; BERTH_FAILPOINT=run_pod.network:error makes FailpointError return an error instead. Without the variable the cost
// is one load. Names are `<verb>.<step>`; `berthd failpoints` prints all that exist, from the table in failpoint.cc of the
// folder that declares them.
#include <string_view>

#include "base/error.h"

namespace berth {

extern const bool kFailpointsArmed;
void FailpointHit(std::string_view name);
inline void Failpoint(std::string_view name) {
  if (kFailpointsArmed) [[unlikely]] FailpointHit(name);
}
Result<void> FailpointError(std::string_view name);

}  // namespace berth
