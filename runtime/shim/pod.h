#pragma once
// What a pod owns besides its containers: namespaces, sysctls, /dev/shm, the init of a shared PID namespace. All of it
// belongs to the monitor process and goes with it. Part of berth-shim.
#include <sys/types.h>

#include "runtime/shim/protocol.h"

namespace berth::shim {

struct Pod {
  char id[kIdSize] = {};
  bool own_net = false;
  int shm = -1;                  // the pod's tmpfs; -1: none
  bool shm_detached = false;     // `shm` can be cloned from any mount namespace (6.15+)
  pid_t init = -1;               // of the shared PID namespace
  int init_pidfd = -1;
};

// Moves the calling process into the pod's new namespaces and sets them up. False: `error` says why; the process should end.
bool MakePod(const SpawnRequest& request, const char* sysctls, size_t sysctl_bytes, Pod* pod, ErrorReply* error);

// A detached mount of the pod's tmpfs for one container; -1 and errno.
int CloneShm(const Pod& pod);

// Descriptors for a Hello, opened now; returns how many, *which says which (HelloFds). The caller closes all but the
// shm's, which is the last when it is there.
size_t OpenHelloFds(const Pod& pod, int* fds, uint32_t* which);

// The text is complete: what, subject, and the words for `sys` when it is not 0.
void Fail(ErrorReply* error, Status status, int sys, const char* what, const char* subject = "");

}  // namespace berth::shim
