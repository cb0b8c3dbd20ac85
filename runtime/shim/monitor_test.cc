// The protocol and the monitor's manners, from below the launcher.
#include <sys/socket.h>
#include <sys/un.h>

#include "runtime/shim/agent_socket.h"
#include "runtime/shim/spawner_client.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {
namespace {

using testing::IsErr;
using testing::IsOk;
using MonitorTest = ShimLauncherTest;

const ::testing::Environment* const own_mounts = ::testing::AddGlobalTestEnvironment(new OwnMounts);

struct RawClient {
  unique_fd socket;
  explicit RawClient(const PodLaunch& pod) {
    socket.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    auto dir = Open(pod.run_dir, O_PATH | O_DIRECTORY);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}/shim.sock", dir->get());
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  std::optional<Packet> Ask(shim::Type type, const std::string& body, shim::Header header = {}) {
    header.type = type;
    header.length = static_cast<uint32_t>(body.size());
    header.request = 77;
    const std::string bytes = Bytes(header) + body;
    EXPECT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    pollfd p{socket.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 20000), 1);
    auto packet = ReceivePacket(socket.get());
    if (!packet || !*packet) return std::nullopt;
    EXPECT_EQ((*packet)->header.request, 77u);
    return std::move(**packet);
  }
};
shim::Status StatusOf(const Packet& packet) {
  return packet.header.type == shim::Type::kError ? packet.As<shim::ErrorReply>().status : shim::Status{};
}
shim::Status StatusOf(const std::optional<Packet>& packet) { return packet ? StatusOf(*packet) : shim::Status{}; }

TEST_F(MonitorTest, ProtocolRefusesWhatItDoesNotKnow) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  RawClient client(pod);
  EXPECT_EQ(StatusOf(client.Ask(static_cast<shim::Type>(99), "")), shim::Status::kUnimplemented);
  shim::HelloRequest newer{.oldest_major = 2, .newest_major = 3};
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kHello, Bytes(newer))), shim::Status::kUnimplemented);
  shim::Header other;
  other.major = 9;
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kList, "", other)), shim::Status::kUnimplemented);
  shim::HelloRequest range{.oldest_major = 1, .newest_major = 3, .minor = 7};
  auto hello = client.Ask(shim::Type::kHello, Bytes(range) + "fields of a later minor version");
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->header.type, shim::Type::kReply);
  EXPECT_EQ(hello->As<shim::HelloReply>().major, 1);
  EXPECT_EQ(hello->As<shim::HelloReply>().minor, shim::kMinor);
  shim::HelloRequest older{.minor = 0};
  EXPECT_EQ(client.Ask(shim::Type::kHello, Bytes(older))->As<shim::HelloReply>().minor, 0) << "the older of the two";
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kStart, Bytes(shim::ContainerRequest()))), shim::Status::kInvalid);
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kStart, "abc")), shim::Status::kNotFound) << "a short body reads as zeros behind it";
  shim::CreateRequest evil;
  memcpy(evil.id, "../../etc", 9);
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kCreate, Bytes(evil))), shim::Status::kInvalid);
  memcpy(evil.id, "x\0\0\0\0\0\0\0\0", 9);
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kCreate, Bytes(evil))), shim::Status::kInvalid) << "no plan";
  shim::Header expired;
  expired.expires = 1;
  EXPECT_EQ(StatusOf(client.Ask(shim::Type::kShutdown, "", expired)), shim::Status::kExpired);
  RawClient noise(pod);
  ASSERT_EQ(::send(noise.socket.get(), "noise", 5, 0), 5);
  pollfd p{noise.socket.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 20000), 1);
  EXPECT_FALSE(ReceivePacket(noise.socket.get()).has_value()) << "disconnected";
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "echo alive"))), "alive\n");
}

TEST_F(MonitorTest, ClientThatDoesNotReadIsDropped) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  RawClient deaf(pod);
  ASSERT_TRUE(deaf.Ask(shim::Type::kHello, Bytes(shim::HelloRequest())).has_value());
  shim::Header header;
  header.type = shim::Type::kHello;
  header.length = sizeof(shim::HelloRequest);
  const std::string ask = Bytes(header) + Bytes(shim::HelloRequest());
  EXPECT_TRUE(NativeWorld::Eventually([&] {
    for (int i = 0; i < 100; ++i)
      if (::send(deaf.socket.get(), ask.data(), ask.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return errno == EPIPE;
    return false;
  }));
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "echo alive"))), "alive\n");
}

