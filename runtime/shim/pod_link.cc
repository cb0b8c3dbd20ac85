#include "runtime/shim/pod_link.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/atomic_file.h"
#include "base/log.h"
#include "runtime/shim/exit_facts.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace berth::runtime {

using shim::Type;

namespace {

constexpr int kPacketsPerTurn = 64;   // of one monitor, then the others have their turn

void Notify(int eventfd) {
  const uint64_t one = 1;
  while (::write(eventfd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

Result<unique_fd> ConnectTo(const std::string& run_dir, const Deadline& until) {
  unique_fd dir = TRY(Open(run_dir, O_PATH | O_DIRECTORY));
  unique_fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return SysErr("socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Paths of sockets are short; the way over the directory's descriptor always fits.
  fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "/proc/self/fd/{}/{}", dir.get(), shim::kSocketName);
  while (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    if (errno == EINTR) continue;
    if (errno == ENOENT || errno == ECONNREFUSED)
      return Err(Code::kNotFound, "{}/{}: no monitor listens there", run_dir, shim::kSocketName);
    if (errno != EAGAIN) return SysErr("connect to {}/{}", run_dir, shim::kSocketName);
    TRY(until.Sleep(std::chrono::milliseconds(10), "the monitor to take connections"));  // its backlog is full
  }
  return socket;
}

// The process that called listen(2) on the other end.
Result<std::pair<unique_fd, pid_t>> PeerOf(const std::string& run_dir, int socket, const Deadline& until) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return SysErr("monitor's credentials");
  int fd = -1;
  size = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0) return std::pair(unique_fd(fd), peer.pid);
  unique_fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  if (!pidfd) return Err(Code::kNotFound, "monitor {} has ended", peer.pid);
  // Before 6.5 the number might have been taken by another process before we opened it; not if the monitor still listens.
  TRY(ConnectTo(run_dir, until));
  return std::pair(std::move(pidfd), peer.pid);
}

bool Readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, 0) > 0;
}

}  // namespace

// --- PodLink

Result<void> PodLink::Attach(unique_fd socket, unique_fd pidfd, pid_t monitor) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) < 0) return SysErr("monitor's socket");
  std::lock_guard lock(mutex_);
  socket_ = std::make_shared<unique_fd>(std::move(socket));
  heard_ = false;
  const bool same = pidfd_.valid();
  if (!same) {
    pidfd_ = std::move(pidfd);
    monitor_ = monitor;
  }
  token_ = TRY(links_.Watch(shared_from_this(), socket_->get(), same ? -1 : pidfd_.get()));
  return {};
}

Result<void> PodLink::Connect(const Deadline& until) {
  unique_fd socket = TRY(ConnectTo(run_dir, until));
  auto [pidfd, pid] = TRY(PeerOf(run_dir, socket.get(), until));
  return Attach(std::move(socket), std::move(pidfd), pid);
}

void PodLink::Detach() {
  std::lock_guard lock(mutex_);
  if (socket_) links_.Unwatch(socket_->get());
  if (pidfd_) links_.Unwatch(pidfd_.get());
  socket_.reset();
}

Result<std::vector<Packet>> PodLink::Call(const Outgoing& request, const Deadline& until, std::string_view what, LateReply late) {
  TRY(until.Check(what));
  auto call = std::make_shared<PendingCall>();
  call->done.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!call->done) return SysErr("eventfd");
  call->late = std::move(late);
  uint64_t number;
  std::shared_ptr<unique_fd> socket;
  {
    std::lock_guard lock(mutex_);
    if (!socket_ || gone_) return Err(Code::kUnavailable, "{}: the monitor of pod {} is gone", what, id);
    socket = socket_;
    number = next_request_++;
    calls_[number] = call;
  }
  const std::string waiting = fmt::format("{}: monitor {} of pod {}", what, monitor(), id.Short());
  auto sent = SendPacket(socket->get(), request, number, until, waiting);
  auto done = sent ? until.WaitFor(call->done.get(), POLLIN, waiting) : sent;
  std::lock_guard lock(mutex_);
  if (!call->finished) {
    if (sent) {
      call->abandoned = true;
    } else {
      calls_.erase(number);
    }
    return std::unexpected(done ? Error{Code::kInternal, waiting} : done.error());
  }
  calls_.erase(number);
  if (call->failed) return std::unexpected(*call->failed);
  if (call->parts.back().header.type == Type::kError) return std::unexpected(FromReply(call->parts.back(), what));
  return std::move(call->parts);
}

void PodLink::Post(const Outgoing& request) {
  std::shared_ptr<unique_fd> socket;
  uint64_t number;
  {
    std::lock_guard lock(mutex_);
    socket = socket_;
    number = next_request_++;
  }
  if (socket) static_cast<void>(SendPacket(socket->get(), request, number, Deadline::After(Deadline::Duration(0)), "post"));
}

