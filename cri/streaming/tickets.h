#pragma once
// What a client may ask of the streaming server: the RPC leaves a ticket and gives its name to the client, which comes back
// with it over HTTP. A ticket serves once and lives for a minute.
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/error.h"

namespace berth::cri::streaming {

struct Streams {
  bool in = false, out = false, err = false, tty = false;
};
struct ExecTicket {
  std::string container;
  std::vector<std::string> argv;
  Streams streams;
};
struct AttachTicket {
  std::string container;
  Streams streams;
};
struct PortForwardTicket {
  std::string pod;
  std::vector<uint16_t> ports;  // for WebSocket clients, which cannot name them later
};
using Ticket = std::variant<ExecTicket, AttachTicket, PortForwardTicket>;

class Tickets {  // thread-safe
 public:
  static constexpr size_t kLimit = 1000;
  static constexpr std::chrono::seconds kLife{60};

  explicit Tickets(const Clock& clock) : clock_(clock) {}
  // Its name: 32 hexadecimal digits that nobody can guess. kResourceExhausted: too many are waiting for their clients.
  Result<std::string> Add(Ticket ticket);
  std::optional<Ticket> Take(const std::string& name);

 private:
  struct Entry {
    Ticket ticket;
    std::chrono::steady_clock::time_point ends;
  };
  const Clock& clock_;
  std::mutex mutex_;
  std::map<std::string, Entry> waiting_;
};

}  // namespace berth::cri::streaming
