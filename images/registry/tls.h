#pragma once
// TLS as a client, over a socket that FdStream owns. Blocking with a deadline; the socket itself is non-blocking.
#include <memory>
#include <string>

#include <boost/system/error_code.hpp>

#include "base/fd_stream.h"
#include "images/registry/transport.h"

struct ssl_st;
struct ssl_ctx_st;

namespace berth::images {

// Contexts, one per TlsOptions; a changed ca_file is read again. Thread-safe.
class TlsContexts {
 public:
  TlsContexts();
  ~TlsContexts();
  // kFailedPrecondition when ca_file cannot be read or holds no certificate.
  Result<std::shared_ptr<ssl_ctx_st>> Get(const TlsOptions& options);

 private:
  struct Entry;
  std::mutex mutex_;
  std::map<TlsOptions, Entry> entries_;
};

// A byte stream that is plain or TLS. Satisfies Beast's SyncReadStream and SyncWriteStream. One thread at a time.
class Wire : public SyncStream<Wire> {
 public:
  explicit Wire(unique_fd socket) : stream_(std::move(socket)) {}
  Wire(Wire&&) = delete;
  ~Wire();
  // `host`: for the server name indication and the certificate. kFailedPrecondition for certificates that are not
  // accepted; kUnavailable for a connection that breaks; *plain_http is set when the server answered in plain HTTP.
  Result<void> Handshake(std::shared_ptr<ssl_ctx_st> context, const std::string& host, bool verify,
                         const Deadline& until, bool* plain_http);
  void set_deadline(const Deadline& until);
  int fd() const { return stream_.fd(); }

 private:
  friend SyncStream<Wire>;
  size_t Read(void* data, size_t size, boost::system::error_code& ec);
  size_t Write(const void* data, size_t size, boost::system::error_code& ec);
  // Waits for what the failed call wanted; false with `ec` set when it failed for good.
  bool Again(int rc, boost::system::error_code& ec);

  FdStream stream_;
  Deadline until_ = Deadline::Never();
  std::shared_ptr<ssl_ctx_st> context_;
  ssl_st* ssl_ = nullptr;
};

}  // namespace berth::images
