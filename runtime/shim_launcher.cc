#include "runtime/shim_launcher.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/undo.h"
#include "runtime/foreign_bundle.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/mount.h"
#include "runtime/init/plan.h"
#include "runtime/oci/planner.h"
#include "runtime/shim/agent_socket.h"
#include "runtime/shim/exit_facts.h"
#include "runtime/shim/pod_link.h"
#include "runtime/shim/spawner_client.h"
#include "runtime/shim_launcher_parts.h"

namespace berth::runtime {

using shim::Type;

namespace {

constexpr std::chrono::seconds kUndoTime(5);      // to take back what a failed call has made
constexpr std::chrono::seconds kEndTime(1);       // for a monitor that closed its sockets to be gone
constexpr std::chrono::seconds kShutdownTime(2);  // for a monitor to end its pod by itself; then it is killed

Result<std::string> ShimBeside() {
  char path[4096];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (n < 0) return SysErr("readlink /proc/self/exe");
  std::string own(path, static_cast<size_t>(n));
  return own.substr(0, own.rfind('/') + 1) + "berth-shim";
}

}  // namespace

Deadline UndoDeadline() { return Deadline::After(kUndoTime); }

// --- log files

Result<unique_fd> OpenLog(const std::string& path) {
  unique_fd fd = TRY_CTX(Open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0640), "container log");
  struct stat status {};
  if (::fstat(fd.get(), &status) < 0) return SysErr("container log {}", path);
  if (!S_ISREG(status.st_mode)) return Err(Code::kFailedPrecondition, "container log {}: is not a regular file", path);
  return fd;
}

Result<unique_fd> ShmFor(PodLink& link, const Deadline& until, const std::string& what) {
  if (link.shm) return mount::CloneTree(link.shm.get(), "", false);
  auto got = link.Call({Type::kShm, {}, {}}, until, what);
  if (got) return got->back().TakeFd(0);
  if (got.error().sys == ENOENT) return unique_fd();   // the pod uses the host's
  return std::unexpected(std::move(got).error());
}

Result<void> CheckLog(const LogTarget& log, bool newer, const std::string& what) {
  if (log.max_bytes != 0 && (log.path.empty() || log.max_files == 0))
    return Err(Code::kInvalidArgument, "{}: log: rotation needs a path, and at least one file", what);
  const bool plain = log.format == LogFormat::kCri && log.mode == LogMode::kBlock && log.rate == 0 && log.max_bytes == 0;
  if (newer || plain) return {};
  return Err(Code::kFailedPrecondition, "{}: log: the pod's monitor is of an earlier version, which has neither other formats nor limits; "
             "pods that are started from now on have them", what);
}

Result<PolicyParts> DescribePolicy(const ContainerLaunch& launch, const std::string& cgroup_path) {
  const LogTarget& log = launch.log;
  PolicyParts out;
  out.policy.log_format = log.format == LogFormat::kJson ? shim::LogFormat::kJson : shim::LogFormat::kCri;
  out.policy.log_mode = log.mode == LogMode::kDrop ? shim::LogMode::kDrop : shim::LogMode::kBlock;
  out.policy.log_rate = log.rate;
  if (launch.keep_stdin && launch.stdin_once) out.flags |= shim::kStdinOnce;
  if (log.max_bytes != 0) {
    out.policy.log_bytes = log.max_bytes;
    out.policy.log_files = log.max_files;
    const size_t slash = log.path.rfind('/');
    TRY(Put(out.policy.log_name, log.path.substr(slash + 1), "name of the log file"));
    out.fds.push_back(TRY(Open(log.path.substr(0, slash + 1), O_PATH | O_DIRECTORY)));
    out.flags |= shim::kHasLogDir;
  }
  FactDirs facts = OpenFactDirs(cgroup_path);
  out.policy.fact_fds = facts.which;
  for (unique_fd& fd : facts.fds) out.fds.push_back(std::move(fd));
  return out;
}

