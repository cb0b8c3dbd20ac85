#pragma once
// One HTTP exchange: a request out, a response in, its body as a stream. The seam below the registry client: the real
// one is HttpTransport, tests stand in with a table of answers.
//
// A transport knows nothing of registries: it follows no redirects, adds no credentials and retries nothing that may
// have reached the server.
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"

namespace berth::images {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // without brackets
  std::string port;    // always set
  std::string target;  // path and query, starts with '/'

  // Absolute http(s) URLs only; user information and fragments are refused. kInvalidArgument names the text.
  static Result<Url> Parse(std::string_view text);
  // A Location header seen at this URL: absolute, //host/path, /path or relative (RFC 3986 section 5).
  Result<Url> Resolve(std::string_view location) const;
  std::string Authority() const;  // host:port as in a Host header; the default port is left out
  std::string Origin() const { return scheme + "://" + Authority(); }
  std::string str() const { return Origin() + target; }
};

struct TlsOptions {
  bool skip_verify = false;
  std::string ca_file;  // PEM, in addition to the system's authorities
  auto operator<=>(const TlsOptions&) const = default;
};

struct HttpRequest {
  std::string method = "GET";
  Url url;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  TlsOptions tls;
};

// A response whose body is still to be read. Dropping it half read closes the connection. One thread at a time.
class HttpResponse {
 public:
  virtual ~HttpResponse() = default;
  virtual int status() const = 0;
  virtual std::string Header(
      std::string_view name) const = 0;  // several of one name are joined by ", "; "" when absent
  // Bytes read into `into`, 0 at the end of the body. A connection that ends too early is kUnavailable; what arrived
  // before was given out by earlier calls.
  virtual Result<size_t> Read(std::span<char> into, const Deadline& until) = 0;
};

// kUnavailable: cannot be reached, or broke off before the response; trying again may help.
// kFailedPrecondition: TLS found something to fix; the text names the setting.
class Transport {  // thread-safe
 public:
  virtual ~Transport() = default;
  virtual Result<std::unique_ptr<HttpResponse>> Send(const HttpRequest& request, const Deadline& until) = 0;
  // Whether a TLS greeting is answered in TLS (and not in plain HTTP): for hosts that may be either. Errors as Send.
  virtual Result<bool> SpeaksTls(const Url& url, const Deadline& until) = 0;
};

// Reads at most `limit` bytes; kInvalidArgument beyond.
Result<std::string> ReadBody(HttpResponse& response, size_t limit, std::string_view what, const Deadline& until);

bool IsLoopbackHost(std::string_view host);  // localhost, *.localhost, 127.0.0.0/8, ::1

}  // namespace berth::images
