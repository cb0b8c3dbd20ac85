// Profiles: Docker's default one as data, and files in Docker's JSON form.
#include <sys/utsname.h>

#include <boost/describe.hpp>

#include "base/json.h"
#include "runtime/linux/seccomp.h"

namespace berth::runtime::seccomp {
namespace {

// ---- Files
// ------------------------------------------------------------------------------------------------------------

struct Condition {
  std::vector<std::string> caps, arches;
  std::string minKernel;
};
BOOST_DESCRIBE_STRUCT(Condition, (), (caps, arches, minKernel))

struct FileRule {
  std::string name;  // old form
  std::vector<std::string> names;
  std::string action;
  std::optional<uint32_t> errnoRet;
  std::vector<oci::SeccompArg> args;
  Condition includes, excludes;
};
BOOST_DESCRIBE_STRUCT(FileRule, (), (name, names, action, errnoRet, args, includes, excludes))

struct ArchRow {
  std::string architecture;
  std::vector<std::string> subArchitectures;
};
BOOST_DESCRIBE_STRUCT(ArchRow, (), (architecture, subArchitectures))

struct File {
  std::string defaultAction;
  std::optional<uint32_t> defaultErrnoRet;
  std::vector<std::string> architectures, flags;
  std::vector<ArchRow> archMap;
  std::vector<FileRule> syscalls;
  std::string listenerPath, listenerMetadata;
};
BOOST_DESCRIBE_STRUCT(File, (),
                      (defaultAction, defaultErrnoRet, architectures, flags, archMap, syscalls, listenerPath,
                       listenerMetadata))

// ---- The default
// ------------------------------------------------------------------------------------------------------

// Always allowed. Sources: moby profiles/seccomp (2025); names that an architecture lacks are skipped there.
constexpr const char* kAlways[] = {
    // files
    "access chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 "
    "fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock "
    "fstat "
    "fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getcwd getdents getdents64 ioctl lchown lchown32 "
    "link "
    "linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 "
    "pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat "
    "renameat2 "
    "rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs "
    "tee "
    "truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes futimesat vmsplice write writev "
    "chdir cachestat listmount statmount pipe pipe2",
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr "
    "lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // memory
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 "
    "mprotect "
    "mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages process_mrelease",
    // processes, credentials
    "alarm capget capset execve execveat exit exit_group fork vfork getcpu getegid getegid32 geteuid geteuid32 getgid "
    "getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid "
    "getresuid32 getrlimit getrusage getsid gettid getuid getuid32 get_robust_list get_thread_area ioprio_get "
    "ioprio_set "
    "kill pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq setfsgid setfsgid32 setfsuid "
    "setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 "
    "setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 set_robust_list set_thread_area "
    "set_tid_address sysinfo tgkill times tkill ugetrlimit uname wait4 waitid waitpid",
    "sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler "
    "sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield",
    // signals, time, futexes
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn",
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete "
    "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime "
    "timerfd_gettime64 timerfd_settime timerfd_settime64",
    "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake",
    // waiting and asynchronous I/O
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd "
    "eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy "
    "io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 "
    "pselect6_time64 select",
    // sockets and System V, POSIX IPC
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 "
    "recvmsg "
    "send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 "
    "mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // security of the process itself
    "getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp riscv_hwprobe uretprobe"};

struct CapRow {
  const char* cap;
  const char* names;
};
constexpr CapRow kWithCapability[] = {
    {"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
    {"CAP_SYS_ADMIN",
     "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount "
     "open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
    {"CAP_SYS_BOOT", "reboot"},
    {"CAP_SYS_CHROOT", "chroot"},
    {"CAP_SYS_MODULE", "delete_module init_module finit_module"},
    {"CAP_SYS_PACCT", "acct"},
    {"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"},
    {"CAP_SYS_RAWIO", "iopl ioperm"},
    {"CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"},
    {"CAP_SYS_TTY_CONFIG", "vhangup"},
    {"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
    {"CAP_SYSLOG", "syslog"},
    {"CAP_BPF", "bpf"},
    {"CAP_PERFMON", "perf_event_open"},
};

struct ArchNames {
  const char* arches;  // Go's names
  const char* names;
};
constexpr ArchNames kByArch[] = {
    {"ppc64le", "sync_file_range2 swapcontext"},
    {"arm arm64", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"},
    {"amd64 x32", "arch_prctl"},
    {"amd64 x32 x86", "modify_ldt"},
    {"s390 s390x", "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"},
    {"riscv64", "riscv_flush_icache"},
};

// New namespaces need CAP_SYS_ADMIN: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
constexpr uint64_t kNamespaceFlags = 0x7e020000;
constexpr uint64_t kAfAlg = 38, kAfNfc = 39, kAfVsock = 40;
constexpr uint32_t kEnosys = 38, kEperm = 1;

std::vector<std::string> Split(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (!word.empty()) out.emplace_back(word);
  }
  return out;
}

bool Contains(const std::vector<std::string>& list, std::string_view what) {
  return std::find(list.begin(), list.end(), what) != list.end();
}

struct GoArch {
  const char* go;
  const char* oci;
  const char* subs;
};
constexpr GoArch kArches[] = {{"amd64", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86 SCMP_ARCH_X32"},
                              {"arm64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"},
                              {"s390x", "SCMP_ARCH_S390X", "SCMP_ARCH_S390"},
                              {"ppc64le", "SCMP_ARCH_PPC64LE", ""},
                              {"riscv64", "SCMP_ARCH_RISCV64", ""}};

const char* OciArch(std::string_view go) {
  for (const GoArch& a : kArches)
    if (go == a.go) return a.oci;
  return "";
}

Conditions Complete(Conditions c) {
  if (c.arch.empty()) c.arch = NativeGoArch();
  if (c.kernel_major == 0) {
    utsname name{};
    uname(&name);
    if (sscanf(name.release, "%u.%u", &c.kernel_major, &c.kernel_minor) != 2) c.kernel_major = 0;
  }
  return c;
}

bool KernelAtLeast(const Conditions& c, const std::string& text) {
  unsigned major = 0, minor = 0;
  sscanf(text.c_str(), "%u.%u", &major, &minor);
  return c.kernel_major > major || (c.kernel_major == major && c.kernel_minor >= minor);
}

bool HasCap(const Conditions& c, const std::string& name) {
  auto n = caps::Number(name);
  return n && (c.caps >> *n & 1);
}

bool Included(const Condition& want, const Conditions& c) {
  if (!want.arches.empty() && !Contains(want.arches, c.arch)) return false;
  for (const std::string& cap : want.caps)
    if (!HasCap(c, cap)) return false;
  return want.minKernel.empty() || KernelAtLeast(c, want.minKernel);
}

bool Excluded(const Condition& unwanted, const Conditions& c) {
  if (Contains(unwanted.arches, c.arch)) return true;
  for (const std::string& cap : unwanted.caps)
    if (HasCap(c, cap)) return true;
  return !unwanted.minKernel.empty() && KernelAtLeast(c, unwanted.minKernel);
}

oci::SeccompRule Allow(std::vector<std::string> names, std::vector<oci::SeccompArg> args = {}) {
  return {std::move(names), "SCMP_ACT_ALLOW", std::nullopt, std::move(args)};
}

}  // namespace

oci::Seccomp DefaultFilter(caps::Set caps) { return DefaultFilter(Conditions{caps, "", 0, 0}); }

oci::Seccomp DefaultFilter(const Conditions& given) {
  Conditions c = Complete(given);
  oci::Seccomp out;
  out.defaultAction = "SCMP_ACT_ERRNO";
  out.defaultErrnoRet = kEperm;
  for (const GoArch& a : kArches) {
    if (c.arch != a.go) continue;
    out.architectures.push_back(a.oci);
    for (std::string& sub : Split(a.subs)) out.architectures.push_back(std::move(sub));
  }
  std::vector<std::string> always;
  for (const char* group : kAlways)
    for (std::string& name : Split(group)) always.push_back(std::move(name));
  if (KernelAtLeast(c, "4.8"))  // before, ptrace could get around a filter
    for (const char* name : {"process_vm_readv", "process_vm_writev", "ptrace"}) always.push_back(name);
  for (const ArchNames& row : kByArch) {
    if (!Contains(Split(row.arches), c.arch)) continue;
    for (std::string& name : Split(row.names)) always.push_back(std::move(name));
  }
  out.syscalls.push_back(Allow(std::move(always)));
  // Every address family but the kernel's cryptography and host-guest sockets, which no network namespace separates.
  out.syscalls.push_back(Allow({"socket"}, {{0, kAfAlg, 0, "SCMP_CMP_LT"}}));
  out.syscalls.push_back(Allow({"socket"}, {{0, kAfNfc, 0, "SCMP_CMP_EQ"}}));
  out.syscalls.push_back(Allow({"socket"}, {{0, kAfVsock, 0, "SCMP_CMP_GT"}}));
  for (uint64_t persona :
       {0x0ULL, 0x8ULL, 0x20000ULL, 0x20008ULL, 0xffffffffULL})  // LINUX, LINUX32, UNAME26, both, query
    out.syscalls.push_back(Allow({"personality"}, {{0, persona, 0, "SCMP_CMP_EQ"}}));
  for (const CapRow& row : kWithCapability)
    if (HasCap(c, row.cap)) out.syscalls.push_back(Allow(Split(row.names)));
  if (!HasCap(c, "CAP_SYS_ADMIN")) {
    uint32_t flags_at = c.arch == "s390x" || c.arch == "s390" ? 1 : 0;
    out.syscalls.push_back(Allow({"clone"}, {{flags_at, kNamespaceFlags, 0, "SCMP_CMP_MASKED_EQ"}}));
    // Its flags are in memory, out of a filter's sight; with ENOSYS the C library falls back to clone.
    out.syscalls.push_back({{"clone3"}, "SCMP_ACT_ERRNO", kEnosys, {}});
  }
  return out;
}

Result<oci::Seccomp> ParseProfile(std::string_view text, std::string_view where, const Conditions& given) {
  File file = TRY(json::Parse<File>(text, where));
  Conditions c = Complete(given);
  if (!file.archMap.empty() && !file.architectures.empty())
    return Err(Code::kInvalidArgument, "{}: architectures and archMap exclude each other", where);
  if (file.defaultAction.empty()) return Err(Code::kInvalidArgument, "{}: defaultAction: missing", where);
  oci::Seccomp out;
  out.defaultAction = file.defaultAction;
  out.defaultErrnoRet = file.defaultErrnoRet;
  out.architectures = file.architectures;
  out.flags = file.flags;
  out.listenerPath = file.listenerPath;
  out.listenerMetadata = file.listenerMetadata;
  for (const ArchRow& row : file.archMap) {
    if (row.architecture != OciArch(c.arch)) continue;
    out.architectures.push_back(row.architecture);
    for (const std::string& sub : row.subArchitectures) out.architectures.push_back(sub);
  }
  for (size_t i = 0; i < file.syscalls.size(); ++i) {
    FileRule& rule = file.syscalls[i];
    if (!rule.name.empty() && !rule.names.empty())
      return Err(Code::kInvalidArgument, "{}: syscalls[{}]: name and names exclude each other", where, i);
    if (Excluded(rule.excludes, c) || !Included(rule.includes, c)) continue;
    if (!rule.name.empty()) rule.names.push_back(rule.name);
    out.syscalls.push_back({std::move(rule.names), rule.action, rule.errnoRet, std::move(rule.args)});
  }
  return out;
}

}  // namespace berth::runtime::seccomp
