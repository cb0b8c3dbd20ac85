// ShimLauncher for containers of other OCI runtimes. The monitor runs what becomes a parent (create, start, exec), so
// that it survives us; the rest of the runtime's command line is called from here (foreign_bundle.h).
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/undo.h"
#include "runtime/foreign_bundle.h"
#include "runtime/handler_features.h"
#include "runtime/linux/cgroup.h"
#include "runtime/shim_launcher.h"
#include "runtime/shim_launcher_parts.h"

namespace berth::runtime {

using shim::Type;

namespace {

std::string Known(const std::map<std::string, Handler>& handlers) {
  std::string out;
  for (const auto& [name, handler] : handlers) out += (out.empty() ? "" : ", ") + name;
  return out.empty() ? "none is configured" : "there are " + out;
}

// In the bundle; the runtime gets its bare name, as paths of sockets are short.
Result<unique_fd> ListenForTerminal(const ForeignBundle& bundle, int dir, const std::string& name) {
  unique_fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return SysErr("socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}/{}", dir, name);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 || ::listen(socket.get(), 1) < 0)
    return SysErr("console socket {}", bundle.Path(name));
  return socket;
}

// A command of the runtime for the monitor to run. Descriptors are borrowed: they live in `owned` or with the caller.
struct Order {
  shim::ForeignRequest request;
  Outgoing message{Type::kForeign, {}, {}};
  std::vector<unique_fd> owned;

  void Own(unique_fd fd) {
    message.fds.push_back(fd.get());
    owned.push_back(std::move(fd));
  }
};

Result<Order> MakeOrder(const ForeignBundle& bundle, shim::Verb verb) {
  Order order;
  TRY(Put(order.request.id, bundle.id().str(), "container id"));
  order.request.verb = verb;
  unique_fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self) return SysErr("pidfd of the agent");
  order.Own(std::move(self));
  order.Own(TRY(Open(bundle.dir(), O_RDONLY | O_DIRECTORY)));
  return order;
}

void SetWords(Order& order, const std::vector<std::string>& words) {
  const auto environment = HandlerEnvironment();
  order.request.argc = static_cast<uint32_t>(words.size());
  order.request.envc = static_cast<uint32_t>(environment.size());
  order.message.body = Bytes(order.request);
  for (const auto* list : {&words, &environment})
    for (const std::string& word : *list) order.message.body.append(word.c_str(), word.size() + 1);
}

// What the monitor answers when the command itself failed has no reason; the runtime's log has.
Error Explain(const ForeignBundle& bundle, std::string_view call, std::string_view what, Error error) {
  if (error.code != Code::kInternal) return error;
  return bundle.Failure(call, what, error.what);
}

struct Seen {
  bool known = false, dead = false;
  pid_t pid = -1;
};
// What the monitor has of a container.
Result<Seen> Look(PodLink& link, const ContainerId& id, const Deadline& until, const std::string& what) {
  auto parts = TRY(link.Call({Type::kList, {}, {}}, until, what));
  for (const Packet& part : parts) {
    for (size_t at = 0; at + sizeof(shim::ContainerEntry) <= part.body.size(); at += sizeof(shim::ContainerEntry)) {
      shim::ContainerEntry entry;
      memcpy(&entry, part.body.data() + at, sizeof entry);
      entry.id[shim::kIdSize - 1] = '\0';
      if (id.str() == entry.id) return Seen{true, entry.state == shim::State::kExited || entry.pid < 0, entry.pid};
    }
  }
  return Seen{};
}

Result<pid_t> PidOwner(PodLink& link, const ContainerLaunch& launch, const Deadline& until, const std::string& what) {
  if (launch.pid == NamespaceMode::kPod) {
    if (link.init <= 0) return Err(Code::kConflict, "{}: the pod has no PID namespace of its own", what);
    return link.init;
  }
  if (launch.pid != NamespaceMode::kTarget) return -1;
  auto target = TRY(Look(link, launch.target, until, what));
  if (!target.known) return Err(Code::kNotFound, "{}: target: no such container: {}", what, launch.target);
  if (target.dead) return Err(Code::kConflict, "{}: target container does not run: {}", what, launch.target);
  return target.pid;
}

}  // namespace

