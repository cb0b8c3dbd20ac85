#pragma once
// How containers end, as the launcher tells it: rows, states and events follow the exit.
#include "base/deadline.h"
#include "pods/core.h"
#include "pods/registry.h"

namespace berth::pods {

inline constexpr int kExitUnknown = 255;     // nobody saw the exit
inline constexpr int kExitStartError = 128;  // execve failed
inline constexpr const char* kStartError = "StartError";

// Hands the launcher its callbacks. Core must outlive the launcher's thread. Before the launcher's first other call.
void Listen(Core& core);

// Records an exit and publishes it. Known, unknown and repeated ones are fine. On the launcher's thread, or any other.
void ApplyExit(Core& core, const PodId& pod, const runtime::ExitFacts& facts);
// The monitor of a pod is gone: its containers get their exit from the records on disk, else 255 Unknown; the pod is
// stopped, in the background.
void ApplyLost(Core& core, const PodId& pod);
// The first half of it: every container of the pod that has not ended gets its exit from disk, else `code` and
// `reason`.
void EndContainers(Core& core, const PodId& pod, int code, std::string_view reason, std::string_view message);

// Returns when the container is exited or gone.
Result<void> AwaitExit(Core& core, const ContainerState& container, const Deadline& until);
// SIGKILL to the whole container, again every two seconds, until it is exited. The error says what the process hangs
// on.
Result<void> KillAndAwait(Core& core, const ContainerState& container, const Deadline& until);

// "pid 812 in uninterruptible sleep (nfs_wait)": why a process does not die; empty when it is not there.
std::string WhyAlive(pid_t pid);

}  // namespace berth::pods
