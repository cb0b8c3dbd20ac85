#pragma once
// The OCI runtime configuration (config.json, runtime-spec 1.3), members spelt as on the wire. Only Linux keys.
// Absent members are empty; unknown ones are ignored when read.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <boost/describe.hpp>

#include "base/json.h"

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

struct Scheduler {
  std::string policy;                           // SCHED_OTHER, FIFO, RR, BATCH, ISO, IDLE, DEADLINE
  int32_t nice = 0, priority = 0;
  std::vector<std::string> flags;
  uint64_t runtime = 0, deadline = 0, period = 0;  // ns, SCHED_DEADLINE
};
BOOST_DESCRIBE_STRUCT(Scheduler, (), (policy, nice, priority, flags, runtime, deadline, period))

struct IoPriority { std::string class_; int priority = 0; };  // IOPRIO_CLASS_RT, BE, IDLE; 0 highest .. 7
BOOST_DESCRIBE_STRUCT(IoPriority, (), (class_, priority))

struct ExecCpuAffinity { std::string initial, final; };   // "0-3,7"; before and after joining the cgroup
BOOST_DESCRIBE_STRUCT(ExecCpuAffinity, (), (initial, final))

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
  std::optional<Scheduler> scheduler;
  std::optional<IoPriority> ioPriority;
  std::optional<ExecCpuAffinity> execCPUAffinity;  // further processes only, never the first
};
BOOST_DESCRIBE_STRUCT(Process, (), (terminal, consoleSize, user, args, env, cwd, capabilities, rlimits, noNewPrivileges,
                                    oomScoreAdj, apparmorProfile, selinuxLabel, scheduler, ioPriority,
                                    execCPUAffinity))

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

// Limits of linux.resources. Bytes and microseconds; -1 is "no limit"; 0 is "not set" except for pids.limit and the rates.
struct Memory {
  std::optional<int64_t> limit, reservation, swap;  // swap counts memory and swap together
  std::optional<uint64_t> swappiness;
  std::optional<int64_t> kernel, kernelTCP;  // no kernel limits these any more: accepted and ignored, as the specification says
  std::optional<bool> disableOOMKiller, useHierarchy, checkBeforeUpdate;
};
BOOST_DESCRIBE_STRUCT(Memory, (), (limit, reservation, swap, swappiness, kernel, kernelTCP, disableOOMKiller, useHierarchy,
                                   checkBeforeUpdate))
struct Cpu {
  std::optional<uint64_t> shares, period;
  std::optional<int64_t> quota;
  std::string cpus, mems;
  std::optional<uint64_t> burst;
  std::optional<int64_t> idle, realtimeRuntime;
  std::optional<uint64_t> realtimePeriod;
};
BOOST_DESCRIBE_STRUCT(Cpu, (), (shares, period, quota, cpus, mems, burst, idle, realtimeRuntime, realtimePeriod))
struct Pids { std::optional<int64_t> limit; };  // 0 is a limit: nothing may be forked
BOOST_DESCRIBE_STRUCT(Pids, (), (limit))
struct HugepageLimit { std::string pageSize; uint64_t limit = 0; };
BOOST_DESCRIBE_STRUCT(HugepageLimit, (), (pageSize, limit))
struct WeightDevice { int64_t major = 0, minor = 0; std::optional<uint16_t> weight, leafWeight; };
BOOST_DESCRIBE_STRUCT(WeightDevice, (), (major, minor, weight, leafWeight))
struct ThrottleDevice { int64_t major = 0, minor = 0; uint64_t rate = 0; };  // 0: no limit
BOOST_DESCRIBE_STRUCT(ThrottleDevice, (), (major, minor, rate))
struct BlockIO {
  std::optional<uint16_t> weight, leafWeight;
  std::vector<WeightDevice> weightDevice;
  std::vector<ThrottleDevice> throttleReadBpsDevice, throttleWriteBpsDevice, throttleReadIOPSDevice, throttleWriteIOPSDevice;
};
BOOST_DESCRIBE_STRUCT(BlockIO, (), (weight, leafWeight, weightDevice, throttleReadBpsDevice, throttleWriteBpsDevice,
                                    throttleReadIOPSDevice, throttleWriteIOPSDevice))
