#pragma once
// What both relays do with the client's connection: one poll(2) over it and their own descriptors, bounded buffers, and an
// end that the client still gets to read.
#include <poll.h>

#include <chrono>
#include <vector>

#include "base/deadline.h"
#include "cri/streaming/mux.h"
#include "cri/streaming/wire.h"

namespace berth::cri::streaming {

inline constexpr size_t kBufferLimit = 256 << 10;                 // bytes held a direction before its source is left alone
inline constexpr std::chrono::hours kIdleLimit{4};                // without a byte either way
inline constexpr std::chrono::seconds kOpenLimit{30};             // for the client to open its streams
inline constexpr std::chrono::seconds kFarewellLimit{10};         // for it to take the last bytes

class Relay {
 public:
  // `early`: bytes of the client that came with its request.
  Relay(Wire& wire, Mux& mux, std::string early) : wire_(wire), mux_(mux), early_(std::move(early)) {}

  // Waits until the connection or one of `fds` has something, at most `limit`; moves the connection's bytes. `hungry`:
  // the client may send more now. Events are appended. kUnavailable: the client is gone; kDeadlineExceeded, kCancelled as
  // Deadline says.
  Result<void> Turn(std::vector<pollfd>& fds, bool hungry, const Deadline& limit, std::vector<Event>& events, std::string_view waits_for);
  // Whether the client takes what is sent; its sources rest else.
  bool Roomy() const { return mux_.out.size() < kBufferLimit; }
  // Sends the rest, then the connection may be closed.
  void Farewell(const Deadline& stop);

 private:
  Result<void> Flush();
  Result<void> Receive(std::vector<Event>& events);

  Wire& wire_;
  Mux& mux_;
  std::string early_;
  bool began_ = false;
};

// Bytes on their way into a local descriptor.
struct Sink {
  unique_fd fd;
  std::string pending;
  bool ended = false;  // nothing more comes; the descriptor is closed (or its writing half shut) when all is written
  bool socket = false;

  bool Wants() const { return fd.valid() && !pending.empty(); }
  // Writes what can be written now. False: nobody reads at the other end, and never will.
  bool Push();
};

// Reads once, without waiting. kEnd: there will be nothing more.
enum class Pulled { kData, kNothing, kEnd };
Pulled Pull(int fd, std::string& into);

}  // namespace berth::cri::streaming
