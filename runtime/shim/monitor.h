#pragma once
// The pod's monitor: parent of its processes. Owns namespaces, standard streams, log files and exit codes, and answers the
// agents that come and go. One thread, one epoll set, no heap; it waits for nobody but the kernel. Part of berth-shim.
#include "runtime/shim/pod.h"

namespace berth::shim {

struct MonitorFds {
  int client;      // connected; the first client, which is told of the pod by a Hello reply to `request`
  int listener;    // bound SEQPACKET socket
  int state_dir;   // opened O_RDONLY | O_DIRECTORY
};

// Serves until Shutdown. Ends the process at once when the first client cannot be told: nobody would know of the pod.
[[noreturn]] void RunMonitor(const Pod& pod, const MonitorFds& fds, uint64_t request);

}  // namespace berth::shim
