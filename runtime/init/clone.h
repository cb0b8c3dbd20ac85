#pragma once
// Starting the child side: as a fork of the caller, or as berth-init from its sealed memfd. Internal to runtime/init.
#include <signal.h>
#include <cstddef>
#include <cstdint>

#include "runtime/init/child.h"

namespace berth::init {

// Laid out as the kernel's struct clone_args, 88 bytes (CLONE_ARGS_SIZE_VER2).
struct CloneArgs {
  uint64_t flags = 0, pidfd = 0, child_tid = 0, parent_tid = 0, exit_signal = SIGCHLD, stack = 0, stack_size = 0,
           tls = 0, set_tid = 0, set_tid_size = 0, cgroup = 0;
};

// The plan's new namespaces, as far as the clone makes them. In a user namespace the child makes the IPC namespace once
// it is root there: /dev/mqueue belongs to whoever made it.
inline uint64_t CloneFlags(const Plan& plan) {
  return plan.flags & kPlanUserNamespace ? plan.clone_flags & ~uint64_t{0x08000000 /* CLONE_NEWIPC */}
                                         : plan.clone_flags;
}
CloneArgs PrepareClone(uint64_t flags, int cgroup, int* pidfd);
// Raw clone3 without shared memory: as fork. -1 and errno.
long Fork(const CloneArgs* args);
// A child that runs RunChild(child): in a fork, or in the program `stub` when it is not -1. child.sync is the child's
// end of the socket; `parent_end` is closed in a fork. Returns the pid as clone3 does; -1 and errno.
long StartChild(Child& child, size_t fd_count, size_t plan_size, int stub, int parent_end, CloneArgs* args);

// In a user namespace only its root has capabilities after an exec, and only mapped ids may own files: takes uid and
// gid 0, or the plan's user where the namespace has no root. Groups of the host are dropped where that is allowed.
void BecomeUserRoot(uint32_t uid, uint32_t gid);

// user.cc: the whole way of a process that is to run in another user namespace (plan.user_namespace, or the target's of
// an exec). Runs in a child of the caller: sets what only the outside may set, joins, clones the container's process as
// the caller's child (CLONE_PARENT), sends kPid with its pidfd, ends.
[[noreturn]] void GuideThroughUserNamespace(Child& child, int pid_namespace, size_t fd_count, size_t plan_size,
                                            int stub);
bool NeedsGuide(const Plan& plan);
bool HasOomScore(Child& child, int score);  // the guide may have set it; in the user namespace its file is the host's
void JoinNamespaces(Child& child);          // what the child joins itself: all, or what a guide has left

}  // namespace berth::init