pid_t PodLink::monitor() const {
  std::lock_guard lock(mutex_);
  return monitor_;
}

bool PodLink::alive() const {
  std::lock_guard lock(mutex_);
  return pidfd_.valid() && !Readable(pidfd_.get());
}

void PodLink::Kill() {
  std::lock_guard lock(mutex_);
  if (pidfd_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

Result<void> PodLink::WaitGone(const Deadline& until) {
  unique_fd pidfd;
  {
    std::lock_guard lock(mutex_);
    if (!pidfd_) return {};
    pidfd = TRY(pidfd_.Duplicate());
  }
  return until.WaitFor(pidfd.get(), POLLIN, fmt::format("monitor {} of pod {} to end", monitor(), id.Short()));
}

void PodLink::SetStopping() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
}

void PodLink::Forget(const ContainerId& container) {
  std::lock_guard lock(mutex_);
  told_.erase(container);
  paused_.erase(container);
}

void PodLink::SetPaused(const ContainerId& container, bool paused) {
  std::lock_guard lock(mutex_);
  if (paused) {
    paused_.insert(container);
  } else {
    paused_.erase(container);
  }
}

bool PodLink::IsPaused(const ContainerId& container) const {
  std::lock_guard lock(mutex_);
  return paused_.contains(container);
}

void PodLink::TellExit(const ExitFacts& facts) {
  {
    std::lock_guard lock(mutex_);
    if (!told_.emplace(facts.id, true).second) return;
  }
  links_.Tell([&links = links_, pod = id, facts] {
    if (links.on_exit_) links.on_exit_(pod, facts);
  });
}

bool PodLink::IsForeign(const ContainerId& container) const {
  std::lock_guard lock(mutex_);
  return foreign_.contains(container);
}

void PodLink::SetForeign(const ContainerId& container, bool foreign) {
  std::lock_guard lock(mutex_);
  if (foreign) {
    foreign_.insert(container);
  } else {
    foreign_.erase(container);
  }
}

void PodLink::FailCalls(const Error& error) {
  std::lock_guard lock(mutex_);
  for (auto& [number, call] : calls_) {
    call->failed = error;
    call->finished = true;
    Notify(call->done.get());
  }
  calls_.clear();
}

void PodLink::Handle(Packet packet) {
  if (packet.header.type == Type::kExit) return TellExit(ExitOf(packet));
  const bool last = (packet.header.flags & shim::kMore) == 0;
  std::unique_lock lock(mutex_);
  if (packet.header.request != 0) heard_ = true;
  if (packet.header.request == relist_ && relist_ != 0) {
    if (last) relist_ = 0;
    lock.unlock();
    for (const ContainerFacts& facts : ContainersOf(packet, this->facts()))
      if (facts.exit) TellExit(*facts.exit);
    return;
  }
  auto found = calls_.find(packet.header.request);
  if (found == calls_.end()) return;   // of Post, or of our own Hello
  auto call = found->second;
  const bool failed = packet.header.type == Type::kError;
  call->parts.push_back(std::move(packet));
  if (!last && !failed) return;
  if (call->abandoned) {
    calls_.erase(found);
    lock.unlock();
    if (!failed && call->late) call->late(*this, call->parts.back());
    return;
  }
  call->finished = true;
  Notify(call->done.get());
}

void PodLink::OnReadable() {
  std::shared_ptr<unique_fd> socket;
  {
    std::lock_guard lock(mutex_);
    socket = socket_;
  }
  if (!socket) return;
  for (int i = 0; i < kPacketsPerTurn; ++i) {
    auto packet = ReceivePacket(socket->get());
    if (packet && !*packet) return;
    if (packet) {
      Handle(std::move(**packet));
      continue;
    }
    bool again_wanted;
    {
      std::lock_guard lock(mutex_);
      if (socket_ != socket) return;
      links_.Unwatch(socket->get());
      socket_.reset();
      again_wanted = heard_ && !stopping_;   // one that refuses us would do so for ever
    }
    FailCalls(packet.error());
    if (!alive() || !again_wanted) return;  // its pidfd says the rest
    // We read too slowly and the monitor dropped us: come back and ask what was missed.
    auto again = ConnectTo(run_dir, Deadline::After(Deadline::Duration(0)));
    if (!again || !Attach(std::move(*again), unique_fd(), -1)) {
      log::Warn("monitor.disconnected", {{"pod", id}, {"pid", monitor()}});
      return;
    }
    std::lock_guard lock(mutex_);
    rehello_ = next_request_++;
    relist_ = next_request_++;
    const Deadline now = Deadline::After(Deadline::Duration(0));
    static_cast<void>(SendPacket(socket_->get(), {Type::kHello, Bytes(shim::HelloRequest()), {}}, rehello_, now, "hello"));
    static_cast<void>(SendPacket(socket_->get(), {facts() ? Type::kFacts : Type::kList, {}, {}}, relist_, now, "list"));
    return;
  }
}

void PodLink::OnGone() {
  OnReadable();  // what it still said
  bool wanted;
  {
    std::lock_guard lock(mutex_);
    links_.Unwatch(pidfd_.get());
    if (socket_) links_.Unwatch(socket_->get());
    socket_.reset();
    gone_ = true;
    wanted = stopping_;
  }
  FailCalls(Error{Code::kUnavailable, fmt::format("the monitor of pod {} ended", id.Short())});
  if (wanted) return;
  // Exits that it recorded and could not tell any more.
  if (auto records = ReadExitRecordsIn(state_dir))
    for (const ExitFacts& facts : *records) TellExit(facts);
  log::Warn("monitor.lost", {{"pod", id}, {"pid", monitor()}});
  links_.Tell([&links = links_, pod = id] {
    if (links.on_lost_) links.on_lost_(pod);
  });
}

// --- Links

Links::Links() = default;

Result<void> Links::Start() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 0}};
  if (!epoll_ || !stop_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event) < 0) return SysErr("epoll");
  wire_ = std::thread([this] { Wire(); });
  news_thread_ = std::thread([this] { News(); });
  return {};
}

