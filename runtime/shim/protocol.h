#pragma once
// What berthd and berth-shim say to each other, and what the shim leaves on disk.
//
//   berthd --(socketpair, descriptor 3)--> spawner            kSpawn; no answers
//   berthd <--(socketpair made per pod)--> monitor            answers kSpawn with a Hello reply, then is a client
//   any berthd <--(run_dir/shim.sock)----> monitor            clients; several at once
//
// All sockets are AF_UNIX SOCK_SEQPACKET: one message a packet, a Header and then a body. Numbers are in host byte order.
// Descriptors travel by SCM_RIGHTS in the order that each message states, at most kMaxFds. A monitor takes its clients'
// requests one by one in the order of arrival; every request gets exactly one answer, in one or more parts. Create, Start and
// Exec are answered when the process has got so far, which may be after later requests: a process that hangs on a filesystem
// holds up its own answer and nothing else. Until then its container is not there for others (kState), but for Delete, which
// ends it. A client that does not read is disconnected as soon as its socket buffer is full; it comes back, says Hello and
// asks for the list.
//
// Versions. The major version is raised when an old peer could misunderstand; otherwise structs only grow at their end:
// a reader takes a missing tail as zeros and ignores a tail it does not know, and an unknown request type is answered
// with Status::kUnimplemented. A monitor outlives many agents, so a newer agent must be able to work with any older
// monitor of the same major version. Hello settles it: both sides send nothing newer than the older minor version.
//   1.0  pods, containers, execs, logs in CRI's form
//   1.1  attach, facts, resize of execs, log formats, rotation and limits, details of exits, stdin once, start plans of version 2
//
// Exit record: state_dir/<container id>.exit, mode 0600, written as <container id>.exit.tmp, synced, renamed, directory
// synced, before anybody is told of the exit; kept until Delete. At most 255 bytes of text. The first line is all that 1.0
// wrote and reads; the second (since 1.1) holds further facts as name=value, of which a reader takes those it knows:
//   berth-exit 1 <exit code> <finished_at, unix nanoseconds>\n
//   signal=9 oom_kills=1 oom_killed=1 user_ns=1 system_ns=1 memory_peak=1 log_dropped=1\n
// A file without the final newline is damaged and counts as absent.
//
// Shared between the shim (musl, no C++ run time) and the agent: plain types only.
#include <cstddef>
#include <cstdint>

