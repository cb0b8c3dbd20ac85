#pragma once
// Steps that taking down shares: stop, remove, the undoing of creations, and recovery. All may run twice.
#include <chrono>

#include "base/deadline.h"
#include "pods/core.h"

namespace berth::pods {

// What undoing a step may take: the caller's own time may be over.
inline constexpr std::chrono::seconds kUndoTime{30};

runtime::PodLaunch LaunchOf(Core& core, const PodState& pod);

// For a pod whose monitor did not answer when the agent started: asks again. Success: it is adopted, or gone for
// certain.
Result<void> AdoptLate(Core& core, const PodId& pod, const Deadline& until);

// Kills what is left in the pod's cgroup and removes it with all below.
Result<void> RemovePodCgroup(Core& core, const PodState& pod, const Deadline& until);
Result<void> RemoveContainerCgroup(Core& core, const ContainerState& container, const Deadline& until);
Result<void> RemovePodDirs(Core& core, const PodId& pod);

// A creation that could not be undone becomes visible: the pod as stopping, with the reason in `stuck`; the container
// as exited. Stop and Remove finish it.
void Abandon(Core& core, const PodId& pod, const Error& why);
void Abandon(Core& core, const ContainerId& container, const Error& why);

}  // namespace berth::pods
