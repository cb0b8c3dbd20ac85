#pragma once
// What executor.cc (parent side) and the child's files share: the message between them and the child's state.
//
//   child                                   parent
//     kPid + SCM_RIGHTS pidfd  --------------->       from the guide into a user namespace (clone.h), before all else:
//     <------------------------------------ "g"       the parent knows the child, which waits for this
//     kWarning text  ------------------------>        any number
//     kEnvironment -------------------------->        namespaces and mounts are made, the root is not yet entered;
//     <------------------------------------ "e"       Options::environment has done its part (kPlanEnvironment only)
//     kTerminal + SCM_RIGHTS pty master  ---->        when the plan asks for a terminal
//     kReady  -------------------------------->       everything up to execve is done; Create returns
//     <------------------------------------ "s"       Start
//     kListener + SCM_RIGHTS seccomp fd  ---->        when the filter notifies; sent from outside the filter
//     (close on exec) ------------------------>       execve worked
//     kFailed kind errno text  ---------------->      at any point; the child exits
//
// The socket is SOCK_SEQPACKET. With a listening socket in the plan the child leaves the first socket after kReady and
// takes the start from the first connection there, with the same messages.
#include <cstdint>

#include "runtime/init/executor.h"
#include "runtime/init/plan.h"

namespace berth::init {

enum class MessageType : uint32_t { kWarning = 1, kTerminal, kReady, kFailed, kEnvironment, kListener, kPid };

struct Message {
  MessageType type = MessageType::kReady;
  int32_t sys = 0;
  int32_t kind = 0;
  char text[240] = {};
};

// What Create leaves in a memfd for berth-init: this, then the descriptors' numbers, then (aligned to 8) the plan.
struct Control {
  uint32_t fd_count = 0;
  uint32_t plan_size = 0;
  int32_t sync = -1;
  int32_t target = -1;
  Stdio stdio;
  int32_t enter = 0;
};

inline size_t PlanOffset(uint32_t fd_count) { return (sizeof(Control) + fd_count * sizeof(int32_t) + 7) & ~size_t{7}; }

struct Child {
  const char* base = nullptr;  // of the plan
  const Plan* plan = nullptr;
  const int* fds = nullptr;
  int sync = -1;
  Stdio stdio;
  int target = -1;  // exec: pidfd
  int enter = 0;    // 1: plan.cgroup2 has to be entered by the child

  int proc = -1;  // procfs of the process's PID namespace, verified
  int host = -1;  // root of the caller's mount tree, between EnterRoot and LeaveHost with hooks
  int dev = -1;   // the tmpfs at /dev when it is ours
  int devpts = -1;
  int null = -1;      // O_PATH of a verified char 1:3 node of the container
  int terminal = -1;  // pty slave

  // In a user namespace procfs and sysfs can only be made while another instance is in sight (mount_too_revealing of
  // the kernel): before the old root goes. Detached mounts of the plan's first kOpEarly operations.
  static constexpr uint32_t kMaxEarly = 4;
  int early[kMaxEarly] = {-1, -1, -1, -1};

  const char* String(Str s) const { return base + s; }
  template <class T>
  const T* Array(Slice s) const {
    return reinterpret_cast<const T*>(base + s.offset);
  }
  int Fd(FdIndex i) const { return i < 0 ? -1 : fds[i]; }
};

// plan_check.cc, parent side.
void Describe(Failure* failure, int sys, const char* a, const char* b = "", const char* c = "");
// The plan's own consistency, as it crossed a process boundary: sizes, offsets, descriptor numbers. Null: *failure says
// why. A plan of an earlier version is completed in `room`, which has to live as long as the plan.
const Plan* CheckPlan(const void* bytes, size_t size, size_t fd_count, Plan* room, Failure* failure);

// Reports "<text>: <strerror>" (or the text alone when sys is 0) and ends the child.
[[noreturn]] void Fail(const Child& child, int sys, const char* a, const char* b = "", const char* c = "",
                       const char* d = "", int kind = 0);
void Warn(const Child& child, int sys, const char* a, const char* b = "", const char* c = "");
void Send(const Child& child, const Message& message, int fd = -1);

// tree.cc: the container's file tree, from an empty or a host root to the finished one. With hooks (plan.host_root)
// EnterRoot leaves the caller's tree in place and the process in a chroot of the new one.
void EnterRoot(Child& child);
void ReturnToHost(Child& child);  // for the time of the hooks: /proc/<pid>/root and mountinfo are as they expect them
void LeaveHost(Child& child);
void BuildTree(Child& child);
void SealTree(Child& child);  // masks, read-only paths, read-only root, propagation
int OpenTarget(const Child& child, const char* path, uint64_t flags, bool no_symlinks);  // O_PATH; -1 and errno
// Opens `path`, creating what is missing (directories 0755; the last one a file when `file`).
int MakeTarget(const Child& child, const char* path, bool file, bool no_symlinks);
int ProcOf(Child& child);  // child.proc, opened when there is none yet

// attributes.cc: how the kernel runs the process.
long SetCpus(const Child& child, Slice cpus);  // sched_setaffinity(2) of the caller
void JoinedCgroups(Child& child);              // CPU affinity after the cgroups are entered
void ApplyAttributes(Child& child);            // scheduler, I/O priority, personality, memory policy

// hooks.cc: runs each in turn and waits for it; the first that fails ends the child. `status` is the container's;
// in_host: with the caller's files instead of the container's.
void RunHooks(Child& child, Slice hooks, const char* status, bool in_host, const char* what);

// filter.cc: the last step but one; afterwards nothing may be called but execve.
void LoadFilter(Child& child);

// fork(2) without the C library's handlers; *pidfd is set in the parent. -1 and errno.
long ForkChild(int* pidfd);

// copy_up.cc: what is in the directory `from` into the new filesystem `to` (both O_PATH): kinds, modes, owners, times,
// extended attributes. Links are copied, never followed. `path` for messages.
void CopyUp(Child& child, int from, int to, const char* path);

// process.cc: standard streams, settings, credentials.
void MakeTerminal(Child& child);
void SetStandardStreams(Child& child);
void ApplySettings(Child& child);  // hostname, sysctls, oom score, rlimits, labels
void EnterDirectory(Child& child, bool as_user);
void DropPrivileges(Child& child);
uint64_t OwnPermitted(const Child& child);
// Pointer arrays for execve, in an anonymous mapping that the exec throws away, with room for two more entries.
char** Pointers(const Child& child, Slice strings);
[[noreturn]] void Execute(Child& child);  // looks args[0] up, waits for the start, loads seccomp, execve

[[noreturn]] void RunChild(Child& child);

}  // namespace berth::init
