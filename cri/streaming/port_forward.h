#pragma once
// Port forwarding: any number of connections to ports of a pod over one connection of the client. SPDY clients open a pair of
// streams for each (error, then data, with the same requestID); WebSocket clients have two channels for each port named in
// the RPC.
#include <functional>

#include "cri/streaming/mux.h"
#include "cri/streaming/wire.h"

namespace berth::cri::streaming {

inline constexpr size_t kForwardLimit = 256;  // connections at once over one of the client's

// Connects inside the pod. The descriptor is a connected stream socket.
using Dial = std::function<Result<unique_fd>(uint16_t port)>;

// Returns when the client is gone or ends the connection. announce: each stream begins with its port, two bytes, little
// endian (the WebSocket form).
Result<void> ServeForward(Wire& wire, Mux& mux, std::string early, bool announce, const Dial& dial, const Deadline& stop);

}  // namespace berth::cri::streaming
