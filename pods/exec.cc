#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "pods/capabilities.h"
#include "pods/core.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/table.h"
#include "pods/users.h"

namespace berth::pods {

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr size_t kOutputLimit = 8 << 20;  // two streams fit in one CRI answer of 16 MiB
// How long output is awaited from a process's children once it has exited: they may hold the pipe for ever.
constexpr milliseconds kDrain{250};

Result<ContainerPtr> Running(Core& core, const std::string& container) {
  auto c = TRY(core.registry.FindContainer(container));
  if (c->phase == ContainerPhase::kCreating) return Err(Code::kNotFound, "container {}: no such container", container);
  if (c->phase != ContainerPhase::kRunning) return Err(Code::kConflict, "container {}: is not running", c->id.Short());
  return c;
}

// The container's own process with what the exec asks for on top.
Result<runtime::oci::Process> ProcessOf(const runtime::oci::Spec& spec, const ContainerState& c,
                                        const ExecOptions& options) {
  if (options.argv.empty() || options.argv[0].empty()) return Err(Code::kInvalidArgument, "cmd: must not be empty");
  if (!spec.process) return Err(Code::kInternal, "container {}: specification without process", c.id.Short());
  runtime::oci::Process p = *spec.process;
  p.args = options.argv;
  p.terminal = options.tty;
  p.oomScoreAdj = c.spec.resources.oom_score_adj;
  auto set = [&](const std::string& entry) {
    std::string_view name(entry.data(), std::min(entry.find('='), entry.size()));
    std::erase_if(p.env, [&](const std::string& e) {
      return e.size() > name.size() && e[name.size()] == '=' && e.starts_with(name);
    });
    p.env.push_back(entry);
  };
  if (options.tty && std::none_of(p.env.begin(), p.env.end(), [](const auto& e) { return e.starts_with("TERM="); }))
    p.env.push_back("TERM=xterm");
  if (!options.user.empty()) {
    // The container's view of its root, also of files that it changed since it was created.
    auto root = TRY_CTX(Open(fmt::format("/proc/{}/root", c.pid), O_PATH | O_DIRECTORY), "container {}", c.id.Short());
    auto who = TRY(
        ResolveUser(root.get(), {.user = options.user, .uid = {}, .gid = {}, .groups = {}, .strict_groups = false}));
    p.user.uid = who.user.uid;
    p.user.gid = who.user.gid;
    p.user.additionalGids = who.user.groups;
    set("HOME=" + who.home);
  }
  for (const auto& entry : options.env) {
    if (entry.find('=') == std::string::npos || entry[0] == '=')
      return Err(Code::kInvalidArgument, "env: \"{}\": must be NAME=value", entry.substr(0, 64));
    set(entry);
  }
  if (!options.working_dir.empty()) {
    if (options.working_dir[0] != '/')
      return Err(Code::kInvalidArgument, "working_dir: {}: must be an absolute path", options.working_dir);
    p.cwd = options.working_dir;
  }
  if (options.privileged) {
    ContainerSpec all = c.spec;
    all.privileged = true;
    p.capabilities = TRY(MakeCapabilities(all));
  }
  return p;
}

Result<runtime::ExecHandle> Launch(Core& core, Operation& op, const ContainerState& c, const ExecOptions& options,
                                   const Deadline& until) {
  const auto spec = TRY(core.table.OciSpec(c.id));
  auto process = TRY(ProcessOf(spec, c, options));
  runtime::ExecLaunch launch;
  launch.pod = c.pod;
  launch.container = c.id;
  launch.process = &process;
  launch.spec = &spec;  // its seccomp filter goes for the exec too
  launch.tty = options.tty;
  if (!options.tty) {
    launch.in = options.in;
    launch.out = options.out;
    launch.err = options.err;
  }
  launch.rows = options.rows;
  launch.columns = options.columns;
  auto handle = op.In(core.launcher.Exec(launch, until));
  // "Not found" is said of the program here; to the callers of an exec it would mean the container.
  if (!handle && handle.error().code == Code::kNotFound) {
    Error e = std::move(handle).error();
    auto now = core.registry.Container(c.id);
    e.code = now && now->phase == ContainerPhase::kRunning ? Code::kFailedPrecondition : Code::kConflict;
    return std::unexpected(std::move(e));
  }
  return handle;
}

// One end of a pipe that is read into memory.
struct Sink {
  unique_fd fd;
  std::string* to;

