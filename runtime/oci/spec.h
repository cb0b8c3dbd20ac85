#pragma once
// The OCI runtime configuration (config.json, runtime-spec 1.3), members spelt as on the wire. Only Linux keys.
// Absent members are empty; unknown ones are ignored when read.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <boost/describe.hpp>

namespace berth::runtime::oci {

struct Root { std::string path; bool readonly = false; };
BOOST_DESCRIBE_STRUCT(Root, (), (path, readonly))

struct IdMapping { uint32_t containerID = 0, hostID = 0, size = 0; };
BOOST_DESCRIBE_STRUCT(IdMapping, (), (containerID, hostID, size))

struct Mount {
  std::string destination, type, source;
  std::vector<std::string> options;
  std::vector<IdMapping> uidMappings, gidMappings;
};
BOOST_DESCRIBE_STRUCT(Mount, (), (destination, type, source, options, uidMappings, gidMappings))

struct Box { uint16_t height = 0, width = 0; };
BOOST_DESCRIBE_STRUCT(Box, (), (height, width))

struct User {
  uint32_t uid = 0, gid = 0;
  std::optional<uint32_t> umask;
  std::vector<uint32_t> additionalGids;
};
BOOST_DESCRIBE_STRUCT(User, (), (uid, gid, umask, additionalGids))

struct Capabilities { std::vector<std::string> bounding, effective, inheritable, permitted, ambient; };
BOOST_DESCRIBE_STRUCT(Capabilities, (), (bounding, effective, inheritable, permitted, ambient))

struct Rlimit { std::string type; uint64_t hard = 0, soft = 0; };
BOOST_DESCRIBE_STRUCT(Rlimit, (), (type, hard, soft))

struct Process {
  bool terminal = false;
  std::optional<Box> consoleSize;
  User user;
  std::vector<std::string> args, env;
  std::string cwd = "/";
  std::optional<Capabilities> capabilities;
  std::vector<Rlimit> rlimits;
  bool noNewPrivileges = false;
  std::optional<int> oomScoreAdj;
  std::string apparmorProfile, selinuxLabel;
};
BOOST_DESCRIBE_STRUCT(Process, (), (terminal, consoleSize, user, args, env, cwd, capabilities, rlimits, noNewPrivileges,
                                    oomScoreAdj, apparmorProfile, selinuxLabel))

struct Namespace { std::string type, path; };   // pid network mount ipc uts user cgroup time
BOOST_DESCRIBE_STRUCT(Namespace, (), (type, path))

struct Device {
  std::string type, path;
  int64_t major = 0, minor = 0;
  std::optional<uint32_t> fileMode, uid, gid;
};
BOOST_DESCRIBE_STRUCT(Device, (), (type, path, major, minor, fileMode, uid, gid))

struct DeviceRule {
  bool allow = false;
  std::string type, access;                     // a, b, c; r w m
  std::optional<int64_t> major, minor;          // absent: any
};
BOOST_DESCRIBE_STRUCT(DeviceRule, (), (allow, type, access, major, minor))

struct Memory { std::optional<int64_t> limit, reservation, swap; std::optional<uint64_t> swappiness; };
BOOST_DESCRIBE_STRUCT(Memory, (), (limit, reservation, swap, swappiness))
struct Cpu {
  std::optional<uint64_t> shares, period;
  std::optional<int64_t> quota;
  std::string cpus, mems;
};
BOOST_DESCRIBE_STRUCT(Cpu, (), (shares, period, quota, cpus, mems))
struct Pids { int64_t limit = 0; };
BOOST_DESCRIBE_STRUCT(Pids, (), (limit))
struct HugepageLimit { std::string pageSize; uint64_t limit = 0; };
BOOST_DESCRIBE_STRUCT(HugepageLimit, (), (pageSize, limit))

struct Resources {
  std::vector<DeviceRule> devices;
  std::optional<Memory> memory;
  std::optional<Cpu> cpu;
  std::optional<Pids> pids;
  std::vector<HugepageLimit> hugepageLimits;
  std::map<std::string, std::string> unified;
};
BOOST_DESCRIBE_STRUCT(Resources, (), (devices, memory, cpu, pids, hugepageLimits, unified))

struct SeccompArg { uint32_t index = 0; uint64_t value = 0, valueTwo = 0; std::string op; };
BOOST_DESCRIBE_STRUCT(SeccompArg, (), (index, value, valueTwo, op))
struct SeccompRule {
  std::vector<std::string> names;
  std::string action;
  std::optional<uint32_t> errnoRet;
  std::vector<SeccompArg> args;
};
BOOST_DESCRIBE_STRUCT(SeccompRule, (), (names, action, errnoRet, args))
struct Seccomp {
  std::string defaultAction;
  std::optional<uint32_t> defaultErrnoRet;
  std::vector<std::string> architectures, flags;
  std::vector<SeccompRule> syscalls;
};
BOOST_DESCRIBE_STRUCT(Seccomp, (), (defaultAction, defaultErrnoRet, architectures, flags, syscalls))

struct Linux {
  std::vector<IdMapping> uidMappings, gidMappings;
  std::map<std::string, std::string> sysctl;
  std::optional<Resources> resources;
  std::string cgroupsPath;
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  std::optional<Seccomp> seccomp;
  std::string rootfsPropagation, mountLabel;
  std::vector<std::string> maskedPaths, readonlyPaths;
};
BOOST_DESCRIBE_STRUCT(Linux, (), (uidMappings, gidMappings, sysctl, resources, cgroupsPath, namespaces, devices, seccomp,
                                  rootfsPropagation, mountLabel, maskedPaths, readonlyPaths))

struct Spec {
  std::string ociVersion = "1.2.0";
  std::optional<Root> root;
  std::vector<Mount> mounts;
  std::optional<Process> process;
  std::string hostname, domainname;
  std::map<std::string, std::string> annotations;
  std::optional<Linux> linux;
};
BOOST_DESCRIBE_STRUCT(Spec, (), (ociVersion, root, mounts, process, hostname, domainname, annotations, linux))

}  // namespace berth::runtime::oci
