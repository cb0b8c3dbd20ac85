#pragma once
// Messages of protocol.h on a SEQPACKET socket, from the shim's side: nothing here blocks but Receive on a blocking socket.
#include <string.h>

#include "runtime/shim/protocol.h"

namespace berth::shim {

struct Message {                        // views into the one receive buffer: valid until the next Receive
  Header header;
  const char* body = nullptr;
  size_t size = 0;                      // of the body
  int fds[kMaxFds];
  size_t fd_count = 0;

  int TakeFd(size_t i) {                // the caller owns it then; -1 when there is none
    if (i >= fd_count) return -1;
    int fd = fds[i];
    fds[i] = -1;
    return fd;
  }
  void CloseFds();                      // those not taken
  template <class T>
  T As() const {                        // a missing tail reads as zeros
    T out{};
    memset(static_cast<void*>(&out), 0, sizeof out);
    memcpy(static_cast<void*>(&out), body, size < sizeof out ? size : sizeof out);
    return out;
  }
};

enum class Got { kMessage, kNothing, kClosed };
// kClosed also for a peer that sends what is no message of this protocol.
Got Receive(int socket, Message* message);
// False: the peer is gone or its buffer is full.
bool Send(int socket, Type type, uint16_t flags, uint64_t request, const void* body, size_t size, const int* fds = nullptr,
          size_t fd_count = 0);

bool ValidId(const char (&id)[kIdSize]);  // 1..64 of [A-Za-z0-9_.-], not beginning with a dot: it becomes a file name

}  // namespace berth::shim