Result<pid_t> ShimLauncher::CreateForeign(const std::shared_ptr<PodLink>& link, const ContainerLaunch& launch,
                                          const Deadline& until) {
  const std::string what = fmt::format("create container {}", launch.id.Short());
  auto handler = handlers_.find(launch.handler);
  if (handler == handlers_.end())
    return Err(Code::kInvalidArgument, "{}: runtime handler {}: is not configured; {}", what, launch.handler,
               Known(handlers_));
  if (!launch.spec->linux) return Err(Code::kInvalidArgument, "{}: linux: missing", what);
  auto made = ForeignBundle::Make(link->run_dir, launch.id, handler->second);
  if (!made && made.error().code == Code::kAlreadyExists) return Err(Code::kAlreadyExists, "{}: exists", what);
  if (!made) return Wrap(std::move(made).error(), "{}", what);
  const ForeignBundle& bundle = *made;
  link->SetForeign(launch.id, true);
  Undo undo;
  undo.Add("delete the container",
           [&]() -> Result<void> { return DeleteContainer(launch.pod, launch.id, UndoDeadline()); });
  Failpoint("launcher.foreign.bundle");
  if (const std::string& path = launch.spec->linux->cgroupsPath; !path.empty())
    if (::symlink(path.c_str(), CgroupLink(*link, launch.id).c_str()) < 0) return SysErr("{}: record its cgroup", what);

  ForeignPlace place{
      .bundle = bundle.dir(), .monitor = link->monitor(), .own_net = link->own_net, .terminal = launch.tty};
  place.pid_owner = TRY(PidOwner(*link, launch, until, what));
  unique_fd shm = TRY(ShmFor(*link, until, what));
  place.shm = shm.valid();
  TRY_CTX(bundle.Attach(launch.rootfs, "rootfs"), "{}", what);
  if (shm) TRY_CTX(bundle.Attach(shm.get(), "shm"), "{}", what);
  Failpoint("launcher.foreign.mounted");
  TRY_CTX(bundle.WriteConfig(ForeignSpec(*launch.spec, place)), "{}", what);

  Order order = TRY(MakeOrder(bundle, shim::Verb::kCreate));
  TRY(Put(order.request.pid_file, "create.pid", "pid file"));
  if (!launch.log.path.empty()) {
    order.request.flags |= shim::kHasLog;
    order.Own(TRY(OpenLog(launch.log.path)));
  }
  if (launch.keep_stdin) order.request.flags |= shim::kKeepStdin;
  std::vector<std::string> command = {"create", "--bundle", bundle.dir(), "--pid-file", bundle.Path("create.pid")};
  if (launch.tty) {
    order.request.flags |= shim::kTty;
    order.Own(TRY(ListenForTerminal(bundle, order.message.fds[1], "create.sock")));
    command.insert(command.end(), {"--console-socket", "create.sock"});
  }
  command.push_back(launch.id.str());
  SetWords(order, bundle.Words("create", std::move(command)));
  link->Forget(launch.id);
  auto parts = link->Call(order.message, until, what);
  if (!parts) return std::unexpected(Explain(bundle, "create", what, std::move(parts).error()));
  if (link->facts()) {   // it has not started: nothing of its own output is logged otherwise
    PolicyParts policy = TRY_CTX(DescribePolicy(launch, launch.spec->linux->cgroupsPath), "{}", what);
    shim::PolicyRequest request;
    TRY(Put(request.id, launch.id.str(), "container id"));
    request.flags = policy.flags;
    request.policy = policy.policy;
    Outgoing message{Type::kPolicy, Bytes(request), {}};
    for (const unique_fd& fd : policy.fds) message.fds.push_back(fd.get());
    TRY(link->Call(message, until, what));
  }
  Failpoint("launcher.foreign.created");
  for (const char* name : {"create.pid", "create.sock", "create.log"}) ::unlink(bundle.Path(name).c_str());
  undo.Keep();
  return parts->back().As<shim::PidReply>().pid;
}

Result<int64_t> ShimLauncher::StartForeign(PodLink& link, const ContainerId& id, const Deadline& until) {
  const std::string what = fmt::format("start container {}", id.Short());
  auto bundle = TRY_CTX(ForeignBundle::Find(link.run_dir, id), "{}", what);
  Order order = TRY(MakeOrder(bundle, shim::Verb::kStart));
  SetWords(order, bundle.Words("start", {"start", id.str()}));
  auto parts = link.Call(order.message, until, what);
  if (!parts) return std::unexpected(Explain(bundle, "start", what, std::move(parts).error()));
  ::unlink(bundle.Path("start.log").c_str());
  return parts->back().As<shim::StartReply>().started_at;
}

