#pragma once
// The seam between pods and processes: what starts, signals and watches them. `ShimLauncher` does it natively through
// berth-shim, and drives other runtimes (crun, runsc) through the same monitors.
//
// A pod's monitor outlives the agent. All calls are safe from any thread; calls for one pod are serialised by the
// implementation, a pod that hangs delays no other. Every call has a deadline and says in its error what it waited for.
// Descriptors that a call takes are borrowed for the call; descriptors in results are owned by the caller.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/unique_fd.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/oci/spec.h"

namespace berth::runtime {

enum class NamespaceMode { kPod, kContainer, kNode, kTarget };  // CRI's numbers

struct PodLaunch {
  PodId id;
  std::string hostname;                  // set when uts is the pod's own
  bool host_network = false;             // true: the monitor stays in the host's network and uts namespaces
  bool host_ipc = false;
  bool shared_pid = false;               // one PID namespace with a built-in init that reaps
  std::map<std::string, std::string> sysctls;  // net.* and ipc ones, checked by the caller against the namespace modes
  uint64_t shm_bytes = 64 << 20;         // one tmpfs at /dev/shm for all containers of the pod; host_ipc: the host's
  std::string state_dir;                 // existing directory on disk, 0700: exit records <container id>.exit live here
  std::string run_dir;                   // existing directory, 0700: the control socket lives here
};

struct PodHandle {
  pid_t monitor = -1;
  unique_fd netns;                       // invalid with host_network
  unique_fd netlink;                     // NETLINK_ROUTE socket opened inside the pod's network namespace
  unique_fd nf_netlink;                  // NETLINK_NETFILTER socket opened there; both invalid with host_network
  std::string netns_path;                // /proc/<monitor>/ns/net; empty with host_network
};

enum class LogFormat {
  kCri,                                  // kubernetes: "<time> stdout F line"
  kJson,                                 // Docker's json-file
};
enum class LogMode {
  kBlock,                                // what the log does not take (full disk, rate) stays in the pipe: the container waits
  kDrop,                                 // whole lines are dropped; a record in the log says how many
};
struct LogTarget {
  std::string path;                      // absolute; empty: output is read and dropped. Parents exist.
  LogFormat format = LogFormat::kCri;
  LogMode mode = LogMode::kBlock;
  uint64_t rate = 0;                     // bytes of output a second; 0: as fast as it comes
  // Rotation by the monitor, beside ReopenLog: a record that would make the file longer than this goes into the next one
  // (a record alone may be longer). Older ones are path.1, path.2 ...; `max_files` counts the current one, with 1 it is
  // emptied. 0 bytes: none.
  uint64_t max_bytes = 0;
  uint32_t max_files = 1;
};

struct ContainerLaunch {
  PodId pod;
  ContainerId id;
  const oci::Spec* spec = nullptr;       // namespaces without path: made for the container; the pod's are implied
  int rootfs = -1;                       // detached mount (fsmount/open_tree) or directory O_PATH; becomes /
  LogTarget log;
  bool tty = false;
  bool keep_stdin = false;               // a stdin pipe is held open by the monitor; else /dev/null
  bool stdin_once = false;               // the end of the first attached input closes stdin for good; not of a terminal
  NamespaceMode pid = NamespaceMode::kContainer;
  ContainerId target;                    // with kTarget: whose PID namespace to join
  std::string handler;                   // which OCI runtime makes it (Options::handlers); empty: the native one
};

struct ExecLaunch {
  PodId pod;
  ContainerId container;
  const oci::Spec* spec = nullptr;       // the container's: its seccomp filter is the exec's; null: none is set
  const oci::Process* process = nullptr; // args, env, cwd, user, capabilities, ...; env and cwd already complete
  // Either descriptors that become the process's standard streams (pipes or sockets) ...
  int in = -1, out = -1, err = -1;       // -1: /dev/null
  bool tty = false;                      // ... or a new terminal, whose master comes back in ExecHandle
  uint16_t rows = 0, columns = 0;
};

struct ExecHandle {
  uint64_t id = 0;                       // unique per pod monitor
  pid_t pid = -1;                        // in the host's PID namespace
  unique_fd terminal;                    // pty master when tty
  unique_fd exit;                        // a pipe: the monitor writes one int32 exit code (128+n by signal) and closes
};

// What a slow reader of an attached container's output means.
enum class SlowReader {
  kDrop,                                 // it gets what fits into its socket; the news tell how much is missing
  kDetach,                               // it is detached
  kWait,                                 // the container waits for it
};
struct AttachLaunch {
  PodId pod;
  ContainerId container;
  // Pipes or stream sockets, which the monitor serves itself; one socket may be given several times. -1: not wanted.
  int in = -1;                           // read, and written to the container's stdin or terminal
  int out = -1, err = -1;                // get what the container writes from now on; a terminal's output is all `out`
  SlowReader slow = SlowReader::kDrop;
};
struct AttachHandle {
  uint64_t id = 0;                       // unique per pod monitor
  unique_fd news;                        // a pipe of shim::AttachNews; at its end nothing is attached any more
};

struct ExitFacts {
  ContainerId id;
  int exit_code = 0;                     // 128+n by signal
  int64_t finished_at = 0;               // unix nanoseconds
  // From here on: zeros when an older monitor told it.
  int signal = 0;                        // that ended the first process; 0: it exited
  bool oom_killed = false;               // it ended because the kernel had killed it or a child for want of memory
  uint32_t oom_kills = 0;                // processes of the container that were
  int64_t user_ns = 0, system_ns = 0;    // processor time of the first process and what it has waited for
  uint64_t memory_peak = 0;              // bytes
  uint64_t log_dropped = 0;              // lines of output that the log has not got
};

struct ContainerFacts {                  // what a monitor says of a container at adoption
  ContainerId id;
  pid_t pid = -1;                        // -1 once exited
  bool started = false;
  int64_t started_at = 0;
  std::optional<ExitFacts> exit;
  bool paused = false;
};

struct ContainerUsage {
  cgroup::Stats cgroup;
  uint64_t log_bytes = 0;                // written to the log
  uint64_t log_dropped_bytes = 0;        // of output that the log has not got
  uint64_t log_errors = 0;               // writes that the disk refused
  uint32_t attaches = 0, execs = 0;      // now
};

struct AdoptedPod {
  PodId id;
  PodHandle handle;
  std::vector<ContainerFacts> containers;
};

class Launcher {
 public:
  virtual ~Launcher() = default;

