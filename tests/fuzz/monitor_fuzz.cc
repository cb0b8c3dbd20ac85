// Packets into the monitor's dispatcher. The monitor runs as it is, in a thread, on real sockets; each input is a run
// of packets of one client, after which the monitor must still answer a List. Shutdown is left out: it ends the process
// by design.
//
// Input: packets as [flags][type u16][length u16][body]; flag 1: one byte less than the header says, flag 2: of another
// major version, flag 4: with a descriptor of a sealed memfd (a plan that no check lets through).
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "runtime/shim/monitor.h"
#include "runtime/shim/wire.h"

namespace {

using namespace berth::shim;

[[noreturn]] void Wrong(const char* what) {
  perror(what);
  abort();
}

struct Server {
  sockaddr_un address{};
  int plan = -1;

  Server() {
    char dir[] = "/tmp/monitor-fuzz-XXXXXX";
    if (!mkdtemp(dir)) Wrong("mkdtemp");
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/shim.sock", dir);
    MonitorFds fds{};
    fds.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (bind(fds.listener, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) Wrong("bind");
    fds.state_dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) Wrong("socketpair");
    fds.client = pair[0];
    plan = static_cast<int>(syscall(SYS_memfd_create, "plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    char bytes[512] = {};
    if (write(plan, bytes, sizeof bytes) != sizeof bytes) Wrong("memfd");
    fcntl(plan, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
    std::thread([fds] {
      Pod pod;
      strcpy(pod.id, "fuzz");
      RunMonitor(pod, fds, 1);
    }).detach();
    char hello[kMaxMessage];
    if (recv(pair[1], hello, sizeof hello, 0) < static_cast<ssize_t>(sizeof(Header))) Wrong("no Hello");
    close(pair[1]);
  }
  int Connect() const {
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) Wrong("connect");
    return fd;
  }
};

bool SendRaw(int socket, const void* bytes, size_t size, int fd) {
  iovec part{const_cast<void*>(bytes), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return sendmsg(socket, &header, MSG_NOSIGNAL) >= 0;
}

// False: the monitor has closed the connection.
bool AnswersList(int socket) {
  constexpr uint64_t kMine = 0xfeedfacefeedface;
  Header list;
  list.type = Type::kList;
  list.request = kMine;
  if (!SendRaw(socket, &list, sizeof list, -1)) return false;
  for (;;) {
    pollfd wait{socket, POLLIN, 0};
    if (poll(&wait, 1, 5000) == 0) Wrong("the monitor does not answer a List within 5 s");
    alignas(16) static char inbox[kMaxMessage];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 16)];
    iovec part{inbox, sizeof inbox};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    ssize_t n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (n <= 0) return false;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
      for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i)
        close(reinterpret_cast<int*>(CMSG_DATA(c))[i]);
    Header h;
    if (n < static_cast<ssize_t>(sizeof h)) Wrong("a short answer");
    memcpy(&h, inbox, sizeof h);
    if (h.magic != kMagic || h.length != n - sizeof h) Wrong("an answer that is no message");
    if (h.request == kMine && !(h.flags & kMore)) return true;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Server* server = new Server;
  int socket = server->Connect();
  const uint8_t* end = data + size;
  bool open = true;
  for (uint64_t request = 1; open && end - data >= 5; ++request) {
    uint8_t flags = data[0];
    uint16_t type, length;
    memcpy(&type, data + 1, 2);
    memcpy(&length, data + 3, 2);
    data += 5;
    if (length > end - data) length = static_cast<uint16_t>(end - data);
    if (length > kMaxMessage - sizeof(Header)) length = kMaxMessage - sizeof(Header);
    // Most packets should be for something: numbers of this protocol.
    Header header;
    header.type = static_cast<Type>(flags & 128 ? type : type % 40);
    if (header.type == Type::kShutdown) header.type = Type::kList;
    if (flags & 2) header.major = 7;
    header.request = request;
    header.length = length + (flags & 1);
    char packet[kMaxMessage];
    memcpy(packet, &header, sizeof header);
    memcpy(packet + sizeof header, data, length);
    data += length;
    open = SendRaw(socket, packet, sizeof header + length, flags & 4 ? server->plan : -1);
    // Answers are read as they come, else the monitor drops us.
    open = open && AnswersList(socket);
  }
  close(socket);
  if (open) return 0;
  int again = server->Connect();
  if (!AnswersList(again)) Wrong("the monitor does not serve a new client");
  close(again);
  return 0;
}
