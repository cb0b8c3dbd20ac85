// Clients attached to running containers.
#include <sys/socket.h>

#include <thread>

#include "runtime/shim/protocol.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {
namespace {

using testing::IsErr;
using testing::IsOk;
using namespace std::chrono_literals;

const ::testing::Environment* const own_mounts = ::testing::AddGlobalTestEnvironment(new OwnMounts);

struct Ends {
  unique_fd ours, theirs;
};
Ends Socket() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {unique_fd(ends[0]), unique_fd(ends[1])};
}

struct News {
  uint64_t dropped[3] = {};
  shim::AttachEnd end{};
};
News ReadNews(const AttachHandle& handle) {   // to the end
  News out;
  shim::AttachNews news;
  pollfd p{handle.news.get(), POLLIN, 0};
  while (::poll(&p, 1, 20000) == 1 && ::read(handle.news.get(), &news, sizeof news) == static_cast<ssize_t>(sizeof news)) {
    if (news.kind == shim::AttachNewsKind::kDropped) out.dropped[news.stream] += news.count;
    if (news.kind == shim::AttachNewsKind::kEnded) out.end = static_cast<shim::AttachEnd>(news.count);
  }
  return out;
}

// Reads until the text has come; what came.
std::string ReadTo(int fd, std::string_view text) {
  std::string out;
  char buffer[4096];
  pollfd p{fd, POLLIN, 0};
  while (out.find(text) == std::string::npos && ::poll(&p, 1, 20000) == 1) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

std::string Numbers(int to) {
  std::string out;
  for (int i = 1; i <= to; ++i) out += fmt::format("{}\n", i);
  return out;
}

class AttachTest : public ShimLauncherTest {
 protected:
  AttachHandle Attach(const AttachLaunch& launch) {
    auto handle = launcher().Attach(launch, Soon());
    EXPECT_TRUE(IsOk(handle));
    return handle ? std::move(*handle) : AttachHandle();
  }
  ContainerLaunch Created(const PodLaunch& pod, const std::string& script, bool keep_stdin = false, bool once = false, bool tty = false) {
    ContainerLaunch c = Shell(pod, script);
    c.keep_stdin = keep_stdin;
    c.stdin_once = once;
    c.tty = tty;
    world_.SpecOf(c).process->terminal = tty;
    EXPECT_TRUE(IsOk(launcher().CreateContainer(c, Soon())));
    return c;
  }
  void Start(const ContainerLaunch& c) { EXPECT_TRUE(IsOk(launcher().StartContainer(c.pod, c.id, Soon()))); }
};

TEST_F(AttachTest, SeveralClientsGetBothStreams) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "echo out; echo err >&2; exit 3");
  auto a = *Pipe(), b = *Pipe();
  Ends both = Socket();
  AttachHandle first = Attach({.pod = pod.id, .container = c.id, .out = a.second.get(), .err = b.second.get()});
  AttachHandle second = Attach({.pod = pod.id, .container = c.id, .out = both.theirs.get(), .err = both.theirs.get()});
  a.second.reset();
  b.second.reset();
  both.theirs.reset();
  Start(c);
  EXPECT_EQ(ReadAll(a.first.get()), "out\n");
  EXPECT_EQ(ReadAll(b.first.get()), "err\n");
  const std::string mixed = ReadAll(both.ours.get());
  EXPECT_TRUE(mixed == "out\nerr\n" || mixed == "err\nout\n") << mixed;
  EXPECT_EQ(ReadNews(first).end, shim::AttachEnd::kOutput);
  EXPECT_EQ(ReadNews(second).end, shim::AttachEnd::kOutput);
  EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 3);
  EXPECT_EQ(Output(Slurp(c.log.path)), "out\n") << "the log has it as well";
}

TEST_F(AttachTest, InputReachesTheContainerAndOnceIsOnce) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  for (bool once : {false, true}) {
    ContainerLaunch c = Created(pod, "while read l; do echo got $l; done; echo end", true, once);
    Start(c);
    Ends first = Socket();
    AttachHandle handle = Attach({.pod = pod.id, .container = c.id, .in = first.theirs.get(), .out = first.theirs.get()});
    first.theirs.reset();
    ASSERT_TRUE(IsOk(WriteAll(first.ours.get(), "one\n")));
    EXPECT_EQ(ReadTo(first.ours.get(), "one\n"), "got one\n");
    ASSERT_EQ(::shutdown(first.ours.get(), SHUT_WR), 0);
    if (once) {
      EXPECT_EQ(ReadAll(first.ours.get()), "end\n") << "the end of the input is the container's";
      EXPECT_EQ(ReadNews(handle).end, shim::AttachEnd::kOutput);
    } else {
      Ends second = Socket();
      AttachHandle another = Attach({.pod = pod.id, .container = c.id, .in = second.theirs.get(), .out = second.theirs.get()});
      second.theirs.reset();
      ASSERT_TRUE(IsOk(WriteAll(second.ours.get(), "two\n")));
      EXPECT_EQ(ReadTo(second.ours.get(), "two\n"), "got two\n");
      EXPECT_EQ(ReadTo(first.ours.get(), "two\n"), "got two\n") << "the first still listens";
      ASSERT_TRUE(IsOk(launcher().CloseStdin(pod.id, c.id, Soon())));
      EXPECT_EQ(ReadAll(second.ours.get()), "end\n");
      Ends late = Socket();
      auto refused = launcher().Attach({.pod = pod.id, .container = c.id, .in = late.theirs.get()}, Soon());
      EXPECT_TRUE(IsErr(refused, Code::kConflict));
    }
    EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 0);
  }
}