namespace berth::shim {

inline constexpr uint32_t kMagic = 0x48535242;  // "BRSH"
inline constexpr uint16_t kMajor = 1;           // what this source speaks
inline constexpr uint16_t kMinor = 1;
inline constexpr size_t kMaxMessage = 16384;    // bytes, header included
inline constexpr size_t kMaxFds = 250;          // the kernel's SCM_MAX_FD is 253
inline constexpr size_t kIdSize = 65;           // 64 characters and NUL
inline constexpr size_t kMaxContainers = 1024;  // of one pod, not yet deleted
inline constexpr size_t kMaxExecs = 1024;       // running at once in one pod
inline constexpr size_t kMaxClients = 8;
inline constexpr size_t kMaxAttaches = 64;      // at once in one pod
inline constexpr const char kSocketName[] = "shim.sock";    // in run_dir
inline constexpr const char kRecordSuffix[] = ".exit";      // in state_dir
inline constexpr const char kRecordFormat[] = "berth-exit 1 ";
inline constexpr size_t kRecordLimit = 256;

enum class Type : uint16_t {
  // requests
  kSpawn = 1,       // to the spawner: SpawnRequest, then sysctls as "name\0value\0"...
                    //   fds: the monitor's end of a socketpair; bound, not listening socket; state_dir
  kHello = 2,       // HelloRequest. Answer: HelloReply. From here on the client gets events
  kList = 3,        // Empty. Answer: ContainerEntry[] in parts
  kCreate = 4,      // CreateRequest; fds: plan, log file when kHasLog, then the plan's. Answer: PidReply
  kStart = 5,       // ContainerRequest. Answer: StartReply
  kSignal = 6,      // SignalRequest: to the container's first process
  kDelete = 7,      // ContainerRequest: forgets an exited container and its record; kills one that was never started
  kExec = 8,        // ExecRequest; fds: plan, write end of the exit pipe, stdio as flagged, then the plan's.
                    //   Answer: ExecReply; fds: pty master when kTty
  kSignalExec = 9,  // SignalExecRequest. An exec that has ended is success
  kReopenLog = 10,  // ContainerRequest; fds: the new log file
  kCloseStdin = 11, // ContainerRequest
  kResize = 12,     // ResizeRequest: the container's terminal
  kShm = 13,        // Empty. Answer: Empty; fds: a detached mount of the pod's /dev/shm
  kShutdown = 14,   // Empty: kills every process of the pod, answers when all are reaped, ends the monitor
  // since 1.1
  kFacts = 15,      // ContainerRequest, or Empty for all. Answer: FactsReply and FactsEntry[], in parts
  kAttach = 16,     // AttachRequest; fds: write end of the news pipe, then the streams as flagged: pipes or stream sockets.
                    //   The one for input is read, the others are written; the same socket may stand for several.
                    //   Answer: AttachReply
  kDetach = 17,     // DetachRequest. One that has ended is success
  kResizeExec = 18, // ResizeExecRequest: the exec's terminal
  kPolicy = 19,     // PolicyRequest, for a container that was created without: its log and limits from the next read on;
                    //   fds: the log's directory when kHasLogDir, cgroup directories
  kSocket = 20,     // SocketRequest: a TCP socket in the pod's network namespace, for the agent to connect. Answer: Empty; fds: it
  kForeign = 40,    // ForeignRequest: runs a command of another OCI runtime; see there
  // answers
  kReply = 100,     // success; body as the request says
  kError = 101,     // ErrorReply
  // events, request 0
  kExit = 200,      // ExitEvent
};

enum HeaderFlags : uint16_t {
  kMore = 1,        // further parts of this answer follow
};

struct Header {
  uint32_t magic = kMagic;
  uint16_t major = kMajor, minor = kMinor;
  Type type{};
  uint16_t flags = 0;
  uint32_t length = 0;      // bytes after the header
  uint64_t request = 0;     // chosen by the client, repeated in the answer
  uint64_t expires = 0;     // CLOCK_MONOTONIC nanoseconds: not begun by then, the answer is kExpired and nothing is done. 0: never
};

enum class Status : uint16_t {
  kInvalid = 1,             // malformed message or plan
  kNotFound = 2,
  kExists = 3,
  kState = 4,               // the container is in a state that forbids this
  kFull = 5,                // a table is full
  kExpired = 6,
  kUnimplemented = 7,
  kSystem = 8,              // a system call failed: `sys`
  kNoExecutable = 9,        // the program to run does not exist in the container
  kNotExecutable = 10,      // it exists and may not be executed
  kCommand = 11,            // a command of another runtime failed; its log in the bundle says why
};

struct ErrorReply {
  Status status{};
  uint16_t pad = 0;
  int32_t sys = 0;          // errno, 0: none
  char what[256] = {};      // complete, with the words for `sys`
};

enum SpawnFlags : uint32_t {
  kOwnNet = 1, kOwnUts = 2, kOwnIpc = 4,
  kSharedPid = 8,           // one PID namespace with an init that reaps
  kAttachShm = 16,          // behave as on kernels before 6.15 (tests)
};
struct SpawnRequest {
  char pod[kIdSize] = {};
  char hostname[65] = {};
  char pad[2] = {};
  uint32_t flags = 0;
  uint32_t sysctl_bytes = 0;
  uint64_t shm_bytes = 0;   // 0: no /dev/shm of its own
};

struct HelloRequest { uint16_t oldest_major = kMajor, newest_major = kMajor, minor = kMinor, pad = 0; };
enum HelloFds : uint32_t {  // which descriptors came, in this order
  kFdMonitor = 1,           // pidfd of the monitor
  kFdNetns = 2,             // the pod's network namespace; absent when it is the host's
  kFdRoute = 4,             // NETLINK_ROUTE and
  kFdNetfilter = 8,         //   NETLINK_NETFILTER sockets opened inside it, new ones for each Hello
  kFdShm = 16,              // detached tmpfs that can be cloned from any namespace; absent: ask kShm for each container
};
struct HelloReply {
  uint16_t major = kMajor, minor = kMinor;  // settled: the newest major both know, the older minor
  int32_t pid = 0;
  uint32_t fds = 0;         // HelloFds
  uint32_t containers = 0;
  char pod[kIdSize] = {};
  char pad[7] = {};
  int32_t init = 0;         // pid of the init of the pod's PID namespace; 0: it has none
  uint32_t pad2 = 0;
};

struct Empty {};
struct ContainerRequest { char id[kIdSize] = {}; char pad[7] = {}; };

enum class State : uint8_t { kFree = 0, kCreated = 1, kRunning = 2, kExited = 3 };
struct ContainerEntry {
  char id[kIdSize] = {};
  State state{};
  char pad[6] = {};
  int32_t pid = -1;         // -1 once exited
  int32_t exit_code = 0;
  int64_t started_at = 0;   // unix nanoseconds; 0: never started
  int64_t finished_at = 0;
};

enum CreateFlags : uint32_t {
  kTty = 1,                 // the plan asks for a terminal: all output is stdout, CR before LF is dropped in the log
  kKeepStdin = 2,           // stdin is a pipe whose other end the monitor holds; else /dev/null
  kHasLog = 4,              // without it output is read and dropped
  kJoinPodPid = 8,          // the PID namespace of the pod's init
  kJoinTargetPid = 16,      //   or that of container `target`
  kIn = 32, kOut = 64, kErr = 128,  // exec, attach: which standard streams are given
  // since 1.1
  kStdinOnce = 256,         // with kKeepStdin: the end of the first attached client's input closes stdin for good
  kHasLogDir = 512,         // after the log file: its directory, in which the monitor rotates `log_name`
};
enum class LogFormat : uint32_t { kCri = 0, kJson = 1 };
enum class LogMode : uint32_t {
  kBlock = 0,               // what the log does not take stays in the pipe: the container waits
  kDrop = 1,                // whole lines are dropped and counted; a record says how many as soon as the log takes it
};
enum FactFds : uint32_t {   // cgroup directories of a container, in this order, after the log's descriptors
  kFactMemory = 1, kFactCpu = 2, kFactPids = 4,
  kFactUnified = 8,         // alone: one directory is all three
};
struct ContainerPolicy {    // since 1.1
  LogFormat log_format = LogFormat::kCri;
  LogMode log_mode = LogMode::kBlock;
  uint64_t log_rate = 0;    // bytes of output a second; 0: as fast as it comes
  uint64_t log_bytes = 0;   // a log file grows to at most this before the monitor rotates it; 0: it never does
  uint32_t log_files = 0;   // files that rotation keeps, the current one included: name, name.1, ...
  uint32_t fact_fds = 0;    // FactFds
  char log_name[256] = {};
};
struct CreateRequest {
  char id[kIdSize] = {};
  char target[kIdSize] = {};
  char pad[2] = {};
  uint32_t flags = 0;
  uint32_t plan_fds = 0;
  uint64_t plan_size = 0;   // bytes of the sealed memfd
  ContainerPolicy policy;   // since 1.1
};
struct PolicyRequest {
  char id[kIdSize] = {};
  char pad[3] = {};
  uint32_t flags = 0;       // CreateFlags: kStdinOnce, kHasLogDir
  ContainerPolicy policy;
};
struct PidReply { int32_t pid = -1; uint32_t pad = 0; };
struct StartReply { int64_t started_at = 0; };
struct SignalRequest { char id[kIdSize] = {}; char pad[3] = {}; int32_t signal = 0; };

struct ExecRequest {
  char container[kIdSize] = {};
  char pad[3] = {};
  uint32_t flags = 0;       // CreateFlags: kTty, kIn, kOut, kErr
  uint32_t plan_fds = 0;
  uint64_t plan_size = 0;
};
struct ExecReply { uint64_t exec = 0; int32_t pid = -1; uint32_t pad = 0; };
struct SignalExecRequest { uint64_t exec = 0; int32_t signal = 0; uint32_t pad = 0; };
struct ResizeRequest { char id[kIdSize] = {}; char pad[3] = {}; uint16_t rows = 0, columns = 0; };

// A container whose namespaces and mounts another OCI runtime makes. The monitor runs the runtime's commands that become
// parents of the container's processes (`create`, `exec --detach`) and `start`, in the namespaces of the process that comes
// as a pidfd; it adopts the process that the command's pid file names, which the kernel hands to it as the subreaper. From
// then on output, terminal, exit code and record are as for its own containers. Everything else (kill, delete, pause, ...)
// the agent runs itself.
//
// The answer comes when the command has ended; other requests are served meanwhile. Delete during a creation kills the
// command. After ForeignRequest: argv, then environment, each text ended by NUL.
//   fds: pidfd of a process in the runtime's namespaces; the bundle: the command's current directory, where pid_file is;
//   create: log file when kHasLog; console socket, listening, when kTty. Answer: PidReply
//   start:  no more. Answer: StartReply
//   exec:   write end of the exit pipe; console socket when kTty, else stdio as flagged. Answer: ExecReply; fds: pty master
enum class Verb : uint32_t { kCreate = 1, kStart = 2, kExec = 3 };
inline constexpr size_t kMaxCommands = 64;      // of one pod, at work at once
inline constexpr size_t kMaxWords = 256;        // argv and environment together
struct ForeignRequest {
  char id[kIdSize] = {};
  char pid_file[39] = {};   // a name in the bundle; empty for start
  Verb verb{};
  uint32_t flags = 0;       // CreateFlags: kTty, kKeepStdin, kHasLog; exec: kTty, kIn, kOut, kErr
  uint32_t argc = 0, envc = 0;
};

struct ExitDetails {        // since 1.1
  int32_t signal = 0;       // that ended the first process; 0: it exited
  uint32_t oom_kills = 0;   // processes of the container that the kernel killed for want of memory
  uint32_t oom_killed = 0;  // 1: that is why the container ended
  uint32_t pad = 0;
  int64_t user_ns = 0, system_ns = 0;   // of the first process and what it has waited for
  uint64_t memory_peak = 0; // bytes
  uint64_t log_dropped = 0; // lines of output that the log has not got
};
struct ExitEvent {
  char id[kIdSize] = {};
  char pad[3] = {};
  int32_t exit_code = 0;    // 128+n by signal
  int64_t finished_at = 0;  // unix nanoseconds
  ExitDetails details;      // since 1.1
};

struct FactsReply { uint32_t entry_size = 0, count = 0; };  // FactsEntry of a later version is longer: step by entry_size
enum FactFlags : uint32_t {
  kFactTty = 1,
  kFactStdin = 2,           // input can still be given
  kFactStalled = 4,         // the log takes no more for now: log_errno
  kFactFrozen = 8,
};
struct FactsEntry {
  char id[kIdSize] = {};
  State state{};
  char pad[2] = {};
  uint32_t flags = 0;       // FactFlags
  int32_t pid = -1;
  int32_t exit_code = 0;
  int64_t started_at = 0, finished_at = 0;
  ExitDetails exit;
  uint64_t log_bytes = 0;   // written to the log so far, and what it refused:
  uint64_t log_errors = 0;
  uint64_t log_rotations = 0;
  uint64_t log_dropped_bytes = 0;
  int32_t log_errno = 0;    // of the last write; 0: it worked
  uint32_t attaches = 0, execs = 0;
  uint32_t pids = 0;        // from here on of the cgroup now; zeros where it is not known
  uint64_t memory_bytes = 0, cpu_ns = 0;
};

enum class SlowClient : uint32_t {
  kDrop = 0,                // gets what fits into its socket; the news tell what is missing
  kDetach = 1,              // is detached
  kWait = 2,                // the container waits for it
};
struct AttachRequest {
  char id[kIdSize] = {};
  char pad[3] = {};
  uint32_t flags = 0;       // CreateFlags: kIn, kOut, kErr
  SlowClient slow = SlowClient::kDrop;
};
struct AttachReply { uint64_t attach = 0; };
struct DetachRequest { uint64_t attach = 0; };
enum class AttachNewsKind : uint32_t { kDropped = 1, kEnded = 2 };
enum class AttachEnd : uint64_t { kOutput = 1, kDetached = 2, kSlow = 3, kGone = 4 };  // the container's end, Detach, kDetach, closed
struct AttachNews {         // on the news pipe, which the monitor closes after kEnded
  AttachNewsKind kind{};
  uint32_t stream = 0;      // kDropped: 1 stdout, 2 stderr
  uint64_t count = 0;       // kDropped: bytes that were not delivered; kEnded: AttachEnd
};
struct SocketRequest { int32_t family = 0; uint32_t pad = 0; };  // AF_INET, AF_INET6
struct ResizeExecRequest { uint64_t exec = 0; uint16_t rows = 0, columns = 0; uint32_t pad = 0; };

static_assert(sizeof(Header) == 32);
static_assert(sizeof(ContainerEntry) == 96);
static_assert(sizeof(ForeignRequest) == 120);
static_assert(offsetof(CreateRequest, policy) == 152);
static_assert(offsetof(ExitEvent, details) == 80);
static_assert(sizeof(ExitDetails) == 48);
static_assert(sizeof(FactsEntry) == 208);

}  // namespace berth::shim
