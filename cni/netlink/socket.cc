#include "cni/netlink/socket.h"

#include <linux/netlink.h>
#include <netlink/msg.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>

namespace berth::cni::netlink {
namespace {

constexpr size_t kReceiveBuffer = 64 * 1024;  // dumps fill at most 32 KiB a datagram
constexpr size_t kMaxIdle = 16;

// Numbers are unique in the process: a borrowed socket may still hold an answer to somebody else's request.
uint32_t NextSequence(uint32_t count) {
  static std::atomic<uint32_t> next{1};
  return next.fetch_add(count);
}

void AskForDetails(int fd) {
  int one = 1;
  setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one);
  setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
}

// The kernel's own words behind an error message, if any.
std::string KernelText(const nlmsghdr* h) {
  if (!(h->nlmsg_flags & NLM_F_ACK_TLVS)) return "";
  size_t at = NLMSG_HDRLEN + sizeof(nlmsgerr);
  if (!(h->nlmsg_flags & NLM_F_CAPPED)) {
    auto* e = static_cast<const nlmsgerr*>(NLMSG_DATA(h));
    at += e->msg.nlmsg_len - sizeof(nlmsghdr);
  }
  while (at + sizeof(nlattr) <= h->nlmsg_len) {
    auto* a = reinterpret_cast<const nlattr*>(reinterpret_cast<const char*>(h) + at);
    if (a->nla_len < sizeof(nlattr) || at + a->nla_len > h->nlmsg_len) break;
    if ((a->nla_type & NLA_TYPE_MASK) == NLMSGERR_ATTR_MSG) {
      std::string_view text(reinterpret_cast<const char*>(a + 1), a->nla_len - sizeof(nlattr));
      return std::string(text.substr(0, text.find('\0')));
    }
    at += NLA_ALIGN(a->nla_len);
  }
  return "";
}

std::unexpected<Error> Refused(const std::string& what, int err, const std::string& kernel_text) {
  Error e{CodeFromErrno(err), what + ": " + ErrnoText(err), err, std::source_location::current()};
  if (!kernel_text.empty()) e.what += " (" + kernel_text + ")";
  return std::unexpected(std::move(e));
}

Result<void> SendAll(int fd, const std::string& bytes, const Deadline& until) {
  for (;;) {
    if (send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != ENOBUFS) return SysErr("netlink send");
    TRY(until.WaitFor(fd, POLLOUT, "the netlink socket"));
  }
}

}  // namespace

void Batch::Add(int type, int flags, std::string what, const std::function<void(nl_msg*)>& body) {
  nl_msg* msg = nlmsg_alloc_simple(type, NLM_F_REQUEST | NLM_F_ACK | flags);
  if (!msg) {
    out_of_memory_ = true;
    return;
  }
  body(msg);
  nlmsghdr* h = nlmsg_hdr(msg);
  offsets_.push_back(bytes_.size());
  bytes_.append(reinterpret_cast<char*>(h), h->nlmsg_len);
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  what_.push_back(std::move(what));
  nlmsg_free(msg);
}

Result<Socket> Socket::Open(int protocol) {
  Socket s;
  s.own_.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
  if (!s.own_) return SysErr("open netlink socket");
  AskForDetails(s.own_.get());
  return s;
}

Socket Socket::Borrow(int fd) {
  Socket s;
  s.borrowed_ = fd;
  AskForDetails(fd);
  return s;
}

Result<std::string_view> Socket::Receive(const Deadline& until) {
  buffer_.resize(kReceiveBuffer);
  for (;;) {
    ssize_t n = recv(fd(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (n > 0) return std::string_view(buffer_.data(), n);
    if (n == 0) return Err(Code::kUnavailable, "netlink socket closed");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return SysErr("netlink receive");
    TRY(until.WaitFor(fd(), POLLIN, "the kernel's netlink answer"));
  }
}

Result<void> Socket::Run(const Batch& batch, const Deadline& until, Failure* failure) {
  if (batch.out_of_memory_) return Err(Code::kResourceExhausted, "netlink: out of memory");
  if (batch.size() == 0) return {};
  std::string bytes = batch.bytes_;
  uint32_t first = NextSequence(batch.size());
  for (size_t i = 0; i < batch.size(); ++i)
    reinterpret_cast<nlmsghdr*>(bytes.data() + batch.offsets_[i])->nlmsg_seq = first + i;
  TRY(SendAll(fd(), bytes, until));
  std::optional<Error> error;
  size_t failed = batch.size();
  for (size_t answered = 0; answered < batch.size();) {
    std::string_view got = TRY(Receive(until));
    int left = static_cast<int>(got.size());
    for (auto* h = reinterpret_cast<const nlmsghdr*>(got.data()); NLMSG_OK(h, static_cast<unsigned>(left));
         h = NLMSG_NEXT(h, left)) {
      uint32_t index = h->nlmsg_seq - first;
      if (h->nlmsg_type != NLMSG_ERROR || index >= batch.size()) continue;
      ++answered;
      int err = -static_cast<const nlmsgerr*>(NLMSG_DATA(h))->error;
      if (err == 0 || index >= failed) continue;
      failed = index;
      error = Refused(batch.what_[index], err, KernelText(h)).error();
      if (failure) *failure = {index, err};
    }
  }
  if (error) return std::unexpected(std::move(*error));
  return {};
}

Result<void> Socket::Query(int type, int flags, const std::string& what, const std::function<void(nl_msg*)>& body,
                           const Answer& f, const Deadline& until, const std::function<void()>& restart) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    if (attempt > 0 && restart) restart();
    Batch batch;
    batch.Add(type, flags, what, body);
    if (batch.out_of_memory_) return Err(Code::kResourceExhausted, "netlink: out of memory");
    uint32_t sequence = NextSequence(1);
    reinterpret_cast<nlmsghdr*>(batch.bytes_.data())->nlmsg_seq = sequence;
    TRY(SendAll(fd(), batch.bytes_, until));
    bool done = false, disturbed = false;
    while (!done) {
      std::string_view got = TRY(Receive(until));
      int left = static_cast<int>(got.size());
      for (auto* h = reinterpret_cast<const nlmsghdr*>(got.data()); NLMSG_OK(h, static_cast<unsigned>(left));
           h = NLMSG_NEXT(h, left)) {
        if (h->nlmsg_seq != sequence) continue;
        if (h->nlmsg_flags & NLM_F_DUMP_INTR) disturbed = true;
        if (h->nlmsg_type == NLMSG_ERROR) {
          int err = -static_cast<const nlmsgerr*>(NLMSG_DATA(h))->error;
          if (err != 0) return Refused(what, err, KernelText(h));
          done = true;
        } else if (h->nlmsg_type == NLMSG_DONE) {
          done = true;
        } else {
          f(h->nlmsg_type, {static_cast<const char*>(NLMSG_DATA(h)), h->nlmsg_len - NLMSG_HDRLEN});
        }
      }
    }
    if (!disturbed) return {};
  }
  return Err(Code::kUnavailable, "{}: the list changed ten times while it was read", what);
}

SocketPool::Lease::~Lease() {
  if (!pool_) return;
  std::lock_guard lock(pool_->mutex_);
  if (pool_->idle_.size() < kMaxIdle) pool_->idle_.push_back(std::move(*socket_));
}

Result<SocketPool::Lease> SocketPool::Take() {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      Socket s = std::move(idle_.back());
      idle_.pop_back();
      return Lease(this, std::move(s));
    }
  }
  return Lease(this, TRY(Socket::Open(protocol_)));
}

}  // namespace berth::cni::netlink
