#pragma once
// Executes a start plan (plan.h): turns a process description into a running process. Used by berth-shim and by
// berth-oci. Compiled twice: for musl without C++ run time (the shim) and as an ordinary library (berth-oci, tests).
//
// No heap, no exceptions, no locale, no static constructors. Single-threaded callers only. The plan is position
// independent bytes; every host object it needs (rootfs, bind sources, cgroup files, namespaces) is a descriptor in
// `fds`, so the executor looks up no path of the host and works in a mount namespace with an empty root.
#include <sys/types.h>
#include <cstddef>
#include <cstdint>

namespace berth::init {

// What went wrong, as text for people ("mount proc on /proc") with errno. Filled by child or parent side.
struct Failure {
  int sys = 0;
  int kind = 0;  // 0 setup, 1 executable not found, 2 executable not permitted, 3 a hook failed: decides 127 / 126
  char what[240] = {};  // complete, with the text of errno: "mount proc on /proc: Operation not permitted"
};

struct Stdio {
  int in = -1, out = -1, err = -1;  // -1: /dev/null; ignored when the plan asks for a terminal
};

struct Process {
  pid_t pid = -1;     // in the caller's PID namespace
  int pidfd = -1;     // owned by the caller
  int sync = -1;      // owned by the caller; Start consumes it. Closing it without Start ends the child (unless the
                      // plan has a listening socket: then the child goes on waiting there).
  int terminal = -1;  // pty master, owned by the caller, when the plan asks for one
  char warnings[512] = {};  // lines: what was asked for and could not be given ("rlimit 7: hard limit clamped to 1024")
  bool released = false;    // Release was called
  bool guided = false;      // pid and pidfd are still those of the guide into a user namespace
};

// What the caller does in the middle of a set-up or a start. Null: a plan that needs it fails.
struct Observer {
  // For plans with kPlanEnvironment: called once the child's namespaces and mounts are there, before it enters its root
  // (where the specification wants createRuntime hooks). False, with *failure filled: it fails.
  bool (*environment)(void* context, pid_t pid, Failure* failure) = nullptr;
  // The descriptor of a filter that notifies (borrowed): to be handed to who answers, before this returns. False, with
  // *failure filled: the start fails; the process is then the caller's to end.
  bool (*listener)(void* context, int fd, Failure* failure) = nullptr;
  void* context = nullptr;
};

// What only the caller has. Descriptors are borrowed.
struct Options {
  int pid_namespace = -1;  // for plans with kPlanCallerPid: namespace fd or pidfd
  int target = -1;         // for plans with kPlanCallerTarget: pidfd of the container's first process
  // A sealed executable (memfd of the program berth-init) that runs the child side. For callers whose own executable is
  // a file of the host: the child must not be entered through /proc/self/exe and written to (CVE-2019-5736). -1: the
  // child is a fork of the caller, whose executable is then expected to be sealed itself.
  int stub = -1;
  Observer observer;  // of the set-up
};

// main of berth-init: `control` is the descriptor that Create left for it. Does not return.
[[noreturn]] void RunStub(int control);
// A sealed memfd with `image` in it, to be Options::stub; O_CLOEXEC. -1 and errno.
int SealExecutable(const void* image, size_t size);

// Runs the plan's parent and child side up to the last step before execve. False: nothing is left (the child is
// reaped), *failure says why. The caller must not have SIGCHLD ignored.
bool Create(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio, Process* process,
            Failure* failure);
bool Create(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio,
            const Options& options, Process* process, Failure* failure);

// The same in steps, for a caller that must not wait for the child, which may hang on a filesystem:
//   Begin     forks the child. False: nothing is left.
//   Continue  takes one message from process->sync, waiting for it when `wait`; poll that descriptor between the calls.
//             kReady: everything up to execve is done. kStarted, after Release: execve has happened.
//             kFailed: *failure says why; the child still has to be discarded.
//   Release   lets a ready process exec. False: *failure says why; discard it.
//   Discard   kills the child and closes what belongs to it. Does not reap it.
enum class Progress { kMore, kReady, kStarted, kFailed };
bool Begin(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio,
           const Options& options, Process* process, Failure* failure);
Progress Continue(Process* process, bool wait, Failure* failure, const Observer& observer = {});
bool Release(Process* process, Failure* failure);
void Discard(Process* process);

// Lets a created process exec; returns after the exec has happened or failed. The process is reaped by the caller.
bool Start(Process* process, Failure* failure);
bool Start(Process* process, const Observer& observer, Failure* failure);
// The same through a connection to the plan's listening socket; consumes `connection`.
bool StartOver(int connection, Failure* failure);
bool StartOver(int connection, const Observer& observer, Failure* failure);

// Create and Start of a process that joins a running container (the plan's kind is exec; fds hold the container's pidfd
// unless it comes with the options). The child is reaped when it fails.
bool Exec(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio, Process* process,
          Failure* failure);
bool Exec(const void* plan, size_t plan_size, const int* fds, size_t fd_count, const Stdio& stdio,
          const Options& options, Process* process, Failure* failure);

}  // namespace berth::init
