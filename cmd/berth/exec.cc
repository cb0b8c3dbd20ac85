#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/atomic_file.h"
#include "base/unique_fd.h"
#include "cmd/berth/commands.h"

namespace berth::cli {
namespace {

namespace agent = ::berth::v1;

struct ExecOptions {
  std::string container, user, working_dir;
  std::vector<std::string> argv, env;
  bool tty = false, interactive = false, privileged = false;
};

// Raw mode of our terminal, restored when it goes.
class RawTerminal {
 public:
  RawTerminal() {
    if (::tcgetattr(STDIN_FILENO, &saved_) < 0) return;
    termios raw = saved_;
    ::cfmakeraw(&raw);
    active_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~RawTerminal() {
    if (active_) ::tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
  }

 private:
  termios saved_{};
  bool active_ = false;
};

void ReadWindow(agent::WindowSize* size) {
  winsize w{};
  if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &w) == 0) {
    size->set_rows(w.ws_row);
    size->set_columns(w.ws_col);
  }
}

Result<int> Exec(const Context& context, const ExecOptions& o) {
  if (o.tty && !::isatty(STDIN_FILENO))
    return Err(Code::kInvalidArgument, "--tty: standard input is not a terminal; leave --tty out");
  Client client = context.Open();
  auto container = TRY(FindContainer(client, o.container));

  // Signals arrive on a descriptor of the input thread; blocked before any thread exists.
  sigset_t signals;
  sigemptyset(&signals);
  for (int s : {SIGWINCH, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&signals, s);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  unique_fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  auto [stop_read, stop_write] = TRY(Pipe());

  grpc::ClientContext call;
  auto stream = client.agent->Exec(&call);
  agent::ExecInput first;
  auto* start = first.mutable_start();
  start->set_container_id(container.id());
  for (const auto& a : o.argv) start->add_argv(a);
  for (const auto& e : o.env) start->add_env(e);
  start->set_user(o.user);
  start->set_working_dir(o.working_dir);
  start->set_tty(o.tty);
  start->set_stdin(o.interactive);
  start->set_privileged(o.privileged);
  if (o.tty) ReadWindow(start->mutable_size());
  stream->Write(first);

  std::optional<RawTerminal> raw;
  if (o.tty) raw.emplace();
  std::thread input([&, stop = stop_read.get(), sig = signal_fd.get()] {
    bool open = o.interactive;
    while (true) {
      pollfd fds[3] = {{stop, POLLIN, 0}, {sig, POLLIN, 0}, {open ? STDIN_FILENO : -1, POLLIN, 0}};
      if (::poll(fds, 3, -1) < 0) continue;
      agent::ExecInput message;
      if (fds[0].revents != 0) return;
      if (fds[1].revents & POLLIN) {
        signalfd_siginfo info;
        if (::read(sig, &info, sizeof info) != sizeof info) continue;
        if (info.ssi_signo == SIGWINCH) {
          if (!o.tty) continue;
          ReadWindow(message.mutable_resize());
        } else {
          message.set_signal(static_cast<int>(info.ssi_signo));
        }
      } else if (fds[2].revents != 0) {
        char buffer[16384];
        ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
        if (n > 0) {
          message.set_stdin(buffer, n);
        } else {
          message.set_stdin_closed(true);
          open = false;
        }
      } else {
        continue;
      }
      if (!stream->Write(message)) return;
    }
  });
  agent::ExecOutput output;
  int code = -1;
  while (stream->Read(&output)) {
    if (!output.stdout().empty()) (void)WriteAll(STDOUT_FILENO, output.stdout()).has_value();
    if (!output.stderr().empty()) (void)WriteAll(STDERR_FILENO, output.stderr()).has_value();
    if (output.exited()) code = output.exit_code();
  }
  stop_write.reset();
  input.join();
  raw.reset();
  grpc::Status status = stream->Finish();
  if (code < 0) TRY(ToResult(status, client));
  if (code < 0)
    return Err(Code::kUnavailable, "the agent ended the session without an exit code; the process may still run");
  return code;
}

}  // namespace

void AddExec(CLI::App& app, Context& context) {
  auto o = std::make_shared<ExecOptions>();
  auto* exec = app.add_subcommand("exec", "Runs a program in a running container; exits with the program's code");
  exec->add_flag("-i,--interactive", o->interactive, "Passes standard input on");
  exec->add_flag("-t,--tty", o->tty, "With a terminal of its own");
  exec->add_option("-e,--env", o->env, "KEY=value, in addition to the container's; repeatable")
      ->take_all()
      ->allow_extra_args(false);
  exec->add_option("-u,--user", o->user, "User name or id, with :group when wanted");
  exec->add_option("-w,--workdir", o->working_dir, "Directory to start in");
  exec->add_flag("--privileged", o->privileged, "With all capabilities, without seccomp");
  exec->add_option("container", o->container, "Name or id")->required();
  exec->prefix_command();  // what follows the container is the program with its own options
  exec->callback([=, &context] {
    o->argv = exec->remaining();
    if (o->argv.empty()) throw CLI::RequiredError("the program to run");
    context.action = [=, &context] { return Exec(context, *o); };
  });
}

}  // namespace berth::cli
