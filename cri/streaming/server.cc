#include "cri/streaming/server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <thread>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "base/log.h"
#include "base/net_address.h"
#include "base/worker_pool.h"
#include "cri/streaming/spdy.h"
#include "cri/streaming/websocket.h"

namespace berth::cri::streaming {
namespace {

namespace http = boost::beast::http;
using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

constexpr std::chrono::seconds kRequestTime(10), kDialTime(10);
constexpr uint32_t kHeaderLimit = 16 << 10;
constexpr std::string_view kForwardProtocol = "portforward.k8s.io", kTunnelProtocol = "SPDY/3.1+portforward.k8s.io";

Response Plain(http::status status, std::string text) {
  Response response(status, 11);
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.body() = std::move(text) + "\n";
  response.keep_alive(false);
  response.prepare_payload();
  return response;
}

void Answer(Wire& wire, Response response) {
  boost::system::error_code ec;
  http::write(wire, response, ec);
}

bool SameWord(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y)); });
}

// Words of a header that may be repeated or hold a comma separated list.
std::vector<std::string> Words(const Request& request, std::string_view name) {
  std::vector<std::string> words;
  for (const auto& field : request) {
    if (!SameWord({field.name_string().data(), field.name_string().size()}, name)) continue;
    std::string_view value(field.value().data(), field.value().size());
    while (!value.empty()) {
      std::string_view word = value.substr(0, value.find(','));
      value.remove_prefix(std::min(value.size(), word.size() + 1));
      while (word.starts_with(' ') || word.starts_with('\t')) word.remove_prefix(1);
      while (word.ends_with(' ') || word.ends_with('\t')) word.remove_suffix(1);
      if (!word.empty()) words.emplace_back(word);
    }
  }
  return words;
}

using Channel = std::map<std::string, std::string>;

// Channels 0 to 4 of the remote command protocol.
std::vector<Channel> CommandChannels(const Streams& s) {
  auto channel = [](bool there, const char* type) { return there ? Channel{{"streamtype", type}} : Channel(); };
  return {channel(s.in, "stdin"), channel(s.out, "stdout"), channel(s.err, "stderr"), channel(true, "error"), channel(s.tty, "resize")};
}

std::vector<Channel> ForwardChannels(const std::vector<uint16_t>& ports) {
  std::vector<Channel> channels;
  for (size_t i = 0; i < ports.size(); ++i)
    for (const char* type : {"data", "error"})
      channels.push_back({{"streamtype", type}, {"port", std::to_string(ports[i])}, {"requestid", std::to_string(i)}});
  return channels;
}

// A protocol that both sides know, and how it is spoken.
struct Agreed {
  std::unique_ptr<Mux> mux;
  Response upgrade;       // 101
  bool status = false;    // errors as JSON
  bool announce = false;  // streams begin with their port
};

class HttpServer final : public Server {
 public:
  HttpServer(unique_fd listener, std::string base, std::shared_ptr<TlsIdentity> tls, const Options& options, Backend& backend)
      : listener_(std::move(listener)),
        base_(std::move(base)),
        tls_(std::move(tls)),
        backend_(backend),
        pool_("streaming", static_cast<size_t>(options.sessions)),
        accept_([this] { Accept(); }) {}
  ~HttpServer() override {
    stop_->Cancel();
    accept_.join();
  }

  Result<std::string> Invite(Ticket ticket) override {
    const char* path = std::holds_alternative<ExecTicket>(ticket) ? "exec" : std::holds_alternative<AttachTicket>(ticket) ? "attach" : "portforward";
    return fmt::format("{}/{}/{}", base_, path, TRY(tickets_.Add(std::move(ticket))));
  }
  const std::string& base_url() const override { return base_; }
  size_t sessions() const override { return pool_.busy(); }

