#include "base/fd_stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <boost/beast/core/stream_traits.hpp>
#include <gtest/gtest.h>

#include "base/net_address.h"
#include "base/testing.h"

namespace berth {
namespace {

using namespace std::chrono_literals;
using testing::IsErr;
using testing::IsOk;
using testing::TempDir;

static_assert(boost::beast::is_sync_stream<FdStream>::value);

uint16_t PortOf(const unique_fd& fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

std::pair<unique_fd, unique_fd> Sockets() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {unique_fd(fds[0]), unique_fd(fds[1])};
}

TEST(FdStream, ReadsWritesAndEnds) {
  auto [a, b] = Sockets();
  FdStream left(std::move(a)), right(std::move(b));
  boost::system::error_code ec;
  EXPECT_EQ(left.write_some(boost::asio::buffer("hello", 5), ec), 5u);
  char buffer[16];
  EXPECT_EQ(right.read_some(boost::asio::buffer(buffer), ec), 5u);
  EXPECT_EQ(std::string_view(buffer, 5), "hello");
  left.Release().reset();
  EXPECT_EQ(right.read_some(boost::asio::buffer(buffer), ec), 0u);
  Result<void> end = StreamErr(ec, "peer");
  EXPECT_TRUE(IsErr(end, Code::kUnavailable, "peer: connection closed"));
  EXPECT_EQ(right.write_some(boost::asio::buffer("x", 1), ec), 0u);  // no SIGPIPE
  EXPECT_EQ(StreamErr(ec, "peer").error().sys, EPIPE);
  EXPECT_THROW(right.write_some(boost::asio::buffer("x", 1)), boost::system::system_error);
}

TEST(FdStream, TimeAndCancel) {
  auto [a, b] = Sockets();
  FdStream stream(std::move(a), Deadline::After(1ms));
  char buffer[16];
  boost::system::error_code ec;
  stream.read_some(boost::asio::buffer(buffer), ec);
  EXPECT_EQ(StreamErr(ec, "peer").error().code, Code::kDeadlineExceeded);
  auto token = std::make_shared<CancelToken>();
  token->Cancel();
  stream.set_deadline(Deadline::Never(token));
  stream.read_some(boost::asio::buffer(buffer), ec);
  EXPECT_EQ(StreamErr(ec, "peer").error().code, Code::kCancelled);
}

TEST(Tcp, ConnectsByNumberAndName) {
  auto server = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(IsOk(server));
  const std::string port = std::to_string(PortOf(*server));
  EXPECT_TRUE(IsOk(ConnectTcp("127.0.0.1", port, Deadline::After(30s))));
  EXPECT_TRUE(IsOk(ConnectTcp("localhost", port, Deadline::After(30s))));
  EXPECT_TRUE(IsErr(ListenTcp("127.0.0.1", PortOf(*server)), Code::kConflict, "port " + port));
  server->reset();
  EXPECT_TRUE(IsErr(ConnectTcp("127.0.0.1", port, Deadline::After(30s)), Code::kUnavailable, "connect 127.0.0.1:" + port));
  EXPECT_TRUE(IsErr(ConnectTcp("127.0.0.1", "no-port", Deadline::After(30s)), Code::kInvalidArgument, "no-port"));
  EXPECT_TRUE(IsErr(ListenTcp("localhost", 0), Code::kInvalidArgument, "localhost"));
}

TEST(Tcp, AFullQueueEndsWithTheDeadline) {
  auto server = ListenTcp("127.0.0.1", 0);
  ASSERT_EQ(::listen(server->get(), 0), 0);
  const std::string port = std::to_string(PortOf(*server));
  std::vector<unique_fd> held;
  for (int i = 0; i < 16; ++i) {
    auto fd = ConnectTcp("127.0.0.1", port, Deadline::After(20ms));
    if (!fd) {
      EXPECT_TRUE(IsErr(fd, Code::kDeadlineExceeded, "connect 127.0.0.1:" + port));
      return;
    }
    held.push_back(std::move(*fd));
  }
  FAIL() << "sixteen connections fitted into a queue of none";
}

TEST(NetAddress, AddressAndPort) {
  EXPECT_EQ(ParseIpPort("127.0.0.1:80")->host, "127.0.0.1");
  EXPECT_EQ(ParseIpPort("[::1]:80")->host, "::1");
  EXPECT_EQ(ParseIpPort("[::1]:0")->port, 0);
  for (const char* bad : {"", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:080", "127.0.0.1:-1", "::1:80", "[127.0.0.1]:80",
                          "localhost:80", "127.0.0.1:80 "})
    EXPECT_TRUE(IsErr(ParseIpPort(bad), Code::kInvalidArgument, bad)) << bad;
  EXPECT_EQ(FormatHostPort("::1", 80), "[::1]:80");
  EXPECT_EQ(FormatHostPort("127.0.0.1", 80), "127.0.0.1:80");
}

TEST(NetAddress, Subnets) {
  EXPECT_EQ(ParseCidr("10.0.0.0/8")->prefix, 8);
  EXPECT_EQ(ParseCidr("fd00::/64")->family, AF_INET6);
  EXPECT_TRUE(IsErr(ParseCidr("10.0.0.1/31"), Code::kInvalidArgument, "bits after the first 31"));
  for (const char* bad : {"", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "a/8"})
    EXPECT_FALSE(ParseCidr(bad)) << bad;
}

TEST(Unix, ReplacesStaleKeepsLive) {
  TempDir dir;
  const std::string path = dir / "s.sock";
  auto first = ListenUnix(path, 0660, SOCK_STREAM);
  ASSERT_TRUE(IsOk(first));
  struct stat st{};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0660u);
  EXPECT_TRUE(IsOk(ConnectUnix(path, Deadline::Never())));
  EXPECT_TRUE(IsErr(ListenUnix(path, 0660, SOCK_STREAM), Code::kConflict, path));
  first->reset();
  EXPECT_TRUE(IsErr(ConnectUnix(path, Deadline::Never()), Code::kUnavailable, path));
  EXPECT_TRUE(IsOk(ListenUnix(path, 0660, SOCK_SEQPACKET)));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "file", "precious")));
  EXPECT_TRUE(IsErr(ListenUnix(dir / "file", 0660, SOCK_STREAM), Code::kConflict, "not a socket"));
  EXPECT_EQ(*ReadFile(dir / "file"), "precious");
  EXPECT_TRUE(IsErr(ConnectUnix(dir / "none", Deadline::Never()), Code::kNotFound, "none"));
}

TEST(Unix, PathsLongerThanAnAddress) {
  TempDir dir;
  const std::string deep = dir / std::string(120, 'd');
  ASSERT_TRUE(IsOk(MakeDirs(deep)));
  auto server = ListenUnix(deep + "/s", 0600, SOCK_STREAM);
  ASSERT_TRUE(IsOk(server));
  EXPECT_TRUE(IsOk(ConnectUnix(deep + "/s", Deadline::Never())));
  EXPECT_TRUE(IsErr(ListenUnix(dir / std::string(120, 's'), 0600, SOCK_STREAM), Code::kInvalidArgument, "too long"));
}

}  // namespace
}  // namespace berth
