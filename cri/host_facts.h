#pragma once
// What this machine can do, asked once at start: Status advertises it, requests are checked against it.
#include <map>
#include <string>

#include "runtime/options.h"

namespace berth::cri {

struct HandlerFacts {
  bool recursive_read_only = true;
};

struct HostFacts {
  bool recursive_read_only = true;        // mount_setattr(2), Linux 5.12
  bool selinux = false;                   // selinuxfs is mounted
  // By the names for RunPodSandboxRequest.runtime_handler; "" is the native runtime.
  std::map<std::string, HandlerFacts> handlers = {{"", {}}};
};

// Asks the programs of the handlers too. One that is not there is logged: its pods fail, others go on.
HostFacts ProbeHost(const std::map<std::string, runtime::Handler>& handlers);

}  // namespace berth::cri
