#pragma once
// The files of a pod that its containers see: /etc/hosts, /etc/hostname, /etc/resolv.conf. Made once per pod.
#include <string>

#include "base/error.h"
#include "pods/state.h"

namespace berth::pods {

// The host's side, as a struct so that tests need no host.
struct HostFiles {
  std::string hostname, hosts, resolv_conf;
  // Reads them; a missing file is empty. A resolv.conf that names only loopback servers (a local stub) is replaced by
  // systemd-resolved's own list, since the stub cannot be reached from a pod's network.
  static HostFiles Read(bool host_network);
};

std::string NodeName();  // gethostname(2)

// What uname says in the pod: the asked name, with the host's uts namespace the node's, else the pod's name, cut to the
// kernel's 64 bytes.
std::string Hostname(const PodSpec& spec, const std::string& node);

std::string HostsFile(const PodState& pod, const std::string& hostname, const HostFiles& host);
std::string ResolvConf(const PodState& pod, const HostFiles& host);

// Writes the three files into `dir`, an existing directory.
Result<void> WritePodFiles(const std::string& dir, const PodState& pod);

}  // namespace berth::pods
