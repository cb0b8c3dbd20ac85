#pragma once
// What the configuration decides about processes and cgroups. Filled by config/.
#include <map>
#include <string>
#include <vector>

namespace berth::runtime {

// Another OCI runtime, which pods name (RuntimeClass, CRI's runtime_handler).
struct Handler {
  std::string path;                                   // the program
  std::string type = "oci";                           // how it is driven: by the command line of OCI runtimes
  std::string root;                                   // its state directory; empty: one in each pod's directory
  std::vector<std::string> options;                   // put before its commands, such as "--systemd-cgroup"
};

struct Options {
  std::string shim;                                   // path of berth-shim; empty: beside the running program
  std::string cgroup_root = "/berth";                 // pods without a cgroup parent go below it
  std::string seccomp_profile;                        // path of a profile in Docker's JSON form; empty: the built-in one
  std::map<std::string, Handler> handlers;            // by name; without one a pod gets the native runtime
};

}  // namespace berth::runtime