// Calls the plan by a version that the monitor takes.
static Result<unique_fd> SealPlan(oci::Prepared& prepared, const PodLink& link, const std::string& what) {
  init::Plan header;
  memcpy(static_cast<void*>(&header), prepared.plan.data(), sizeof header);
  if (header.version > link.plan()) {
    if (init::NeedsVersion2(header))
      return Err(Code::kFailedPrecondition, "{}: the pod's monitor is of an earlier version, which cannot do what the container's "
                 "specification asks for; pods that are started from now on can", what);
    header.version = link.plan();
    memcpy(prepared.plan.data(), &header, sizeof header);
  }
  return SealedFile("berth-plan", prepared.plan, false);
}

namespace {

// --- the control socket

Result<unique_fd> BindControlSocket(const std::string& run_dir) {
  unique_fd dir = TRY(Open(run_dir, O_PATH | O_DIRECTORY));
  if (::unlinkat(dir.get(), shim::kSocketName, 0) < 0 && errno != ENOENT) return SysErr("remove {}/{}", run_dir, shim::kSocketName);
  unique_fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return SysErr("socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}/{}", dir.get(), shim::kSocketName);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return SysErr("bind {}/{}", run_dir, shim::kSocketName);
  ::fchmodat(dir.get(), shim::kSocketName, 0600, 0);
  return socket;
}

void RemoveControlSocket(const PodLink& link) { ::unlink(fmt::format("{}/{}", link.run_dir, shim::kSocketName).c_str()); }

// What a Hello reply brings. Descriptors come in the order of their bits.
struct Greeting {
  PodHandle handle;
  unique_fd pidfd, shm;
  pid_t init = 0;
  uint16_t minor = 0;    // the older one of both sides
};
Greeting ReadGreeting(Packet& packet) {
  auto reply = packet.As<shim::HelloReply>();
  Greeting out;
  size_t next = 0;
  auto take = [&](shim::HelloFds bit, unique_fd& to) {
    if (reply.fds & bit) to = packet.TakeFd(next++);
  };
  take(shim::kFdMonitor, out.pidfd);
  take(shim::kFdNetns, out.handle.netns);
  take(shim::kFdRoute, out.handle.netlink);
  take(shim::kFdNetfilter, out.handle.nf_netlink);
  take(shim::kFdShm, out.shm);
  out.handle.monitor = reply.pid;
  out.init = reply.init;
  out.minor = std::min(reply.minor, shim::kMinor);
  if (out.handle.netns) out.handle.netns_path = fmt::format("/proc/{}/ns/net", reply.pid);
  return out;
}

Result<Outgoing> SpawnMessage(const PodLaunch& pod) {
  shim::SpawnRequest request;
  TRY(Put(request.pod, pod.id.str(), "pod id"));
  if (!pod.host_network) {
    request.flags |= shim::kOwnNet | shim::kOwnUts;
    TRY(Put(request.hostname, pod.hostname, "hostname"));
  }
  if (!pod.host_ipc) {
    request.flags |= shim::kOwnIpc;
    request.shm_bytes = pod.shm_bytes;
  }
  if (pod.shared_pid) request.flags |= shim::kSharedPid;
  std::string sysctls;
  for (const auto& [name, value] : pod.sysctls) {
    if (name.empty() || name.find('\0') != std::string::npos || value.find('\0') != std::string::npos)
      return Err(Code::kInvalidArgument, "sysctls: a name must not be empty, names and values must not hold NUL");
    sysctls += name + '\0' + value + '\0';
  }
  request.sysctl_bytes = static_cast<uint32_t>(sysctls.size());
  return Outgoing{Type::kSpawn, Bytes(request) + sysctls, {}};
}

}  // namespace

ShimLauncher::ShimLauncher(const Options& options, std::string program)
    : handlers_(options.handlers), links_(std::make_unique<Links>()), spawner_(std::make_unique<SpawnerClient>(std::move(program))) {}

ShimLauncher::~ShimLauncher() = default;

Result<std::unique_ptr<ShimLauncher>> ShimLauncher::Make(const Options& options, const Deadline& until) {
  std::string program = options.shim.empty() ? TRY(ShimBeside()) : options.shim;
  std::unique_ptr<ShimLauncher> launcher(new ShimLauncher(options, std::move(program)));
  TRY(launcher->links_->Start());
  TRY(launcher->spawner_->EnsureRunning(until));
  return launcher;
}

