#include "cri/streaming/tickets.h"

#include "base/id.h"

namespace berth::cri::streaming {

Result<std::string> Tickets::Add(Ticket ticket) {
  std::lock_guard lock(mutex_);
  const auto now = clock_.Now();
  std::erase_if(waiting_, [&](const auto& entry) { return entry.second.ends <= now; });
  if (waiting_.size() >= kLimit)
    return Err(Code::kResourceExhausted, "streaming: {} requests wait for their clients to connect; each waits {} s at most", kLimit,
               kLife.count());
  std::string name = RandomHex(32);
  waiting_.emplace(name, Entry{std::move(ticket), now + kLife});
  return name;
}

std::optional<Ticket> Tickets::Take(const std::string& name) {
  std::lock_guard lock(mutex_);
  auto it = waiting_.find(name);
  if (it == waiting_.end()) return std::nullopt;
  std::optional<Ticket> ticket;
  if (it->second.ends > clock_.Now()) ticket = std::move(it->second.ticket);
  waiting_.erase(it);
  return ticket;
}

}  // namespace berth::cri::streaming
