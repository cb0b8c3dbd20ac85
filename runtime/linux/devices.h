#pragma once
// Which devices a container may use (OCI linux.resources.devices). Rules apply in order, later ones win.
#include <vector>

#include <linux/bpf.h>

#include "base/error.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::cgroup {

Result<void> CheckDeviceRules(const std::vector<oci::DeviceRule>& rules);  // kInvalidArgument names the member
// The rules a container gets: everything denied unless the list itself opens with something else, the given rules, then
// the devices every container may use (null, zero, full, random, urandom, tty, console, ptmx, pts; mknod of any).
std::vector<oci::DeviceRule> WithDefaultDevices(const std::vector<oci::DeviceRule>& rules);
// A program of type BPF_PROG_TYPE_CGROUP_DEVICE with the meaning of the rules; what no rule names is denied.
std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules);

}  // namespace berth::runtime::cgroup
