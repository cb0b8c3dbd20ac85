#pragma once
// Messages of protocol.h on a SEQPACKET socket, from the agent's side. Sockets are non-blocking; waiting has a deadline.
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/id.h"
#include "base/unique_fd.h"
#include "runtime/shim/protocol.h"

namespace berth::runtime {

struct Packet {
  shim::Header header;
  std::string body;
  std::vector<unique_fd> fds;

  template <class T>
  T As() const {  // a missing tail reads as zeros
    T out{};
    memset(static_cast<void*>(&out), 0, sizeof out);
    memcpy(static_cast<void*>(&out), body.data(), std::min(body.size(), sizeof out));
    return out;
  }
  unique_fd TakeFd(size_t i) { return i < fds.size() ? std::move(fds[i]) : unique_fd(); }
};

struct Outgoing {
  shim::Type type{};
  std::string body;
  std::vector<int> fds;   // borrowed
};

template <class T>
std::string Bytes(const T& message) {
  return std::string(reinterpret_cast<const char*>(&message), sizeof message);
}
// Copies an id or name into a message's fixed array. kInvalidArgument when it does not fit.
Result<void> Put(std::span<char> to, std::string_view value, std::string_view what);
Result<std::string> ContainerBody(const ContainerId& id);  // a ContainerRequest

// Waits while the socket's buffer is full. kUnavailable when the peer is gone. The message carries `until`, so that a
// monitor that comes to it too late leaves it undone.
Result<void> SendPacket(int socket, const Outgoing& message, uint64_t request, const Deadline& until, std::string_view what);
// Nothing when no message is there; kUnavailable when the peer has closed or does not speak the protocol.
Result<std::optional<Packet>> ReceivePacket(int socket);

// An ErrorReply as the Error it stands for.
Error FromReply(const Packet& packet, std::string_view what);

}  // namespace berth::runtime