TEST_F(MonitorTest, MonitorTakesSeveralClientsAndRefusesTooMany) {
  NEED_WORLD(world_);
  PodLaunch pod = Started();
  std::vector<std::unique_ptr<RawClient>> clients;
  for (size_t i = 1; i < shim::kMaxClients; ++i) {
    clients.push_back(std::make_unique<RawClient>(pod));
    auto list = clients.back()->Ask(shim::Type::kList, "");
    ASSERT_TRUE(list.has_value());
    EXPECT_EQ(list->header.type, shim::Type::kReply);
  }
  RawClient ninth(pod);
  pollfd p{ninth.socket.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&p, 1, 20000), 1);
  auto refused = ReceivePacket(ninth.socket.get());
  ASSERT_TRUE(refused.has_value() && refused->has_value());
  EXPECT_EQ(StatusOf(**refused), shim::Status::kFull);
  clients.clear();
  EXPECT_EQ(Output(RunToEnd(Shell(pod, "echo alive"))), "alive\n");
}

// A spawner and a monitor without a launcher.
struct BareMonitor {
  NativeWorld& world;
  PodLaunch pod;
  SpawnerClient spawner;
  unique_fd socket;
  explicit BareMonitor(NativeWorld& w, shim::SpawnRequest request) : world(w), pod(w.Pod()), spawner(NativeWorld::Program()) {
    EXPECT_TRUE(IsOk(Put(request.pod, pod.id.str(), "pod")));
    unique_fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "{}", world.Path("bare.sock"));
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    socket.reset(ends[0]);
    unique_fd theirs(ends[1]);
    auto state = Open(pod.state_dir, O_RDONLY | O_DIRECTORY);
    EXPECT_TRUE(IsOk(spawner.Spawn({shim::Type::kSpawn, Bytes(request), {theirs.get(), listener.get(), state->get()}}, 1, NativeWorld::Soon())));
  }
  Packet Next() {
    pollfd p{socket.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 20000), 1);
    auto packet = ReceivePacket(socket.get());
    EXPECT_TRUE(packet.has_value() && packet->has_value());
    return packet && *packet ? std::move(**packet) : Packet();
  }
  Packet Ask(shim::Type type, const std::string& body = "") {
    EXPECT_TRUE(IsOk(SendPacket(socket.get(), {type, body, {}}, 2, NativeWorld::Soon(), "test")));
    return Next();
  }
};

TEST_F(MonitorTest, SharedMemoryOnOlderKernelsIsClonedByTheMonitor) {
  NEED_WORLD(world_);
  for (uint32_t flags : {0u, static_cast<uint32_t>(shim::kAttachShm)}) {
    BareMonitor monitor(world_, {.flags = shim::kOwnNet | shim::kOwnIpc | shim::kOwnUts | flags, .shm_bytes = 1 << 20});
    Packet hello = monitor.Next();
    ASSERT_EQ(hello.header.type, shim::Type::kReply);
    if (flags != 0) {
      EXPECT_EQ(hello.As<shim::HelloReply>().fds & shim::kFdShm, 0u);
    }
    for (const char* name : {"first", "second"}) {
      Packet answer = monitor.Ask(shim::Type::kShm);
      ASSERT_EQ(answer.fds.size(), 1u);
      const std::string at = world_.Path(fmt::format("shm-{}-{}", flags, name));
      ASSERT_TRUE(IsOk(MakeDirs(at)));
      ASSERT_EQ(::syscall(SYS_move_mount, answer.fds[0].get(), "", AT_FDCWD, at.c_str(), 4 /* MOVE_MOUNT_F_EMPTY_PATH */), 0) << ErrnoText(errno);
      std::ofstream(at + "/" + name) << "x";
      EXPECT_TRUE(Exists(at + "/first"));
      EXPECT_EQ(::umount2(at.c_str(), MNT_DETACH), 0);
    }
    EXPECT_EQ(monitor.Ask(shim::Type::kShutdown).header.type, shim::Type::kReply);
    ::unlink(world_.Path("bare.sock").c_str());
  }
}

}  // namespace
}  // namespace berth::runtime
