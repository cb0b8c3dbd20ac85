#pragma once
// Where the agent keeps things. The only place that joins these paths.
//
//   <root>                        /var/lib/berth, 0711, on disk
//     berth.db                    every record (rows of pods, containers, leases, layers, images)
//     agent.lock                  held by the running agent; a second one on the same root is refused
//     pods/<pod id>/              0700
//       etc/hosts                 files that containers see at /etc/..., unless they mount over them
//       etc/hostname
//       etc/resolv.conf
//       state/<container id>.exit exit records, written by the pod's monitor before it tells the agent
//     layers/ blobs/ snapshots/   images/ owns these
//   <run>                         /run/berth, 0710, gone after a reboot
//     berth.sock                  the CRI socket, 0660
//     pods/<pod id>/              0700, control socket of the pod's monitor
//     layers/                     images/ owns it: one mount per layer in use
#include <string>

#include "base/id.h"

namespace berth::pods {

struct Layout {
  std::string root, run;

  std::string Database() const { return root + "/berth.db"; }
  std::string Lock() const { return root + "/agent.lock"; }
  std::string Pods() const { return root + "/pods"; }
  std::string PodDir(const PodId& pod) const { return Pods() + "/" + pod.str(); }
  std::string PodEtc(const PodId& pod) const { return PodDir(pod) + "/etc"; }
  std::string PodState(const PodId& pod) const { return PodDir(pod) + "/state"; }
  std::string ExitRecord(const PodId& pod, const ContainerId& id) const {
    return PodState(pod) + "/" + id.str() + ".exit";
  }
  std::string RunPods() const { return run + "/pods"; }
  std::string PodRun(const PodId& pod) const { return RunPods() + "/" + pod.str(); }
  std::string Socket() const { return run + "/berth.sock"; }
};

}  // namespace berth::pods
