#pragma once
// WebSocket (RFC 6455), the server's side, and the channel protocols that Kubernetes lays over it: the first byte of a
// message is the channel's number.
#include <memory>
#include <span>

#include "cri/streaming/mux.h"

namespace berth::cri::streaming {

inline constexpr size_t kWebSocketMessageLimit = 4 << 20;

// The value of Sec-WebSocket-Accept for the client's Sec-WebSocket-Key.
std::string WebSocketAccept(std::string_view key);

// Frames only. `Take` joins fragments, unmasks, answers pings and closes; a client's frame without a mask, a control frame
// that is too long, or a message beyond the limit is kInvalidArgument.
class WebSocket {
 public:
  struct Message {
    bool text = false;
    std::string data;
  };
  Result<void> Take(std::string_view bytes, std::vector<Message>& messages, bool& closed);
  void Send(bool text, std::string_view data);
  void Close(uint16_t code, std::string_view reason = {});

  std::string out;

 private:
  void Frame(uint8_t opcode, std::string_view payload);
  std::string in_, message_;
  uint8_t opcode_ = 0;  // of the message being joined; 0: none
  bool said_goodbye_ = false;
};

// Which of the channel protocols a name stands for.
struct ChannelProtocol {
  std::string_view name;  // as in Sec-WebSocket-Protocol; empty: none was asked for
  bool base64 = false;    // text messages: a digit, then base64
  bool status = false;    // the error channel carries a Status as JSON (v4, v5)
  bool half_close = false;  // v5: a message of 255 and a channel's number ends that channel
};
const ChannelProtocol* FindChannelProtocol(std::string_view name);  // null: not one of ours

// One channel a stream: `channels[i]` are the headers of channel i, as if the client had opened it; an empty map: there is
// no such channel. The kOpened events come with the first Take, which may be given no bytes.
std::unique_ptr<Mux> MakeChannels(const ChannelProtocol& protocol, std::vector<std::map<std::string, std::string>> channels);

// Binary messages whose bytes, joined, are another connection's: SPDY through a WebSocket.
std::unique_ptr<Mux> MakeTunnel(std::unique_ptr<Mux> inner);

}  // namespace berth::cri::streaming
