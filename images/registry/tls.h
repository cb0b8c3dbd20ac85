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
class Wire {
 public:
  explicit Wire(unique_fd socket) : stream_(std::move(socket)) {}
  Wire(Wire&&) = delete;
  ~Wire();
  // `host`: for the server name indication and the certificate. kFailedPrecondition for certificates that are not accepted;
  // kUnavailable for a connection that breaks; *plain_http is set when the server answered in plain HTTP.
  Result<void> Handshake(std::shared_ptr<ssl_ctx_st> context, const std::string& host, bool verify, const Deadline& until, bool* plain_http);
  void set_deadline(const Deadline& until);
  int fd() const { return stream_.fd(); }

  template <class Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& ec) {
    if (ssl_ == nullptr) return stream_.read_some(buffers, ec);
    for (const boost::asio::mutable_buffer b : boost::beast::buffers_range_ref(buffers))
      if (b.size() > 0) return TlsRead(b.data(), b.size(), ec);
    ec = {};
    return 0;
  }
  template <class Buffers>
  size_t write_some(const Buffers& buffers, boost::system::error_code& ec) {
    if (ssl_ == nullptr) return stream_.write_some(buffers, ec);
    for (const boost::asio::const_buffer b : boost::beast::buffers_range_ref(buffers))
      if (b.size() > 0) return TlsWrite(b.data(), b.size(), ec);
    ec = {};
    return 0;
  }
  // Beast's concepts also ask for the throwing forms.
  template <class Buffers>
  size_t read_some(const Buffers& buffers) {
    boost::system::error_code ec;
    size_t n = read_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return n;
  }
  template <class Buffers>
  size_t write_some(const Buffers& buffers) {
    boost::system::error_code ec;
    size_t n = write_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return n;
  }

 private:
  size_t TlsRead(void* data, size_t size, boost::system::error_code& ec);
  size_t TlsWrite(const void* data, size_t size, boost::system::error_code& ec);
  // Waits for what the failed call wanted; false with `ec` set when it failed for good.
  bool Again(int rc, boost::system::error_code& ec);

  FdStream stream_;
  Deadline until_ = Deadline::Never();
  std::shared_ptr<ssl_ctx_st> context_;
  ssl_st* ssl_ = nullptr;
};

}  // namespace berth::images