struct InterfacePriority { std::string name; uint32_t priority = 0; };
BOOST_DESCRIBE_STRUCT(InterfacePriority, (), (name, priority))
struct NetworkResources { std::optional<uint32_t> classID; std::vector<InterfacePriority> priorities; };
BOOST_DESCRIBE_STRUCT(NetworkResources, (), (classID, priorities))
struct Rdma { std::optional<uint32_t> hcaHandles, hcaObjects; };
BOOST_DESCRIBE_STRUCT(Rdma, (), (hcaHandles, hcaObjects))

struct Resources {
  std::vector<DeviceRule> devices;
  std::optional<Memory> memory;
  std::optional<Cpu> cpu;
  std::optional<Pids> pids;
  std::vector<HugepageLimit> hugepageLimits;
  std::map<std::string, std::string> unified;
  std::optional<BlockIO> blockIO;
  std::optional<NetworkResources> network;
  std::map<std::string, Rdma> rdma;  // by device name: "mlx5_1"
};
BOOST_DESCRIBE_STRUCT(Resources, (), (devices, memory, cpu, pids, hugepageLimits, unified, blockIO, network, rdma))

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
  std::string listenerPath, listenerMetadata;   // who answers for SCMP_ACT_NOTIFY
};
BOOST_DESCRIBE_STRUCT(Seccomp, (), (defaultAction, defaultErrnoRet, architectures, flags, syscalls, listenerPath,
                                    listenerMetadata))

struct IntelRdt {
  std::string closID, l3CacheSchema, memBwSchema;
  std::vector<std::string> schemata;
  bool enableMonitoring = false;
};
BOOST_DESCRIBE_STRUCT(IntelRdt, (), (closID, l3CacheSchema, memBwSchema, schemata, enableMonitoring))

struct MemoryPolicy { std::string mode, nodes; std::vector<std::string> flags; };
BOOST_DESCRIBE_STRUCT(MemoryPolicy, (), (mode, nodes, flags))

struct Personality { std::string domain; std::vector<std::string> flags; };
BOOST_DESCRIBE_STRUCT(Personality, (), (domain, flags))

struct TimeOffset { int64_t secs = 0; uint32_t nanosecs = 0; };
BOOST_DESCRIBE_STRUCT(TimeOffset, (), (secs, nanosecs))
struct NetDevice { std::string name; };           // in the container; empty: as on the host
BOOST_DESCRIBE_STRUCT(NetDevice, (), (name))

struct Linux {
  std::vector<IdMapping> uidMappings, gidMappings;
  std::map<std::string, TimeOffset> timeOffsets;  // of a new time namespace: monotonic, boottime
  std::map<std::string, NetDevice> netDevices;    // by the name on the host
  std::map<std::string, std::string> sysctl;
  std::optional<Resources> resources;
  std::string cgroupsPath;
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  std::optional<Seccomp> seccomp;
  std::string rootfsPropagation, mountLabel;
  std::vector<std::string> maskedPaths, readonlyPaths;
  std::optional<IntelRdt> intelRdt;
  std::optional<MemoryPolicy> memoryPolicy;
  std::optional<Personality> personality;
};
BOOST_DESCRIBE_STRUCT(Linux, (), (uidMappings, gidMappings, timeOffsets, netDevices, sysctl, resources, cgroupsPath, namespaces, devices, seccomp,
                                  rootfsPropagation, mountLabel, maskedPaths, readonlyPaths, intelRdt, memoryPolicy,
                                  personality))

struct Hook {
  std::string path;
  std::vector<std::string> args, env;
  std::optional<int> timeout;                   // seconds
};
BOOST_DESCRIBE_STRUCT(Hook, (), (path, args, env, timeout))

struct Hooks { std::vector<Hook> prestart, createRuntime, createContainer, startContainer, poststart, poststop; };
BOOST_DESCRIBE_STRUCT(Hooks, (), (prestart, createRuntime, createContainer, startContainer, poststart, poststop))

struct Spec {
  std::string ociVersion = "1.2.0";
  std::optional<Root> root;
  std::vector<Mount> mounts;
  std::optional<Process> process;
  std::string hostname, domainname;
  std::map<std::string, std::string> annotations;
  std::optional<Linux> linux;
  std::optional<Hooks> hooks;
};
BOOST_DESCRIBE_STRUCT(Spec, (), (ociVersion, root, mounts, process, hostname, domainname, annotations, linux, hooks))

}  // namespace berth::runtime::oci

template <>
struct berth::json::Names<berth::runtime::oci::IoPriority> {
  static constexpr Rename kWire[] = {{"class_", "class"}};
};
