// `berth exec`: one poll loop between the client's stream and the process. gRPC's callbacks only mark what happened and
// wake the loop; the loop never waits for one side while the other has something to say.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "cri/agent_service.h"
#include "cri/check.h"

namespace berth::cri {
namespace {

constexpr size_t kBuffer = 64 << 10;
// After the process ended its terminal may still hand over what it wrote; children that keep the terminal open do not
// delay the answer for longer than this.
constexpr auto kTerminalDrain = std::chrono::milliseconds(200);

Result<void> SetNonBlocking(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return SysErr("make a stream of the exec non-blocking");
  return {};
}

class ExecStream final : public grpc::ServerBidiReactor<wire::ExecInput, wire::ExecOutput> {
 public:
  ExecStream(Door& door, grpc::CallbackServerContext* context)
      : frame_(door, {"agent_exec", Rpc::kChange, /*endless=*/true}, context),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  void Start() {
    auto submitted =
        frame_.door().pool.Submit([this] { Finish(frame_.Run(nullptr, [&](Call& call) { return Serve(call); })); });
    if (!submitted) Finish(frame_.Refuse(submitted.error()));
  }

  void OnReadDone(bool ok) override {
    std::lock_guard lock(mutex_);
    read_ = ok ? ReadState::kReady : ReadState::kEnded;
    Wake();
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    gone_ = gone_ || !ok;
    Wake();
  }
  void OnCancel() override { frame_.Cancelled(); }
  void OnDone() override { delete this; }

 private:
  enum class ReadState { kIdle, kAsked, kReady, kEnded };

  void Wake() {
    uint64_t one = 1;
    if (::write(wake_.get(), &one, sizeof one) < 0) return;  // full: it is awake anyway
  }
  void ClearWake() {
    uint64_t count;
    if (::read(wake_.get(), &count, sizeof count) < 0) return;
  }
  void AskForInput() {
    std::lock_guard lock(mutex_);
    if (read_ != ReadState::kIdle) return;
    read_ = ReadState::kAsked;
    StartRead(&input_);
  }
  // True with a message in `input_`; it is the loop's until AskForInput.
  bool TakeInput() {
    std::lock_guard lock(mutex_);
    if (read_ != ReadState::kReady) return false;
    read_ = ReadState::kIdle;
    return true;
  }
  bool ended() {
    std::lock_guard lock(mutex_);
    return read_ == ReadState::kEnded;
  }
  bool writing() {
    std::lock_guard lock(mutex_);
    return writing_;
  }
  bool gone() {
    std::lock_guard lock(mutex_);
    return gone_;
  }
  void Send(wire::ExecOutput message) {
    std::lock_guard lock(mutex_);
    output_ = std::move(message);
    writing_ = true;
    StartWrite(&output_);
  }

  Result<void> Serve(Call& call);
  Result<void> Open(const wire::ExecStart& start, Call& call);
  Result<void> Relay(Call& call);
  Result<void> HandleInput(Call& call);
  void PushInput();
  bool SendSome();
  Result<void> AwaitFirst(const Deadline& until);
  Result<void> AwaitWritten(const Deadline& until);

  CallFrame frame_;
  unique_fd wake_;
  std::mutex mutex_;
  ReadState read_ = ReadState::kIdle;
  bool writing_ = false, gone_ = false;
  wire::ExecInput input_;
  wire::ExecOutput output_;

