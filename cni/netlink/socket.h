#pragma once
// rtnetlink: sockets and batches. libnl builds the messages and stays in this folder.
//
// A batch is sent with one send(2); the kernel handles its messages in order before send returns, and answers each. A
// message that fails does not stop those behind it: Run reports the first failure and its number.
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "cni/ip.h"

struct nl_msg;

namespace berth::cni::netlink {

// Messages under construction. Not thread-safe.
class Batch {
 public:
  // `what` names the step in errors ("make veth1 on berth0"). Body fills the message; its header has
  // NLM_F_REQUEST|NLM_F_ACK and `flags`.
  void Add(int type, int flags, std::string what, const std::function<void(nl_msg*)>& body);
  size_t size() const { return what_.size(); }

 private:
  friend class Socket;
  std::string bytes_;
  std::vector<size_t> offsets_;
  std::vector<std::string> what_;
  bool out_of_memory_ = false;
};

struct Failure {
  size_t message = 0;  // index in the batch
  int err = 0;         // errno
};

class Socket {  // one user at a time
 public:
  static Result<Socket> Open(int protocol);  // in the caller's network namespace
  static Socket Borrow(int fd);              // not closed

  // All acknowledgements are read. `failure`, when given, receives index and errno of the first failure. The error's
  // code follows the errno and the text has the kernel's own words where it gives some.
  Result<void> Run(const Batch& batch, const Deadline& until, Failure* failure = nullptr);
  // For GET requests: calls f with type, payload of each answer. A dump that was disturbed by a change is repeated,
  // after `restart` has been called.
  using Answer = std::function<void(int type, std::string_view payload)>;
  Result<void> Query(int type, int flags, const std::string& what, const std::function<void(nl_msg*)>& body,
                     const Answer& f, const Deadline& until, const std::function<void()>& restart = {});
  int fd() const { return borrowed_ >= 0 ? borrowed_ : own_.get(); }

 private:
  Result<std::string_view> Receive(const Deadline& until);
  unique_fd own_;
  int borrowed_ = -1;
  std::string buffer_;
};

// Idle sockets of one protocol in the process's own namespace, so that parallel attaches do not wait for each other.
class SocketPool {  // thread-safe
 public:
  explicit SocketPool(int protocol) : protocol_(protocol) {}
  class Lease {
   public:
    Lease(SocketPool* pool, Socket socket) : pool_(pool), socket_(std::move(socket)) {}
    Lease(Lease&& o) noexcept : pool_(std::exchange(o.pool_, nullptr)), socket_(std::move(o.socket_)) {}
    ~Lease();
    Socket& operator*() { return *socket_; }
    Socket* operator->() { return &*socket_; }

   private:
    SocketPool* pool_;
    std::optional<Socket> socket_;
  };
  Result<Lease> Take();

 private:
  const int protocol_;
  std::mutex mutex_;
  std::vector<Socket> idle_;
};

}  // namespace berth::cni::netlink
