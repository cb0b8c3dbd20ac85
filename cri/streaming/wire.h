#pragma once
// A client's connection to the streaming server, plain or TLS. Blocking with a deadline while the request is read (Beast's
// SyncStream), without blocking while it is relayed. One thread at a time; owns the descriptor.
#include <memory>
#include <string>

#include "base/fd_stream.h"

struct ssl_ctx_st;
struct ssl_st;

namespace berth::cri::streaming {

// The server's certificate and key. Thread-safe once made.
class TlsIdentity {
 public:
  // PEM files. The error names the file and what OpenSSL says of it.
  static Result<std::shared_ptr<TlsIdentity>> Load(const std::string& certificate, const std::string& key);
  ~TlsIdentity();
  ssl_ctx_st* context() const { return context_; }

 private:
  explicit TlsIdentity(ssl_ctx_st* context) : context_(context) {}
  ssl_ctx_st* context_;
};

class Wire : public SyncStream<Wire> {
 public:
  // tls: null for plain HTTP; else the handshake is done here.
  static Result<std::unique_ptr<Wire>> Accept(unique_fd fd, const std::shared_ptr<TlsIdentity>& tls, const Deadline& until);
  ~Wire();

  int fd() const { return fd_.get(); }
  void set_deadline(Deadline until) { until_ = std::move(until); }

  enum class Io { kDone, kWait, kEnd };  // kEnd: closed or broken; there is nobody any more
  Io TryRead(char* data, size_t size, size_t* got);
  Io TryWrite(std::string_view data, size_t* put);
  // TLS holds bytes that poll(2) does not show.
  bool HasMore() const;

 private:
  friend SyncStream<Wire>;
  Wire(unique_fd fd, std::shared_ptr<TlsIdentity> tls) : fd_(std::move(fd)), tls_(std::move(tls)) {}
  size_t Read(void* data, size_t size, boost::system::error_code& ec);
  size_t Write(const void* data, size_t size, boost::system::error_code& ec);
  Io Answer(int result, size_t* moved);

  unique_fd fd_;
  std::shared_ptr<TlsIdentity> tls_;
  ssl_st* ssl_ = nullptr;
  Deadline until_ = Deadline::Never();
  short wanted_ = 0;  // what the last call waits for, in poll's words
};

}  // namespace berth::cri::streaming
