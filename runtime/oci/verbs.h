#pragma once
// The commands of an OCI runtime, one file each. They work on the state root of one host and take no lock between
// commands: claiming an id is one mkdir, starting is one accept, so of two callers exactly one wins.
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "runtime/oci/container_dir.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

enum class Rootless { kAuto, kYes, kNo };  // auto: yes for whoever is not root of the host

struct RuntimeHost {
  std::string root = "/run/berth-oci";
  bool systemd_cgroup = false;          // cgroupsPath is "slice:prefix:name"
  bool no_cgroup = false;               // make none, set no limits
  Rootless rootless = Rootless::kAuto;  // yes: a container that may have no cgroup is run without
  int stub = -1;                        // init::Options::stub
  std::function<void(const std::string&)> warn = [](const std::string&) {};
};

// What systemd tells a service through its environment (sd_listen_fds(3), sd_notify(3)), to be passed on. Its
// descriptors come first, then the `preserve_fds`.
struct Activation {
  uint32_t listen_fds = 0;
  std::string listen_names;   // LISTEN_FDNAMES
  std::string notify_socket;  // NOTIFY_SOCKET
};

struct CreateRequest {
  std::string id;
  std::string bundle;  // absolute
  std::string pid_file, console_socket, pidfd_socket;
  bool no_pivot = false;
  bool new_keyring = true;
  uint32_t preserve_fds = 0;
  Activation activation;
};
// Standard streams are the caller's own. The container's process becomes a child of whoever reaps for this process.
Result<void> Create(const RuntimeHost& host, const CreateRequest& request);
Result<void> Start(const RuntimeHost& host, const std::string& id);
Result<StateDocument> State(const RuntimeHost& host, const std::string& id);
Result<void> Kill(const RuntimeHost& host, const std::string& id, int signal, bool all);
// force: a running container is killed, a missing one is success.
Result<void> Delete(const RuntimeHost& host, const std::string& id, bool force);
Result<std::vector<StateDocument>> List(const RuntimeHost& host);
Result<std::vector<pid_t>> Pids(const RuntimeHost& host, const std::string& id);
Result<void> Pause(const RuntimeHost& host, const std::string& id, bool paused);
Result<void> Update(const RuntimeHost& host, const std::string& id, const Resources& resources);
// Lines of the schemata of the container's own class of linux.intelRdt; kConflict when it has none.
Result<void> UpdateSchemata(const RuntimeHost& host, const std::string& id, const std::vector<std::string>& lines);
// {"type":"stats","id":...,"data":...} as runc writes it.
Result<json::Value> StatsEvent(const RuntimeHost& host, const std::string& id);
// Calls `show` with a stats event every so often and with {"type":"oom"} when the OOM killer was there, until the container
// has ended.
Result<void> Events(const RuntimeHost& host, const std::string& id, std::chrono::nanoseconds every,
                    const std::function<void(const json::Value&)>& show);

struct RunRequest {
  CreateRequest create;
  bool detach = false;
  bool keep = false;  // leave the stopped container for `delete`
  bool subreaper = true;
};
// Exit code of the container (128+n by signal), 0 when detached. *failed_code: what to exit with when it cannot be
// started: 127 executable not found, 126 not permitted, else 1.
Result<int> Run(const RuntimeHost& host, const RunRequest& request, int* failed_code);

struct ExecRequest {
  std::string id;
  Process process;  // complete
  std::string pid_file, console_socket, pidfd_socket;
  bool detach = false;
  bool ignore_paused = false;
  uint32_t preserve_fds = 0;
  Activation activation;
  std::vector<std::pair<std::string, std::string>> subgroups;  // --cgroup: ExecInput::subgroups
};
Result<int> Exec(const RuntimeHost& host, const ExecRequest& request, int* failed_code);
// The container's own process with other args: what `exec ID cmd` starts from.
Result<Process> ProcessOf(const RuntimeHost& host, const std::string& id);

// `spec`: a config.json to start from. rootless: with a user namespace of the calling user alone.
std::string SpecTemplate(bool rootless = false);
std::string Features();      // `features`

}  // namespace berth::runtime::oci
