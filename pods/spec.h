#pragma once
// What a caller asks for: a pod and its containers, free of any wire format. Every front door (CRI, Engine API, CLI)
// translates into these and nothing else. They are kept in berth.db as JSON, so members only ever get added.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <boost/describe.hpp>

#include "base/id.h"

namespace berth::pods {

using Labels = std::map<std::string, std::string>;

enum class Namespace { kPod, kContainer, kNode, kTarget };
BOOST_DESCRIBE_ENUM(Namespace, kPod, kContainer, kNode, kTarget)

struct Namespaces {
  Namespace network = Namespace::kPod, pid = Namespace::kContainer, ipc = Namespace::kPod;
  std::string target;  // container id, with pid = kTarget
};
BOOST_DESCRIBE_STRUCT(Namespaces, (), (network, pid, ipc, target))

struct Port {
  std::string protocol = "tcp";
  uint16_t host_port = 0, container_port = 0;
  std::string host_ip;
};
BOOST_DESCRIBE_STRUCT(Port, (), (protocol, host_port, container_port, host_ip))

struct Dns {
  std::vector<std::string> servers, searches, options;
};
BOOST_DESCRIBE_STRUCT(Dns, (), (servers, searches, options))

struct SecurityProfile {  // seccomp and AppArmor
  std::string kind;       // "", "default", "unconfined", "localhost"; "" is the caller's silence
  std::string path;       // localhost: profile file or name
};
BOOST_DESCRIBE_STRUCT(SecurityProfile, (), (kind, path))

struct Resources {  // zero: not set
  int64_t cpu_period = 0, cpu_quota = 0, cpu_shares = 0, memory_limit = 0, memory_swap = 0, pids_limit = 0;
  std::optional<int> oom_score_adj;
  std::string cpuset_cpus, cpuset_mems;
  std::map<std::string, uint64_t> hugepages;  // "2MB" -> bytes
  std::map<std::string, std::string> unified;
};
BOOST_DESCRIBE_STRUCT(Resources, (),
                      (cpu_period, cpu_quota, cpu_shares, memory_limit, memory_swap, pids_limit, oom_score_adj,
                       cpuset_cpus, cpuset_mems, hugepages, unified))

inline constexpr std::string_view kNativeHandler = "berth";

// Identity of a pod is (name, name_space, uid, attempt): never two pods for one.
struct PodSpec {
  std::string name, name_space, uid;
  uint32_t attempt = 0;
  std::string hostname;       // empty with host network: the node's name
  std::string log_directory;  // made when missing; empty: container output is dropped
  Dns dns;                    // nothing set: a copy of the host's resolv.conf
  std::vector<Port> ports;
  Labels labels, annotations;
  std::string cgroup_parent;  // cgroupfs path; empty: the configured root
  std::map<std::string, std::string> sysctls;
  Namespaces namespaces;
  bool privileged = false;
  std::string runtime_handler;  // empty or kNativeHandler: the native runtime; else one of the configuration
  std::string origin = "cri";   // which door made it: cri, cli, engine
};
BOOST_DESCRIBE_STRUCT(PodSpec, (),
                      (name, name_space, uid, attempt, hostname, log_directory, dns, ports, labels, annotations,
                       cgroup_parent, sysctls, namespaces, privileged, runtime_handler, origin))

enum class Propagation { kPrivate, kHostToContainer, kBidirectional };
BOOST_DESCRIBE_ENUM(Propagation, kPrivate, kHostToContainer, kBidirectional)

struct Mount {
  std::string container_path, host_path;  // host_path: absolute; a missing one is made as a directory
  bool read_only = false, recursive_read_only = false, relabel = false;
  Propagation propagation = Propagation::kPrivate;
};
BOOST_DESCRIBE_STRUCT(Mount, (), (container_path, host_path, read_only, recursive_read_only, relabel, propagation))

struct DeviceSpec {
  std::string host_path, container_path, permissions = "rwm";
};
BOOST_DESCRIBE_STRUCT(DeviceSpec, (), (host_path, container_path, permissions))

struct ContainerSpec {  // identity within its pod: (name, attempt)
  std::string name;
  uint32_t attempt = 0;
  std::string image;                       // as the caller named it; resolved when the container is created
  std::string user_image;                  // what the user wrote, for display; may be empty
  std::vector<std::string> command, args;  // replace the image's entrypoint and cmd
  std::string working_dir;
  std::vector<std::string> env;  // KEY=value, in order, later wins
  std::vector<Mount> mounts;
  std::vector<DeviceSpec> devices;
  Labels labels, annotations;
  std::string log_path;  // relative to the pod's log_directory; empty: output is dropped
  bool tty = false, keep_stdin = false, stdin_once = false;
  Resources resources;
  Namespaces namespaces;
  bool privileged = false, read_only_rootfs = false, no_new_privileges = false;
  std::optional<int64_t> run_as_user, run_as_group;
  std::string run_as_username;
  std::vector<int64_t> supplemental_groups;
  bool strict_groups = false;  // only supplemental_groups, not the image's /etc/group
  std::vector<std::string> add_capabilities, drop_capabilities, ambient_capabilities;  // with or without CAP_; ALL
  SecurityProfile seccomp, apparmor;
  // Absent: the defaults. Present, also when empty: exactly these.
  std::optional<std::vector<std::string>> masked_paths, readonly_paths;
  std::string stop_signal;  // empty: the image's, else SIGTERM
};
BOOST_DESCRIBE_STRUCT(ContainerSpec, (),
                      (name, attempt, image, user_image, command, args, working_dir, env, mounts, devices, labels,
                       annotations, log_path, tty, keep_stdin, stdin_once, resources, namespaces, privileged,
                       read_only_rootfs, no_new_privileges, run_as_user, run_as_group, run_as_username,
                       supplemental_groups, strict_groups, add_capabilities, drop_capabilities, ambient_capabilities,
                       seccomp, apparmor, masked_paths, readonly_paths, stop_signal))

}  // namespace berth::pods
