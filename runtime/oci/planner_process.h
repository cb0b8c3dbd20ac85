#pragma once
// The parts of a plan that say how the kernel runs the process, and what runs beside it: scheduler, I/O priority, CPU
// affinity, personality, memory policy, hooks. Internal to runtime/oci.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "runtime/oci/plan_writer.h"
#include "runtime/oci/planner.h"

namespace berth::runtime::oci {

// Names to numbers; kInvalidArgument names the member. `at` is "process". exec: execCPUAffinity counts.
Result<void> WriteAttributes(PlanWriter& w, const Process& process, bool exec, std::string_view at = "process");
Result<void> WritePersonality(PlanWriter& w, const Linux& linux);
Result<void> WriteMemoryPolicy(PlanWriter& w, const Linux& linux);
// createContainer and startContainer; with them, or with prestart and createRuntime, where the root shows itself.
Result<void> WriteHooks(PlanWriter& w, const PlanInput& in);

// "0-3,7" as a bit mask; empty text: an empty mask. Numbers below 8192.
Result<std::vector<uint64_t>> ParseList(std::string_view text, std::string_view at);

}  // namespace berth::runtime::oci