void ShimLauncher::OnExit(ExitCallback callback) { links_->OnExit(std::move(callback)); }
void ShimLauncher::OnLost(LostCallback callback) { links_->OnLost(std::move(callback)); }
pid_t ShimLauncher::spawner() const { return spawner_->pid(); }

Result<std::vector<ExitFacts>> ShimLauncher::ReadExitRecords(const std::string& state_dir) { return ReadExitRecordsIn(state_dir); }

Result<std::shared_ptr<PodLink>> ShimLauncher::Need(const PodId& pod) const {
  auto link = links_->Find(pod);
  if (!link) return Err(Code::kNotFound, "pod {}: no monitor", pod);
  return link;
}

// --- pods

Result<PodHandle> ShimLauncher::StartPod(const PodLaunch& pod, const Deadline& until) {
  auto link = TRY(links_->Add(pod.id, pod.run_dir, pod.state_dir));
  auto handle = Spawn(link, pod, until);
  if (!handle) {
    link->SetStopping();
    link->Kill();
    static_cast<void>(link->WaitGone(UndoDeadline()));
    link->Detach();
    RemoveControlSocket(*link);
    links_->Remove(pod.id);
    return Wrap(std::move(handle).error(), "start the monitor of pod {}", pod.id.Short());
  }
  return handle;
}

Result<PodHandle> ShimLauncher::Spawn(const std::shared_ptr<PodLink>& link, const PodLaunch& pod, const Deadline& until) {
  Outgoing request = TRY(SpawnMessage(pod));
  unique_fd state_dir = TRY(Open(pod.state_dir, O_RDONLY | O_DIRECTORY));
  for (int attempt = 0;; ++attempt) {
    unique_fd listener = TRY(BindControlSocket(pod.run_dir));
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return SysErr("socketpair");
    unique_fd ours(ends[0]), theirs(ends[1]);
    request.fds = {theirs.get(), listener.get(), state_dir.get()};
    TRY(spawner_->Spawn(request, 1, until));
    theirs.reset();
    listener.reset();
    Failpoint("launcher.start_pod.spawned");
    auto ready = until.WaitFor(ours.get(), POLLIN, "the spawner to fork the monitor");
    if (!ready) {
      if (ready.error().code == Code::kDeadlineExceeded) spawner_->Abandon();
      return std::unexpected(ready.error());
    }
    auto packet = ReceivePacket(ours.get());
    if (!packet || !*packet) {
      // The spawner died with the request, or the monitor before it could answer.
      if (attempt == 0) continue;
      return Err(Code::kUnavailable, "it ended while it was set up");
    }
    if ((*packet)->header.type == Type::kError) return std::unexpected(FromReply(**packet, "set up the pod"));
    Greeting greeting = ReadGreeting(**packet);
    if (!greeting.pidfd) return Err(Code::kInternal, "the monitor sent no descriptor of itself");
    link->shm = std::move(greeting.shm);
    link->own_net = greeting.handle.netns.valid();
    link->init = greeting.init;
    link->Settle(greeting.minor);
    TRY(link->Attach(std::move(ours), std::move(greeting.pidfd), greeting.handle.monitor));
    return std::move(greeting.handle);
  }
}

