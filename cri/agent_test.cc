#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <thread>

#include "cri/testing/served.h"

namespace berth::cri::testing {
namespace {

using grpc::StatusCode;
using Agent = wire::Agent::Stub;

TEST(Agent_, InfoWaitOperations) {
  Served s;
  wire::InfoResponse info;
  ASSERT_TRUE(s.Call(&Agent::Info, *s.own, {}, info).ok());
  EXPECT_EQ(info.version(), "0.1.0-test");
  EXPECT_EQ(info.cgroup(), "v2");
  EXPECT_EQ(info.root(), s.ground.root);

  std::string id = s.Running();
  wire::WaitRequest request;
  request.set_container_id(id);
  wire::WaitResponse waited;
  std::thread waiter([&] { EXPECT_TRUE(s.Call(&Agent::Wait, *s.own, request, waited).ok()); });
  s.agent.launcher.Exit(ContainerId(id), 7);
  waiter.join();
  EXPECT_EQ(waited.exit_code(), 7);
  EXPECT_EQ(waited.reason(), "Error");
  request.set_container_id("ffff");
  EXPECT_EQ(s.Call(&Agent::Wait, *s.own, request, waited).error_code(), StatusCode::NOT_FOUND);

  s.agent.launcher.Hold("start_pod");
  std::thread starter([&] { s.RunPod("slow"); });
  s.agent.launcher.AwaitHeld("start_pod");
  wire::OperationsResponse operations;
  ASSERT_TRUE(s.Call(&Agent::Operations, *s.own, {}, operations).ok());
  ASSERT_EQ(operations.operations_size(), 1);
  EXPECT_EQ(operations.operations(0).name(), "run_pod");
  EXPECT_FALSE(operations.operations(0).stage().empty());
  EXPECT_GE(operations.operations(0).age_ns(), 0);
  s.agent.launcher.Release("start_pod");
  starter.join();
}

TEST(Agent_, PullTellsProgress) {
  Served s;
  s.store.on_pull = [&](const images::PullRequest& request, const Deadline&) -> Result<images::ImagePtr> {
    EXPECT_EQ(request.platform, "linux/arm64");
    EXPECT_EQ(request.credentials.password.Reveal(), "p");
    for (uint64_t i = 1; i <= 1000; ++i)
      for (const char* layer : {"aaa", "bbb"})
        request.progress({.layer = layer, .status = "Downloading", .current = i, .total = 1000});
    return s.store.Find("docker.io/library/app:1");
  };
  wire::PullRequest request;
  request.set_image("app:1");
  request.set_platform("linux/arm64");
  request.set_username("u");
  request.set_password("p");
  grpc::ClientContext context;
  auto reader = s.own->Pull(&context, request);
  std::map<std::string, uint64_t> last;
  wire::PullEvent event;
  std::string image_id;
  while (reader->Read(&event)) {
    EXPECT_TRUE(image_id.empty()) << "the id comes last";
    image_id = event.image_id();
    EXPECT_GE(event.current(), last[event.layer()]) << "steps may be left out, never go back";
    last[event.layer()] = event.current();
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(image_id, images::Digest::Of("docker.io/library/app:1").str());
  EXPECT_EQ(last["aaa"], 1000u);
  EXPECT_EQ(last["bbb"], 1000u);

  s.store.on_pull = [](const images::PullRequest&, const Deadline&) -> Result<images::ImagePtr> {
    return Err(Code::kUnauthenticated, "no");
  };
  grpc::ClientContext again;
  reader = s.own->Pull(&again, request);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

// Bytes that tell a lost, doubled or moved piece.
std::string Pattern(size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<char>(i * 31 + i / 251);
  return out;
}

TEST(Agent_, ImportGetsEveryByte) {
  Served s;
  const std::string archive = Pattern(5'000'003);
  std::string got, name;
  s.store.on_import = [&](int fd, const std::string& untagged,
                          const Deadline&) -> Result<std::vector<images::ImagePtr>> {
    name = untagged;
    std::string buffer(70'000, '\0');
    for (ssize_t n; (n = ::read(fd, buffer.data(), buffer.size())) > 0;)
      got.append(buffer.data(), static_cast<size_t>(n));
    return s.store.List();
  };
  wire::ImportResponse response;
  grpc::ClientContext context;
  auto writer = s.own->Import(&context, &response);
  for (size_t at = 0; at < archive.size(); at += 100'000) {
    wire::ImportChunk chunk;
    if (at == 0) chunk.set_name_if_untagged("app:2");
    chunk.set_data(archive.substr(at, 100'000));
    ASSERT_TRUE(writer->Write(chunk));
  }
  writer->WritesDone();
  auto status = writer->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(got == archive);
  EXPECT_EQ(name, "app:2");
  ASSERT_EQ(response.images_size(), 1);
  EXPECT_EQ(response.images(0).tags(0), "docker.io/library/app:1");
}

TEST(Agent_, ImportThatFailsEarlyAnswersAtOnce) {
  Served s;
  s.store.on_import = [](int fd, const std::string&, const Deadline&) -> Result<std::vector<images::ImagePtr>> {
    char byte;
    EXPECT_EQ(::read(fd, &byte, 1), 1);
    return Err(Code::kInvalidArgument, "archive: not a tar");
  };
  wire::ImportResponse response;
  grpc::ClientContext context;
  auto writer = s.own->Import(&context, &response);
  wire::ImportChunk chunk;
  chunk.set_data(std::string(1 << 20, 'x'));
  while (writer->Write(chunk)) {
  }  // until the server has enough
  auto status = writer->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "archive: not a tar");

  grpc::ClientContext empty;
  auto nothing = s.own->Import(&empty, &response);
  nothing->WritesDone();
  EXPECT_EQ(nothing->Finish().error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST(Agent_, ImportMayLeaveThePadding) {
  Served s;
  s.store.on_import = [&](int fd, const std::string&, const Deadline&) -> Result<std::vector<images::ImagePtr>> {
    char byte;
    EXPECT_EQ(::read(fd, &byte, 1), 1);
    return s.store.List();
  };
  wire::ImportResponse response;
  grpc::ClientContext context;
  auto writer = s.own->Import(&context, &response);
  wire::ImportChunk chunk;
  chunk.set_data(std::string(1 << 20, '\0'));
  while (writer->Write(chunk)) {
  }
  auto status = writer->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.images_size(), 1);
}

TEST(Agent_, ImportOfAClientThatLeft) {
  CancelToken started, ended;  // before the server: an import may outlive its client
  bool cancelled = false;
  Served s;
  s.store.on_import = [&](int fd, const std::string&, const Deadline& until) -> Result<std::vector<images::ImagePtr>> {
    std::string buffer(70'000, '\0');
    while (::read(fd, buffer.data(), buffer.size()) > 0) started.Cancel();
    // What matters: by the time the bytes end, the import can know that they were not all.
    cancelled = !until.Sleep(std::chrono::seconds(30), "the rest").has_value() && until.cancelled();
    ended.Cancel();
    return Err(Code::kCancelled, "archive: cut off");
  };
  wire::ImportResponse response;
  grpc::ClientContext context;
  auto writer = s.own->Import(&context, &response);
  wire::ImportChunk chunk;
  chunk.set_data("half");
  ASSERT_TRUE(writer->Write(chunk));
  ASSERT_TRUE(Deadline::After(std::chrono::seconds(60)).WaitFor(started.fd(), POLLIN, "the import to begin"));
  context.TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), StatusCode::CANCELLED);
  ASSERT_TRUE(Deadline::After(std::chrono::seconds(60)).WaitFor(ended.fd(), POLLIN, "the import to end"));
  EXPECT_TRUE(cancelled);
}

TEST(Agent_, ExportSendsEveryByte) {
  const std::string archive = Pattern(3'000'001);  // before the server: an export may outlive its client
  Served s;
  s.store.on_export = [&](const std::vector<std::string>& names, images::Store::Archive form, int fd,
                          const Deadline&) -> Result<void> {
    EXPECT_EQ(names, std::vector<std::string>{"docker.io/library/app:1"});
    EXPECT_EQ(form, images::Store::Archive::kOci);
    for (size_t at = 0; at < archive.size();) {
      ssize_t n = ::write(fd, archive.data() + at, archive.size() - at);
      if (n < 0) return SysErr("write");
      at += static_cast<size_t>(n);
    }
    return {};
  };
  wire::ExportRequest request;
  request.add_images("docker.io/library/app:1");
  request.set_oci_layout(true);
  grpc::ClientContext context;
  auto reader = s.own->Export(&context, request);
  std::string got;
  wire::ExportChunk chunk;
  while (reader->Read(&chunk)) got += chunk.data();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(got == archive);

  // A client that leaves in the middle: the export still ends.
  grpc::ClientContext left;
  reader = s.own->Export(&left, request);
  ASSERT_TRUE(reader->Read(&chunk));
  left.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);

  request.set_images(0, "none:1");
  grpc::ClientContext missing;
  reader = s.own->Export(&missing, request);
  while (reader->Read(&chunk)) {
  }
  auto status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_TRUE(status.error_message().starts_with("images[0]: ")) << status.error_message();
}

// --- exec

struct Exec {
  Exec(Served& served, const std::string& container, bool tty, bool with_stdin) : stream(served.own->Exec(&context)) {
    wire::ExecInput first;
    auto& start = *first.mutable_start();
    start.set_container_id(container);
    start.add_argv("program");
    start.set_tty(tty);
    start.set_stdin(with_stdin);
    start.mutable_size()->set_rows(24);
    start.mutable_size()->set_columns(80);
    stream->Write(first);
  }
  void Input(const std::string& bytes, bool closed = false) {
    wire::ExecInput message;
    message.set_stdin(bytes);
    message.set_stdin_closed(closed);
    stream->Write(message);
  }
  grpc::Status ReadAll() {
    wire::ExecOutput message;
    while (stream->Read(&message)) {
      EXPECT_FALSE(exited) << "the exit comes last";
      out += message.stdout();
      err += message.stderr();
      exited = message.exited();
      exit_code = message.exit_code();
    }
    return stream->Finish();
  }
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<wire::ExecInput, wire::ExecOutput>> stream;
  std::string out, err;
  bool exited = false;
  int exit_code = -1;
};

// A process of the container as a thread: body(in, out, err) returns the exit code.
class Program {
 public:
  explicit Program(Served& served, std::function<int(int, int, int)> body) : served_(served) {
    served.agent.launcher.OnExec([this, body](const runtime::ExecLaunch& launch) -> std::optional<int> {
      auto keep = [](int fd) { return fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 3); };
      int in = keep(launch.in), out = keep(launch.out), err = keep(launch.err);
      thread_ = std::thread([this, body, in, out, err] {
        int code = body(in, out, err);
        for (int fd : {in, out, err}) ::close(fd);
        served_.ground.world->ExitExec(1, code);
      });
      return std::nullopt;
    });
  }
  ~Program() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  Served& served_;
  std::thread thread_;
};

int Cat(int in, int out, int err) {
  char buffer[5000];
  for (ssize_t n; (n = ::read(in, buffer, sizeof buffer)) > 0;)
    for (ssize_t at = 0; at < n;) at += std::max<ssize_t>(::write(out, buffer + at, static_cast<size_t>(n - at)), 0);
  return ::write(err, "done", 4) == 4 ? 42 : 1;
}

TEST(AgentExec, PipesBothWays) {
  Served s;
  std::string id = s.Running();
  Program cat(s, &Cat);
  Exec exec(s, id, false, true);
  const std::string input = Pattern(2'000'000);
  std::thread writer([&] {
    for (size_t at = 0; at < input.size(); at += 50'000) exec.Input(input.substr(at, 50'000));
    exec.Input("", true);
  });
  auto status = exec.ReadAll();
  writer.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(exec.out == input);
  EXPECT_EQ(exec.err, "done");
  EXPECT_TRUE(exec.exited);
  EXPECT_EQ(exec.exit_code, 42);
}

TEST(AgentExec, HalfCloseIsEndOfInput) {
  Served s;
  std::string id = s.Running();
  Program cat(s, &Cat);
  Exec exec(s, id, false, true);
  exec.Input("abc");
  exec.stream->WritesDone();
  ASSERT_TRUE(exec.ReadAll().ok());
  EXPECT_EQ(exec.out, "abc");
  EXPECT_EQ(exec.exit_code, 42);
}

TEST(AgentExec, InputThatNobodyReads) {
  Served s;
  std::string id = s.Running();
  Program program(s, [](int in, int, int) {
    ::close(in);
    return 0;
  });
  Exec exec(s, id, false, true);
  for (int i = 0; i < 20; ++i) exec.Input(std::string(100'000, 'x'));
  EXPECT_TRUE(exec.ReadAll().ok());
  EXPECT_EQ(exec.exit_code, 0);
}

TEST(AgentExec, AClientThatLeavesTakesTheProcessAlong) {
  Served s;
  std::string id = s.Running();
  s.agent.launcher.OnExec([](const runtime::ExecLaunch& launch) -> std::optional<int> {
    EXPECT_EQ(::write(launch.out, "up", 2), 2);
    return std::nullopt;
  });
  {
    Exec exec(s, id, false, true);
    wire::ExecOutput message;
    ASSERT_TRUE(exec.stream->Read(&message));
    EXPECT_EQ(message.stdout(), "up");
    exec.context.TryCancel();
    EXPECT_EQ(exec.stream->Finish().error_code(), StatusCode::CANCELLED);
  }
  s.server->Shutdown();  // every call has ended
  auto calls = s.agent.launcher.calls();
  EXPECT_TRUE(std::ranges::any_of(
      calls, [](const std::string& c) { return c.starts_with("signal_exec ") && c.ends_with(" 9"); }));
}

TEST(AgentExec, SignalsReachIt) {
  Served s;
  std::string id = s.Running();
  s.agent.launcher.OnExec([](const runtime::ExecLaunch&) -> std::optional<int> { return std::nullopt; });
  Exec exec(s, id, false, false);
  wire::ExecInput message;
  message.set_signal(SIGTERM);
  exec.stream->Write(message);
  ASSERT_TRUE(exec.ReadAll().ok());
  EXPECT_EQ(exec.exit_code, 128 + SIGTERM);
}

TEST(AgentExec, Refusals) {
  Served s;
  std::string id = s.Running();
  auto answer = [&](auto change) {
    grpc::ClientContext context;
    auto stream = s.own->Exec(&context);
    wire::ExecInput first;
    first.mutable_start()->set_container_id(id);
    first.mutable_start()->add_argv("x");
    change(first);
    stream->Write(first);
    wire::ExecOutput message;
    while (stream->Read(&message)) {
    }
    return stream->Finish();
  };
  EXPECT_EQ(answer([](auto& m) { m.clear_start(); }).error_message(), "start: must be in the first message");
  EXPECT_EQ(answer([](auto& m) { m.mutable_start()->clear_argv(); }).error_message(),
            "start.argv: must name a program, then its arguments");
  EXPECT_EQ(answer([](auto& m) { m.mutable_start()->add_env("=x"); }).error_message(),
            "start.env[0]: must be NAME=value");
  EXPECT_EQ(answer([](auto& m) { m.mutable_start()->mutable_size()->set_rows(70000); }).error_message(),
            "start.size.rows: must be 0 to 65535, got 70000");
  EXPECT_EQ(answer([](auto& m) { m.mutable_start()->set_container_id("ffff"); }).error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(answer([](auto& m) { m.mutable_start()->set_working_dir("x"); }).error_code(),
            StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext context;
  auto stream = s.own->Exec(&context);
  stream->WritesDone();
  wire::ExecOutput message;
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_EQ(stream->Finish().error_message(), "start: the stream ended before it");
}

// Gives a real pseudo terminal, whose other end is the test's.
class TerminalLauncher final : public PassingLauncher {
 public:
  using PassingLauncher::PassingLauncher;
  Result<runtime::ExecHandle> Exec(const runtime::ExecLaunch& launch, const Deadline& until) override {
    auto handle = TRY(PassingLauncher::Exec(launch, until));
    int ends[2];
    winsize size{launch.rows, launch.columns, 0, 0};
    if (::openpty(&ends[0], &ends[1], nullptr, nullptr, &size) < 0) return SysErr("openpty");
    handle.terminal.reset(ends[0]);
    slave = ends[1];
    opened.Cancel();
    return handle;
  }
  int slave = -1;
  CancelToken opened;
};

TEST(AgentExec, Terminal) {
  TerminalLauncher* launcher = nullptr;
  Served s(64, [&](runtime::Launcher& base) {
    auto made = std::make_unique<TerminalLauncher>(base);
    launcher = made.get();
    return made;
  });
  std::string id = s.Running();
  s.agent.launcher.OnExec([](const runtime::ExecLaunch&) -> std::optional<int> { return std::nullopt; });
  Exec exec(s, id, true, true);
  ASSERT_TRUE(Deadline::After(std::chrono::seconds(30)).WaitFor(launcher->opened.fd(), POLLIN, "the exec"));
  unique_fd slave(launcher->slave);
  termios mode{};
  ASSERT_EQ(::tcgetattr(slave.get(), &mode), 0);
  ::cfmakeraw(&mode);
  ASSERT_EQ(::tcsetattr(slave.get(), TCSANOW, &mode), 0);
  winsize size{};
  ASSERT_EQ(::ioctl(slave.get(), TIOCGWINSZ, &size), 0);
  EXPECT_EQ(size.ws_row, 24);
  EXPECT_EQ(size.ws_col, 80);

  wire::ExecInput message;
  message.mutable_resize()->set_rows(50);
  message.mutable_resize()->set_columns(132);
  exec.stream->Write(message);
  exec.Input("ls");
  char buffer[16];
  ssize_t n = ::read(slave.get(), buffer, sizeof buffer);  // input comes after the resize that was sent before it
  ASSERT_EQ(std::string(buffer, static_cast<size_t>(std::max<ssize_t>(n, 0))), "ls");
  ASSERT_EQ(::ioctl(slave.get(), TIOCGWINSZ, &size), 0);
  EXPECT_EQ(size.ws_row, 50);
  EXPECT_EQ(size.ws_col, 132);

  ASSERT_EQ(::write(slave.get(), "files\n", 6), 6);
  slave.reset();
  s.ground.world->ExitExec(1, 5);
  ASSERT_TRUE(exec.ReadAll().ok());
  EXPECT_EQ(exec.out, "files\n");
  EXPECT_EQ(exec.exit_code, 5);
}

}  // namespace
}  // namespace berth::cri::testing
