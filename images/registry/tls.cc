#include "images/registry/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <boost/asio/error.hpp>

namespace berth::images {
namespace {

using boost::system::error_code;

// The socket BIO of OpenSSL uses write(2), which raises SIGPIPE on a closed connection; this one does not.
int BioRead(BIO* bio, char* data, size_t size, size_t* done) {
  BIO_clear_retry_flags(bio);
  ssize_t n;
  do n = ::recv(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), data, size, 0);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
  if (n == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  *done = n > 0 ? n : 0;
  return n > 0;
}

int BioWrite(BIO* bio, const char* data, size_t size, size_t* done) {
  BIO_clear_retry_flags(bio);
  ssize_t n;
  do n = ::send(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), data, size, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
  *done = n > 0 ? n : 0;
  return n > 0;
}

long BioControl(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
  return command == BIO_CTRL_FLUSH;
}

const BIO_METHOD* SocketMethod() {
  static const BIO_METHOD* method = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "berth socket");
    BIO_meth_set_read_ex(m, BioRead);
    BIO_meth_set_write_ex(m, BioWrite);
    BIO_meth_set_ctrl(m, BioControl);
    return m;
  }();
  return method;
}

std::string TakeOpenSslError() {
  unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (code == 0) return "connection closed";
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "unknown error";
}

struct Stamp {
  int64_t seconds = 0, nanoseconds = 0, size = -1;
  bool operator==(const Stamp&) const = default;
};

Stamp StampOf(const std::string& path) {
  struct stat st;
  if (path.empty() || ::stat(path.c_str(), &st) != 0) return {};
  return {st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_size};
}

}  // namespace

struct TlsContexts::Entry {
  std::shared_ptr<ssl_ctx_st> context;
  Stamp stamp;
};

TlsContexts::TlsContexts() = default;
TlsContexts::~TlsContexts() = default;

Result<std::shared_ptr<ssl_ctx_st>> TlsContexts::Get(const TlsOptions& options) {
  std::lock_guard lock(mutex_);
  Stamp stamp = StampOf(options.ca_file);
  Entry& entry = entries_[options];
  if (entry.context && entry.stamp == stamp) return entry.context;
  std::shared_ptr<ssl_ctx_st> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (!context) return Err(Code::kInternal, "make a TLS context: {}", TakeOpenSslError());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_default_verify_paths(context.get());
  if (!options.ca_file.empty() && SSL_CTX_load_verify_file(context.get(), options.ca_file.c_str()) != 1) {
    std::string why = TakeOpenSslError();
    return Err(Code::kFailedPrecondition, "ca_file {}: no certificate could be read from it: {}", options.ca_file, why);
  }
  entry = {context, stamp};
  return context;
}

Wire::~Wire() {
  if (ssl_ == nullptr) return;
  SSL_free(ssl_);  // without a close notice: the other side sees the socket close, and nobody waits here
}

void Wire::set_deadline(const Deadline& until) {
  until_ = until;
  stream_.set_deadline(until);
}

Result<void> Wire::Handshake(std::shared_ptr<ssl_ctx_st> context, const std::string& host, bool verify,
                             const Deadline& until, bool* plain_http) {
  *plain_http = false;
  set_deadline(until);
  context_ = std::move(context);
  ERR_clear_error();
  ssl_ = SSL_new(context_.get());
  BIO* bio = ssl_ != nullptr ? BIO_new(SocketMethod()) : nullptr;
  if (bio == nullptr) return Err(Code::kInternal, "TLS with {}: {}", host, TakeOpenSslError());
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(stream_.fd())));
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_, bio, bio);
  in6_addr address;
  bool numeric =
      ::inet_pton(AF_INET, host.c_str(), &address) == 1 || ::inet_pton(AF_INET6, host.c_str(), &address) == 1;
  if (!numeric) SSL_set_tlsext_host_name(ssl_, host.c_str());
  static const unsigned char kHttp11[] = "\x08http/1.1";
  SSL_set_alpn_protos(ssl_, kHttp11, sizeof kHttp11 - 1);
  SSL_set_verify(ssl_, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  if (verify) {
    X509_VERIFY_PARAM* param = SSL_get0_param(ssl_);
    int ok = numeric ? X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str())
                     : X509_VERIFY_PARAM_set1_host(param, host.c_str(), 0);
    if (ok != 1) return Err(Code::kInvalidArgument, "TLS with {}: not a name a certificate can have", host);
  }
  error_code ec;
  while (true) {
    int rc = SSL_connect(ssl_);
    if (rc == 1) return {};
    if (Again(rc, ec)) continue;
    TRY_CTX(until_.Check("the TLS handshake"), "TLS with {}", host);
    long verdict = SSL_get_verify_result(ssl_);
    unsigned long code = ERR_peek_last_error();
    std::string why = TakeOpenSslError();
    if (verify && verdict != X509_V_OK)
      return Err(Code::kFailedPrecondition,
                 "TLS with {}: its certificate is not accepted: {}; if it is meant to be trusted, name its "
                 "authority as ca_file in [images.registries]",
                 host, X509_verify_cert_error_string(verdict));
    // A server that speaks no TLS answers our greeting with text, which is no TLS record of a known version.
    int reason = ERR_GET_REASON(code);
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
                                             reason == SSL_R_PACKET_LENGTH_TOO_LONG)) {
      *plain_http = true;
      return Err(Code::kFailedPrecondition,
                 "TLS with {}: the server does not speak TLS; if it is meant to be plain HTTP, set plain_http "
                 "in [images.registries]",
                 host);
    }
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason != SSL_R_UNEXPECTED_EOF_WHILE_READING)
      return Err(Code::kFailedPrecondition, "TLS with {}: {}", host, why);
    return Err(Code::kUnavailable, "TLS with {}: {}", host, ec && ec != boost::asio::error::eof ? ec.message() : why);
  }
}

bool Wire::Again(int rc, error_code& ec) {
  int saved = errno;
  int kind = SSL_get_error(ssl_, rc);
  if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) {
    auto ready = until_.WaitFor(stream_.fd(), kind == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, "bytes");
    if (ready) return true;
    ec = boost::system::errc::make_error_code(ready.error().code == Code::kCancelled
                                                  ? boost::system::errc::operation_canceled
                                                  : boost::system::errc::timed_out);
    return false;
  }
  if (kind == SSL_ERROR_ZERO_RETURN)
    ec = boost::asio::error::eof;
  else if (kind == SSL_ERROR_SYSCALL && saved != 0)
    ec = error_code(saved, boost::system::system_category());
  // An end without the closing notice is an end that an attacker can make: never a clean one.
  else
    ec = error_code(ECONNRESET, boost::system::system_category());
  return false;
}

size_t Wire::Read(void* data, size_t size, error_code& ec) {
  if (ssl_ == nullptr) return stream_.read_some(boost::asio::buffer(data, size), ec);
  while (true) {
    ERR_clear_error();
    errno = 0;
    size_t n = 0;
    int rc = SSL_read_ex(ssl_, data, size, &n);
    if (rc == 1) {
      ec = {};
      return n;
    }
    if (!Again(rc, ec)) return 0;
  }
}

size_t Wire::Write(const void* data, size_t size, error_code& ec) {
  if (ssl_ == nullptr) return stream_.write_some(boost::asio::buffer(data, size), ec);
  while (true) {
    ERR_clear_error();
    errno = 0;
    size_t n = 0;
    int rc = SSL_write_ex(ssl_, data, size, &n);
    if (rc == 1) {
      ec = {};
      return n;
    }
    if (!Again(rc, ec)) return 0;
  }
}

}  // namespace berth::images
