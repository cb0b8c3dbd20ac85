#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/atomic_file.h"
#include "runtime/oci/launch.h"

namespace berth::runtime::oci {
namespace {

// Our terminal in raw mode, while the container has its own at the other end.
class RawMode {
 public:
  RawMode() {
    if (::tcgetattr(0, &saved_) < 0) return;
    termios raw = saved_;
    ::cfmakeraw(&raw);
    active_ = ::tcsetattr(0, TCSANOW, &raw) == 0;
  }
  ~RawMode() {
    if (active_) ::tcsetattr(0, TCSANOW, &saved_);
  }

 private:
  termios saved_{};
  bool active_ = false;
};

void CopySize(int terminal) {
  winsize size;
  if (::ioctl(0, TIOCGWINSZ, &size) == 0) ::ioctl(terminal, TIOCSWINSZ, &size);
}

// False at end of file or error.
bool Move(int from, int to) {
  char buffer[16384];
  ssize_t n = ::read(from, buffer, sizeof buffer);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  return n > 0 && WriteAll(to, {buffer, static_cast<size_t>(n)}).has_value();
}

}  // namespace

Result<int> Attend(pid_t pid, int pidfd, int terminal) {
  sigset_t all;
  sigfillset(&all);
  if (::sigprocmask(SIG_SETMASK, &all, nullptr) < 0) return SysErr("block signals");
  unique_fd signals(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return SysErr("make a signalfd");
  std::optional<RawMode> raw;
  if (terminal >= 0) {
    CopySize(terminal);
    raw.emplace();
  }
  bool input = terminal >= 0, output = terminal >= 0, ended = false;
  while (!ended || output) {
    pollfd fds[4] = {{pidfd, POLLIN, 0},
                     {signals.get(), POLLIN, 0},
                     {output ? terminal : -1, POLLIN, 0},
                     {input ? 0 : -1, POLLIN, 0}};
    if (ended) fds[0].fd = -1;
    // After the end: what is still on its way. The kernel passes a terminal's bytes on from a work queue and reports the
    // hang-up behind them; only a process that has outlived the first one makes us wait the time out.
    int ready = ::poll(fds, 4, ended ? 50 : -1);
    if (ready < 0 && errno != EINTR) return SysErr("wait for the container");
    if (ready == 0) break;
    if (fds[2].revents && !Move(terminal, 1)) output = false;
    if (fds[3].revents && !Move(0, terminal)) input = false;
    if (fds[0].revents) ended = true;
    if (fds[1].revents) {
      signalfd_siginfo info;
      while (::read(signals.get(), &info, sizeof info) == sizeof info) {
        int number = static_cast<int>(info.ssi_signo);
        if (number == SIGCHLD) {
          // As a subreaper we inherit orphans of the container; its own first process is waited for below.
          siginfo_t other{};
          while (::waitid(P_ALL, 0, &other, WEXITED | WNOHANG | WNOWAIT) == 0 && other.si_pid > 0 &&
                 other.si_pid != pid)
            ::waitpid(other.si_pid, nullptr, 0);
        } else if (number == SIGWINCH && terminal >= 0) {
          CopySize(terminal);
        } else if (number != SIGPIPE && number != SIGURG && number != SIGTTOU && number != SIGTTIN) {
          ::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
        }
      }
    }
  }
  int status = 0;
  while (::waitpid(pid, &status, __WALL) < 0)
    if (errno != EINTR) return SysErr("wait for process {}", pid);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace berth::runtime::oci