Result<AdoptedPod> ShimLauncher::Adopt(const PodLaunch& pod, const Deadline& until) {
  auto link = links_->Find(pod.id);
  if (!link) {
    link = TRY(links_->Add(pod.id, pod.run_dir, pod.state_dir));
    for (const ContainerId& id : ForeignBundle::List(pod.run_dir)) link->SetForeign(id, true);
  }
  // The link stays known when this fails: StopPod then finds the pod's cgroups and its hanging monitor.
  if (link->monitor() < 0) TRY(link->Connect(until));
  const std::string what = fmt::format("adopt pod {}", pod.id.Short());
  auto answer = link->Call({Type::kHello, Bytes(shim::HelloRequest()), {}}, until, what);
  // One that is just ending takes connections for a moment longer.
  if (!answer && answer.error().code == Code::kUnavailable && link->WaitGone(until.Sooner(kEndTime)))
    return Err(Code::kNotFound, "{}: its monitor has ended", what);
  auto hello = TRY(std::move(answer));
  auto reply = hello.back().As<shim::HelloReply>();
  if (strnlen(reply.pod, sizeof reply.pod) != pod.id.str().size() || pod.id.str() != std::string_view(reply.pod, pod.id.str().size()))
    return Err(Code::kConflict, "{}: the monitor at {} is of another pod", what, pod.run_dir);
  Greeting greeting = ReadGreeting(hello.back());
  if (!link->shm) link->shm = std::move(greeting.shm);
  link->own_net = greeting.handle.netns.valid();
  link->init = greeting.init;
  AdoptedPod adopted{pod.id, std::move(greeting.handle), {}};
  link->Settle(greeting.minor);
  auto parts = TRY(link->Call({link->facts() ? Type::kFacts : Type::kList, {}, {}}, until, what));
  for (const Packet& part : parts) {
    for (ContainerFacts& facts : ContainersOf(part, link->facts())) {
      if (facts.exit) {
        link->TellExit(*facts.exit);
      } else if (const std::string path = CgroupOf(*link, facts.id); !path.empty()) {
        const cgroup::Layout* layout = TRY(cgroup::Host());
        facts.paused = cgroup::IsFrozen(*layout, {path}).value_or(false);
        link->SetPaused(facts.id, facts.paused);
      }
      adopted.containers.push_back(std::move(facts));
    }
  }
  return adopted;
}

Result<void> ShimLauncher::StopPod(const PodId& pod, const Deadline& until) {
  auto link = links_->Find(pod);
  if (!link) return {};
  link->SetStopping();
  const cgroup::Layout* layout = TRY(cgroup::Host());
  const auto containers = WithCgroup(*link);
  for (const ContainerId& id : containers)
    if (const std::string path = CgroupOf(*link, id); !path.empty()) TRY(cgroup::KillAll(*layout, {path}));
  if (link->alive()) {
    auto ended = link->Call({Type::kShutdown, {}, {}}, until.Sooner(kShutdownTime), "end the pod");
    if (!ended && ended.error().code != Code::kUnavailable)
      log::Warn("monitor.killed", {{"pod", pod}, {"pid", link->monitor()}, {"why", ended.error()}});
    if (!ended) link->Kill();
    TRY_CTX(link->WaitGone(until), "stop pod {}", pod.Short());
  }
  Failpoint("launcher.stop_pod.monitor_gone");
  for (const ContainerId& id : ForeignBundle::List(link->run_dir)) TRY_CTX(DeleteForeign(*link, id, until), "stop pod {}", pod.Short());
  for (const ContainerId& id : containers) TRY_CTX(RemoveCgroup(*link, id, until), "stop pod {}", pod.Short());
  link->Detach();
  RemoveControlSocket(*link);
  links_->Remove(pod);
  return {};
}

// --- containers

