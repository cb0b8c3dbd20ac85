#include "cni/keeper.h"

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/log.h"
#include "cni/nft/conntrack.h"

namespace berth::cni {
namespace {

// A namespace normally dies within some ten milliseconds of its last process, and takes the link along.
constexpr std::chrono::seconds kGrace{3};
constexpr std::chrono::seconds kWork{30};  // for one piece of work of this thread

}  // namespace

Keeper::~Keeper() {
  thread_.request_stop();
  Wake();
}

void Keeper::Wake() {
  uint64_t one = 1;
  if (wake_) (void)!write(wake_.get(), &one, sizeof one);
}

Result<void> Keeper::Start() {
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return SysErr("eventfd");
  events_.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER));
  int group = NFNLGRP_NFTABLES;
  if (!events_ || setsockopt(events_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0) {
    // Without notifications the tables are looked at before each attach and at each status request.
    log::Warn("nftables.no_notifications", {{"error", ErrnoText(errno)}});
    events_.reset();
  }
  thread_ = std::jthread([this](std::stop_token stop) { Loop(stop); });
  return {};
}

void Keeper::Reap(std::string link, std::string alias) {
  {
    std::lock_guard lock(mutex_);
    doomed_.push_back({std::move(link), std::move(alias), std::chrono::steady_clock::now() + kGrace});
  }
  Wake();
}

void Keeper::FlushUdp(std::vector<nft::PublishedPort> ports) {
  std::erase_if(ports, [](auto& p) { return p.protocol != "udp"; });
  if (ports.empty()) return;
  {
    std::lock_guard lock(mutex_);
    udp_.insert(udp_.end(), ports.begin(), ports.end());
  }
  Wake();
}

// Reads all notifications; true when a table went away, or when some were lost.
bool Keeper::TablesDeleted() {
  bool deleted = false;
  alignas(nlmsghdr) char buffer[32 * 1024];
  for (;;) {
    ssize_t n = recv(events_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      if (errno != ENOBUFS) return deleted;
      deleted = true;
      continue;
    }
    unsigned left = static_cast<unsigned>(n);
    for (auto* h = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
      if (h->nlmsg_type == ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_DELTABLE)) deleted = true;
  }
}

void Keeper::ReapDue() {
  std::vector<Doomed> due;
  {
    std::lock_guard lock(mutex_);
    auto now = std::chrono::steady_clock::now();
    auto rest = std::partition(doomed_.begin(), doomed_.end(), [&](const Doomed& d) { return d.at > now; });
    due.assign(rest, doomed_.end());
    doomed_.erase(rest, doomed_.end());
  }
  if (due.empty()) return;
  auto socket = sockets_.Take();
  if (!socket) return;
  std::vector<int> indexes;
  Deadline until = Deadline::After(kWork);
  for (const Doomed& d : due)
    if (auto link = netlink::FindLink(**socket, d.link, until);
        link && (link->alias == d.alias || link->alias.empty()) && !link->up)
      indexes.push_back(link->index);
  if (auto done = netlink::DeleteLinks(**socket, indexes, until); !done)
    log::Warn("link.delete_failed", {{"error", done.error()}});
}

void Keeper::Loop(std::stop_token stop) {
  prctl(PR_SET_NAME, "cni-keeper");
  while (!stop.stop_requested()) {
    int timeout = -1;
    {
      std::lock_guard lock(mutex_);
      for (const Doomed& d : doomed_) {
        auto left = std::chrono::ceil<std::chrono::milliseconds>(d.at - std::chrono::steady_clock::now()).count();
        int ms = static_cast<int>(std::max<int64_t>(left, 0));
        timeout = timeout < 0 ? ms : std::min(timeout, ms);
      }
    }
    pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {events_.get(), POLLIN, 0}};
    poll(fds, 2, timeout);
    uint64_t drained;
    (void)!read(wake_.get(), &drained, sizeof drained);
    if (stop.stop_requested()) break;
    if (events_ && fds[1].revents && TablesDeleted())
      if (auto repaired = ruleset_.Repair(Deadline::After(kWork)); !repaired)
        log::Warn("nftables.restore_failed", {{"error", repaired.error()}});
    std::vector<nft::PublishedPort> udp;
    {
      std::lock_guard lock(mutex_);
      udp.swap(udp_);
    }
    if (!udp.empty())
      if (auto flushed = nft::FlushUdp(udp, Deadline::After(kWork)); !flushed)
        log::Warn("conntrack.flush_failed", {{"error", flushed.error()}});
    ReapDue();
  }
}

}  // namespace berth::cni
