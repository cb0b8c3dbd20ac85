#pragma once
// Many streams over one connection, whatever the protocol: SPDY/3.1 as kubectl, crictl and the kubelet speak it, or
// WebSocket messages with a channel number. A Mux only turns bytes into events and actions into bytes; the relays
// (remote_command.h, port_forward.h) own the connection and decide when to read it, which is how memory stays bounded.
// One thread at a time.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace berth::cri::streaming {

using StreamId = uint32_t;

struct Event {
  enum class Kind {
    kOpened,  // by the client, with `headers` (names in lower case): streamtype, port, requestid
    kData,    // `data`, never empty
    kEnded,   // the client sends nothing more on this stream
    kReset,   // the client gave the stream up; it is gone
    kClosed,  // the client ends the connection
  };
  Kind kind;
  StreamId stream = 0;
  std::map<std::string, std::string> headers = {};
  std::string data = {};
};

class Mux {
 public:
  virtual ~Mux() = default;
  // Bytes of the client; what they mean is appended. kInvalidArgument when they break the protocol: nothing more can be
  // understood then.
  virtual Result<void> Take(std::string_view bytes, std::vector<Event>& events) = 0;
  // The following append to `out`, which the relay sends. Calls for a stream that is gone do nothing.
  virtual void Send(StreamId stream, std::string_view data) = 0;
  virtual void End(StreamId stream) = 0;    // we send nothing more on it
  virtual void Reset(StreamId stream) = 0;  // neither side does
  virtual void Close() = 0;                 // a farewell, after which the connection may be closed

  std::string out;
};

}  // namespace berth::cri::streaming
