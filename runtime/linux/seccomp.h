#pragma once
// System call filters: profiles and their compilation.
//
// A profile in Docker's form depends on what the container may do (capabilities), on the architecture and on the
// kernel; `Resolve` turns it into an OCI filter, `Compile` into a BPF program. Compilation is ours: numbers come from
// libseccomp, the program is a balanced search over number ranges, which the kernel loads in 0.05 to 0.1 ms where
// libseccomp's own output takes 0.25 to 0.9. Programs are cached in memory (thread-safe) and, when a directory is
// given, on disk.
#include <linux/filter.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "runtime/linux/caps.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::seccomp {

struct Program {
  std::vector<sock_filter> code;
  uint32_t flags = 0;                // SECCOMP_FILTER_FLAG_*
  std::vector<std::string> unknown;  // names that no architecture of the filter has: skipped, as the specification says
};

// kInvalidArgument names the member ("linux.seccomp.syscalls[3].action: ..."). With SCMP_ACT_NOTIFY anywhere the flags
// have SECCOMP_FILTER_FLAG_NEW_LISTENER.
// `cache_dir`, when not empty, is created 0700 and must be writable by us alone.
Result<std::shared_ptr<const Program>> Compile(const oci::Seccomp& filter, const std::string& cache_dir = "");
// Without any cache, and for every architecture of the filter, also those this kernel does not run (x32).
Result<Program> Build(const oci::Seccomp& filter);

// What a profile's conditions are judged against.
struct Conditions {
  caps::Set caps = 0;                           // the container's (bounding set)
  std::string arch;                             // Go's name: "amd64"; empty: this machine's
  unsigned kernel_major = 0, kernel_minor = 0;  // 0: this kernel
};

// Docker's default profile (moby profiles, 2025), for a container with these capabilities.
oci::Seccomp DefaultFilter(caps::Set caps);
oci::Seccomp DefaultFilter(const Conditions& conditions);
// A profile file: Docker's form (archMap, includes, excludes) or plain OCI. `where` names it in errors.
Result<oci::Seccomp> ParseProfile(std::string_view text, std::string_view where, const Conditions& conditions);

// Number of a system call; covers those newer than the installed libseccomp. `arch` is an OCI name (SCMP_ARCH_X86_64).
std::optional<int> SyscallNumber(std::string_view name, std::string_view arch);
std::string NativeArch();    // "SCMP_ARCH_X86_64"
std::string NativeGoArch();  // "amd64"

}  // namespace berth::runtime::seccomp