Result<void> ShimLauncher::SignalForeign(PodLink& link, const ContainerId& id, int signal, bool all,
                                         const Deadline& until) {
  const std::string what = fmt::format("signal container {}", id.Short());
  auto bundle = TRY_CTX(ForeignBundle::Find(link.run_dir, id), "{}", what);
  std::vector<std::string> command = {"kill"};
  if (all) command.push_back("--all");
  command.insert(command.end(), {id.str(), std::to_string(signal)});
  auto sent = bundle.Run("kill-" + RandomHex(8), std::move(command), until);
  // Every process, whatever the runtime makes of that; also from outside a monitor that hangs.
  const std::string path = all && signal == SIGKILL ? CgroupOf(link, id) : std::string();
  if (!path.empty()) {
    TRY_CTX(cgroup::KillAll(*TRY(cgroup::Host()), {path}), "{}", what);
    return {};
  }
  if (sent) return sent;
  auto seen = Look(link, id, until, what);
  if (!seen) return sent;
  if (!seen->known) return Err(Code::kNotFound, "{}: no such container", what);
  return seen->dead ? Result<void>() : sent;
}

// When the monitor knows it no longer, or is gone.
Result<void> ShimLauncher::DeleteForeign(PodLink& link, const ContainerId& id, const Deadline& until) {
  auto found = ForeignBundle::Find(link.run_dir, id);
  if (!found && found.error().code == Code::kNotFound) {
    link.SetForeign(id, false);
    return {};
  }
  if (!found) return std::unexpected(std::move(found).error());
  if (!found->program().empty()) {
    // One that is not there is success to it. A program that is not there any more has nothing to say.
    auto deleted = found->Run("delete-" + RandomHex(8), {"delete", "--force", id.str()}, until);
    if (!deleted && (until.expired() || ::access(found->program().c_str(), X_OK) == 0))
      log::Warn("foreign.delete", {{"container", id}, {"error", deleted.error()}});
    if (!deleted && until.expired()) return deleted;
  }
  Failpoint("launcher.foreign.deleted");
  TRY(RemoveCgroup(link, id, until));
  TRY(found->Remove());
  link.SetForeign(id, false);
  return {};
}

Result<ExecHandle> ShimLauncher::ExecForeign(PodLink& link, const ExecLaunch& launch, const Deadline& until) {
  const std::string what = fmt::format("exec in container {}", launch.container.Short());
  auto bundle = TRY_CTX(ForeignBundle::Find(link.run_dir, launch.container), "{}", what);
  const std::string call = "exec-" + RandomHex(8);
  const std::string process_file = call + ".json", pid_file = call + ".pid", socket_name = call + ".sock";
  Undo tidy;  // also of a success
  tidy.Add("remove the files of an exec", [&]() -> Result<void> {
    for (const std::string& name : {process_file, pid_file, socket_name, call + ".log"})
      ::unlink(bundle.Path(name).c_str());
    return {};
  });
  oci::Process process = *launch.process;
  process.terminal = launch.tty;
  process.consoleSize.reset();
  if (launch.tty && launch.rows > 0) process.consoleSize = oci::Box{launch.rows, launch.columns};
  {
    unique_fd file = TRY(Open(bundle.Path(process_file), O_WRONLY | O_CREAT | O_EXCL, 0600));
    TRY(WriteAll(file.get(), json::Serialize(WithoutEmpty(json::ToValue(process)))));
  }
  Order order = TRY(MakeOrder(bundle, shim::Verb::kExec));
  TRY(Put(order.request.pid_file, pid_file, "pid file"));
  auto [exit_read, exit_write] = TRY(Pipe());
  order.Own(std::move(exit_write));
  std::vector<std::string> command = {"exec",     "--process",  bundle.Path(process_file),
                                      "--detach", "--pid-file", bundle.Path(pid_file)};
  if (launch.tty) {
    order.request.flags |= shim::kTty;
    order.Own(TRY(ListenForTerminal(bundle, order.message.fds[1], socket_name)));
    command.insert(command.end(), {"--console-socket", socket_name});
  } else {
    const std::pair<int, shim::CreateFlags> streams[] = {
        {launch.in, shim::kIn}, {launch.out, shim::kOut}, {launch.err, shim::kErr}};
    for (const auto& [fd, flag] : streams) {
      if (fd < 0) continue;
      order.request.flags |= flag;
      order.message.fds.push_back(fd);
    }
  }
  command.push_back(launch.container.str());
  SetWords(order, bundle.Words(call, std::move(command)));
  auto parts = link.Call(order.message, until, what, [](PodLink& late, const Packet& packet) {
    shim::SignalExecRequest kill{packet.As<shim::ExecReply>().exec, SIGKILL};  // nobody waits for it any more
    late.Post({Type::kSignalExec, Bytes(kill), {}});
  });
  if (!parts) return std::unexpected(Explain(bundle, call, what, std::move(parts).error()));
  auto reply = parts->back().As<shim::ExecReply>();
  return ExecHandle{reply.exec, reply.pid, parts->back().TakeFd(0), std::move(exit_read)};
}

}  // namespace berth::runtime