TEST_F(AttachTest, MuchInputWaitsForASlowContainer) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "sleep 0.3; cat", true, true);
  Start(c);
  Ends s = Socket();
  Attach({.pod = pod.id, .container = c.id, .in = s.theirs.get()});
  s.theirs.reset();
  const std::string text = Numbers(300'000);   // far more than pipes and sockets hold
  ASSERT_TRUE(IsOk(WriteAll(s.ours.get(), text)));
  s.ours.reset();                              // closed with bytes on their way
  EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 0);
  EXPECT_TRUE(Output(Slurp(c.log.path)) == text);
}

TEST_F(AttachTest, TerminalIsSharedAndResized) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "trap 'stty size' WINCH; echo ready; while :; do read l && echo got $l; [ \"$l\" = bye ] && exit 5; done", true,
                              false, true);
  Ends a = Socket(), b = Socket();
  AttachHandle first = Attach({.pod = pod.id, .container = c.id, .in = a.theirs.get(), .out = a.theirs.get()});
  Attach({.pod = pod.id, .container = c.id, .in = b.theirs.get(), .out = b.theirs.get()});
  a.theirs.reset();
  b.theirs.reset();
  Start(c);
  EXPECT_EQ(ReadTo(a.ours.get(), "ready"), ReadTo(b.ours.get(), "ready"));
  ASSERT_TRUE(IsOk(launcher().Resize(pod.id, c.id, 41, 123, Soon())));
  ASSERT_TRUE(IsOk(WriteAll(a.ours.get(), "x\n")));
  EXPECT_NE(ReadTo(b.ours.get(), "got x\r\n").find("got x\r\n"), std::string::npos);
  ASSERT_TRUE(IsOk(WriteAll(b.ours.get(), "bye\n")));
  const std::string screen = ReadAll(a.ours.get());
  EXPECT_NE(screen.find("41 123\r\n"), std::string::npos) << screen;
  EXPECT_NE(screen.find("got bye\r\n"), std::string::npos) << screen;
  EXPECT_EQ(ReadNews(first).end, shim::AttachEnd::kOutput);
  EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 5);
}

TEST_F(AttachTest, SlowClientsDoNotHoldUpTheLog) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  const std::string text = Numbers(400'000);
  ContainerLaunch c = Created(pod, "seq 1 400000");
  Ends deaf = Socket(), impatient = Socket();
  auto good = *Pipe();
  AttachHandle dropped = Attach({.pod = pod.id, .container = c.id, .out = deaf.theirs.get(), .slow = SlowReader::kDrop});
  AttachHandle detached = Attach({.pod = pod.id, .container = c.id, .out = impatient.theirs.get(), .slow = SlowReader::kDetach});
  AttachHandle whole = Attach({.pod = pod.id, .container = c.id, .out = good.second.get(), .slow = SlowReader::kWait});
  deaf.theirs.reset();
  impatient.theirs.reset();
  good.second.reset();
  std::string got;
  std::thread reader([&] { got = ReadAll(good.first.get()); });
  Start(c);
  ASSERT_TRUE(world_.AwaitExit(c.id).has_value()) << "nobody reads two of the clients' sockets";
  reader.join();
  EXPECT_TRUE(Output(Slurp(c.log.path)) == text);
  EXPECT_TRUE(got == text) << "the client that is waited for has every byte";
  News news = ReadNews(dropped);
  EXPECT_EQ(news.end, shim::AttachEnd::kOutput);
  EXPECT_EQ(ReadAll(deaf.ours.get()).size() + news.dropped[1], text.size()) << "what is missing has been told";
  EXPECT_GT(news.dropped[1], 0u);
  EXPECT_EQ(ReadNews(detached).end, shim::AttachEnd::kSlow);
}