  // Called from one thread of the launcher, never concurrently, also for exits that happened before adoption. Must not
  // block for long. The exit of a short-lived container may be told before StartContainer has returned.
  using ExitCallback = std::function<void(const PodId&, const ExitFacts&)>;
  using LostCallback = std::function<void(const PodId&)>;  // the monitor itself died without being asked to
  virtual void OnExit(ExitCallback callback) = 0;          // before the first other call
  virtual void OnLost(LostCallback callback) = 0;

  // Reconnects to the monitor of a pod that an earlier agent started. kNotFound: there is none any more (reboot, killed).
  virtual Result<AdoptedPod> Adopt(const PodLaunch& pod, const Deadline& until) = 0;
  // Exit records on disk, for pods whose monitor is gone. Reads state_dir only.
  virtual Result<std::vector<ExitFacts>> ReadExitRecords(const std::string& state_dir) = 0;

  virtual Result<PodHandle> StartPod(const PodLaunch& pod, const Deadline& until) = 0;
  // Kills every process of the pod, ends the monitor. A pod that is not there is success: so a pod of an earlier agent has
  // to be named by Adopt first, whatever that answers.
  virtual Result<void> StopPod(const PodId& pod, const Deadline& until) = 0;

  // Makes the container up to the last step before execve. Returns the host pid.
  virtual Result<pid_t> CreateContainer(const ContainerLaunch& launch, const Deadline& until) = 0;
  // Lets it run. When execve fails the error has the runtime's text ("exec: \"x\": executable file not found in $PATH")
  // and the container counts as exited with code 128, which OnExit tells. Error::sys is ENOENT (127 by the shells' rule) or
  // EACCES (126) when the program itself is the reason; the same from Exec.
  virtual Result<int64_t> StartContainer(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;  // started_at
  // all: every process of the container's cgroup. A container without processes is success.
  virtual Result<void> Signal(const PodId& pod, const ContainerId& id, int signal, bool all, const Deadline& until) = 0;
  // Forgets an exited (or never started: killed first) container and its exit record, removes its cgroup. A running one
  // is kConflict; one that is not there is success.
  virtual Result<void> DeleteContainer(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;
  virtual Result<ExecHandle> Exec(const ExecLaunch& launch, const Deadline& until) = 0;
  virtual Result<void> SignalExec(const PodId& pod, uint64_t exec, int signal, const Deadline& until) = 0;
  // Opens `path` anew and uses it from the next record on: nothing reaches the old file after return.
  virtual Result<void> ReopenLog(const PodId& pod, const ContainerId& id, const std::string& path, const Deadline& until) = 0;

  // Several at once. The streams are the monitor's then: they outlive the agent, and end with the container's output, with
  // Detach, or when the other end is closed. kConflict: not created or ended; input wanted and none is kept open.
  virtual Result<AttachHandle> Attach(const AttachLaunch& launch, const Deadline& until) = 0;
  virtual Result<void> Detach(const PodId& pod, uint64_t attach, const Deadline& until) = 0;   // one that has ended is success
  virtual Result<void> CloseStdin(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;
  // kConflict: it has no terminal. An exec that has ended is success.
  virtual Result<void> Resize(const PodId& pod, const ContainerId& id, uint16_t rows, uint16_t columns, const Deadline& until) = 0;
  virtual Result<void> ResizeExec(const PodId& pod, uint64_t exec, uint16_t rows, uint16_t columns, const Deadline& until) = 0;

  // A TCP socket made inside the pod's network namespace, for the caller to connect. family: AF_INET or AF_INET6.
  virtual Result<unique_fd> Socket(const PodId& pod, int family, const Deadline& until) = 0;

  // Freezes every process of the container; returns when all stand still. kNotModified: it is as asked already;
  // kConflict: it does not run. An Exec in a paused container is kConflict; SIGKILL works.
  virtual Result<void> Pause(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;
  virtual Result<void> Resume(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;
  // Changes limits; absent members stay as they are.
  virtual Result<void> Update(const PodId& pod, const ContainerId& id, const oci::Resources& resources, const Deadline& until) = 0;
  virtual Result<ContainerUsage> Usage(const PodId& pod, const ContainerId& id, const Deadline& until) = 0;
};

}  // namespace berth::runtime
