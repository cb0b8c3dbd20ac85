#include "cri/stream_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "runtime/shim/protocol.h"

namespace berth::cri {
namespace {

using std::chrono::seconds;

Result<void> SetNonBlocking(const unique_fd& fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) return SysErr("make a stream non-blocking");
  return {};
}

// Ours and theirs, for one standard stream.
Result<std::pair<unique_fd, unique_fd>> Pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return SysErr("socketpair");
  std::pair<unique_fd, unique_fd> pair{unique_fd(ends[0]), unique_fd(ends[1])};
  TRY(SetNonBlocking(pair.first));
  return pair;
}

class ExecProcess final : public streaming::Process {
 public:
  ExecProcess(pods::Core& core, streaming::ExecTicket ticket) : core_(core), ticket_(std::move(ticket)) {}

  Result<void> Start(uint16_t rows, uint16_t columns, const Deadline& until) override {
    pods::ExecOptions options;
    options.argv = ticket_.argv;
    options.tty = ticket_.streams.tty;
    options.rows = rows, options.columns = columns;
    pod_ = TRY(pods::FindContainer(core_, ticket_.container)).pod;
    std::pair<unique_fd, unique_fd> streams[3];
    if (!options.tty) {
      if (ticket_.streams.in) streams[0] = TRY(Pipe()), std::swap(streams[0].first, streams[0].second);
      if (ticket_.streams.out) streams[1] = TRY(Pipe());
      if (ticket_.streams.err) streams[2] = TRY(Pipe());
      options.in = streams[0].second.get(), options.out = streams[1].second.get(), options.err = streams[2].second.get();
      for (auto& [ours, theirs] : streams)
        if (ours) TRY(SetNonBlocking(ours));
    }
    exec_ = TRY(pods::Exec(core_, ticket_.container, options, until.Sooner(seconds(60))));
    if (options.tty) {
      TRY(SetNonBlocking(exec_.terminal));
      if (ticket_.streams.in) in = TRY(exec_.terminal.Duplicate());
      out = std::move(exec_.terminal);
    } else {
      in = std::move(streams[0].first), out = std::move(streams[1].first), err = std::move(streams[2].first);
    }
    return {};
  }

  void Resize(uint16_t rows, uint16_t columns) override {
    winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    if (out) ::ioctl(out.get(), TIOCSWINSZ, &size);
  }

  int news() const override { return exec_.exit.get(); }
  bool Over() override {
    int32_t code = 0;
    const ssize_t n = ::read(exec_.exit.get(), &code, sizeof code);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (n == sizeof code)
      code_ = code;
    else
      code_ = Err(Code::kUnavailable, "the pod's monitor ended before the command did");
    return true;
  }
  Result<std::optional<int>> Outcome() override { return code_; }

  // Nobody would ever read it again, and there is no call to end it later. A hang-up first, as a terminal that is closed
  // gives it; what ignores that is killed.
  void Abandon() override {
    in.reset(), out.reset(), err.reset();
    const Deadline soon = Deadline::After(seconds(10));
    if (!core_.launcher.SignalExec(pod_, exec_.id, SIGHUP, soon)) return;
    if (Deadline::After(seconds(2)).WaitFor(exec_.exit.get(), POLLIN, "the command")) return;
    if (auto killed = core_.launcher.SignalExec(pod_, exec_.id, SIGKILL, soon); !killed)
      log::Warn("exec.not_killed", {{"container", ticket_.container}, {"error", killed.error().what}});
  }

 private:
  pods::Core& core_;
  streaming::ExecTicket ticket_;
  PodId pod_;
  runtime::ExecHandle exec_;
  Result<std::optional<int>> code_ = std::nullopt;
};

class AttachProcess final : public streaming::Process {
 public:
  AttachProcess(pods::Core& core, streaming::AttachTicket ticket) : core_(core), ticket_(std::move(ticket)) {}

  Result<void> Start(uint16_t rows, uint16_t columns, const Deadline& until) override {
    pods::AttachOptions options;
    std::pair<unique_fd, unique_fd> streams[3];
    if (ticket_.streams.in) streams[0] = TRY(Pair());
    if (ticket_.streams.out) streams[1] = TRY(Pair());
    if (ticket_.streams.err) streams[2] = TRY(Pair());
    options.in = streams[0].second.get(), options.out = streams[1].second.get(), options.err = streams[2].second.get();
    if (rows != 0) Resize(rows, columns);
    pod_ = TRY(pods::FindContainer(core_, ticket_.container)).pod;
    attach_ = TRY(pods::Attach(core_, ticket_.container, options, until.Sooner(seconds(60))));
    in = std::move(streams[0].first), out = std::move(streams[1].first), err = std::move(streams[2].first);
    return {};
  }

  void Resize(uint16_t rows, uint16_t columns) override {
    if (auto resized = pods::ResizeTerminal(core_, ticket_.container, rows, columns, Deadline::After(seconds(5))); !resized)
      log::Debug("attach.not_resized", {{"container", ticket_.container}, {"error", resized.error().what}});
  }

  int news() const override { return attach_.news.get(); }
  bool Over() override {
    shim::AttachNews news;
    const ssize_t n = ::read(attach_.news.get(), &news, sizeof news);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (n == static_cast<ssize_t>(sizeof news) && news.kind == shim::AttachNewsKind::kDropped) {
      log::Warn("attach.dropped", {{"container", ticket_.container}, {"stream", news.stream}, {"bytes", news.count}});
      return false;
    }
    return true;  // kEnded, or the monitor is gone
  }
  Result<std::optional<int>> Outcome() override { return std::nullopt; }

  void Abandon() override {
    if (auto detached = core_.launcher.Detach(pod_, attach_.id, Deadline::After(seconds(10))); !detached)
      log::Warn("attach.not_detached", {{"container", ticket_.container}, {"error", detached.error().what}});
  }

 private:
  pods::Core& core_;
  streaming::AttachTicket ticket_;
  PodId pod_;
  runtime::AttachHandle attach_;
};

class CoreBackend final : public streaming::Backend {
 public:
  explicit CoreBackend(pods::Core& core) : core_(core) {}
  std::unique_ptr<streaming::Process> Exec(const streaming::ExecTicket& ticket) override { return std::make_unique<ExecProcess>(core_, ticket); }
  std::unique_ptr<streaming::Process> Attach(const streaming::AttachTicket& ticket) override {
    return std::make_unique<AttachProcess>(core_, ticket);
  }
  Result<unique_fd> Dial(const std::string& pod, uint16_t port, const Deadline& until) override { return pods::Dial(core_, pod, port, until); }

 private:
  pods::Core& core_;
};

}  // namespace

std::unique_ptr<streaming::Backend> MakeStreamBackend(pods::Core& core) { return std::make_unique<CoreBackend>(core); }

}  // namespace berth::cri
