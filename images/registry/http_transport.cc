#include "images/registry/http_transport.h"

#include <poll.h>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <list>

namespace berth::images {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;
using std::chrono::steady_clock;

constexpr std::chrono::seconds kConnectTime{30};
constexpr std::chrono::seconds kSilence{60};
constexpr std::chrono::seconds kIdle{30};  // registries close idle connections after a minute or more
constexpr size_t kIdlePerHost = 6;
constexpr size_t kReadBuffer = 256 << 10;
constexpr uint32_t kMaxHeader = 64 << 10;

// An error while the caller still had time is the server's: kUnavailable.
std::unexpected<Error> ServerErr(const error_code& ec, const Deadline& until, std::string_view doing, const Url& url) {
  if (auto in_time = until.Check(fmt::format("{} {}", doing, url.Origin())); !in_time)
    return std::unexpected(std::move(in_time).error());
  if (ec == boost::system::errc::timed_out)
    return Err(Code::kUnavailable, "{} {}: the server has been silent for {} s", doing, url.Origin(), kSilence.count());
  if (ec == http::error::end_of_stream || ec == http::error::partial_message || ec == boost::asio::error::eof)
    return Err(Code::kUnavailable, "{} {}: the connection broke off", doing, url.Origin());
  bool broken = ec.category() == boost::system::system_category() || ec.category() == boost::system::generic_category();
  return Err(broken ? Code::kUnavailable : Code::kInvalidArgument, "{} {}: {}{}", doing, url.Origin(),
             broken ? "" : "malformed answer: ", ec.message());
}

// Header values come from references and configuration, but nothing may smuggle a line into a request.
bool HeaderGood(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
}

}  // namespace

struct HttpTransport::Connection {
  explicit Connection(unique_fd socket) : wire(std::move(socket)), buffer(kReadBuffer * 2) {}
  std::string key;
  Wire wire;
  boost::beast::flat_buffer buffer;
  steady_clock::time_point idle_since;
  bool reused = false;
};

struct HttpTransport::Pool {
  std::mutex mutex;
  std::map<std::string, std::list<std::unique_ptr<Connection>>> idle;

  static std::string Key(const HttpRequest& r) {
    return fmt::format("{} {}:{} {} {}", r.url.scheme, r.url.host, r.url.port, r.tls.skip_verify, r.tls.ca_file);
  }
  std::unique_ptr<Connection> Take(const std::string& key) {
    std::lock_guard lock(mutex);
    auto found = idle.find(key);
    if (found == idle.end()) return nullptr;
    auto& list = found->second;
    std::unique_ptr<Connection> taken;
    while (!list.empty() && !taken) {
      auto candidate = std::move(list.back());
      list.pop_back();
      // Readable while idle means closed, or bytes that nobody asked for.
      pollfd p{candidate->wire.fd(), POLLIN, 0};
      if (steady_clock::now() - candidate->idle_since < kIdle && ::poll(&p, 1, 0) == 0) taken = std::move(candidate);
    }
    if (list.empty()) idle.erase(found);
    return taken;
  }
  void Put(std::unique_ptr<Connection> connection) {
    connection->idle_since = steady_clock::now();
    std::lock_guard lock(mutex);
    for (auto it = idle.begin(); it != idle.end();) {
      std::erase_if(it->second, [&](const auto& c) { return steady_clock::now() - c->idle_since >= kIdle; });
      it = it->second.empty() ? idle.erase(it) : std::next(it);
    }
    auto& list = idle[connection->key];
    if (list.size() >= kIdlePerHost) list.pop_front();
    list.push_back(std::move(connection));
  }
};

class HttpTransport::Response : public HttpResponse {
 public:
  Response(std::unique_ptr<Connection> connection, std::shared_ptr<Pool> pool, Url url)
      : connection_(std::move(connection)), pool_(std::move(pool)), url_(std::move(url)) {
    parser.header_limit(kMaxHeader);
    parser.body_limit(boost::none);
  }
  ~Response() override { Recycle(); }

  int status() const override { return static_cast<int>(parser.get().result_int()); }
  std::string Header(std::string_view name) const override {
    std::string out;
    auto range = parser.get().equal_range(boost::beast::string_view(name.data(), name.size()));
    for (auto it = range.first; it != range.second; ++it) {
      if (!out.empty()) out += ", ";
      out.append(it->value().data(), it->value().size());
    }
    return out;
  }

  Result<size_t> Read(std::span<char> into, const Deadline& until) override {
    if (into.empty() || !connection_) return size_t{0};
    while (!parser.is_done()) {
      connection_->wire.set_deadline(until.Sooner(kSilence));
      auto& body = parser.get().body();
      body.data = into.data();
      body.size = into.size();
      body.more = true;
      error_code ec;
      try {
        http::read_some(connection_->wire, connection_->buffer, parser, ec);
      } catch (const std::exception& e) {
        return Err(Code::kInvalidArgument, "read from {}: malformed answer: {}", url_.Origin(), e.what());
      }
      size_t got = into.size() - body.size;
      if (ec == http::error::need_buffer) ec = {};
      if (ec && got == 0) {
        connection_.reset();
        return ServerErr(ec, until, "read from", url_);
      }
      if (got > 0) return got;  // an error shows again at the next call
    }
    Recycle();
    return size_t{0};
  }

  http::response_parser<http::buffer_body> parser;
  std::unique_ptr<Connection> connection_;

