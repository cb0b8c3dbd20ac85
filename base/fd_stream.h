#pragma once
// Blocking bytes over a socket with a deadline and cancellation. Satisfies Beast's SyncReadStream and SyncWriteStream, so
// that HTTP is Beast's parser over this class. Owns the descriptor, which it sets non-blocking. One thread at a time.
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/system/system_error.hpp>

#include "base/deadline.h"
#include "base/unique_fd.h"

namespace berth {

// Beast's SyncReadStream and SyncWriteStream over two functions of `Self`: size_t Read(void*, size_t, error_code&) and
// size_t Write(const void*, size_t, error_code&). They may move fewer bytes than asked for, never none without an error.
template <class Self>
class SyncStream {
 public:
  template <class Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& ec) {
    for (const boost::asio::mutable_buffer b : boost::beast::buffers_range_ref(buffers))
      if (b.size() > 0) return self().Read(b.data(), b.size(), ec);
    ec = {};
    return 0;
  }
  template <class Buffers>
  size_t write_some(const Buffers& buffers, boost::system::error_code& ec) {
    for (const boost::asio::const_buffer b : boost::beast::buffers_range_ref(buffers))
      if (b.size() > 0) return self().Write(b.data(), b.size(), ec);
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
  Self& self() { return static_cast<Self&>(*this); }
};

class FdStream : public SyncStream<FdStream> {
 public:
  explicit FdStream(unique_fd fd, Deadline until = Deadline::Never());
  void set_deadline(Deadline until) { until_ = std::move(until); }
  int fd() const { return fd_.get(); }
  unique_fd Release() { return std::move(fd_); }

 private:
  friend SyncStream<FdStream>;
  size_t Read(void* data, size_t size, boost::system::error_code& ec);
  size_t Write(const void* data, size_t size, boost::system::error_code& ec);
  unique_fd fd_;
  Deadline until_;
};

// What a failed read or write means: asio's eof -> kUnavailable ("<what>: connection closed"), errc::timed_out ->
// kDeadlineExceeded, errc::operation_canceled -> kCancelled, an errno by CodeFromErrno, anything else (HTTP parse errors)
// -> kInvalidArgument.
std::unexpected<Error> StreamErr(const boost::system::error_code& ec, std::string_view what,
                                 std::source_location at = std::source_location::current());

// TCP: resolves and connects within the deadline, tries each address. Unix: a path. The error names the target.
Result<unique_fd> ConnectTcp(const std::string& host, const std::string& port, const Deadline& until);
Result<unique_fd> ConnectUnix(const std::string& path, const Deadline& until);
Result<unique_fd> ListenTcp(const std::string& address, uint16_t port);          // address:port taken -> kConflict, named
Result<unique_fd> ListenUnix(const std::string& path, unsigned mode, int type);  // replaces a stale socket

}  // namespace berth
