#pragma once
// What this machine can do, asked once at start: Status advertises it, requests are checked against it.
#include <set>
#include <string>

namespace berth::cri {

struct HostFacts {
  bool recursive_read_only = true;        // mount_setattr(2), Linux 5.12
  bool selinux = false;                   // selinuxfs is mounted
  std::set<std::string> handlers = {""};  // names for RunPodSandboxRequest.runtime_handler; "" is the native runtime
};

HostFacts ProbeHost();

}  // namespace berth::cri