Result<pid_t> ShimLauncher::CreateContainer(const ContainerLaunch& launch, const Deadline& until) {
  const std::string what = fmt::format("create container {}", launch.id.Short());
  auto link = TRY(Need(launch.pod));
  if (launch.spec == nullptr || !launch.spec->process || launch.spec->process->args.empty())
    return Err(Code::kInvalidArgument, "{}: process.args: must name a program", what);
  TRY(CheckLog(launch.log, link->facts(), what));
  if (!launch.handler.empty()) return CreateForeign(link, launch, until);
  shim::CreateRequest request;
  TRY(Put(request.id, launch.id.str(), "container id"));
  if (::lstat(CgroupLink(*link, launch.id).c_str(), std::make_unique<struct stat>().get()) == 0)
    return Err(Code::kAlreadyExists, "{}: exists", what);

  unique_fd shm = TRY(ShmFor(*link, until, what));

  const bool joins = launch.pid == NamespaceMode::kPod || launch.pid == NamespaceMode::kTarget;
  oci::PlanInput input{.spec = launch.spec, .id = launch.id.str(), .rootfs = launch.rootfs};
  input.shm = shm.get();
  input.caller_pid = joins;
  input.cgroup_path = launch.spec->linux ? launch.spec->linux->cgroupsPath : std::string();
  input.terminal = launch.tty;
  // The link is written before the cgroup: what exists can always be found.
  const std::string cgroup_link = CgroupLink(*link, launch.id);
  Undo undo;
  if (!input.cgroup_path.empty()) {
    if (::symlink(input.cgroup_path.c_str(), cgroup_link.c_str()) < 0) return SysErr("{}: record its cgroup", what);
    undo.Last("forget the cgroup", [&]() -> Result<void> {
      if (::unlink(cgroup_link.c_str()) < 0 && errno != ENOENT) return SysErr("remove {}", cgroup_link);
      return {};
    });
  }
  oci::Prepared prepared = TRY_CTX(oci::MakePlan(input), "{}", what);
  for (const std::string& warning : prepared.warnings) log::Warn("container.plan", {{"id", launch.id}, {"warning", warning}});
  if (!prepared.cgroup.path.empty())
    undo.Add("remove the cgroup", [&]() -> Result<void> { return RemoveCgroup(*link, launch.id, UndoDeadline()); });
  Failpoint("launcher.create_container.cgroup");

  unique_fd plan = TRY(SealPlan(prepared, *link, what));
  Outgoing message{Type::kCreate, {}, {plan.get()}};
  unique_fd log;
  if (!launch.log.path.empty()) {
    log = TRY(OpenLog(launch.log.path));
    request.flags |= shim::kHasLog;
    message.fds.push_back(log.get());
  }
  PolicyParts policy;
  if (link->facts()) {
    policy = TRY(DescribePolicy(launch, prepared.cgroup.path));
    request.policy = policy.policy;
    request.flags |= policy.flags;
    for (const unique_fd& fd : policy.fds) message.fds.push_back(fd.get());
  }
  for (int fd : prepared.RawFds()) message.fds.push_back(fd);
  if (message.fds.size() > shim::kMaxFds)
    return Err(Code::kInvalidArgument, "{}: mounts: {} need descriptors, at most {} can", what, prepared.fds.size(), shim::kMaxFds - 2);
  if (launch.tty) request.flags |= shim::kTty;
  if (launch.keep_stdin) request.flags |= shim::kKeepStdin;
  if (launch.pid == NamespaceMode::kPod) request.flags |= shim::kJoinPodPid;
  if (launch.pid == NamespaceMode::kTarget) {
    request.flags |= shim::kJoinTargetPid;
    TRY(Put(request.target, launch.target.str(), "target container id"));
  }
  request.plan_fds = static_cast<uint32_t>(prepared.fds.size());
  request.plan_size = prepared.plan.size();
  message.body = Bytes(request);
  if (!link->facts()) message.body.resize(offsetof(shim::CreateRequest, policy));
  link->Forget(launch.id);
  const ContainerId id = launch.id;
  auto parts = TRY(link->Call(message, until, what, [id](PodLink& late, const Packet&) {
    if (auto body = ContainerBody(id)) late.Post({Type::kDelete, *body, {}});   // nobody waits for it any more
  }));
  Failpoint("launcher.create_container.created");
  undo.Keep();
  return parts.back().As<shim::PidReply>().pid;
}

Result<int64_t> ShimLauncher::StartContainer(const PodId& pod, const ContainerId& id, const Deadline& until) {
  auto link = TRY(Need(pod));
  if (link->IsForeign(id)) return StartForeign(*link, id, until);
  auto parts = TRY(link->Call({Type::kStart, TRY(ContainerBody(id)), {}}, until, fmt::format("start container {}", id.Short())));
  return parts.back().As<shim::StartReply>().started_at;
}

Result<void> ShimLauncher::Signal(const PodId& pod, const ContainerId& id, int signal, bool all, const Deadline& until) {
  auto link = TRY(Need(pod));
  const std::string what = fmt::format("signal container {}", id.Short());
  if (signal < 0 || signal > 64) return Err(Code::kInvalidArgument, "{}: signal {}: must be 0 to 64", what, signal);
  if (link->IsForeign(id)) return SignalForeign(*link, id, signal, all, until);
  const std::string path = all ? CgroupOf(*link, id) : std::string();
  if (!path.empty()) {   // from outside: works with a monitor that hangs
    const cgroup::Layout* layout = TRY(cgroup::Host());
    return signal == SIGKILL ? cgroup::KillAll(*layout, {path}) : cgroup::SignalAll(*layout, {path}, signal);
  }
  shim::SignalRequest request;
  TRY(Put(request.id, id.str(), "container id"));
  request.signal = signal;
  TRY(link->Call({Type::kSignal, Bytes(request), {}}, until, what));
  return {};
}

