#pragma once
// SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 with the session window of 3.1), the server's side of what Kubernetes clients use:
// streams that the client opens, data both ways, half close, reset, ping. Clients of this family neither obey nor refill
// flow control windows, so none is kept; backpressure is the TCP connection's.
#include <memory>

#include "cri/streaming/mux.h"

namespace berth::cri::streaming {

inline constexpr size_t kSpdyFrameLimit = 4 << 20;   // bytes of one frame; a larger one is refused
inline constexpr size_t kSpdyHeaderLimit = 64 << 10; // bytes of one header block, unpacked
inline constexpr size_t kSpdyStreamLimit = 1024;     // open at once; further ones are refused by a reset

std::unique_ptr<Mux> MakeSpdy();

// For tests: the client's side of a header block and of frames.
class SpdyClient {
 public:
  SpdyClient();
  ~SpdyClient();
  std::string Open(StreamId stream, const std::map<std::string, std::string>& headers);  // a SYN_STREAM
  static std::string Data(StreamId stream, std::string_view data, bool last = false);
  static std::string Ping(uint32_t id);
  static std::string Reset(StreamId stream);

 private:
  struct Packer;
  std::unique_ptr<Packer> packer_;
};

}  // namespace berth::cri::streaming
