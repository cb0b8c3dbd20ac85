#include "base/fd_stream.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <boost/asio/error.hpp>
#include <thread>

namespace berth {
namespace {

using boost::system::error_code;

error_code Errno(int err) { return {err, boost::system::system_category()}; }

error_code FromError(const Error& e) {
  switch (e.code) {
    case Code::kDeadlineExceeded: return boost::system::errc::make_error_code(boost::system::errc::timed_out);
    case Code::kCancelled: return boost::system::errc::make_error_code(boost::system::errc::operation_canceled);
    default: return Errno(e.sys != 0 ? e.sys : EIO);
  }
}

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

struct Lookup {
  std::string host, port;
  unique_fd done;
  int rc = 0, sys = 0;
  addrinfo* found = nullptr;
  ~Lookup() {
    if (found) ::freeaddrinfo(found);
  }
  void Run(int flags) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    rc = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
    sys = errno;
  }
};

// getaddrinfo knows no deadline, so names are asked for by a thread that may outlive our patience.
Result<AddressList> Resolve(const std::string& host, const std::string& port, const Deadline& until) {
  auto lookup = std::make_shared<Lookup>();
  lookup->host = host;
  lookup->port = port;
  lookup->Run(AI_NUMERICHOST);
  if (lookup->rc == EAI_NONAME) {
    lookup->done.reset(::eventfd(0, EFD_CLOEXEC));
    if (!lookup->done) return SysErr("resolve {}", host);
    try {
      std::thread([lookup] {
        lookup->Run(AI_ADDRCONFIG);
        const uint64_t one = 1;
        (void)!::write(lookup->done.get(), &one, sizeof one);
      }).detach();
    } catch (const std::system_error& e) {
      return SysErrOf(e.code().value(), "resolve {}: start a thread", host);
    }
    TRY(until.WaitFor(lookup->done.get(), POLLIN, fmt::format("the address of {}", host)));
    uint64_t count;
    (void)!::read(lookup->done.get(), &count, sizeof count);  // orders our reads after the thread's writes
  }
  if (lookup->rc == EAI_SYSTEM) return SysErrOf(lookup->sys, "resolve {}", host);
  if (lookup->rc == EAI_SERVICE) return Err(Code::kInvalidArgument, "resolve {}: \"{}\" is not a port", host, port);
  if (lookup->rc != 0) return Err(Code::kUnavailable, "resolve {}: {}", host, gai_strerror(lookup->rc));
  return AddressList(std::exchange(lookup->found, nullptr), ::freeaddrinfo);
}

Result<unique_fd> ConnectOne(int family, const sockaddr* address, socklen_t size, const Deadline& until) {
  unique_fd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return SysErr("make a socket");
  if (::connect(fd.get(), address, size) == 0) return fd;
  if (errno == EAGAIN) return Err(Code::kUnavailable, "its queue of connections is full");  // AF_UNIX only
  if (errno != EINPROGRESS) return SysErr("connect");
  TRY(until.WaitFor(fd.get(), POLLOUT, "the connection"));
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return SysErrOf(error, "connect");
  return fd;
}

// sun_path holds 107 bytes; a longer path goes through its directory's descriptor, which must stay open meanwhile.
struct UnixAddress {
  sockaddr_un address{};
  unique_fd directory;
};
Result<UnixAddress> MakeUnixAddress(const std::string& path) {
  UnixAddress result;
  result.address.sun_family = AF_UNIX;
  std::string shown = path;
  if (path.size() >= sizeof result.address.sun_path) {
    const size_t slash = path.find_last_of('/');
    if (slash == std::string::npos) return Err(Code::kInvalidArgument, "socket {}: its name is too long", path);
    result.directory = TRY(Open(path.substr(0, slash + 1), O_PATH | O_DIRECTORY));
    shown = fmt::format("/proc/self/fd/{}/{}", result.directory.get(), path.substr(slash + 1));
    if (shown.size() >= sizeof result.address.sun_path)
      return Err(Code::kInvalidArgument, "socket {}: its name is too long", path);
  }
  if (path.empty() || path.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "socket path \"{}\" is not a path", path);
  std::memcpy(result.address.sun_path, shown.data(), shown.size());
  return result;
}

}  // namespace

FdStream::FdStream(unique_fd fd, Deadline until) : fd_(std::move(fd)), until_(std::move(until)) {
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags >= 0) ::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK);
}

size_t FdStream::Read(void* data, size_t size, error_code& ec) {
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), data, size, 0);
    if (n > 0) {
      ec = {};
      return n;
    }
    if (n == 0) {
      ec = boost::asio::error::eof;
      return 0;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      ec = Errno(errno);
      return 0;
    }
    if (auto ready = until_.WaitFor(fd_.get(), POLLIN, "bytes"); !ready) {
      ec = FromError(ready.error());
      return 0;
    }
  }
}

