#pragma once
// The start plan: everything a process needs to begin, as one flat run of bytes.
//
// Written by runtime/oci (the planner), carried over a socket when the shim executes it, read by the executor without a
// heap. Position independent: a `Str` is the offset of a NUL-terminated string from the start of the plan, a `Slice` an
// offset and a number of elements (aligned to 8), an `FdIndex` a position in the array of descriptors that travels
// beside the plan. Offset 0 is the header, so a Str of 0 means "absent". Numbers are in host byte order: planner and
// executor run on one machine.
//
// Versions: a monitor outlives agents, so planner and executor may be of different versions. Plan grows at its end only, and
// an executor reads what an older planner left out as absent. A newer planner calls a plan that uses nothing newer by the
// number that an older executor takes; flags that the older one does not know are without effect there. The minor version of
// the shim's protocol says what a monitor takes: raise it together with this one (shim/protocol.h).
#include <cstddef>
#include <cstdint>

namespace berth::init {

inline constexpr uint32_t kPlanMagic = 0x6e6c7062;  // "bpln"
inline constexpr uint32_t kPlanVersion = 2;
inline constexpr size_t kPlanLimit = 8 << 20;  // bytes; a larger plan is refused

enum class PlanKind : uint32_t { kContainer = 1, kExec = 2 };

using Str = uint32_t;
using FdIndex = int32_t;  // -1: none

struct Slice {
  uint32_t offset = 0;
  uint32_t count = 0;
};

// One step of building the file tree. Done in order, after pivot_root, so every path resolves inside the container.
enum class OpKind : uint32_t {
  kFilesystem = 1,  // a new filesystem instance of type `type` on directory `target`
  kTree = 2,        // attaches the detached tree fds[fd] on `target` (created as directory or file)
  kNode = 3,        // device node or fifo: `mode` with S_IFMT, major, minor, uid, gid
  kSymlink = 4,     // `target` -> `source`; an existing entry is left alone
  kAttributes = 5,  // mount attributes of what is mounted at `target` (read-only after it has been filled)
  kRemount = 6,     // mount(2) MS_REMOUNT of `target` with ms_flags and data; flags that are set there and that
                    // attr_clear (MOUNT_ATTR_*) does not name stay
};

enum OpFlags : uint32_t {
  kOpFile = 1u << 0,        // kTree: the target is created as a file
  kOpNoSymlinks = 1u << 1,  // no component of the target may be a symbolic link
  kOpProc = 1u << 2,        // the target is procfs: remembered for sysctls and attributes
  kOpDevpts = 1u << 3,      // remembered for the terminal
  kOpRecursive = 1u << 4,   // attributes for the whole tree
  kOpOverProc = 1u << 5,    // the target may lie inside procfs
  kOpOptional = 1u << 6,    // a filesystem type the kernel lacks (ENODEV) is skipped
  kOpEarly = 1u << 7,     // kFilesystem in a user namespace: made before the old root goes, attached in its turn; when
                          // that is refused, fds[fd] is attached instead
  kOpCopyUp = 1u << 8,    // kFilesystem, tmpfs: begins with a copy of the directory that it covers
  kOpKeepMode = 1u << 9,  // kFilesystem, tmpfs: its root has the mode of the directory that it covers
};

struct Op {
  OpKind kind = OpKind::kFilesystem;
  uint32_t flags = 0;
  FdIndex fd = -1;
  Str target = 0;
  Str source = 0;  // kFilesystem: device name; kTree: for messages; kSymlink: content
  Str type = 0;
  Str data = 0;  // filesystem options, comma separated
  uint32_t mode = 0;
  uint32_t uid = 0, gid = 0;
  uint32_t major = 0, minor = 0;
  uint64_t ms_flags = 0;                                   // MS_* of mount(2)
  uint64_t attr_set = 0, attr_clear = 0, propagation = 0;  // mount_setattr(2), after the mount; all zero: none
};

struct Join {
  FdIndex fd = -1;
  uint32_t flags = 0;  // CLONE_NEW*: what setns takes from the descriptor (namespace or pidfd)
};

struct Setting {
  Str name = 0;  // below /proc/sys: "net/ipv4/ip_forward"
  Str value = 0;
};

struct Limit {
  uint32_t resource = 0;  // RLIMIT_*
  uint32_t pad = 0;
  uint64_t soft = 0, hard = 0;
};

struct CapabilitySets {
  uint64_t bounding = 0, effective = 0, inheritable = 0, permitted = 0, ambient = 0;  // bit n: capability n
};

// A program of the specification's hooks that the child runs itself: createContainer in the container's namespaces but
// with the caller's files, startContainer in the container altogether.
struct Hook {
  Str path = 0;
  uint32_t timeout = 0;  // seconds; 0: none
  Slice args, env;       // Str[]
};

// sched_setattr(2)
struct Scheduler {
  uint32_t policy = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint32_t pad = 0;
  uint64_t flags = 0, runtime = 0, deadline = 0, period = 0;
};

enum PlanFlags : uint32_t {
  kPlanTerminal = 1u << 0,  // a new pty of the container's devpts is stdio
  kPlanReadonlyRoot = 1u << 1,
  kPlanNoNewPrivileges = 1u << 2,
  kPlanCapabilities = 1u << 3,  // `capabilities` counts; else they are left as they are
  kPlanOomScore = 1u << 4,
  kPlanUmask = 1u << 5,
  kPlanNewCgroupNamespace = 1u << 6,  // unshare(NEWCGROUP) after joining, so that the root is the container's
  kPlanLoopbackUp = 1u << 7,          // bring `lo` up in the new network namespace
  kPlanCallerPid = 1u << 8,           // the PID namespace to join comes from Options::pid_namespace
  kPlanCallerTarget = 1u << 9,        // exec: the container's pidfd comes from Options::target
  kPlanUserChange = 1u << 10,         // uid, gid and groups are set (always for containers)
  kPlanEnvironment = 1u << 12,        // wait for Options::environment before the root is entered: needs host_root
  kPlanIoPriority = 1u << 13,
  kPlanPersonality = 1u << 14,
  kPlanMemoryPolicy = 1u << 15,
  kPlanNoProcess = 1u << 20,  // there is none yet to be looked up: a start fails
  kPlanListenPid = 1u << 21,  // LISTEN_PID with the process's own id joins the environment (sd_listen_fds(3))
  kPlanAllCpus = 1u << 16,  // undo what CPU affinity was inherited: the caller's is its own affair
  kPlanUserNamespace = 1u << 17,  // the process is in a user namespace other than the host's first one
  kPlanJoinMount = 1u << 18,      // one of `joins` is a mount namespace: its root stays, ours is a chroot in it
  kPlanHostMounts = 1u << 19,     // no mount namespace of its own: the tree is attached at host_root, the process a chroot in it
  kPlanNoPivot = 1u << 11,  // chroot after move_mount onto / where pivot_root is impossible (initramfs)
};

struct Plan {
  uint32_t magic = kPlanMagic;
  uint32_t version = kPlanVersion;
  uint32_t size = 0;  // of the whole plan
  PlanKind kind = PlanKind::kContainer;
  uint32_t flags = 0;
  uint32_t fd_count = 0;  // every FdIndex is below

