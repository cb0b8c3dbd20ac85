#include "runtime/linux/namespaces.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/child.h"

namespace berth::runtime::namespaces {
namespace {

constexpr uint64_t kNewTime = 0x80;  // CLONE_NEWTIME

// A process inside new namespaces that does nothing but hold them. Killed and reaped by the destructor.
class Holder {
 public:
  Holder() = default;
  Holder(Holder&& other) noexcept : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  Holder& operator=(Holder&&) = delete;
  ~Holder() {
    if (pid_ < 0) return;
    ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
    siginfo_t info;
    while (::waitid(static_cast<idtype_t>(3) /* P_PIDFD */, static_cast<id_t>(pidfd_.get()), &info, WEXITED | __WALL) <
               0 &&
           errno == EINTR) {
    }
  }

  // Joins `user` when it is not -1, then unshares `unshare`; or is cloned with `clone` (CLONE_NEWUSER).
  static Result<Holder> Start(uint64_t clone, int user, uint64_t unshare, const char* what) {
    auto [ready, done] = TRY(Pipe());
    int pidfd = -1;
    clone_args args{};
    args.flags = clone | CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    args.exit_signal = 0;  // nobody else's SIGCHLD handling has to know of it
    long pid = ::syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) Hold(user, unshare, done.get());
    if (pid < 0) return SysErr("{}", what);
    Holder holder;
    holder.pid_ = static_cast<pid_t>(pid);
    holder.pidfd_.reset(pidfd);
    done.reset();
    int err = EPIPE;
    ssize_t n;
    do n = ::read(ready.get(), &err, sizeof err);
    while (n < 0 && errno == EINTR);
    if (n != sizeof err) err = EPIPE;
    errno = err;
    if (err) return SysErr("{}", what);
    return holder;
  }

  std::string Proc(std::string_view file) const { return fmt::format("/proc/{}/{}", pid_, file); }
  pid_t pid() const { return pid_; }

 private:
  // Only system calls: this is the child of a process that may have other threads.
  [[noreturn]] static void Hold(int user, uint64_t unshare, int done) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    int err = 0;
    if (user >= 0 && ::setns(user, CLONE_NEWUSER) < 0) err = errno;
    if (!err && unshare && ::syscall(SYS_unshare, unshare) < 0) err = errno;
    // Its files in /proc belong to its user only while it can be dumped; an unprivileged caller has to write them.
    ::prctl(PR_SET_DUMPABLE, 1);
    if (::write(done, &err, sizeof err) != sizeof err) ::_exit(1);
    ::close(done);
    for (;;) ::pause();
  }

  pid_t pid_ = -1;
  unique_fd pidfd_;
};

// One write(2), as these files demand. errno of the failure.
int WriteOnce(const std::string& path, std::string_view text) {
  unique_fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  return ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
}

// "newuidmap PID inside outside count ...": set-uid programs of the package uidmap.
Result<void> RunHelper(const char* program, pid_t pid, const std::vector<oci::IdMapping>& maps) {
  Command c;
  c.argv = {program, fmt::format("{}", pid)};
  for (const oci::IdMapping& m : maps)
    for (uint32_t n : {m.containerID, m.hostID, m.size}) c.argv.push_back(fmt::format("{}", n));
  const char* path = ::getenv("PATH");
  c.env = {fmt::format("PATH={}", path ? path : "/usr/bin:/bin")};
  auto out = Run(c, Deadline::After(std::chrono::seconds(30)));
  if (!out) {
    if (out.error().sys == ENOENT)
      return Err(Code::kFailedPrecondition,
                 "these mappings need root or the program {} (Debian package uidmap), which is not in PATH", program);
    return Wrap(std::move(out).error(), "{}", program);
  }
  if (out->exit_code == 0) return {};
  std::string text = out->err.substr(0, out->err.find('\n'));
  return Err(Code::kPermissionDenied, "{}: {}", program,
             text.empty() ? fmt::format("exit code {}", out->exit_code) : text);
}

Result<void> WriteMap(const Holder& holder, const std::vector<oci::IdMapping>& maps, bool group) {
  std::string text;
  for (const oci::IdMapping& m : maps) text += fmt::format("{} {} {}\n", m.containerID, m.hostID, m.size);
  std::string path = holder.Proc(group ? "gid_map" : "uid_map");
  int err = WriteOnce(path, text);
  bool only_own = maps.size() == 1 && maps[0].size == 1 && maps[0].hostID == (group ? ::getegid() : ::geteuid());
  if (err == EPERM && group && only_own) {
    // A gid map without privilege would let its owner drop groups that deny something: CVE-2014-8989.
    if (int denied = WriteOnce(holder.Proc("setgroups"), "deny")) {
      errno = denied;
      return SysErr("deny setgroups");
    }
    err = WriteOnce(path, text);
  }
  if (err == 0) return {};
  if (err == EPERM) return RunHelper(group ? "newgidmap" : "newuidmap", holder.pid(), maps);
  errno = err;
  return SysErr("write {} id map", group ? "group" : "user");
}

}  // namespace

uint64_t Flag(std::string_view type) {
  if (type == "pid") return CLONE_NEWPID;
  if (type == "network") return CLONE_NEWNET;
  if (type == "mount") return CLONE_NEWNS;
  if (type == "ipc") return CLONE_NEWIPC;
  if (type == "uts") return CLONE_NEWUTS;
  if (type == "user") return CLONE_NEWUSER;
  if (type == "cgroup") return CLONE_NEWCGROUP;
  if (type == "time") return kNewTime;
  return 0;
}

Result<unique_fd> OpenAt(const std::string& path, std::string_view type) {
  unique_fd fd = TRY(Open(path, O_RDONLY));
  int found = ::ioctl(fd.get(), NS_GET_NSTYPE);
  if (found < 0 || static_cast<uint64_t>(found) != Flag(type))
    return Err(Code::kInvalidArgument, "{} is not a {} namespace", path, type);
  return fd;
}

bool IsOwn(int ns, std::string_view type) {
  std::string_view name = type == "network" ? "net" : type == "mount" ? "mnt" : type;
  struct stat mine, other;
  return ::stat(fmt::format("/proc/self/ns/{}", name).c_str(), &mine) == 0 && ::fstat(ns, &other) == 0 &&
         mine.st_ino == other.st_ino && mine.st_dev == other.st_dev;
}

bool InInitialUser() {
  struct stat st;
  return ::stat("/proc/self/ns/user", &st) < 0 || st.st_ino == 0xEFFFFFFDU;
}

Result<unique_fd> MakeUser(const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids) {
  Holder holder = TRY(Holder::Start(CLONE_NEWUSER, -1, 0, "make a user namespace"));
  TRY(WriteMap(holder, uids, false));
  TRY(WriteMap(holder, gids, true));
  return Open(holder.Proc("ns/user"), O_RDONLY);
}

Result<unique_fd> MakeTime(int user, const std::map<std::string, oci::TimeOffset>& offsets) {
  Holder holder = TRY(Holder::Start(0, user, kNewTime, "make a time namespace"));
  std::string text;
  for (const auto& [clock, offset] : offsets) text += fmt::format("{} {} {}\n", clock, offset.secs, offset.nanosecs);
  if (!text.empty()) {
    if (int err = WriteOnce(holder.Proc("timens_offsets"), text)) {
      errno = err;
      return SysErr("write time offsets");
    }
  }
  return Open(holder.Proc("ns/time_for_children"), O_RDONLY);
}

}  // namespace berth::runtime::namespaces
