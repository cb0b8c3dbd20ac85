// The documents that `spec` and `features` print.
#include "base/json.h"
#include "runtime/linux/caps.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {

std::string SpecTemplate(bool rootless) {
  Spec s;
  s.root = Root{"rootfs", true};
  Process p;
  p.terminal = true;
  p.args = {"sh"};
  p.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"};
  std::vector<std::string> caps = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
  p.capabilities = Capabilities{caps, caps, {}, caps, {}};
  p.rlimits = {{"RLIMIT_NOFILE", 1024, 1024}};
  p.noNewPrivileges = true;
  s.process = p;
  s.hostname = "berth";
  s.mounts = {{"/proc", "proc", "proc", {}, {}, {}},
              {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
              {"/dev/pts",
               "devpts",
               "devpts",
               {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
               {},
               {}},
              {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}, {}, {}},
              {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}, {}, {}},
              {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}, {}, {}},
              {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}, {}, {}}};
  Linux l;
  l.namespaces = {{"pid", ""}, {"network", ""}, {"ipc", ""}, {"uts", ""}, {"mount", ""}, {"cgroup", ""}};
  l.maskedPaths = {
      "/proc/acpi",       "/proc/asound",      "/proc/kcore",       "/proc/keys",    "/proc/latency_stats",
      "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap",
      "/proc/scsi"};
  l.readonlyPaths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
  if (rootless) {
    // What an unprivileged user may have: itself as root, the network it already has, no limits.
    std::erase_if(l.namespaces, [](const Namespace& n) { return n.type == "network"; });
    l.namespaces.push_back({"user", ""});
    l.uidMappings = {{0, ::geteuid(), 1}};
    l.gidMappings = {{0, ::getegid(), 1}};
    std::erase_if(s.mounts, [](const Mount& m) { return m.destination == "/sys" || m.destination == "/sys/fs/cgroup"; });
    s.mounts.push_back({"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}, {}, {}});
    for (Mount& m : s.mounts) std::erase(m.options, "gid=5");  // not mapped
  }
  s.linux = l;
  return json::SerializePretty(json::ToValue(s, json::Omit::kEmpty)) + "\n";
}

std::string Features() {
  using json::Array;
  using json::Object;
  auto list = [](std::initializer_list<const char*> words) {
    Array a;
    for (const char* w : words) a.emplace_back(w);
    return a;
  };
  Array caps;
  for (const std::string& name : caps::AllNames()) caps.emplace_back(name);
  Object seccomp{
      {"enabled", true},
      {"actions", list({"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                        "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"})},
      {"operators", list({"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                          "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"})},
      {"archs", list({"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64", "SCMP_ARCH_X32", "SCMP_ARCH_X86",
                      "SCMP_ARCH_X86_64"})},
      {"knownFlags", list({"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"})},
      {"supportedFlags",
       list({"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"})}};
  Object linux{
      {"namespaces", list({"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"})},
      {"capabilities", caps},
      {"cgroup", Object{{"v1", true}, {"v2", true}, {"systemd", true}, {"systemdUser", true}, {"rdma", true}}},
      {"seccomp", seccomp},
      {"apparmor", Object{{"enabled", true}}},
      {"selinux", Object{{"enabled", true}}},
      {"intelRdt", Object{{"enabled", true}, {"schemata", true}, {"monitoring", true}}},
      {"memoryPolicy",
       Object{{"modes", list({"MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                              "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"})},
              {"flags", list({"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"})}}},
      {"mountExtensions", Object{{"idmap", Object{{"enabled", true}}}}},
      {"netDevices", Object{{"enabled", true}}}};
  Object all{{"ociVersionMin", "1.0.0"},
             {"ociVersionMax", "1.3.0"},
             {"hooks", list({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})},
             {"mountOptions", list({"acl", "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud", "mand", "noacl", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable"})},
             {"linux", linux},
             {"annotations", Object{}},
             {"potentiallyUnsafeConfigAnnotations", Array{}}};
  return json::SerializePretty(all) + "\n";
}

}  // namespace berth::runtime::oci
