#include "runtime/oci/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "base/atomic_file.h"
#include "base/undo.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/net_devices.h"
#include "runtime/linux/systemd.h"
#include "runtime/oci/hooks.h"
#include "runtime/oci/listener.h"
#include "runtime/oci/notify.h"
#include "runtime/oci/scope.h"
#include "runtime/oci/validate.h"

namespace berth::runtime::oci {
namespace {

constexpr auto kSystemdTime = std::chrono::seconds(30);  // busy managers reload their units for seconds

std::string Now() {
  timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  // gmtime_r would read /etc/localtime first.
  std::chrono::sys_days day{std::chrono::days(ts.tv_sec / 86400)};
  std::chrono::year_month_day date(day);
  long second = ts.tv_sec % 86400;
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", int(date.year()), unsigned(date.month()),
                     unsigned(date.day()), second / 3600, second / 60 % 60, second % 60, ts.tv_nsec);
}

void KillAndReap(init::Process* p) {
  if (p->pid <= 0) return;
  EndProcess(p->pid, p->pidfd);
  for (int* fd : {&p->pidfd, &p->sync, &p->terminal}) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
}

// What prestart and createRuntime hooks need while the child waits for them.
struct Environment {
  const Hooks* hooks;
  HookState state;
  std::string bundle;
  std::string error;
  const Spec* spec = nullptr;
  bool devices_moved = false;
};

// Before hooks look at the network, when there are such hooks.
Result<void> MoveNetDevices(const Spec& spec, int pidfd) {
  if (spec.linux->netDevices.empty()) return {};
  return net_devices::Move(spec.linux->netDevices, pidfd);
}

bool RunEnvironmentHooks(void* context, pid_t pid, init::Failure* failure) {
  auto& e = *static_cast<Environment*>(context);
  unique_fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  auto done = MoveNetDevices(*e.spec, pidfd.get());
  e.devices_moved = true;
  // Prestart hooks are of a time that knew no "creating": crun says "created" to them, and so do we.
  if (done) done = RunHooks(e.hooks->prestart, "prestart", e.state.For("created", pid), e.bundle);
  if (done) done = RunHooks(e.hooks->createRuntime, "createRuntime", e.state.For("creating", pid), e.bundle);
  if (done) return true;
  e.error = done.error().what;
  snprintf(failure->what, sizeof failure->what, "%s", e.error.c_str());
  return false;
}

}  // namespace

