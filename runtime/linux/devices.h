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

// What rules come to on cgroup version 1: everything or nothing, and what is excepted from it.
struct DeviceSet {
  struct Exception {
    char type = 'c';
    int64_t major = -1, minor = -1;  // -1: any
    uint32_t access = 0;             // BPF_DEVCG_ACC_*
    bool operator==(const Exception&) const = default;
  };
  bool allows_all = false;
  std::vector<Exception> exceptions;
};
// kInvalidArgument when a rule takes a part out of a wider one before it: the kernel would ignore it without a word.
Result<DeviceSet> FlattenRules(const std::vector<oci::DeviceRule>& rules);

// A program of type BPF_PROG_TYPE_CGROUP_DEVICE with the meaning of the rules; what no rule names is denied.
std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules);

}  // namespace berth::runtime::cgroup
