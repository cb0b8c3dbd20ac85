#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "base/atomic_file.h"
#include "base/fd_stream.h"
#include "cmd/berth/commands.h"

// Preflight: asks the kernel for each thing that Berth uses, by using it where that leaves no trace. Works without an
// agent. Each finding comes with its fix.
namespace berth::cli {
namespace {

enum class Verdict { kGood, kWarn, kBad };

struct Finding {
  std::string what;
  Verdict verdict = Verdict::kGood;
  std::string detail, fix;
};

struct DoctorOptions {
  std::string root = "/var/lib/berth", run = "/run/berth", metrics = "127.0.0.1:9464";
};

bool KnowsFilesystem(const std::string& name) {
  auto list = ReadFile("/proc/filesystems");
  if (!list) return false;
  return ("\n" + *list).find("\t" + name + "\n") != std::string::npos;
}

// Runs `probe` in a child with new namespaces of `flags`; its return value is an errno, 0 for success.
int InNamespaces(int flags, int (*probe)()) {
  pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) {
    if (::unshare(flags) < 0) ::_exit(errno);
    ::_exit(probe == nullptr ? 0 : probe());
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

int ProbeMount(const char* type) {
  int fs = static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
  if (fs < 0) return errno;
  ::close(fs);
  return 0;
}

Finding CheckKernel() {
  utsname name{};
  ::uname(&name);
  int major = 0, minor = 0;
  ::sscanf(name.release, "%d.%d", &major, &minor);
  Finding f{"kernel", Verdict::kGood, name.release, ""};
  if (major < 6 || (major == 6 && minor < 1)) {
    f.verdict = Verdict::kBad;
    f.fix = "Berth is tested from Linux 6.1 on (it needs mount_setattr, pidfd, openat2, clone3 into a cgroup)";
  }
  return f;
}

Finding CheckRoot() {
  Finding f{"privileges", Verdict::kGood, "root with the capabilities needed", ""};
  if (::geteuid() != 0)
    return {"privileges", Verdict::kBad, "not root", "run as root: the agent makes namespaces, mounts and networks"};
  struct Wanted {
    int cap;
    const char* name;
    bool hard;
  };
  std::string hard, soft;
  for (Wanted w : {Wanted{CAP_SYS_ADMIN, "CAP_SYS_ADMIN", true}, Wanted{CAP_NET_ADMIN, "CAP_NET_ADMIN", true},
                   Wanted{CAP_SETPCAP, "CAP_SETPCAP", true}, Wanted{CAP_MKNOD, "CAP_MKNOD", true},
                   Wanted{CAP_SYS_CHROOT, "CAP_SYS_CHROOT", true}, Wanted{CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", false}})
    if (::prctl(PR_CAPBSET_READ, w.cap) != 1) (w.hard ? hard : soft) += std::string(" ") + w.name;
  if (!hard.empty()) return {"privileges", Verdict::kBad, "missing" + hard, "run the agent with these capabilities"};
  if (!soft.empty())
    return {"privileges", Verdict::kWarn, "missing" + soft,
            "hard limits cannot be raised and OOM scores not lowered; grant it to change that"};
  return f;
}

Finding CheckNamespaces() {
  struct One {
    int flag;
    const char* name;
  };
  std::string missing;
  for (One one : {One{CLONE_NEWNS, "mount"}, One{CLONE_NEWPID, "pid"}, One{CLONE_NEWNET, "net"},
                  One{CLONE_NEWIPC, "ipc"}, One{CLONE_NEWUTS, "uts"}, One{CLONE_NEWCGROUP, "cgroup"}})
    if (InNamespaces(one.flag, nullptr) != 0) missing += std::string(" ") + one.name;
  if (missing.empty()) return {"namespaces", Verdict::kGood, "mount pid net ipc uts cgroup", ""};
  return {"namespaces", Verdict::kBad, "cannot make:" + missing,
          "build the kernel with the CONFIG_*_NS options, raise user.max_*_namespaces"};
}

Finding CheckCgroups() {
  auto mounts = ReadFile("/proc/self/mountinfo");
  if (!mounts) return {"cgroups", Verdict::kBad, mounts.error().what, "mount /proc"};
  bool v2 = mounts->find(" - cgroup2 ") != std::string::npos;
  std::string v1;
  for (const char* controller : {"cpu", "memory", "pids", "cpuset", "devices", "freezer", "blkio"}) {
    size_t at = mounts->find(" - cgroup ");
    bool found = false;
    for (; at != std::string::npos; at = mounts->find(" - cgroup ", at + 1)) {
      std::string line = mounts->substr(at, mounts->find('\n', at) - at);
      if (("," + line.substr(line.rfind(' ') + 1) + ",").find(std::string(",") + controller + ",") != std::string::npos)
        found = true;
    }
    if (found) v1 += std::string(v1.empty() ? "" : " ") + controller;
  }
  auto controllers = ReadFile("/sys/fs/cgroup/cgroup.controllers");
  if (v2 && v1.empty()) {
    std::string have = controllers ? *controllers : "";
    std::string missing;
    for (const char* need : {"cpu", "memory", "pids"})
      if (have.find(need) == std::string::npos) missing += std::string(" ") + need;
    if (missing.empty()) return {"cgroups", Verdict::kGood, "v2: " + have.substr(0, have.find('\n')), ""};
    return {"cgroups", Verdict::kBad, "v2 without" + missing,
            "enable the controllers (Delegate=yes in the unit, cgroup_enable= at boot)"};
  }
  if (!v1.empty()) return {"cgroups", Verdict::kGood, (v2 ? "v1 and v2 side by side, v1: " : "v1: ") + v1, ""};
  return {"cgroups", Verdict::kBad, "no hierarchy is mounted", "mount -t cgroup2 none /sys/fs/cgroup"};
}

Finding CheckFilesystem(const char* name, Verdict when_missing, const char* fix) {
  if (KnowsFilesystem(name)) return {name, Verdict::kGood, "known to the kernel", ""};
  if (InNamespaces(
          CLONE_NEWNS, name[0] == 'o' ? +[] { return ProbeMount("overlay"); } : +[] { return ProbeMount("erofs"); }) ==
      0)
    return {name, Verdict::kGood, "known to the kernel", ""};
  return {name, when_missing, "not known to the kernel", fix};
}

// A netlink request that only works with nf_tables compiled in, in a network namespace of its own.
Finding CheckNftables() {
  int err = InNamespaces(
      CLONE_NEWNET, +[] {
        pid_t child = ::fork();
        if (child == 0) {
          int null = ::open("/dev/null", O_RDWR);
          ::dup2(null, 1);
          ::dup2(null, 2);
          ::execlp("nft", "nft",
                   "add table inet berth_doctor; add chain inet berth_doctor c { type nat hook prerouting priority "
                   "-100; }; add rule inet berth_doctor c fib daddr type local accept",
                   nullptr);
          ::_exit(errno == ENOENT ? 77 : 76);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      });
  if (err == 0) return {"nftables", Verdict::kGood, "tables, NAT and fib work", ""};
  if (err == 77)
    return {"nftables", Verdict::kWarn, "the program nft is missing, not probed", "install the package nftables"};
  return {"nftables", Verdict::kBad, "the kernel refuses a NAT chain",
          "load nf_tables, nft_chain_nat, nft_fib_inet, nf_conntrack"};
}

Finding CheckSeccomp() {
  auto actions = ReadFile("/proc/sys/kernel/seccomp/actions_avail");
  if (actions && actions->find("errno") != std::string::npos) return {"seccomp", Verdict::kGood, "filters work", ""};
  return {"seccomp", Verdict::kBad, "no filters", "build the kernel with CONFIG_SECCOMP_FILTER"};
}

Finding CheckForwarding() {
  auto v4 = ReadFile("/proc/sys/net/ipv4/ip_forward");
  if (v4 && v4->starts_with('1')) return {"forwarding", Verdict::kGood, "net.ipv4.ip_forward is 1", ""};
  return {"forwarding", Verdict::kWarn, "net.ipv4.ip_forward is 0",
          "the agent sets it with the first pod; a firewall that sets it back cuts pods off"};
}

Finding CheckPort(const std::string& address) {
  size_t colon = address.rfind(':');
  if (address.empty() || colon == address.npos) return {"metrics port", Verdict::kGood, "metrics are off", ""};
  auto port = static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1));
  auto listen = ListenTcp(address.substr(0, colon), port);
  if (listen) return {"metrics port", Verdict::kGood, address + " is free", ""};
  return {"metrics port", Verdict::kWarn, listen.error().what,
          "the running agent uses it; if it is another program, set metrics.address"};
}

Finding CheckSpace(const std::string& root) {
  std::string path = root;
  while (!Exists(path) && path.size() > 1) path = path.substr(0, std::max<size_t>(1, path.rfind('/')));
  struct statvfs fs {};
  struct statfs type {};
  if (::statvfs(path.c_str(), &fs) < 0 || ::statfs(path.c_str(), &type) < 0)
    return {"data directory", Verdict::kBad, path, "choose another root"};
  uint64_t free_mb = fs.f_bavail * fs.f_frsize >> 20;
  std::string detail = fmt::format("{}: {} MB free", root, free_mb);
  if (type.f_type == 0x794c7630 || type.f_type == 0x01021994)
    return {"data directory", Verdict::kWarn, detail + ", on overlay or tmpfs",
            "layers are unpacked there instead of mounted; put the root on a disk filesystem"};
  if (free_mb < 1024)
    return {"data directory", Verdict::kWarn, detail, "images need room: free some, or set root to a larger disk"};
  return {"data directory", Verdict::kGood, detail, ""};
}

Finding CheckAgent(const Context& context) {
  Client client = Connect(context.socket, std::chrono::seconds(2));
  auto info = Call(client, *client.agent, &::berth::v1::Agent::Stub::Info, ::berth::v1::InfoRequest());
  if (!info)
    return {"agent", Verdict::kWarn, "does not answer on " + context.socket, "systemctl start berthd, or run berthd"};
  cri::StatusRequest request;
  auto status = Call(client, *client.runtime, &cri::RuntimeService::Stub::Status, request);
  std::string detail = fmt::format("{} on {}, layers by {}", info->version(), context.socket, info->snapshotter());
  if (!status) return {"agent", Verdict::kBad, status.error().what, "see the agent's log"};
  for (const auto& condition : status->status().conditions())
    if (!condition.status())
      return {"agent", Verdict::kBad,
              fmt::format("{}: {}: {}", condition.type(), condition.reason(), condition.message()),
              "the message names file and fix"};
  return {"agent", Verdict::kGood, detail, ""};
}

Result<int> Doctor(const Context& context, const DoctorOptions& o) {
  std::vector<Finding> findings = {
      CheckKernel(),
      CheckRoot(),
      CheckNamespaces(),
      CheckCgroups(),
      CheckFilesystem("overlay", Verdict::kBad, "modprobe overlay, or build the kernel with CONFIG_OVERLAY_FS"),
      CheckFilesystem(
          "erofs", Verdict::kWarn,
          "layers will be unpacked into directories; modprobe erofs (6.12 or newer) makes pulls and removals faster"),
      CheckNftables(),
      CheckSeccomp(),
      CheckForwarding(),
      CheckPort(o.metrics),
      CheckSpace(o.root),
      CheckAgent(context),
  };
  int bad = 0;
  for (const auto& f : findings) {
    const char* mark = f.verdict == Verdict::kGood ? "ok  " : f.verdict == Verdict::kWarn ? "warn" : "FAIL";
    fmt::print("{}  {:<15} {}\n", mark, f.what, f.detail);
    if (!f.fix.empty()) fmt::print("      {:<15} fix: {}\n", "", f.fix);
    bad += f.verdict == Verdict::kBad;
  }
  return bad == 0 ? 0 : 1;
}

}  // namespace

void AddDoctor(CLI::App& app, Context& context) {
  auto o = std::make_shared<DoctorOptions>();
  auto* doctor =
      app.add_subcommand("doctor", "Checks what this machine offers to the agent; each finding with its fix");
  doctor->add_option("--root", o->root, "Data directory to look at")->capture_default_str();
  doctor->add_option("--metrics", o->metrics, "Address that the metrics page would use")->capture_default_str();
  doctor->callback([=, &context] { context.action = [=, &context] { return Doctor(context, *o); }; });
}

}  // namespace berth::cli
