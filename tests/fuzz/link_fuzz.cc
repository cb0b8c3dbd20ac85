// What a broken or hostile monitor may send to the agent: packets into PodLink's reader, while calls wait for answers.
// The input is packets as [flags][type u8][request u8][length u16][body]; flag 1: a wrong length, flag 2: kMore, flag
// 4: a wrong magic.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>

#include "runtime/shim/pod_link.h"

using namespace berth;
using namespace berth::runtime;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Links* links = [] {
    auto* made = new Links;
    if (!made->Start()) abort();
    made->OnExit([](auto&&...) {});
    made->OnLost([](auto&&...) {});
    return made;
  }();
  static uint64_t number = 0;
  PodId id(fmt::format("{:032x}", ++number));
  auto link = links->Add(id, "/tmp", "/tmp");
  if (!link) abort();
  (*link)->SetStopping();
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) abort();
  unique_fd peer(pair[1]);
  const uint8_t* end = data + size;
  for (int i = 0; i < 16 && end - data >= 5; ++i) {
    uint8_t flags = data[0];
    shim::Header header;
    header.type = static_cast<shim::Type>(data[1]);
    header.request = data[2] % 6;
    uint16_t length;
    memcpy(&length, data + 3, 2);
    data += 5;
    length = std::min<size_t>({length, static_cast<size_t>(end - data), shim::kMaxMessage - sizeof header});
    header.length = length + (flags & 1);
    header.flags = flags & 2 ? shim::kMore : 0;
    if (flags & 4) header.magic = 1;
    std::string packet = Bytes(header) + std::string(reinterpret_cast<const char*>(data), length);
    data += length;
    if (::send(peer.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0) break;
  }
  unique_fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  // The first call is written before the monitor's packets are read; then the connection ends, so that nothing waits
  // for long.
  if ((*link)->Attach(unique_fd(pair[0]), std::move(self), ::getpid())) {
    ::shutdown(peer.get(), SHUT_WR);
    auto until = Deadline::After(std::chrono::milliseconds(200));
    for (int i = 0; i < 2; ++i) (void)(*link)->Call({shim::Type::kList, {}, {}}, until, "list");
  }
  (*link)->Detach();
  links->Remove(id);
  return 0;
}