 private:
  void Accept() {
    ::pthread_setname_np(::pthread_self(), "stream-accept");
    const Deadline until = Deadline::Never(stop_);
    while (until.WaitFor(listener_.get(), POLLIN, "a connection")) {
      unique_fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
          log::Warn("streaming.accept_failed", {{"error", ErrnoText(errno)}});
          if (!until.Sleep(std::chrono::seconds(1), "descriptors")) return;
        }
        continue;
      }
      const int on = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      ::setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
      auto shared = std::make_shared<unique_fd>(std::move(fd));
      if (pool_.Submit([this, shared] { Serve(std::move(*shared)); })) continue;
      // Not worth a handshake: over TLS the client sees a closed connection.
      if (tls_) continue;
      if (auto wire = Wire::Accept(std::move(*shared), nullptr, Deadline::After(std::chrono::nanoseconds(0))))
        Answer(**wire, Plain(http::status::service_unavailable, "too many streaming sessions"));
    }
  }

  void Serve(unique_fd fd) {
    const Deadline stop = Deadline::Never(stop_), request_time = Deadline::After(kRequestTime, stop_);
    auto wire = Wire::Accept(std::move(fd), tls_, request_time);
    if (!wire) return log::Debug("streaming.refused", {{"error", wire.error().what}});
    (*wire)->set_deadline(request_time);
    boost::beast::flat_buffer buffer(kHeaderLimit + (64 << 10));
    http::request_parser<http::empty_body> parser;
    parser.header_limit(kHeaderLimit);
    boost::system::error_code ec;
    http::read_header(**wire, buffer, parser, ec);
    if (ec) {
      if (ec != http::error::end_of_stream) Answer(**wire, Plain(http::status::bad_request, ec.message()));
      return;
    }
    const auto data = buffer.data();
    Session(**wire, parser.get(), std::string(static_cast<const char*>(data.data()), data.size()), stop);
  }

  void Session(Wire& wire, const Request& request, std::string early, const Deadline& stop) {
    std::string_view path(request.target().data(), request.target().size());
    path = path.substr(0, path.find('?'));
    if (request.method() != http::verb::get && request.method() != http::verb::post) {
      Response response = Plain(http::status::method_not_allowed, "only GET and POST");
      response.set(http::field::allow, "GET, POST");
      return Answer(wire, std::move(response));
    }
    const size_t slash = path.rfind('/');
    auto ticket = slash == std::string_view::npos ? std::nullopt : tickets_.Take(std::string(path.substr(slash + 1)));
    static constexpr std::string_view kPaths[] = {"/exec", "/attach", "/portforward"};
    if (!ticket || path.substr(0, slash) != kPaths[ticket->index()])
      return Answer(wire, Plain(http::status::not_found, "no such request: it was used already, or is older than a minute"));
    Response refusal;
    auto agreed = Agree(request, *ticket, refusal);
    if (!agreed) return Answer(wire, std::move(refusal));
    boost::system::error_code ec;
    http::write(wire, agreed->upgrade, ec);
    if (ec) return;
    const auto began = std::chrono::steady_clock::now();
    auto ended = Relay(wire, *agreed, std::move(early), *ticket, stop);
    log::Info("streaming.done",
              {{"kind", path.substr(1, slash - 1)},
               {"object", Object(*ticket)},
               {"error", ended ? "" : ended.error().what},
               {"took_ms", std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began).count()}});
  }

  static std::string Object(const Ticket& ticket) {
    if (const auto* t = std::get_if<ExecTicket>(&ticket)) return t->container;
    if (const auto* t = std::get_if<AttachTicket>(&ticket)) return t->container;
    return std::get<PortForwardTicket>(ticket).pod;
  }

  Result<void> Relay(Wire& wire, Agreed& agreed, std::string early, const Ticket& ticket, const Deadline& stop) {
    if (const auto* forward = std::get_if<PortForwardTicket>(&ticket)) {
      Dial dial = [&](uint16_t port) { return backend_.Dial(forward->pod, port, stop.Sooner(kDialTime)); };
      return ServeForward(wire, *agreed.mux, std::move(early), agreed.announce, dial, stop);
    }
    const auto* exec = std::get_if<ExecTicket>(&ticket);
    auto process = exec != nullptr ? backend_.Exec(*exec) : backend_.Attach(std::get<AttachTicket>(ticket));
    return ServeCommand(wire, *agreed.mux, std::move(early), StreamsOf(ticket), agreed.status, *process, stop);
  }

  static const Streams& StreamsOf(const Ticket& ticket) {
    if (const auto* t = std::get_if<ExecTicket>(&ticket)) return t->streams;
    return std::get<AttachTicket>(ticket).streams;
  }

  static std::optional<Agreed> Agree(const Request& request, const Ticket& ticket, Response& refusal) {
    auto upgrades = Words(request, "upgrade");
    auto asks = [&](std::string_view word) { return std::ranges::any_of(upgrades, [&](const auto& u) { return SameWord(u, word); }); };
    if (asks("SPDY/3.1")) return AgreeSpdy(request, ticket, refusal);
    if (asks("websocket")) return AgreeWebSocket(request, ticket, refusal);
    refusal = Plain(http::status::bad_request, "this is for clients that upgrade to SPDY/3.1 or websocket");
    return std::nullopt;
  }

  static Agreed Upgraded(std::string_view to, std::unique_ptr<Mux> mux) {
    Agreed agreed;
    agreed.mux = std::move(mux);
    agreed.upgrade = Response(http::status::switching_protocols, 11);
    agreed.upgrade.set(http::field::connection, "Upgrade");
    agreed.upgrade.set(http::field::upgrade, {to.data(), to.size()});
    return agreed;
  }

  // The first of the client's versions that we know.
  static std::optional<Agreed> AgreeSpdy(const Request& request, const Ticket& ticket, Response& refusal) {
    constexpr const char* kHeader = "X-Stream-Protocol-Version";
    const bool forward = std::holds_alternative<PortForwardTicket>(ticket);
    static const std::vector<std::string_view> kCommand = {"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"};
    static const std::vector<std::string_view> kForward = {kForwardProtocol};
    const auto& ours = forward ? kForward : kCommand;
    auto theirs = Words(request, kHeader);
    if (theirs.empty()) {
      refusal = Plain(http::status::bad_request, fmt::format("the header {} is missing", kHeader));
      return std::nullopt;
    }
    for (const std::string& version : theirs) {
      if (std::ranges::find(ours, version) == ours.end()) continue;
      Agreed agreed = Upgraded("SPDY/3.1", MakeSpdy());
      agreed.upgrade.set(kHeader, version);
      agreed.status = version == ours.front() && !forward;
      return agreed;
    }
    refusal = Plain(http::status::forbidden, fmt::format("none of the client's protocols is known here: {}", fmt::join(theirs, ", ")));
    for (std::string_view version : ours) refusal.insert("X-Accepted-Stream-Protocol-Versions", {version.data(), version.size()});
    return std::nullopt;
  }

  static std::optional<Agreed> AgreeWebSocket(const Request& request, const Ticket& ticket, Response& refusal) {
    const auto key = request[http::field::sec_websocket_key];
    const auto version = request[http::field::sec_websocket_version];
    if (key.empty() || version != "13" || request.method() != http::verb::get) {
      refusal = Plain(http::status::bad_request, "a WebSocket upgrade is a GET with Sec-WebSocket-Key and Sec-WebSocket-Version 13");
      refusal.set(http::field::sec_websocket_version, "13");
      return std::nullopt;
    }
    auto theirs = Words(request, "sec-websocket-protocol");
    if (theirs.empty()) theirs.push_back("");
    const auto* forward = std::get_if<PortForwardTicket>(&ticket);
    for (const std::string& name : theirs) {
      const ChannelProtocol* protocol = FindChannelProtocol(name);
      const bool tunnel = forward != nullptr && name == kTunnelProtocol;
      if (!tunnel && protocol == nullptr) continue;
      if (forward != nullptr && !tunnel && (forward->ports.empty() || protocol->half_close)) continue;
      Agreed agreed = Upgraded("websocket", tunnel ? MakeTunnel(MakeSpdy())
                                                   : MakeChannels(*protocol, forward != nullptr ? ForwardChannels(forward->ports)
                                                                                                : CommandChannels(StreamsOf(ticket))));
      agreed.upgrade.set(http::field::sec_websocket_accept, WebSocketAccept({key.data(), key.size()}));
      if (!name.empty()) agreed.upgrade.set(http::field::sec_websocket_protocol, name);
      agreed.status = !tunnel && protocol->status;
      agreed.announce = forward != nullptr && !tunnel;
      return agreed;
    }
    refusal = Plain(http::status::forbidden, fmt::format("none of the client's protocols is known here: {}", fmt::join(theirs, ", ")));
    return std::nullopt;
  }

  unique_fd listener_;
  std::string base_;
  std::shared_ptr<TlsIdentity> tls_;
  Backend& backend_;
  Tickets tickets_{Clock::System()};
  std::shared_ptr<CancelToken> stop_ = std::make_shared<CancelToken>();
  WorkerPool pool_;
  std::thread accept_;  // last: it uses all of the above
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const Options& options, Backend& backend) {
  ::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  if (options.tls_certificate.empty() != options.tls_key.empty())
    return Err(Code::kInvalidArgument, "streaming: a certificate and its key go together");
  std::shared_ptr<TlsIdentity> tls;
  if (!options.tls_certificate.empty()) tls = TRY_CTX(TlsIdentity::Load(options.tls_certificate, options.tls_key), "streaming");
  const HostPort where = TRY_CTX(ParseIpPort(options.address), "streaming address");
  unique_fd listener = TRY_CTX(ListenTcp(where.host, where.port), "streaming");
  ::fcntl(listener.get(), F_SETFL, O_NONBLOCK);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&bound), &size) < 0) return SysErr("streaming: read own address");
  const bool six = bound.ss_family == AF_INET6;
  const uint16_t port = ntohs(six ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  // Clients come from this machine (the kubelet relays for those elsewhere), and an address that means "any" is nobody's.
  std::string host = where.host;
  if (host == "0.0.0.0") host = "127.0.0.1";
  if (host == "::") host = "::1";
  std::string base = fmt::format("{}://{}", tls ? "https" : "http", FormatHostPort(host, port));
  log::Info("streaming.listening", {{"url", base}});
  return std::make_unique<HttpServer>(std::move(listener), std::move(base), std::move(tls), options, backend);
}

}  // namespace berth::cri::streaming