TEST_F(AttachTest, ContainerWaitsForAClientThatAsksForIt) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "seq 1 400000");
  const std::string text = Numbers(400'000);
  Ends client = Socket();
  Attach({.pod = pod.id, .container = c.id, .out = client.theirs.get(), .slow = SlowReader::kWait});
  client.theirs.reset();
  Start(c);
  ::usleep(300'000);
  EXPECT_EQ(world_.Told(c.id), 0);
  EXPECT_LT(Slurp(c.log.path).size(), text.size());
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "echo other"))), "other\n") << "only this container waits";
  EXPECT_TRUE(ReadAll(client.ours.get()) == text);
  ASSERT_TRUE(world_.AwaitExit(c.id).has_value());
  // Its death ends the waiting.
  ContainerLaunch stuck = Created(pod, "yes");
  Ends never = Socket();
  Attach({.pod = pod.id, .container = stuck.id, .out = never.theirs.get(), .slow = SlowReader::kWait});
  never.theirs.reset();
  Start(stuck);
  ::usleep(100'000);
  ASSERT_TRUE(IsOk(launcher().Signal(pod.id, stuck.id, SIGKILL, false, Soon())));
  EXPECT_EQ(world_.AwaitExit(stuck.id)->exit_code, 137);
  EXPECT_TRUE(IsOk(launcher().DeleteContainer(pod.id, stuck.id, Soon())));
  EXPECT_FALSE(ReadAll(never.ours.get()).empty());
}

TEST_F(AttachTest, ClientsThatVanishAreForgotten) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "while [ ! -e /tmp/gone ]; do echo tick; sleep 0.01; done; echo last");
  Start(c);
  for (SlowReader slow : {SlowReader::kDrop, SlowReader::kWait}) {
    std::vector<AttachHandle> handles;
    for (int i = 0; i < 20; ++i) {
      Ends s = Socket();
      handles.push_back(Attach({.pod = pod.id, .container = c.id, .in = -1, .out = s.theirs.get(), .slow = slow}));
      if (i % 2 == 0) ReadTo(s.ours.get(), "tick");
    }
    for (const AttachHandle& handle : handles) EXPECT_EQ(ReadNews(handle).end, shim::AttachEnd::kGone);
  }
  EXPECT_EQ(launcher().Usage(pod.id, c.id, Soon())->attaches, 0u);
  std::vector<Ends> many;
  std::vector<AttachHandle> handles;
  for (size_t i = 0; i < shim::kMaxAttaches; ++i) {
    many.push_back(Socket());
    handles.push_back(Attach({.pod = pod.id, .container = c.id, .out = many.back().theirs.get()}));
  }
  EXPECT_TRUE(IsErr(launcher().Attach({.pod = pod.id, .container = c.id, .out = many[0].theirs.get()}, Soon()), Code::kResourceExhausted));
  many.clear();
  std::ofstream(world_.Path("rootfs/tmp/gone")) << "x";
  EXPECT_EQ(world_.AwaitExit(c.id)->exit_code, 0);
}

TEST_F(AttachTest, StreamsOutliveTheAgent) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = Created(pod, "while read l; do echo got $l; done", true, true);
  Start(c);
  Ends s = Socket();
  AttachHandle handle = Attach({.pod = pod.id, .container = c.id, .in = s.theirs.get(), .out = s.theirs.get()});
  s.theirs.reset();
  world_.Restart([&] {
    ASSERT_TRUE(IsOk(WriteAll(s.ours.get(), "while away\n")));
    EXPECT_EQ(ReadTo(s.ours.get(), "away\n"), "got while away\n");
  });
  ASSERT_TRUE(IsOk(launcher().Adopt(pod, Soon())));
  EXPECT_EQ(launcher().Usage(pod.id, c.id, Soon())->attaches, 1u);
  EXPECT_TRUE(IsOk(launcher().Detach(pod.id, handle.id, Soon())));
  EXPECT_EQ(ReadNews(handle).end, shim::AttachEnd::kDetached);
}

TEST_F(AttachTest, ExecTerminalIsResized) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  ContainerLaunch c = world_.Container(pod, {"sleep", "1000"});
  Run(c);
  auto exec = world_.Exec(c, {"sh", "-c", "read l; stty size; exit 6"});
  exec.tty = true;
  auto handle = launcher().Exec(exec, Soon());
  ASSERT_TRUE(IsOk(handle));
  ASSERT_TRUE(IsOk(launcher().ResizeExec(pod.id, handle->id, 51, 99, Soon())));
  ASSERT_TRUE(IsOk(WriteAll(handle->terminal.get(), "\n")));
  const std::string screen = ReadAll(handle->terminal.get());
  EXPECT_NE(screen.find("51 99\r\n"), std::string::npos) << screen;
  EXPECT_EQ(ExitCode(*handle), 6);
  EXPECT_TRUE(IsOk(launcher().ResizeExec(pod.id, handle->id, 1, 1, Soon()))) << "ended: success";
  auto plain = launcher().Exec(world_.Exec(c, {"sleep", "1000"}), Soon());
  ASSERT_TRUE(IsOk(plain));
  EXPECT_TRUE(IsErr(launcher().ResizeExec(pod.id, plain->id, 1, 1, Soon()), Code::kConflict, "terminal"));
}

}  // namespace
}  // namespace berth::runtime
