#include "cri/streaming/wire.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/error.hpp>

namespace berth::cri::streaming {
namespace {

std::string OpensslText() {
  char text[256] = "no further words from OpenSSL";
  if (unsigned long e = ERR_get_error(); e != 0) ERR_error_string_n(e, text, sizeof text);
  ERR_clear_error();
  return text;
}

}  // namespace

Result<std::shared_ptr<TlsIdentity>> TlsIdentity::Load(const std::string& certificate, const std::string& key) {
  ssl_ctx_st* context = SSL_CTX_new(TLS_server_method());
  if (context == nullptr) return Err(Code::kInternal, "TLS: {}", OpensslText());
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity(context));
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1)
    return Err(Code::kInvalidArgument, "TLS certificate {}: {}", certificate, OpensslText());
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1)
    return Err(Code::kInvalidArgument, "TLS key {}: {}", key, OpensslText());
  if (SSL_CTX_check_private_key(context) != 1)
    return Err(Code::kInvalidArgument, "TLS key {} does not belong to certificate {}", key, certificate);
  return identity;
}

TlsIdentity::~TlsIdentity() { SSL_CTX_free(context_); }

Result<std::unique_ptr<Wire>> Wire::Accept(unique_fd fd, const std::shared_ptr<TlsIdentity>& tls, const Deadline& until) {
  if (::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK) < 0) return SysErr("make a connection non-blocking");
  std::unique_ptr<Wire> wire(new Wire(std::move(fd), tls));
  wire->until_ = until;
  if (!tls) return wire;
  wire->ssl_ = SSL_new(tls->context());
  if (wire->ssl_ == nullptr || SSL_set_fd(wire->ssl_, wire->fd_.get()) != 1) return Err(Code::kInternal, "TLS: {}", OpensslText());
  while (true) {
    const int answer = SSL_accept(wire->ssl_);
    if (answer == 1) return wire;
    const int why = SSL_get_error(wire->ssl_, answer);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return Err(Code::kInvalidArgument, "TLS handshake: {}", OpensslText());
    TRY(until.WaitFor(wire->fd_.get(), why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, "the TLS handshake"));
  }
}

Wire::~Wire() {
  if (ssl_ == nullptr) return;
  SSL_shutdown(ssl_);  // says goodbye, does not wait for theirs
  SSL_free(ssl_);
  ERR_clear_error();
}

Wire::Io Wire::Answer(int result, size_t* moved) {
  *moved = 0;
  if (result > 0) {
    *moved = static_cast<size_t>(result);
    return Io::kDone;
  }
  const int why = SSL_get_error(ssl_, result);
  ERR_clear_error();
  if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return Io::kEnd;
  wanted_ = why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
  return Io::kWait;
}

Wire::Io Wire::TryRead(char* data, size_t size, size_t* got) {
  if (ssl_ != nullptr) return Answer(SSL_read(ssl_, data, static_cast<int>(std::min<size_t>(size, 1 << 30))), got);
  *got = 0;
  wanted_ = POLLIN;
  const ssize_t n = ::recv(fd_.get(), data, size, 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? Io::kWait : Io::kEnd;
  if (n == 0) return Io::kEnd;
  *got = static_cast<size_t>(n);
  return Io::kDone;
}

Wire::Io Wire::TryWrite(std::string_view data, size_t* put) {
  if (ssl_ != nullptr) return Answer(SSL_write(ssl_, data.data(), static_cast<int>(std::min<size_t>(data.size(), 1 << 30))), put);
  *put = 0;
  wanted_ = POLLOUT;
  const ssize_t n = ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? Io::kWait : Io::kEnd;
  *put = static_cast<size_t>(n);
  return Io::kDone;
}

bool Wire::HasMore() const { return ssl_ != nullptr && SSL_has_pending(ssl_) == 1; }

size_t Wire::Read(void* data, size_t size, boost::system::error_code& ec) {
  while (true) {
    size_t got = 0;
    switch (TryRead(static_cast<char*>(data), size, &got)) {
      case Io::kDone: ec = {}; return got;
      case Io::kEnd: ec = boost::asio::error::eof; return 0;
      case Io::kWait: break;
    }
    if (!until_.WaitFor(fd_.get(), wanted_, "the client")) {
      ec = make_error_code(boost::system::errc::timed_out);
      return 0;
    }
  }
}

size_t Wire::Write(const void* data, size_t size, boost::system::error_code& ec) {
  while (true) {
    size_t put = 0;
    switch (TryWrite({static_cast<const char*>(data), size}, &put)) {
      case Io::kDone: ec = {}; return put;
      case Io::kEnd: ec = boost::asio::error::broken_pipe; return 0;
      case Io::kWait: break;
    }
    if (!until_.WaitFor(fd_.get(), wanted_, "the client")) {
      ec = make_error_code(boost::system::errc::timed_out);
      return 0;
    }
  }
}

}  // namespace berth::cri::streaming