Links::~Links() {
  if (wire_.joinable()) {
    Notify(stop_.get());
    wire_.join();
  }
  if (news_thread_.joinable()) {
    {
      std::lock_guard lock(news_mutex_);
      ending_ = true;
    }
    news_changed_.notify_all();
    news_thread_.join();
  }
  for (auto& [id, link] : links_) link->FailCalls(Error{Code::kCancelled, "the launcher ends"});
}

void Links::OnExit(Launcher::ExitCallback callback) {
  std::lock_guard lock(news_mutex_);
  on_exit_ = std::move(callback);
}
void Links::OnLost(Launcher::LostCallback callback) {
  std::lock_guard lock(news_mutex_);
  on_lost_ = std::move(callback);
}

std::shared_ptr<PodLink> Links::Find(const PodId& id) {
  std::lock_guard lock(mutex_);
  auto it = links_.find(id);
  return it == links_.end() ? nullptr : it->second;
}

Result<std::shared_ptr<PodLink>> Links::Add(const PodId& id, const std::string& run_dir, const std::string& state_dir) {
  std::lock_guard lock(mutex_);
  auto& place = links_[id];
  if (place) return Err(Code::kAlreadyExists, "pod {}: has a monitor already", id);
  place = std::make_shared<PodLink>(*this, id, run_dir, state_dir);
  return place;
}

void Links::Remove(const PodId& id) {
  std::shared_ptr<PodLink> link;
  std::lock_guard lock(mutex_);
  auto it = links_.find(id);
  if (it == links_.end()) return;
  link = std::move(it->second);
  tokens_.erase(link->token_);
  links_.erase(it);
}

Result<uint64_t> Links::Watch(const std::shared_ptr<PodLink>& link, int socket, int pidfd) {
  std::lock_guard lock(mutex_);
  uint64_t token = link->token_ != 0 ? link->token_ : next_token_++;
  tokens_[token] = link;
  epoll_event event{.events = EPOLLIN, .data = {.u64 = token * 2}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event) < 0) return SysErr("watch the monitor's socket");
  event.data.u64 = token * 2 + 1;
  if (pidfd >= 0 && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pidfd, &event) < 0) return SysErr("watch the monitor");
  return token;
}

void Links::Unwatch(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void Links::Wire() {
  while (true) {
    epoll_event events[64];
    const int count = ::epoll_wait(epoll_.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      const uint64_t what = events[i].data.u64;
      if (what == 0) return;
      std::shared_ptr<PodLink> link;
      {
        std::lock_guard lock(mutex_);
        if (auto it = tokens_.find(what / 2); it != tokens_.end()) link = it->second.lock();
      }
      if (!link) continue;
      if (what % 2 == 0) {
        link->OnReadable();
      } else {
        link->OnGone();
      }
    }
  }
}

void Links::Tell(std::function<void()> news) {
  std::lock_guard lock(news_mutex_);
  news_.push_back(std::move(news));
  news_changed_.notify_one();
}

void Links::News() {
  std::unique_lock lock(news_mutex_);
  while (true) {
    news_changed_.wait(lock, [&] { return ending_ || !news_.empty(); });
    if (ending_) return;   // what is not told now is told at the next adoption
    auto news = std::move(news_.front());
    news_.pop_front();
    lock.unlock();
    news();
    lock.lock();
  }
}

}  // namespace berth::runtime
