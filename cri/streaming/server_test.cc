// The server over real sockets and real processes; the clients speak the protocols byte by byte.
#include "cri/streaming/server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/child.h"
#include "base/json.h"
#include "base/net_address.h"
#include "base/testing.h"
#include "cri/streaming/spdy.h"
#include "cri/streaming/websocket.h"

namespace berth::cri::streaming {
namespace {

using namespace std::chrono_literals;
using berth::testing::IsErr;
using berth::testing::IsOk;

Deadline Soon() { return Deadline::After(20s); }

// A shell as the process of an exec.
class Shell final : public Process {
 public:
  Shell(std::string script, std::atomic<int>& abandoned, std::vector<std::pair<int, int>>& sizes)
      : script_(std::move(script)), abandoned_(abandoned), sizes_(sizes) {}
  ~Shell() override {
    if (waiter_.joinable()) waiter_.join();
  }
  Result<void> Start(uint16_t rows, uint16_t columns, const Deadline&) override {
    if (script_ == "refuse") return Err(Code::kFailedPrecondition, "exec: \"nothing\": executable file not found in $PATH");
    if (rows != 0) sizes_.emplace_back(rows, columns);
    auto [in_read, in_write] = TRY(Pipe());
    auto [out_read, out_write] = TRY(Pipe());
    auto [err_read, err_write] = TRY(Pipe());
    auto [over_read, over_write] = TRY(Pipe());
    child_ = TRY(Spawn({.argv = {"/bin/sh", "-c", script_},
                        .env = {"PATH=/usr/bin:/bin"},
                        .inherit = {{in_read.get(), 0}, {out_write.get(), 1}, {err_write.get(), 2}}}));
    for (unique_fd* fd : {&in_write, &out_read, &err_read}) ::fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    in = std::move(in_write), out = std::move(out_read), err = std::move(err_read);
    over_ = std::move(over_read);
    waiter_ = std::thread([this, w = std::make_shared<unique_fd>(std::move(over_write))] {
      code_ = WaitExit(child_, Deadline::Never()).value_or(-1);
      w->reset();
    });
    return {};
  }
  void Resize(uint16_t rows, uint16_t columns) override { sizes_.emplace_back(rows, columns); }
  int news() const override { return over_.get(); }
  bool Over() override { return true; }
  Result<std::optional<int>> Outcome() override {
    waiter_.join();
    return code_;
  }
  void Abandon() override {
    ++abandoned_;
    ::kill(child_.pid, SIGKILL);
  }

 private:
  std::string script_;
  std::atomic<int>& abandoned_;
  std::vector<std::pair<int, int>>& sizes_;
  Spawned child_;
  unique_fd over_;
  std::thread waiter_;
  int code_ = 0;
};

class Shells final : public Backend {
 public:
  std::unique_ptr<Process> Exec(const ExecTicket& t) override { return std::make_unique<Shell>(t.argv.at(0), abandoned, sizes); }
  std::unique_ptr<Process> Attach(const AttachTicket& t) override { return std::make_unique<Shell>(t.container, abandoned, sizes); }
  Result<unique_fd> Dial(const std::string&, uint16_t port, const Deadline& until) override {
    return ConnectTcp("127.0.0.1", std::to_string(port), until);
  }
  std::atomic<int> abandoned{0};
  std::vector<std::pair<int, int>> sizes;
};

class Client {
 public:
  Client(const std::string& url, const std::string& headers, const char* method = "POST") {
    const size_t host = url.find("://") + 3, path = url.find('/', host), colon = url.rfind(':', path);
    fd_ = std::move(*ConnectTcp(url.substr(host, colon - host), url.substr(colon + 1, path - colon - 1), Soon()));
    Write(fmt::format("{} {} HTTP/1.1\r\nHost: x\r\n{}\r\n", method, url.substr(path), headers));
    while (head_.find("\r\n\r\n") == std::string::npos && More()) {}
    rest_ = head_.substr(std::min(head_.size(), head_.find("\r\n\r\n") + 4));
  }
  void Write(std::string_view bytes) {
    while (!bytes.empty()) {
      auto n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  int status() const { return std::atoi(head_.substr(9, 3).c_str()); }
  const std::string& head() const { return head_; }
  // Everything until the server closes.
  std::string ReadAll() {
    head_ = std::move(rest_);
    while (More()) {}
    return std::move(head_);
  }
  std::string& rest() { return rest_; }
  bool MoreRest() {
    head_.clear();
    bool more = More();
    rest_ += head_;
    return more;
  }
  void Leave() { fd_.reset(); }

 private:
  bool More() {
    if (!Soon().WaitFor(fd_.get(), POLLIN, "server")) return false;
    char part[65536];
    auto n = ::recv(fd_.get(), part, sizeof part, 0);
    if (n <= 0) return false;
    head_.append(part, static_cast<size_t>(n));
    return true;
  }
  unique_fd fd_;
  std::string head_, rest_;
};

struct SpdyAnswer {
  std::map<StreamId, std::string> data;
  std::map<StreamId, bool> ended, reset;
};
SpdyAnswer Decode(std::string_view bytes) {
  SpdyAnswer answer;
  auto u32 = [&](size_t at) {
    auto b = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])); };
    return b(0) << 24 | b(1) << 16 | b(2) << 8 | b(3);
  };
  while (bytes.size() >= 8) {
    const uint32_t length = u32(4) & 0xffffff;
    if (bytes.size() < 8 + length) break;
    if ((bytes[0] & 0x80) == 0) {
      answer.data[u32(0)] += bytes.substr(8, length);
      if (bytes[4] & 1) answer.ended[u32(0)] = true;
    } else if (bytes[3] == 3) {
      answer.reset[u32(8)] = true;
    }
    bytes.remove_prefix(8 + length);
  }
  return answer;
}