  // Namespaces and cgroups
  uint64_t clone_flags = 0;     // new ones, for the one clone3
  FdIndex pid_namespace = -1;   // joined by the parent around the clone (namespace fd or pidfd)
  FdIndex target = -1;          // exec: pidfd of the container's first process
  uint32_t target_flags = 0;    // exec: CLONE_NEW* to join from it; CLONE_NEWPID only together with CLONE_NEWUSER
  FdIndex cgroup2 = -1;         // directory for CLONE_INTO_CGROUP
  Slice cgroup1;                // FdIndex[]: `tasks` files to which the child writes 0
  Slice joins;                  // Join[], after the clone

  // The file tree (containers)
  FdIndex rootfs = -1;            // detached mount; exec: directory to chroot into
  Slice ops;                      // Op[]
  Slice masked, readonly_paths;   // Str[]
  FdIndex null_tree = -1;         // detached mount of a char 1:3 node: source of masks when /dev has no own null
  uint64_t root_propagation = 0;  // MS_PRIVATE, ... optionally with MS_REC; of / after the mounts
  Str hostname = 0, domainname = 0;
  Slice sysctls;  // Setting[]

  // The process
  Slice args, env;  // Str[]
  Str path = 0;     // PATH of the new environment, for looking up args[0]
  Str cwd = 0;
  Str keyring = 0;                // name of a new session keyring; 0: keep the caller's
  Str apparmor = 0, selinux = 0;  // label of the next exec
  uint32_t uid = 0, gid = 0, umask = 0;
  int32_t oom_score_adj = 0;
  Slice groups;   // uint32_t[]
  Slice rlimits;  // Limit[]
  CapabilitySets capabilities;
  Slice seccomp;                   // struct sock_filter[]
  uint32_t seccomp_flags = 0;      // SECCOMP_FILTER_FLAG_*
  uint32_t preserve_fds = 0;       // descriptors 3 .. 2+n survive the exec
  uint16_t rows = 0, columns = 0;  // of a new terminal; 0: unset
  FdIndex listen = -1;             // listening AF_UNIX socket on which another process may ask for the start

  // ---- since version 2
  FdIndex user_namespace = -1;  // joined first (by a guide, clone.h); every new namespace is owned by it
  Str host_root = 0;            // with hooks: where the caller's mount tree, of which the child has a copy, shows the
                                // root filesystem until it becomes the root (absolute, no links). 0: nowhere
  // Hooks that the child runs. What they read is state_head, a status, `","pid":`, a number, state_tail.
  Slice create_container, start_container;  // Hook[]
  Str state_head = 0, state_tail = 0;
  Str hook_dir = 0;                // working directory of createContainer hooks, in the caller's files
  Slice scheduler;                 // Scheduler[], at most one
  Slice initial_cpus, final_cpus;  // uint64_t[]: CPU masks before and after the cgroup is entered; exec only
  Slice memory_nodes;              // uint64_t[]: mask for set_mempolicy(2)
  uint32_t memory_mode = 0;        // MPOL_* with MPOL_F_*
  uint32_t io_priority = 0, personality = 0;
};
inline constexpr size_t kPlanSize1 = offsetof(Plan, user_namespace);  // what version 1 has
static_assert(kPlanSize1 == 256 && sizeof(CapabilitySets) == 40 && sizeof(Op) == 80, "members are added at the end only");

// What an executor of version 1 would leave out and must not: plans with these are of version 2.
inline constexpr uint32_t kPlanFlags2 =
    kPlanEnvironment | kPlanIoPriority | kPlanPersonality | kPlanMemoryPolicy | kPlanUserNamespace | kPlanJoinMount;
inline bool NeedsVersion2(const Plan& plan) {
  return plan.user_namespace >= 0 || plan.host_root != 0 || plan.create_container.count != 0 || plan.start_container.count != 0 ||
         plan.scheduler.count != 0 || plan.initial_cpus.count != 0 || plan.final_cpus.count != 0 || (plan.flags & kPlanFlags2) != 0;
}

}  // namespace berth::init
