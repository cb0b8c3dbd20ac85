#pragma once
// The core: references to the parts, and one free function a verb, each in its own file. Every front door calls these.
//
// All verbs are safe from any thread. Locks: pod, then network, then database; never two pods. Waiting happens without
// the pod's lock. Ids may be unique prefixes of at least one digit; an ambiguous prefix is kConflict.
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/db.h"
#include "base/deadline.h"
#include "cni/network.h"
#include "images/store.h"
#include "pods/state.h"
#include "runtime/launcher.h"
#include "runtime/linux/cgroup.h"
#include "runtime/options.h"

namespace berth::pods {

class Registry;    // registry.h: memory index, a lock a pod, joins of concurrent creations
class Table;       // table.h: rows in berth.db
class Events;      // events.h: one stream of what happened
class Samples;     // samples.h: background sampler of cgroups and writable layers
class Operations;  // operations.h: what runs now, at which stage

struct Core {
  Registry& registry;
  Table& table;
  Events& events;
  Samples& samples;
  runtime::Launcher& launcher;
  cni::Network& network;
  images::Store& images;
  const runtime::Options& runtime_options;
  std::string root;  // /var/lib/berth
  std::string run;   // /run/berth
  const Clock& clock;
  Operations& operations;
  const runtime::cgroup::Layout* cgroups = nullptr;  // of the host; null: no cgroup is read or removed
};

// A retry of the same identity joins the first attempt and takes its answer; after success it gets the same id.
Result<PodId> RunPod(Core& core, const PodSpec& spec, const Deadline& until);
// Kills the containers, detaches the network, ends the monitor. Idempotent; unknown id is success.
Result<void> StopPod(Core& core, const std::string& pod, const Deadline& until);
// Stops first when needed, removes the containers. Unknown id is success.
Result<void> RemovePod(Core& core, const std::string& pod, const Deadline& until);
Result<PodState> FindPod(Core& core, const std::string& pod);
std::vector<PodState> ListPods(Core& core);

// The pod must be ready. A retry of (name, attempt) joins and takes the first attempt's answer.
Result<ContainerId> CreateContainer(Core& core, const std::string& pod, const ContainerSpec& spec,
                                    const Deadline& until);
Result<void> StartContainer(Core& core, const std::string& container, const Deadline& until);
// Stop signal, then SIGKILL to the whole cgroup after `grace`. Returns when exited is visible. Unknown or not running
// is success. A second stop with a shorter grace shortens the first.
Result<void> StopContainer(Core& core, const std::string& container, std::chrono::nanoseconds grace,
                           const Deadline& until);
// Kills a running one. Unknown id is success. Leaves the log file.
Result<void> RemoveContainer(Core& core, const std::string& container, const Deadline& until);
Result<ContainerState> FindContainer(Core& core, const std::string& container);
std::vector<ContainerState> ListContainers(Core& core);
Result<void> ReopenLog(Core& core, const std::string& container, const Deadline& until);
// Waits for the exit; at once when exited.
Result<ContainerState> WaitContainer(Core& core, const std::string& container, const Deadline& until);

struct ExecResult {
  std::string out, err;
  int exit_code = 0;
};
// timeout 0: none. Over it, every process of the exec is killed and the answer is kDeadlineExceeded. 8 MiB per stream
// kept.
Result<ExecResult> ExecSync(Core& core, const std::string& container, const std::vector<std::string>& argv,
                            std::chrono::nanoseconds timeout, const Deadline& until);
struct ExecOptions {
  std::vector<std::string> argv, env;  // env in addition to the container's
  std::string user, working_dir;       // empty: the container's
  bool tty = false, privileged = false;
  int in = -1, out = -1, err = -1;  // borrowed; ignored with tty
  uint16_t rows = 0, columns = 0;
};
Result<runtime::ExecHandle> Exec(Core& core, const std::string& container, const ExecOptions& options,
                                 const Deadline& until);

struct AttachOptions {
  int in = -1, out = -1, err = -1;  // borrowed for the call: pipes or stream sockets; -1: not wanted
  runtime::SlowReader slow = runtime::SlowReader::kDrop;
};
// kConflict: not running; kFailedPrecondition: input wanted of a container that keeps none. With a terminal all output is `out`.
Result<runtime::AttachHandle> Attach(Core& core, const std::string& container, const AttachOptions& options, const Deadline& until);
Result<void> ResizeTerminal(Core& core, const std::string& container, uint16_t rows, uint16_t columns, const Deadline& until);
// A connection to a port of the pod, made inside its network: 127.0.0.1, then ::1. Non-blocking.
Result<unique_fd> Dial(Core& core, const std::string& pod, uint16_t port, const Deadline& until);

Result<ContainerUsage> Usage(Core& core, const std::string& container);
std::vector<ContainerUsage> ListUsage(Core& core);  // running containers; fresh cgroup reads
Result<cni::InterfaceStats> NetworkUsage(Core& core, const std::string& pod);

// Start-up is recovery: reads rows, compares the boot id, asks the monitors, fixes the difference, collects what no row
// owns. Call once before serving.
Result<void> Recover(Core& core);

// Changes limits in place; zeros stay as they are. A memory limit below what is in use is refused, nothing is killed for it. A
// created container starts with the new ones, of an exited one only the record changes.
Result<void> UpdateContainer(Core& core, const std::string& container, const Resources& change, const Deadline& until);
// The limits of `resources` as the runtime takes them; pure.
Result<void> SetLimits(const Resources& resources, bool cgroup_v2, runtime::oci::Resources& out);

// The OCI specification of a container: pure, golden-tested.
struct OciInput {
  const PodState& pod;
  const ContainerSpec& container;
  const images::Image& image;
  ResolvedUser user;
  std::string home;
  std::string pod_dir;  // hosts, hostname, resolv.conf of the pod live here
  std::string cgroup;
  bool cgroup_v2 = false;
  // Of container.devices, looked up on the host; privileged: all of the host.
  std::vector<runtime::oci::Device> devices;
  std::string hostname;                          // of the pod's uts namespace
  std::optional<runtime::oci::Seccomp> seccomp;  // the profile that container.seccomp asks for; none: unconfined
};
Result<runtime::oci::Spec> MakeOciSpec(const OciInput& input);
// The one a container was made from, as it is in its row.
Result<runtime::oci::Spec> FindOciSpec(Core& core, const std::string& container);

}  // namespace berth::pods
