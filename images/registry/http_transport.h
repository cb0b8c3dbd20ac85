#pragma once
// The real Transport: HTTP/1.1 by Beast's parser over our own sockets, TLS by OpenSSL. Connections are kept and reused
// per host, port and TlsOptions.
//
// Time: besides the caller's deadline, connecting and handshaking take at most 30 s together, and a server that sends
// nothing for 60 s is taken for dead; both are kUnavailable, so that the caller may try again.
#include <memory>

#include "images/registry/tls.h"
#include "images/registry/transport.h"

namespace berth::images {

class HttpTransport : public Transport {  // thread-safe
 public:
  HttpTransport();
  ~HttpTransport() override;
  Result<std::unique_ptr<HttpResponse>> Send(const HttpRequest& request, const Deadline& until) override;
  Result<bool> SpeaksTls(const Url& url, const Deadline& until) override;

 private:
  struct Connection;
  struct Pool;
  class Response;
  Result<std::unique_ptr<Connection>> Connect(const HttpRequest& request, const Deadline& until);
  Result<std::unique_ptr<HttpResponse>> SendOn(std::unique_ptr<Connection> connection, const HttpRequest& request,
                                               const Deadline& until, bool* untouched);

  TlsContexts contexts_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace berth::images