 private:
  // A connection goes back only when its answer was read to the end.
  void Recycle() {
    if (connection_ && parser.is_done() && parser.keep_alive()) {
      connection_->reused = true;
      pool_->Put(std::move(connection_));
    }
    connection_.reset();
  }
  std::shared_ptr<Pool> pool_;
  Url url_;
};

HttpTransport::HttpTransport() : pool_(std::make_shared<Pool>()) {}
HttpTransport::~HttpTransport() = default;

Result<std::unique_ptr<HttpTransport::Connection>> HttpTransport::Connect(const HttpRequest& request,
                                                                          const Deadline& until) {
  const Url& url = request.url;
  Deadline patience = until.Sooner(kConnectTime);
  auto blame = [&](Error e) -> std::unexpected<Error> {
    if (auto in_time = until.Check(fmt::format("connect to {}", url.Origin())); !in_time)
      return std::unexpected(std::move(in_time).error());
    if (e.code == Code::kDeadlineExceeded)
      return Err(Code::kUnavailable, "connect to {}: no answer within {} s", url.Origin(), kConnectTime.count());
    // Whatever the socket said: from here it means that the server is not to be had.
    if (e.code != Code::kFailedPrecondition && e.code != Code::kResourceExhausted && e.code != Code::kInvalidArgument)
      e.code = Code::kUnavailable;
    return std::unexpected(std::move(e));
  };
  auto socket = ConnectTcp(url.host, url.port, patience);
  if (!socket) return blame(std::move(socket).error());
  auto connection = std::make_unique<Connection>(std::move(*socket));
  connection->key = Pool::Key(request);
  if (url.scheme == "https") {
    auto context = TRY(contexts_.Get(request.tls));
    bool plain = false;
    auto shaken = connection->wire.Handshake(std::move(context), url.host, !request.tls.skip_verify, patience, &plain);
    if (!shaken) return blame(std::move(shaken).error());
  }
  return connection;
}

Result<std::unique_ptr<HttpResponse>> HttpTransport::SendOn(std::unique_ptr<Connection> connection,
                                                            const HttpRequest& request, const Deadline& until,
                                                            bool* untouched) {
  *untouched = false;
  std::string head =
      fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.url.target, request.url.Authority());
  for (const auto& [name, value] : request.headers) {
    if (!HeaderGood(value) || value.size() > kMaxHeader)
      return Err(Code::kInvalidArgument, "request to {}: header {} has a value that no header can have",
                 request.url.Origin(), name);
    head += fmt::format("{}: {}\r\n", name, value);
  }
  if (!request.body.empty() || request.method == "POST")
    head += fmt::format("Content-Length: {}\r\n", request.body.size());
  head += "\r\n";
  head += request.body;

  Wire& wire = connection->wire;
  wire.set_deadline(until.Sooner(kSilence));
  error_code ec;
  for (size_t sent = 0; sent < head.size();) {
    sent += wire.write_some(boost::asio::const_buffer(head.data() + sent, head.size() - sent), ec);
    if (ec) {
      *untouched = connection->reused;
      return ServerErr(ec, until, "send to", request.url);
    }
  }
  bool reused = connection->reused;
  std::unique_ptr<Response> response;
  do {  // 1xx answers announce the real one
    response = std::make_unique<Response>(std::move(connection), pool_, request.url);
    if (request.method == "HEAD") response->parser.skip(true);
    try {
      http::read_header(wire, response->connection_->buffer, response->parser, ec);
    } catch (const std::exception& e) {
      return Err(Code::kInvalidArgument, "read from {}: malformed answer: {}", request.url.Origin(), e.what());
    }
    if (!ec && response->status() / 100 == 1) connection = std::move(response->connection_);
  } while (connection);
  if (ec) {
    // A kept connection that the server closed in the same moment: nothing was answered, so the request can go again.
    *untouched = reused && ec == http::error::end_of_stream;
    return ServerErr(ec, until, "read from", request.url);
  }
  return std::unique_ptr<HttpResponse>(std::move(response));
}

Result<std::unique_ptr<HttpResponse>> HttpTransport::Send(const HttpRequest& request, const Deadline& until) {
  TRY(until.Check(fmt::format("{} {}", request.method, request.url.Origin())));
  while (auto kept = pool_->Take(Pool::Key(request))) {
    bool untouched = false;
    auto response = SendOn(std::move(kept), request, until, &untouched);
    if (response || !untouched) return response;
  }
  auto connection = TRY(Connect(request, until));
  bool untouched = false;
  return SendOn(std::move(connection), request, until, &untouched);
}

Result<bool> HttpTransport::SpeaksTls(const Url& url, const Deadline& until) {
  // A plain server that waits for the end of a request line never answers a greeting: its silence is an answer too.
  Deadline patience = until.Sooner(std::chrono::seconds(3));
  auto socket = ConnectTcp(url.host, url.port, until.Sooner(kConnectTime));
  if (!socket) {
    TRY(until.Check(fmt::format("connect to {}", url.Origin())));
    Error e = std::move(socket).error();
    e.code = Code::kUnavailable;
    return std::unexpected(std::move(e));
  }
  auto context = TRY(contexts_.Get({.skip_verify = true}));
  Wire wire(std::move(*socket));
  bool plain = false;
  auto shaken = wire.Handshake(std::move(context), url.host, false, patience, &plain);
  if (shaken) return true;
  TRY(until.Check(fmt::format("connect to {}", url.Origin())));
  // A handshake that fails for TLS reasons (a client certificate is wanted, say) is still TLS.
  return shaken.error().code == Code::kFailedPrecondition && !plain;
}

}  // namespace berth::images