class StreamingServer : public ::testing::Test {
 protected:
  std::string Exec(std::string script, Streams streams) { return *server_->Invite(ExecTicket{"c", {std::move(script)}, streams}); }
  static constexpr const char* kSpdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\n"
                                       "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
  static std::string Opened(const Streams& s) {
    SpdyClient client;
    std::string bytes = client.Open(1, {{"streamtype", "error"}});
    if (s.in) bytes += client.Open(3, {{"streamtype", "stdin"}});
    if (s.out) bytes += client.Open(5, {{"streamtype", "stdout"}});
    if (s.err) bytes += client.Open(7, {{"streamtype", "stderr"}});
    if (s.tty) bytes += client.Open(9, {{"streamtype", "resize"}});
    return bytes;
  }
  Shells shells_;
  std::unique_ptr<Server> server_ = std::move(*Server::Start({}, shells_));
};

TEST_F(StreamingServer, ExecOverSpdy) {
  const Streams streams{.in = true, .out = true, .err = true};
  Client client(Exec("cat; echo problem >&2; exit 3", streams), kSpdy);
  ASSERT_EQ(client.status(), 101) << client.head();
  EXPECT_NE(client.head().find("X-Stream-Protocol-Version: v4.channel.k8s.io"), std::string::npos);
  const std::string text(3'000'000, 'q');
  std::jthread writer([&] {
    client.Write(Opened(streams));
    for (size_t at = 0; at < text.size(); at += 100'000) client.Write(SpdyClient::Data(3, text.substr(at, 100'000)));
    client.Write(SpdyClient::Data(3, "", true));
  });
  auto answer = Decode(client.ReadAll());
  EXPECT_EQ(answer.data[5], text);
  EXPECT_EQ(answer.data[7], "problem\n");
  EXPECT_TRUE(answer.ended[5] && answer.ended[7] && answer.ended[1]);
  auto status = json::ParseTree(answer.data[1], "status");
  ASSERT_TRUE(IsOk(status));
  EXPECT_EQ(status->at("reason").as_string(), "NonZeroExitCode");
  EXPECT_EQ(status->at("details").at("causes").at(0).at("message").as_string(), "3");
  EXPECT_EQ(shells_.abandoned, 0);
}

TEST_F(StreamingServer, SuccessAndFailureToStart) {
  for (auto [script, wanted] : {std::pair{"echo fine", "Success"}, {"refuse", "Failure"}}) {
    const Streams streams{.out = true};
    Client client(Exec(script, streams), kSpdy);
    client.Write(Opened(streams));
    auto status = *json::ParseTree(Decode(client.ReadAll()).data[1], "status");
    EXPECT_EQ(status.at("status").as_string(), wanted);
    if (std::string(wanted) == "Failure") {
      EXPECT_NE(json::Serialize(status).find("executable file not found"), std::string::npos);
    }
  }
}

