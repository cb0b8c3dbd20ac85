#pragma once
// Reservation of host ports: a bound socket per port, so that a program on the host cannot take what is published, and
// what a program has is not shadowed by a pod. Nothing is ever received on them: the address is translated before, and
// what is not (to [::1]) is refused as if nobody listened. The kernel frees them with the process; they are bound again
// from the ledger when it returns.
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "cni/network.h"

namespace berth::cni {

class HostPorts {  // thread-safe
 public:
  // All or none. `four` and `six`: the families the pod has. Errors: kConflict "taken by another program". A port of a
  // protocol the kernel does not have is kFailedPrecondition.
  Result<void> Hold(const PodId& pod, const std::vector<PortMapping>& ports, bool four, bool six);
  void Release(const PodId& pod);

 private:
  std::mutex mutex_;
  std::unordered_map<PodId, std::vector<unique_fd>> held_;
};

}  // namespace berth::cni
