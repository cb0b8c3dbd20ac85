#pragma once
// The file tree's part of a start plan: mounts, devices, links. Internal to runtime/oci.
#include "base/error.h"
#include "runtime/oci/plan_writer.h"
#include "runtime/oci/planner.h"

namespace berth::runtime::oci {

// Which of the container's namespaces are its own (new, or joined by path); the others are those of the executor.
struct Scope {
  bool user_mode = false;  // the container's first process is in a user namespace other than the host's first one
  int user = -1;           // that namespace, when the executor has to enter it or it was entered already; borrowed
  bool pid = true, net = true, ipc = true, cgroup = true;
};

// Opens bind sources and what else needs the host's paths, and writes plan.ops (and plan.null_tree when masks need it).
Result<void> WriteMounts(PlanWriter& writer, const PlanInput& input, const cgroup::Group& group,
                         const Scope& scope = {});

// "/a//b/../c/" -> "/a/c", from the root: what a relative destination means.
std::string CleanPath(std::string_view path);

}  // namespace berth::runtime::oci