  // The loop's own.
  PodId pod_;
  runtime::ExecHandle process_;
  bool tty_ = false, input_closed_ = false;
  unique_fd in_, out_, err_;  // our ends; with a terminal all is process_.terminal
  std::string pending_;       // input that the process has not taken yet
  std::string buffer_ = std::string(kBuffer, '\0');
  size_t turn_ = 0;
};

Result<void> ExecStream::AwaitFirst(const Deadline& until) {
  AskForInput();
  while (true) {
    TRY(until.WaitFor(wake_.get(), POLLIN, "the start of the exec"));
    ClearWake();
    if (TakeInput()) return {};
    if (ended()) return Bad("start", "the stream ended before it");
  }
}

Result<void> ExecStream::AwaitWritten(const Deadline& until) {
  while (writing()) {
    TRY(until.WaitFor(wake_.get(), POLLIN, "the client to take output"));
    ClearWake();
  }
  return {};
}

Result<void> ExecStream::Open(const wire::ExecStart& start, Call& call) {
  call.object = start.container_id().substr(0, 64);
  TRY(CheckName("start.container_id", start.container_id()));
  if (start.argv_size() == 0 || start.argv(0).empty())
    return Bad("start.argv", "must name a program, then its arguments");
  for (int i = 0; i < start.env_size(); ++i)
    if (size_t equals = start.env(i).find('='); equals == 0 || equals == std::string::npos)
      return Bad(fmt::format("start.env[{}]", i), "must be NAME=value");
  if (!start.working_dir().empty()) TRY(CheckAbsolutePath("start.working_dir", start.working_dir()));
  TRY(CheckRange("start.size.rows", start.size().rows(), 0, 65535));
  TRY(CheckRange("start.size.columns", start.size().columns(), 0, 65535));
  Door& door = frame_.door();
  pods::ContainerState container = TRY(pods::FindContainer(door.core, start.container_id()));
  pod_ = container.pod;
  tty_ = start.tty();

  pods::ExecOptions options;
  options.argv.assign(start.argv().begin(), start.argv().end());
  options.env.assign(start.env().begin(), start.env().end());
  options.user = start.user();
  options.working_dir = start.working_dir();
  options.tty = tty_;
  options.privileged = start.privileged();
  options.rows = static_cast<uint16_t>(start.size().rows());
  options.columns = static_cast<uint16_t>(start.size().columns());
  unique_fd their_in, their_out, their_err;
  if (!tty_) {
    if (start.stdin()) std::tie(their_in, in_) = TRY(Pipe());
    std::tie(out_, their_out) = TRY(Pipe());
    std::tie(err_, their_err) = TRY(Pipe());
    options.in = their_in.get();
    options.out = their_out.get();
    options.err = their_err.get();
  }
  input_closed_ = !start.stdin();
  process_ = TRY(pods::Exec(door.core, container.id.str(), options, call.until));
  if (tty_) TRY(SetNonBlocking(process_.terminal.get()));
  for (const unique_fd* fd : {&in_, &out_, &err_})
    if (fd->valid()) TRY(SetNonBlocking(fd->get()));
  return {};
}

Result<void> ExecStream::Serve(Call& call) {
  if (!wake_) return Err(Code::kResourceExhausted, "no descriptor for the exec's streams");
  TRY(AwaitFirst(call.until));
  TRY(CheckShape(input_));
  if (!input_.has_start()) return Bad("start", "must be in the first message");
  auto kill = [&] {
    if (process_.pid <= 0) return;
    auto killed =
        frame_.door().core.launcher.SignalExec(pod_, process_.id, SIGKILL, Deadline::After(std::chrono::seconds(10)));
    if (!killed)
      log::Warn("exec.kill_failed", {{"pod", pod_.Short()}, {"pid", process_.pid}, {"error", killed.error()}});
  };
  // Nobody reads the process's output any more once the relay ended: it goes with its client.
  if (auto opened = Open(input_.start(), call); !opened) {
    kill();
    return opened;
  }
  auto relayed = Relay(call);
  if (!relayed) kill();
  return relayed;
}

Result<void> ExecStream::HandleInput(Call& call) {
  while (TakeInput()) {
    if (input_.has_start()) return Bad("start", "is only for the first message");
    if (input_.has_resize() && tty_) {
      TRY(CheckRange("resize.rows", input_.resize().rows(), 0, 65535));
      TRY(CheckRange("resize.columns", input_.resize().columns(), 0, 65535));
      winsize size{};
      size.ws_row = static_cast<unsigned short>(input_.resize().rows());
      size.ws_col = static_cast<unsigned short>(input_.resize().columns());
      if (size.ws_row > 0 && size.ws_col > 0)
        ::ioctl(process_.terminal.get(), TIOCSWINSZ, &size);  // a terminal gone is the exit's to tell
    }
    if (input_.signal() != 0) {
      TRY(CheckRange("signal", input_.signal(), 1, 64));
      auto sent = frame_.door().core.launcher.SignalExec(pod_, process_.id, input_.signal(), call.until);
      if (!sent && sent.error().code != Code::kNotFound) return sent;  // not found: it has just ended
    }
    if (!input_closed_) pending_ += input_.stdin();
    if (input_.stdin_closed()) input_closed_ = true;
  }
  if (ended()) input_closed_ = true;
  return {};
}

void ExecStream::PushInput() {
  int fd = tty_ ? process_.terminal.get() : in_.get();
  while (!pending_.empty() && fd >= 0) {
    ssize_t n = ::write(fd, pending_.data(), pending_.size());
    if (n > 0)
      pending_.erase(0, static_cast<size_t>(n));
    else if (n < 0 && errno == EINTR)
      continue;
    else if (n < 0 && errno == EAGAIN)
      return;
    else {  // nobody reads it any more
      pending_.clear();
      input_closed_ = true;
    }
  }
  if (fd < 0) pending_.clear();
  if (pending_.empty() && input_closed_) in_.reset();
}

// Starts one message of output when there is some. Takes turns, so that a flood on one stream does not hide the other.
bool ExecStream::SendSome() {
  struct Source {
    unique_fd& fd;
    bool is_stderr;
  };
  Source sources[] = {{out_, false}, {err_, true}, {process_.terminal, false}};
  for (size_t i = 0; i < std::size(sources); ++i) {
    Source& source = sources[turn_++ % std::size(sources)];
    if (!source.fd) continue;
    ssize_t n = ::read(source.fd.get(), buffer_.data(), buffer_.size());
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) {  // a terminal whose last process is gone gives EIO
      source.fd.reset();
      continue;
    }
    wire::ExecOutput message;
    (source.is_stderr ? message.mutable_stderr() : message.mutable_stdout())
        ->assign(buffer_.data(), static_cast<size_t>(n));
    Send(std::move(message));
    return true;
  }
  return false;
}

Result<void> ExecStream::Relay(Call& call) {
  const unique_fd& terminal = process_.terminal;
  std::optional<int32_t> exit_code;
  std::optional<Deadline> drain;
  while (true) {
    TRY(HandleInput(call));
    PushInput();
    if (pending_.empty()) AskForInput();  // else later: the client is held back, our memory does not grow
    if (gone()) return Err(Code::kCancelled, "the client of the exec went away");
    TRY(call.until.Check("the exec"));
    const bool can_send = !writing();
    if (can_send && SendSome()) continue;
    // What the process itself wrote is in its pipes when its exit is known; what its children may still write is not
    // waited for.
    if (can_send && exit_code && (!terminal || drain->expired())) break;

    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}, {call.until.cancel_fd(), POLLIN, 0}};
    if (!exit_code) fds.push_back({process_.exit.get(), POLLIN, 0});
    if (can_send && out_) fds.push_back({out_.get(), POLLIN, 0});
    if (can_send && err_) fds.push_back({err_.get(), POLLIN, 0});
    if (in_ && !pending_.empty()) fds.push_back({in_.get(), POLLOUT, 0});
    if (terminal && (can_send || !pending_.empty()))
      fds.push_back(
          {terminal.get(), static_cast<short>((can_send ? POLLIN : 0) | (pending_.empty() ? 0 : POLLOUT)), 0});
    int timeout = drain ? drain->poll_timeout_ms() : call.until.poll_timeout_ms();
    if (::poll(fds.data(), fds.size(), timeout) < 0 && errno != EINTR) return SysErr("wait for the exec");
    ClearWake();
    if (exit_code || fds[2].revents == 0) continue;
    int32_t code;
    if (::read(process_.exit.get(), &code, sizeof code) != sizeof code)
      return Err(Code::kUnavailable, "the pod's monitor went away before the exec ended");
    exit_code = code;
    process_.pid = -1;  // nothing left to kill
    drain = Deadline::After(kTerminalDrain);
  }
  wire::ExecOutput last;
  last.set_exited(true);
  last.set_exit_code(*exit_code);
  Send(std::move(last));
  return AwaitWritten(call.until);
}

}  // namespace

grpc::ServerBidiReactor<wire::ExecInput, wire::ExecOutput>* ServeExec(Door& door,
                                                                      grpc::CallbackServerContext* context) {
  auto* stream = new ExecStream(door, context);
  stream->Start();
  return stream;
}

}  // namespace berth::cri
