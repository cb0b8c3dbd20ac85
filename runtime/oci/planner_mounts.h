#pragma once
// The file tree's part of a start plan: mounts, devices, links. Internal to runtime/oci.
#include "base/error.h"
#include "runtime/oci/plan_writer.h"
#include "runtime/oci/planner.h"

namespace berth::runtime::oci {

// Opens bind sources and what else needs the host's paths, and writes plan.ops (and plan.null_tree when masks need it).
Result<void> WriteMounts(PlanWriter& writer, const PlanInput& input, const cgroup::Group& group);

// "/a//b/../c/" -> "/a/c", from the root: what a relative destination means.
std::string CleanPath(std::string_view path);

}  // namespace berth::runtime::oci
