#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "runtime/linux/cgroup_files.h"
#include "runtime/oci/launch.h"
#include "runtime/oci/listener.h"

namespace berth::runtime::oci {
namespace {

// "0::/a/b" of /proc/<pid>/cgroup: the path below the mount of version 2. Empty when it cannot be told.
std::string V2PathOf(int64_t pid) {
  auto text = cgroup::ReadControl(fmt::format("/proc/{}/cgroup", pid));
  if (!text) return "";
  size_t at = text->starts_with("0::") ? 0 : text->find("\n0::");
  if (at == std::string::npos) return "";
  at = text->find("::", at) + 2;
  return text->substr(at, text->find('\n', at) - at);
}

}  // namespace

Result<Process> ProcessOf(const RuntimeHost& host, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  Spec spec = TRY(dir.ReadConfig());
  if (!spec.process) return Err(Code::kConflict, "container {} has no process", id);
  return std::move(*spec.process);
}

Result<int> Exec(const RuntimeHost& host, const ExecRequest& r, int* failed_code) {
  *failed_code = 1;
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  ContainerDir dir = TRY(ContainerDir::Find(host.root, r.id));
  StateRecord state = TRY(dir.ReadState());
  Status status = TRY(StatusOf(dir, state));
  if (status == Status::kStopped)
    return Err(Code::kConflict, "cannot exec in a stopped container: container not running");
  if (status == Status::kPaused && !r.ignore_paused)
    return Err(Code::kConflict, "cannot exec in a paused container (use --ignore-paused to override)");
  bool terminal = r.process.terminal;
  if (terminal && r.detach && r.console_socket.empty())
    return Err(Code::kInvalidArgument, "--tty: --detach needs --console-socket, else nobody is at its other end");
  if (!terminal && !r.console_socket.empty())
    return Err(Code::kInvalidArgument, "--console-socket: the process has no terminal");
  Spec spec = TRY(dir.ReadConfig());
  unique_fd target = TRY(OpenProcess(state));

  ExecInput in;
  in.process = &r.process;
  in.spec = &spec;
  in.id = r.id;
  in.target = target.get();
  in.cgroup_path = state.cgroup;
  in.preserve_fds = r.preserve_fds;
  in.attended = true;
  in.seccomp_cache = host.root + "/.seccomp";
  Process own = r.process;
  Activate(own, r.activation);
  in.process = &own;
  in.subgroups = r.subgroups;
  in.listen_pid = r.activation.listen_fds > 0;
  in.preserve_fds += r.activation.listen_fds;
  std::vector<unique_fd> tasks;
  if (state.resctrl) tasks = TRY(resctrl::OpenTasks(*state.resctrl));
  for (const unique_fd& fd : tasks) in.tasks.push_back(fd.get());
  unique_fd root;
  if (state.mountId) {
    root = TRY(Open(fmt::format("/proc/{}/root", state.pid), O_PATH | O_DIRECTORY));
    in.root = root.get();
  }
  init::Process process;
  init::Failure failure;
  Prepared prepared;
  for (;;) {
    prepared = TRY(MakeExecPlan(in));
    auto fds = prepared.RawFds();
    if (init::Create(prepared.plan.data(), prepared.plan.size(), fds.data(), fds.size(), {0, 1, 2}, {.stub = host.stub},
                     &process, &failure))
      break;
    // A container that has made groups of its own (an init system) has no place in its topmost one on version 2: then
    // where its first process is.
    if (failure.sys != EBUSY || !in.v2_path.empty() || !in.subgroups.empty()) return FromFailure(failure, failed_code);
    in.v2_path = V2PathOf(state.pid);
    if (in.v2_path.empty()) return FromFailure(failure, failed_code);
  }
  for (const std::string& w : prepared.warnings) host.warn(w);
  unique_fd pidfd(process.pidfd), master(process.terminal);
  auto end = [&] { EndProcess(process.pid, pidfd.get()); };
  std::optional<Listener> listener;
  auto prepare = [&]() -> Result<void> {
    if (prepared.notifies) listener = TRY(Listener::Connect(state, process.pid, "running"));
    if (terminal && !r.console_socket.empty()) {
      TRY(SendTerminal(r.console_socket, master.get()));
      master.reset();
    }
    if (!r.pidfd_socket.empty()) TRY(SendDescriptor("--pidfd-socket", r.pidfd_socket, pidfd.get(), "pidfd"));
    TRY_CTX(WritePidFile(r.pid_file, process.pid), "--pid-file");
    return {};
  };
  if (auto done = prepare(); !done) {
    ::close(process.sync);
    end();
    return std::unexpected(std::move(done).error());
  }
  if (!init::Start(&process, Listener::Observe(listener), &failure)) {
    end();
    return FromFailure(failure, failed_code);
  }
  if (r.detach) return 0;
  return Attend(process.pid, pidfd.get(), master.get());
}

}  // namespace berth::runtime::oci