Result<void> ShimLauncher::DeleteContainer(const PodId& pod, const ContainerId& id, const Deadline& until) {
  auto link = links_->Find(pod);
  if (!link) return {};
  const std::string what = fmt::format("delete container {}", id.Short());
  if (link->alive()) {
    auto deleted = link->Call({Type::kDelete, TRY(ContainerBody(id)), {}}, until, what);
    if (!deleted && deleted.error().code != Code::kNotFound) return std::unexpected(deleted.error());
  } else {
    ::unlink(fmt::format("{}/{}{}", link->state_dir, id, shim::kRecordSuffix).c_str());
  }
  if (link->IsForeign(id)) TRY_CTX(DeleteForeign(*link, id, until), "{}", what);
  Failpoint("launcher.delete_container.forgotten");
  TRY_CTX(RemoveCgroup(*link, id, until), "{}", what);
  link->Forget(id);
  return {};
}

Result<ExecHandle> ShimLauncher::Exec(const ExecLaunch& launch, const Deadline& until) {
  const std::string what = fmt::format("exec in container {}", launch.container.Short());
  auto link = TRY(Need(launch.pod));
  if (launch.process == nullptr || launch.process->args.empty())
    return Err(Code::kInvalidArgument, "{}: args: must name a program", what);
  if (link->IsPaused(launch.container)) return Err(Code::kConflict, "{}: container is paused", what);
  if (link->IsForeign(launch.container)) return ExecForeign(*link, launch, until);
  shim::ExecRequest request;
  TRY(Put(request.container, launch.container.str(), "container id"));
  oci::ExecInput input{.process = launch.process, .spec = launch.spec, .id = launch.container.str()};
  input.cgroup_path = CgroupOf(*link, launch.container);
  input.terminal = launch.tty;
  input.rows = launch.rows;
  input.columns = launch.columns;
  oci::Prepared prepared = TRY_CTX(oci::MakeExecPlan(input), "{}", what);
  unique_fd plan = TRY(SealPlan(prepared, *link, what));
  auto [exit_read, exit_write] = TRY(Pipe());
  Outgoing message{Type::kExec, {}, {plan.get(), exit_write.get()}};
  if (launch.tty) {
    request.flags |= shim::kTty;
  } else {
    const std::pair<int, shim::CreateFlags> streams[] = {{launch.in, shim::kIn}, {launch.out, shim::kOut}, {launch.err, shim::kErr}};
    for (const auto& [fd, flag] : streams) {
      if (fd < 0) continue;
      request.flags |= flag;
      message.fds.push_back(fd);
    }
  }
  for (int fd : prepared.RawFds()) message.fds.push_back(fd);
  request.plan_fds = static_cast<uint32_t>(prepared.fds.size());
  request.plan_size = prepared.plan.size();
  message.body = Bytes(request);
  auto parts = TRY(link->Call(message, until, what, [](PodLink& late, const Packet& packet) {
    shim::SignalExecRequest kill{packet.As<shim::ExecReply>().exec, SIGKILL};   // nobody waits for it any more
    late.Post({Type::kSignalExec, Bytes(kill), {}});
  }));
  auto reply = parts.back().As<shim::ExecReply>();
  return ExecHandle{reply.exec, reply.pid, parts.back().TakeFd(0), std::move(exit_read)};
}

Result<void> ShimLauncher::SignalExec(const PodId& pod, uint64_t exec, int signal, const Deadline& until) {
  auto link = TRY(Need(pod));
  shim::SignalExecRequest request{exec, signal};
  TRY(link->Call({Type::kSignalExec, Bytes(request), {}}, until, fmt::format("signal exec {}", exec)));
  return {};
}

Result<void> ShimLauncher::ReopenLog(const PodId& pod, const ContainerId& id, const std::string& path, const Deadline& until) {
  auto link = TRY(Need(pod));
  unique_fd log = TRY(OpenLog(path));
  TRY(link->Call({Type::kReopenLog, TRY(ContainerBody(id)), {log.get()}}, until, fmt::format("reopen the log of {}", id.Short())));
  return {};
}

}  // namespace berth::runtime