TEST_F(StreamingServer, OldVersionsTellErrorsInWords) {
  const Streams streams{.out = true};
  Client client(Exec("exit 4", streams), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v2.channel.k8s.io\r\n");
  client.Write(Opened(streams));
  EXPECT_EQ(Decode(client.ReadAll()).data[1], "command terminated with exit code 4");
}

TEST_F(StreamingServer, SizesOfTheTerminal) {
  const Streams streams{.in = true, .out = true, .tty = true};
  Client client(Exec("read x; echo got $x", streams), kSpdy);
  client.Write(Opened(streams) + SpdyClient::Data(9, R"({"Width":120,"Height":40}{"Width":0,"Hei)") + SpdyClient::Data(9, R"(ght":0}{"Width":80,"Height":24})"));
  std::this_thread::sleep_for(100ms);
  client.Write(SpdyClient::Data(3, "word\n"));
  EXPECT_EQ(Decode(client.ReadAll()).data[5], "got word\n");
  ASSERT_FALSE(shells_.sizes.empty());
  EXPECT_EQ(shells_.sizes.back(), (std::pair{24, 80}));
}

TEST_F(StreamingServer, AClientThatLeavesEndsTheProcess) {
  const Streams streams{.out = true};
  {
    Client client(Exec("sleep 1000", streams), kSpdy);
    client.Write(Opened(streams));
    std::this_thread::sleep_for(100ms);
    EXPECT_EQ(server_->sessions(), 1u);
  }
  for (int i = 0; i < 500 && server_->sessions() > 0; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(server_->sessions(), 0u);
  EXPECT_EQ(shells_.abandoned, 1);
}

TEST_F(StreamingServer, ASlowReaderBoundsMemoryAndLosesNothing) {
  const Streams streams{.out = true};
  Client client(Exec("head -c 20000000 /dev/zero | tr '\\0' x", streams), kSpdy);
  client.Write(Opened(streams));
  std::this_thread::sleep_for(700ms);
  EXPECT_EQ(server_->sessions(), 1u) << "the process waits for the client";
  EXPECT_EQ(Decode(client.ReadAll()).data[5].size(), 20'000'000u);
}

TEST_F(StreamingServer, ExecOverWebSocket) {
  const Streams streams{.in = true, .out = true, .err = true};
  Client client(Exec("cat; exit 7", streams),
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n",
                "GET");
  ASSERT_EQ(client.status(), 101) << client.head();
  EXPECT_NE(client.head().find("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), std::string::npos);
  auto frame = [](std::string payload) { return std::string{'\x82', static_cast<char>(0x80 | payload.size()), 0, 0, 0, 0} + payload; };
  client.Write(frame(std::string("\0hello", 6)) + frame(std::string("\xff\0", 2)));
  const std::string all = client.ReadAll();
  EXPECT_NE(all.find(std::string("\x82\x06\x01hello", 8)), std::string::npos);
  EXPECT_NE(all.find("NonZeroExitCode"), std::string::npos);
  EXPECT_EQ(all.substr(all.size() - 4), std::string("\x88\x02\x03\xe8")) << "a proper goodbye";
}

class EchoPort {
 public:
  EchoPort() {
    listener_ = std::move(*ListenTcp("127.0.0.1", 0));
    sockaddr_in bound{};
    socklen_t size = sizeof bound;
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    port = ntohs(bound.sin_port);
    thread_ = std::jthread([this] {
      while (true) {
        if (!Deadline::Never(stop_).WaitFor(listener_.get(), POLLIN, "client")) return;
        unique_fd fd(::accept(listener_.get(), nullptr, nullptr));
        std::string all;
        char part[4096];
        for (ssize_t n; (n = ::read(fd.get(), part, sizeof part)) > 0;) all.append(part, static_cast<size_t>(n));
        all = "echo " + all;
        (void)!::write(fd.get(), all.data(), all.size());
      }
    });
  }
  ~EchoPort() { stop_->Cancel(); }
  uint16_t port = 0;

 private:
  unique_fd listener_;
  std::shared_ptr<CancelToken> stop_ = std::make_shared<CancelToken>();
  std::jthread thread_;
};

TEST_F(StreamingServer, PortForwardOverSpdy) {
  EchoPort echo;
  Client client(*server_->Invite(PortForwardTicket{"p", {}}), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n");
  ASSERT_EQ(client.status(), 101) << client.head();
  SpdyClient spdy;
  std::string bytes;
  for (StreamId i : {0u, 1u, 2u}) {  // the second to a port where nobody listens
    const std::string port = i == 1 ? "1" : std::to_string(echo.port);
    bytes += spdy.Open(4 * i + 1, {{"streamtype", "error"}, {"port", port}, {"requestid", std::to_string(i)}});
    bytes += spdy.Open(4 * i + 3, {{"streamtype", "data"}, {"port", port}, {"requestid", std::to_string(i)}});
    bytes += SpdyClient::Data(4 * i + 3, fmt::format("request {}", i), true);
  }
  client.Write(bytes);
  while (true) {
    auto answer = Decode(client.rest());
    if (answer.ended[1] && answer.ended[9] && answer.ended[5]) break;
    ASSERT_TRUE(client.MoreRest());
  }
  auto answer = Decode(client.rest());
  EXPECT_EQ(answer.data[3], "echo request 0");
  EXPECT_EQ(answer.data[11], "echo request 2");
  EXPECT_TRUE(answer.reset[7]);
  EXPECT_NE(answer.data[5].find("refused"), std::string::npos) << answer.data[5];
  EXPECT_EQ(answer.data[1], "");
}

TEST_F(StreamingServer, PortForwardOverWebSocket) {
  EchoPort echo;
  Client client(*server_->Invite(PortForwardTicket{"p", {echo.port}}),
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n",
                "GET");
  ASSERT_EQ(client.status(), 101) << client.head();
  const std::string port{static_cast<char>(echo.port), static_cast<char>(echo.port >> 8)};
  while (client.rest().size() < 10) ASSERT_TRUE(client.MoreRest());
  EXPECT_EQ(client.rest(), std::string("\x82\x03\x00", 3) + port + std::string("\x82\x03\x01", 3) + port);
}

TEST_F(StreamingServer, RefusalsSayWhy) {
  const Streams out{.out = true};
  auto status = [](const std::string& url, const std::string& headers, const char* method = "POST") { return Client(url, headers, method).status(); };
  const std::string url = Exec("true", out);
  EXPECT_EQ(status(url.substr(0, url.rfind('/')) + "/nothing", kSpdy), 404);
  EXPECT_EQ(status(url, kSpdy, "DELETE"), 405);
  EXPECT_EQ(status(url, ""), 400);
  EXPECT_EQ(status(url, kSpdy), 404) << "a ticket serves once";
  EXPECT_EQ(status(Exec("true", out), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"), 400);
  EXPECT_EQ(status(Exec("true", out), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n"), 403);
  EXPECT_EQ(status(Exec("true", out), "Connection: Upgrade\r\nUpgrade: websocket\r\n", "GET"), 400);
  std::string other = Exec("true", out);
  other.replace(other.find("/exec/"), 6, "/attach/");
  EXPECT_EQ(status(other, kSpdy), 404) << "an exec's ticket is no attach's";
}

TEST_F(StreamingServer, TlsWithItsOwnCertificate) {
  berth::testing::TempDir dir;
  const std::string cert = dir / "cert.pem", key = dir / "key.pem";
  auto made = berth::Run({.argv = {"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=berth", "-days", "1", "-keyout", key, "-out", cert}, .env = {}},
                  Deadline::After(60s));
  if (!made || made->exit_code != 0) GTEST_SKIP() << "needs openssl(1)";
  Options options;
  options.tls_certificate = cert;
  EXPECT_TRUE(IsErr(Server::Start(options, shells_), Code::kInvalidArgument, "go together"));
  options.tls_key = cert;
  EXPECT_TRUE(IsErr(Server::Start(options, shells_), Code::kInvalidArgument, cert));
  options.tls_key = key;
  auto server = Server::Start(options, shells_);
  ASSERT_TRUE(IsOk(server));
  const std::string url = *(*server)->Invite(ExecTicket{"c", {"echo secret"}, {.out = true}});
  EXPECT_TRUE(url.starts_with("https://127.0.0.1:"));
  const size_t host = 8, path = url.find('/', host);
  const Streams out{.out = true};
  Command s_client{.argv = {"openssl", "s_client", "-quiet", "-connect", url.substr(host, path - host)}, .env = {}};
  s_client.input = fmt::format("POST {} HTTP/1.1\r\nHost: x\r\n{}\r\n", url.substr(path), kSpdy) + Opened(out);
  auto answer = berth::Run(s_client, Deadline::After(20s));
  ASSERT_TRUE(IsOk(answer));
  EXPECT_NE(answer->out.find("secret\n"), std::string::npos);
  EXPECT_NE(answer->out.find("\"Success\""), std::string::npos);
}

TEST_F(StreamingServer, GarbageAndSilenceEndOnlyTheirSession) {
  const Streams streams{.in = true, .out = true};
  Client garbage(Exec("cat", streams), kSpdy);
  garbage.Write(std::string("\x80\x02garbage that is no SPDY at all"));
  EXPECT_EQ(Decode(garbage.ReadAll()).data.size(), 0u);
  Client silent(Exec("cat", streams), kSpdy);
  Client good(Exec("echo here", {.out = true}), kSpdy);
  good.Write(Opened({.out = true}));
  EXPECT_EQ(Decode(good.ReadAll()).data[5], "here\n");
  server_.reset();  // ends the silent one at once
  EXPECT_EQ(silent.ReadAll(), "");
}

}  // namespace
}  // namespace berth::cri::streaming
