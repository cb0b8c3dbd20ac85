#pragma once
// What a container of another OCI runtime (crun, runc, runsc, ...) has on the machine: its bundle.
//
//   <pod's run_dir>/<container id>.bundle/     0700
//     handler.json   which program made it, so that it can be taken back when the configuration has changed
//     config.json    the specification, with the pod's namespaces by path
//     rootfs/        its root filesystem, attached: such runtimes want a path
//     shm/           the pod's shared memory, attached; absent when the pod uses the host's
//     <call>.log     what a command of the runtime said; <call>.json, .pid, .sock: what it is given and gives
//
// The directory is made before anything else of the container and goes last, so whatever exists can be found by it.
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/id.h"
#include "base/json.h"
#include "runtime/oci/spec.h"
#include "runtime/options.h"

namespace berth::runtime {

class ForeignBundle {
 public:
  // Makes the directory and its record. kAlreadyExists when there is one.
  static Result<ForeignBundle> Make(const std::string& run_dir, const ContainerId& id, const Handler& handler);
  // kNotFound: there is none. One whose record was never written comes without a program: nothing was run for it.
  static Result<ForeignBundle> Find(const std::string& run_dir, const ContainerId& id);
  // Ids of all bundles of a pod.
  static std::vector<ContainerId> List(const std::string& run_dir);

  const ContainerId& id() const { return id_; }
  const std::string& dir() const { return dir_; }
  std::string Path(std::string_view name) const { return fmt::format("{}/{}", dir_, name); }
  const std::string& program() const { return handler_.path; }

  // Attaches a tree, which may be attached nowhere, below the bundle.
  Result<void> Attach(int tree, std::string_view name) const;
  Result<void> WriteConfig(const oci::Spec& spec) const;
  // Detaches what is attached and removes the directory. The runtime must have forgotten the container.
  Result<void> Remove() const;

  // <program> --root ... --log <call>.log ... with the command's own words after it.
  std::vector<std::string> Words(std::string_view call, std::vector<std::string> command) const;
  // Runs a command that leaves no process behind. The error has the runtime's own words.
  Result<void> Run(std::string_view call, std::vector<std::string> command, const Deadline& until) const;
  // The error that a failed command stands for, from its log. Error::sys as Launcher::StartContainer says.
  Error Failure(std::string_view call, std::string_view what, std::string_view otherwise) const;

 private:
  ForeignBundle(const std::string& run_dir, ContainerId id);

  ContainerId id_;
  std::string dir_;
  Handler handler_;
};

// --- pure

// What of the pod a container's specification has to name by path.
struct ForeignPlace {
  std::string bundle;
  pid_t monitor = -1;    // its network, UTS and IPC namespaces are the pod's
  pid_t pid_owner = -1;  // whose PID namespace is joined; -1: as the specification says
  bool own_net = false;  // the pod has network and UTS namespaces of its own
  bool shm = false;      // and an IPC namespace, whose /dev/shm is attached in the bundle
  bool terminal = false;
};
oci::Spec ForeignSpec(oci::Spec spec, const ForeignPlace& place);
// A document without its empty texts, lists and tables: some runtimes take `"path": ""` for a path.
json::Value WithoutEmpty(json::Value document);
// The last error that a runtime wrote in its JSON log, empty: none.
std::string LastError(std::string_view log);
// Of a runtime's words for a program that cannot be run: ENOENT or EACCES; 0: something else.
int WhyNotRun(std::string_view words);

}  // namespace berth::runtime
