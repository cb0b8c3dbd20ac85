#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "base/fd_stream.h"
#include "base/log.h"
#include "base/net_address.h"
#include "base/worker_pool.h"
#include "metrics/registry.h"

namespace berth::metrics {
namespace {

namespace http = boost::beast::http;
using Response = http::response<http::string_body>;

constexpr size_t kConnections = 8;
constexpr std::chrono::seconds kRequestTime(10);
constexpr uint32_t kHeaderLimit = 16 << 10;
constexpr uint64_t kBodyLimit = 16 << 10;  // nothing we serve takes a body

Response Text(http::status status, std::string body, std::string_view type = "text/plain; charset=utf-8") {
  Response response(status, 11);
  response.set(http::field::content_type, {type.data(), type.size()});
  response.body() = std::move(body);
  return response;
}

Response Answer(const http::request<http::string_body>& request, const Registry& registry) {
  const std::string_view target(request.target().data(), request.target().size());
  const std::string_view path = target.substr(0, target.find('?'));
  const bool metrics = path == "/metrics";
  if (!metrics && path != "/healthz")
    return Text(http::status::not_found, "not found; there are /metrics and /healthz\n");
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    Response response = Text(http::status::method_not_allowed, "only GET and HEAD\n");
    response.set(http::field::allow, "GET, HEAD");
    return response;
  }
  if (!metrics) return Text(http::status::ok, "ok\n");
  return Text(http::status::ok, registry.Page(), "text/plain; version=0.0.4; charset=utf-8");
}

// Returns whether the connection may carry another request.
bool Send(FdStream& stream, Response response, bool keep_alive, bool head) {
  boost::system::error_code ec;
  response.keep_alive(keep_alive);
  response.prepare_payload();
  if (head) {
    http::response<http::empty_body> empty(std::move(response.base()));  // with the length the body would have
    http::response_serializer<http::empty_body> header(empty);
    http::write_header(stream, header, ec);
  } else {
    http::write(stream, response, ec);
  }
  return !ec && keep_alive;
}

void Serve(unique_fd fd, const std::shared_ptr<CancelToken>& stop, const Registry& registry) {
  FdStream stream(std::move(fd));
  boost::beast::flat_buffer buffer(kHeaderLimit + kBodyLimit);
  for (bool more = true; more;) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(kHeaderLimit);
    parser.body_limit(kBodyLimit);
    stream.set_deadline(Deadline::After(kRequestTime, stop));
    boost::system::error_code ec;
    http::read(stream, buffer, parser, ec);
    if (ec == http::error::body_limit) {
      Send(stream, Text(http::status::payload_too_large, "no request here takes a body\n"), false, false);
    } else if (ec.category() == http::make_error_code(http::error::bad_method).category() && ec != http::error::end_of_stream &&
               ec != http::error::partial_message) {
      Send(stream, Text(http::status::bad_request, ec.message() + "\n"), false, false);
    }
    if (ec) return;
    const auto& request = parser.get();
    more = Send(stream, Answer(request, registry), request.keep_alive(), request.method() == http::verb::head);
  }
}

class HttpServer final : public Server {
 public:
  HttpServer(unique_fd listener, std::string address, Registry& registry)
      : listener_(std::move(listener)), address_(std::move(address)), registry_(registry), accept_([this] { Accept(); }) {}
  ~HttpServer() override {
    stop_->Cancel();
    accept_.join();
  }
  const std::string& address() const override { return address_; }

 private:
  void Accept() {
    const Deadline until = Deadline::Never(stop_);
    while (until.WaitFor(listener_.get(), POLLIN, "a connection")) {
      unique_fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
          log::Warn("metrics.accept_failed", {{"error", ErrnoText(errno)}});
          if (!until.Sleep(std::chrono::seconds(1), "descriptors")) return;  // else the loop would spin on the backlog
        }
        continue;
      }
      auto shared = std::make_shared<unique_fd>(std::move(fd));  // std::function wants its captures copyable
      const auto task = [this, shared] { Serve(std::move(*shared), stop_, registry_); };
      if (!pool_.Submit(task)) {
        FdStream stream(std::move(*shared), Deadline::After(std::chrono::nanoseconds(0)));
        Send(stream, Text(http::status::service_unavailable, "too many connections\n"), false, false);
      }
    }
  }

  unique_fd listener_;
  std::string address_;
  Registry& registry_;
  std::shared_ptr<CancelToken> stop_ = std::make_shared<CancelToken>();
  WorkerPool pool_{"metrics", kConnections};
  std::thread accept_;  // last: it uses all of the above
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const std::string& address, Registry& registry) {
  const HostPort where = TRY_CTX(ParseIpPort(address), "metrics address");
  unique_fd listener = TRY_CTX(ListenTcp(where.host, where.port), "metrics");
  // A client may be gone between poll and accept.
  ::fcntl(listener.get(), F_SETFL, O_NONBLOCK);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&bound), &size) < 0) return SysErr("metrics: read own address");
  const uint16_t port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                          : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return std::make_unique<HttpServer>(std::move(listener), FormatHostPort(where.host, port), registry);
}

}  // namespace berth::metrics