  void Read() {  // all that is there
    char chunk[65536];
    while (fd) {
      ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return fd.reset();
      to->append(chunk, std::min(static_cast<size_t>(n), kOutputLimit - std::min(kOutputLimit, to->size())));
    }
  }
};

// Reads both pipes until the process has exited and its output is in. The exit code, or the error of `until`.
Result<int> Collect(Sink& out, Sink& err, const unique_fd& exit, const Deadline& until) {
  std::optional<int> code;
  std::optional<Deadline> drain;
  while (true) {
    if (code && !out.fd && !err.fd) return *code;
    const Deadline& now = drain ? *drain : until;
    if (drain && drain->expired()) return *code;
    if (!drain) TRY(until.Check("the command"));
    pollfd fds[4] = {{out.fd.get(), POLLIN, 0},
                     {err.fd.get(), POLLIN, 0},
                     {code ? -1 : exit.get(), POLLIN, 0},
                     {until.cancel_fd(), POLLIN, 0}};
    if (::poll(fds, 4, now.poll_timeout_ms()) < 0 && errno != EINTR) return SysErr("poll for the command's output");
    if (fds[0].revents) out.Read();
    if (fds[1].revents) err.Read();
    if (fds[2].revents) {
      int32_t value = 0;
      ssize_t n = ::read(exit.get(), &value, sizeof value);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n != sizeof value) return Err(Code::kUnavailable, "the pod's monitor ended before the command did");
      code = value;
      drain = until.Sooner(kDrain);
    }
  }
}

}  // namespace

Result<runtime::ExecHandle> Exec(Core& core, const std::string& container, const ExecOptions& options,
                                 const Deadline& until) {
  auto c = TRY(Running(core, container));
  Operation op(core, "exec", c->id.str());
  TRY(op.Stage("start", "start the command"));
  return Launch(core, op, *c, options, until);
}

Result<ExecResult> ExecSync(Core& core, const std::string& container, const std::vector<std::string>& argv,
                            nanoseconds timeout, const Deadline& until) {
  auto c = TRY(Running(core, container));
  Operation op(core, "exec_sync", c->id.str());
  Deadline limit = timeout > nanoseconds::zero() ? until.Sooner(timeout) : until;
  ExecResult result;
  auto [out_read, out_write] = TRY(Pipe());
  auto [err_read, err_write] = TRY(Pipe());
  for (int fd : {out_read.get(), err_read.get()})
    if (::fcntl(fd, F_SETFL, O_NONBLOCK) < 0) return SysErr("make a pipe non-blocking");

  TRY(op.Stage("start", "start the command"));
  ExecOptions options;
  options.argv = argv;
  options.out = out_write.get();
  options.err = err_write.get();
  auto handle = TRY(Launch(core, op, *c, options, limit));
  out_write.reset();
  err_write.reset();

  TRY(op.Stage("run", "run the command"));
  Sink out{std::move(out_read), &result.out}, err{std::move(err_read), &result.err};
  auto code = Collect(out, err, handle.exit, limit);
  if (!code) {
    // Gone for certain before the answer: probes run again and again.
    auto after = Deadline::After(seconds(10));
    if (core.launcher.SignalExec(c->pod, handle.id, SIGKILL, after))
      (void)after.WaitFor(handle.exit.get(), POLLIN, "the killed command");
    Error e = std::move(code).error();
    if (e.code == Code::kDeadlineExceeded && timeout > nanoseconds::zero())
      e.what = fmt::format("command {}: timed out after {} s", argv[0], std::chrono::duration<double>(timeout).count());
    return std::unexpected(std::move(e));
  }
  result.exit_code = *code;
  return result;
}

}  // namespace berth::pods