void EndProcess(pid_t pid, int pidfd) {
  ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  pollfd ended{pidfd, POLLIN, 0};
  while (::poll(&ended, 1, 10000) < 0 && errno == EINTR) {
  }
  while (::waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

std::unexpected<Error> FromFailure(const init::Failure& f, int* failed_code) {
  *failed_code = f.kind == 1 ? 127 : f.kind == 2 ? 126 : 1;
  Code code = f.kind == 1   ? Code::kNotFound
              : f.kind == 2 ? Code::kPermissionDenied
              : f.sys       ? CodeFromErrno(f.sys)
                            : Code::kInternal;
  return std::unexpected(Error{code, f.what, f.sys, std::source_location::current()});
}

uint64_t MountIdOf(const std::string& path) {
  struct statx st;
  constexpr unsigned kMountId = 0x1000;  // STATX_MNT_ID
  return ::statx(AT_FDCWD, path.c_str(), 0, kMountId, &st) == 0 ? st.stx_mnt_id : 0;
}

Result<void> UnmountRoot(const std::string& rootfs, uint64_t id) {
  if (id == 0 || MountIdOf(rootfs) != id) return {};
  if (::umount2(rootfs.c_str(), MNT_DETACH) < 0) return SysErr("unmount {}", rootfs);
  return {};
}

Result<void> WritePidFile(const std::string& path, pid_t pid) {
  if (path.empty()) return {};
  std::string text = fmt::format("{}", pid);  // no newline: callers compare the whole text
  struct stat st;
  if (::stat(path.c_str(), &st) == 0 &&
      !S_ISREG(st.st_mode)) {  // /dev/null, a pipe: renaming would put a file in its place
    unique_fd fd = TRY(Open(path, O_WRONLY));
    return WriteAll(fd.get(), text);
  }
  return ReplaceFile(path, text, 0644);
}

Result<void> SendDescriptor(std::string_view option, const std::string& path, int sent, std::string_view name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Err(Code::kInvalidArgument, "{}: {}: longer than 107 bytes", option, path);
  strcpy(address.sun_path, path.c_str());
  unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return SysErr("{}: connect to {}", option, path);
  iovec part{const_cast<char*>(name.data()), name.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &sent, sizeof(int));
  if (::sendmsg(fd.get(), &message, MSG_NOSIGNAL) < 0) return SysErr("{}: send to {}", option, path);
  return {};
}

Result<void> SendTerminal(const std::string& path, int master) {
  return SendDescriptor("--console-socket", path, master, "/dev/ptmx");
}

void Activate(Process& process, const Activation& a) {
  if (a.listen_fds == 0) return;
  std::erase_if(process.env, [](const std::string& v) {
    return v.starts_with("LISTEN_FDS=") || v.starts_with("LISTEN_PID=") || v.starts_with("LISTEN_FDNAMES=");
  });
  process.env.push_back(fmt::format("LISTEN_FDS={}", a.listen_fds));
  if (!a.listen_names.empty()) process.env.push_back("LISTEN_FDNAMES=" + a.listen_names);
}

Result<std::string> CgroupPath(const RuntimeHost& host, const Spec& spec, const std::string& id) {
  const std::string& path = spec.linux->cgroupsPath;
  if (host.systemd_cgroup) return systemd::PathOf(TRY(systemd::ScopeOf(path, id, systemd::UserManager())));
  if (path.empty()) return "/berth-oci-" + id;  // flat, so that deletion leaves no parent behind
  // Spelt in several ways, the same place.
  std::string clean;
  for (const std::string& part : cgroup::Words(path, '/')) clean += "/" + part;
  if (clean.empty()) return Err(Code::kInvalidArgument, "linux.cgroupsPath: \"{}\" names the root", path);
  return path[0] == '/' ? clean : "/berth-oci-" + clean.substr(1);
}

Result<Created> Launch(const RuntimeHost& host, const CreateRequest& r, bool listen, int* failed_code) {
  *failed_code = 1;
  TRY(ValidateId(r.id));
  // /proc/<pid> of ours shows descriptors of the host: nothing that shares a namespace with the child may look.
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  std::string text = TRY_CTX(ReadFile(r.bundle + "/config.json", 16 << 20), "bundle {}", r.bundle);
  Spec spec = TRY(ParseSpec(text, "config.json"));
  TRY(ValidateSpec(spec));
  Created out;
  out.terminal = spec.process && spec.process->terminal;
  if (spec.process) Activate(*spec.process, r.activation);
  if (listen && out.terminal && r.console_socket.empty())
    return Err(Code::kInvalidArgument,
               "process.terminal: a terminal without --console-socket has nobody at its other end");
  if (!out.terminal && !r.console_socket.empty())
    return Err(Code::kInvalidArgument, "--console-socket: process.terminal is false");

  Undo undo;
  bool made = false;
  undo.Add("run poststop hooks", [&]() -> Result<void> {  // last, once all else is undone
    if (made) RunPoststop(host, out.state);
    return {};
  });
  out.dir = TRY(ContainerDir::Claim(host.root, r.id));
  undo.Add("remove state directory", [&] { return out.dir.Remove(); });
  TRY(out.dir.WriteConfig(text));
  if (!r.activation.notify_socket.empty()) {
    TRY(NotifySocket::Prepare(out.dir.path(), spec));
    out.state.notifySocket = r.activation.notify_socket;
  }
  unique_fd listener;
  if (listen) listener = TRY(out.dir.Listen());

  PlanInput in;
  in.spec = &spec;
  in.id = r.id;
  in.bundle = r.bundle;
  std::optional<OpenedScope> scope;
  if (host.no_cgroup) {
    spec.linux->resources.reset();
  } else if (host.systemd_cgroup) {
    scope = TRY(OpenScope(spec, r.id, Deadline::After(kSystemdTime)));
    undo.Add("stop the scope", [&]() -> Result<void> {
      const std::string unit = scope->unit;
      const cgroup::Group group{scope->cgroup};
      scope.reset();
      auto stopped = StopScope(unit, Deadline::After(kSystemdTime));
      auto removed = cgroup::Remove(group);  // version 1 hierarchies that systemd does not manage
      return stopped ? removed : stopped;
    });
    in.cgroup_path = scope->cgroup;
    in.adopt_cgroup = true;
  } else {
    in.cgroup_path = TRY(CgroupPath(host, spec, r.id));
  }
  in.new_keyring = r.new_keyring;
  in.no_pivot = r.no_pivot;
  in.preserve_fds = r.preserve_fds;
  in.attended = true;
  in.listen = listener.get();
  in.seccomp_cache = host.root + "/.seccomp";
  TRY(Unprivilege(host, spec, &in));
  in.listen_pid = r.activation.listen_fds > 0;
  in.preserve_fds += r.activation.listen_fds;
  std::vector<unique_fd> tasks;
  if (spec.linux->intelRdt) {
    out.state.resctrl = TRY(resctrl::Prepare(TRY(resctrl::Mount()), *spec.linux->intelRdt, r.id));
    undo.Add("remove resctrl group", [group = *out.state.resctrl] { return resctrl::Remove(group); });
    tasks = TRY(resctrl::OpenTasks(*out.state.resctrl));
    for (const unique_fd& fd : tasks) in.tasks.push_back(fd.get());
  }
  Prepared prepared = TRY(MakePlan(in));
  if (!scope) undo.Add("remove cgroup", [group = prepared.cgroup] { return cgroup::Remove(group); });
  for (const std::string& w : prepared.warnings) host.warn(w);

  out.state.ociVersion = spec.ociVersion;
  out.state.id = r.id;
  out.state.bundle = r.bundle;
  out.state.annotations = spec.annotations;
  if (spec.hooks && (!spec.hooks->poststart.empty() || !spec.hooks->poststop.empty())) {
    out.state.hooks.emplace();
    out.state.hooks->poststart = spec.hooks->poststart;
    out.state.hooks->poststop = spec.hooks->poststop;
  }
  if (prepared.notifies) {
    out.state.listenerPath = spec.linux->seccomp->listenerPath;
    out.state.listenerMetadata = spec.linux->seccomp->listenerMetadata;
  }
  auto fds = prepared.RawFds();
  init::Failure failure;
  init::Options options{.stub = host.stub};
  std::optional<Environment> environment;
  if (spec.hooks) {
    environment.emplace(&*spec.hooks, HookState(spec.ociVersion, r.id, r.bundle, spec.annotations), r.bundle, "",
                        &spec);
    options.observer = {RunEnvironmentHooks, nullptr, &*environment};
  }
  std::string rootfs = spec.root ? spec.root->path : "";
  if (!rootfs.empty() && rootfs[0] != '/') rootfs = r.bundle + "/" + rootfs;
  const auto& listed = spec.linux->namespaces;
  bool host_mounts = std::none_of(listed.begin(), listed.end(), [](const Namespace& n) { return n.type == "mount"; });
  uint64_t below = host_mounts ? MountIdOf(rootfs) : 0;
  if (host_mounts)
    undo.Add("unmount root", [rootfs, below] {  // by value: the undo outlives it
      uint64_t now = MountIdOf(rootfs);
      return UnmountRoot(rootfs, now == below ? 0 : now);
    });
  made = true;
  if (!init::Create(prepared.plan.data(), prepared.plan.size(), fds.data(), fds.size(), {0, 1, 2}, options,
                    &out.process, &failure)) {
    if (environment && !environment->error.empty())  // whole: a Failure has little room for what hooks write
      return Err(Code::kFailedPrecondition, "{}", environment->error);
    return FromFailure(failure, failed_code);
  }
  undo.Add("kill container", [&out]() -> Result<void> {
    KillAndReap(&out.process);
    return {};
  });
  if (!environment || !environment->devices_moved) TRY(MoveNetDevices(spec, out.process.pidfd));
  if (prepared.cgroup_owner) TRY(cgroup::Delegate(*TRY(cgroup::Host()), prepared.cgroup, *prepared.cgroup_owner));
  for (char* line = out.process.warnings; *line;) {
    char* end = strchrnul(line, '\n');
    host.warn(std::string(line, end));
    line = *end ? end + 1 : end;
  }
  if (out.terminal && !r.console_socket.empty()) {
    TRY(SendTerminal(r.console_socket, out.process.terminal));
    ::close(std::exchange(out.process.terminal, -1));
  }
  if (host_mounts) out.state.mountId = MountIdOf(rootfs);
  out.state.pid = out.process.pid;
  out.state.startTime = ProcessStartTime(out.process.pid);
  out.state.rootfs = rootfs;
  out.state.created = Now();
  out.state.cgroup = prepared.cgroup.path;
  if (scope) {
    out.state.scope = scope->unit;
    scope->holder.End();  // the container's process keeps the scope alive now
  }
  TRY(out.dir.WriteState(out.state));
  if (!r.pidfd_socket.empty()) TRY(SendDescriptor("--pidfd-socket", r.pidfd_socket, out.process.pidfd, "pidfd"));
  TRY_CTX(WritePidFile(r.pid_file, out.process.pid), "--pid-file");
  undo.Keep();
  return out;
}

Result<void> TearDown(const RuntimeHost& host, const ContainerDir& dir, const StateRecord& state) {
  if (!state.cgroup.empty()) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    cgroup::Group group{state.cgroup};
    Deadline until = Deadline::After(std::chrono::seconds(10));
    // With a shared PID namespace the first process's end ends nobody else.
    if (!TRY(cgroup::Processes(*layout, group)).empty()) {
      TRY(cgroup::KillAll(*layout, group));
      TRY(cgroup::WaitEmpty(*layout, group, until));
    }
    if (!state.scope.empty()) {
      // A manager that is gone, or started anew, collects the empty scope by itself.
      auto stopped = StopScope(state.scope, Deadline::After(kSystemdTime));
      if (!stopped && stopped.error().code != Code::kFailedPrecondition) return stopped;
    }
    TRY(cgroup::Remove(*layout, group, until));
    cgroup::RemoveEmptyParents(*layout, group, "/berth-oci-");
  }
  if (state.resctrl) TRY(resctrl::Remove(*state.resctrl));
  TRY(UnmountRoot(state.rootfs, state.mountId));
  TRY(dir.Remove());
  RunPoststop(host, state);
  return {};
}

Result<void> Started(const RuntimeHost& host, const ContainerDir& dir, const StateRecord& state, int pidfd) {
  if (!state.hooks || state.hooks->poststart.empty()) return {};
  HookState document(state.ociVersion, state.id, state.bundle, state.annotations);
  auto done = RunHooks(state.hooks->poststart, "poststart", document.For("running", state.pid), state.bundle);
  if (done) return {};
  EndProcess(static_cast<pid_t>(state.pid), pidfd);
  if (auto gone = TearDown(host, dir, state); !gone) host.warn(gone.error().what);
  return done;
}

}  // namespace berth::runtime::oci