size_t FdStream::Write(const void* data, size_t size, error_code& ec) {
  for (;;) {
    const ssize_t n = ::send(fd_.get(), data, size, MSG_NOSIGNAL);
    if (n >= 0) {
      ec = {};
      return n;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      ec = Errno(errno);
      return 0;
    }
    if (auto ready = until_.WaitFor(fd_.get(), POLLOUT, "room to write"); !ready) {
      ec = FromError(ready.error());
      return 0;
    }
  }
}

std::unexpected<Error> StreamErr(const error_code& ec, std::string_view what, std::source_location at) {
  const auto make = [&](Code code, const std::string& text, int sys = 0) {
    return std::unexpected(Error{code, fmt::format("{}: {}", what, text), sys, at});
  };
  if (ec == boost::asio::error::eof) return make(Code::kUnavailable, "connection closed");
  if (ec == boost::system::errc::timed_out) return make(Code::kDeadlineExceeded, "time is up");
  if (ec == boost::system::errc::operation_canceled) return make(Code::kCancelled, "the caller went away");
  if (ec.category() == boost::system::system_category() || ec.category() == boost::system::generic_category())
    return make(CodeFromErrno(ec.value()), ErrnoText(ec.value()), ec.value());
  return make(Code::kInvalidArgument, ec.message());
}

Result<unique_fd> ConnectTcp(const std::string& host, const std::string& port, const Deadline& until) {
  const AddressList list = TRY_CTX(Resolve(host, port, until), "connect {}:{}", host, port);
  int left = 0;
  for (const addrinfo* a = list.get(); a; a = a->ai_next) ++left;
  Result<unique_fd> answer = Err(Code::kUnavailable, "no address");
  for (const addrinfo* a = list.get(); a; a = a->ai_next, --left) {
    // A black hole early in the list must not eat the time of those after it.
    const auto remaining = until.remaining();
    const Deadline share = remaining ? until.Sooner(*remaining / left) : left > 1 ? until.Sooner(std::chrono::seconds(10)) : until;
    answer = ConnectOne(a->ai_family, a->ai_addr, a->ai_addrlen, share);
    if (answer) {
      const int one = 1;
      ::setsockopt(answer->get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      return answer;
    }
    TRY_CTX(until.Check("the connection"), "connect {}:{}", host, port);
  }
  return Wrap(std::move(answer).error(), "connect {}:{}", host, port);
}

Result<unique_fd> ConnectUnix(const std::string& path, const Deadline& until) {
  const UnixAddress target = TRY(MakeUnixAddress(path));
  return TRY_CTX(ConnectOne(AF_UNIX, reinterpret_cast<const sockaddr*>(&target.address), sizeof target.address, until), "{}", path);
}

Result<unique_fd> ListenTcp(const std::string& address, uint16_t port) {
  Lookup lookup;
  lookup.host = address;
  lookup.port = std::to_string(port);
  lookup.Run(AI_NUMERICHOST | AI_PASSIVE);
  if (lookup.rc != 0) return Err(Code::kInvalidArgument, "listen on {}: not an IP address", address);
  const addrinfo& a = *lookup.found;
  unique_fd fd(::socket(a.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return SysErr("make a socket");
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (a.ai_family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  if (::bind(fd.get(), a.ai_addr, a.ai_addrlen) < 0 || ::listen(fd.get(), SOMAXCONN) < 0) {
    if (errno == EADDRINUSE) return Err(Code::kConflict, "listen on {} port {}: another process has it", address, port);
    return SysErr("listen on {} port {}", address, port);
  }
  return fd;
}

Result<unique_fd> ListenUnix(const std::string& path, unsigned mode, int type) {
  const UnixAddress target = TRY(MakeUnixAddress(path));
  const auto* address = reinterpret_cast<const sockaddr*>(&target.address);
  unique_fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return SysErr("make a socket");
  if (::bind(fd.get(), address, sizeof target.address) < 0) {
    if (errno != EADDRINUSE) return SysErr("listen on {}", path);
    struct stat st{};
    if (::lstat(path.c_str(), &st) == 0 && !S_ISSOCK(st.st_mode))
      return Err(Code::kConflict, "listen on {}: something that is not a socket is there", path);
    const unique_fd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return SysErr("make a socket");
    if (::connect(probe.get(), address, sizeof target.address) == 0 || errno == EAGAIN)
      return Err(Code::kConflict, "listen on {}: another process has it", path);
    if (errno != ECONNREFUSED && errno != ENOENT) return SysErr("listen on {}", path);
    if (::unlink(path.c_str()) < 0 && errno != ENOENT) return SysErr("replace stale socket {}", path);
    if (::bind(fd.get(), address, sizeof target.address) < 0) return SysErr("listen on {}", path);
  }
  // Nobody connects before listen(), so the mode is right from the first connection on.
  if (::chmod(path.c_str(), mode) < 0) return SysErr("chmod {}", path);
  if ((type & 0xf) != SOCK_DGRAM && ::listen(fd.get(), SOMAXCONN) < 0) return SysErr("listen on {}", path);
  return fd;
}

}  // namespace berth
