#pragma once
// What the configuration decides about processes and cgroups. Filled by config/.
#include <string>

namespace berth::runtime {

struct Options {
  std::string shim;                                   // path of berth-shim; empty: beside the running program
  std::string cgroup_root = "/berth";                 // pods without a cgroup parent go below it
  std::string seccomp_profile;                        // path of a profile in Docker's JSON form; empty: the built-in one
};

}  // namespace berth::runtime
