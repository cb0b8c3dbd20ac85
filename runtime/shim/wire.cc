#include "runtime/shim/wire.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

namespace berth::shim {
namespace {

alignas(16) char inbox[kMaxMessage];
alignas(16) char outbox[kMaxMessage];
alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxFds + 3))];

}  // namespace

void Message::CloseFds() {
  for (size_t i = 0; i < fd_count; ++i)
    if (fds[i] >= 0) close(fds[i]);
  fd_count = 0;
}

Got Receive(int socket, Message* message) {
  message->fd_count = 0;
  iovec data{inbox, sizeof inbox};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EAGAIN ? Got::kNothing : Got::kClosed;
  bool too_many = false;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      if (message->fd_count < kMaxFds) {
        message->fds[message->fd_count++] = fd;
      } else {
        close(fd);
        too_many = true;
      }
    }
  }
  Header& h = message->header;
  bool whole = n >= static_cast<ssize_t>(sizeof h) && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 && !too_many;
  if (whole) memcpy(&h, inbox, sizeof h);
  if (!whole || h.magic != kMagic || h.length != static_cast<size_t>(n) - sizeof h) {
    message->CloseFds();
    return Got::kClosed;
  }
  message->body = inbox + sizeof h;
  message->size = h.length;
  return Got::kMessage;
}

bool Send(int socket, Type type, uint16_t flags, uint64_t request, const void* body, size_t size, const int* fds,
          size_t fd_count) {
  if (size > kMaxMessage - sizeof(Header) || fd_count > kMaxFds) return false;
  Header h;
  h.type = type;
  h.flags = flags;
  h.request = request;
  h.length = static_cast<uint32_t>(size);
  memcpy(outbox, &h, sizeof h);
  if (size > 0) memcpy(outbox + sizeof h, body, size);
  iovec data{outbox, sizeof h + size};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (fd_count > 0) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
  }
  ssize_t n;
  do n = sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(data.iov_len);
}

bool ValidId(const char (&id)[kIdSize]) {
  if (id[0] == '\0' || id[0] == '.' || id[kIdSize - 1] != '\0') return false;
  for (const char* c = id; *c != '\0'; ++c) {
    bool good = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '_' || *c == '.' ||
                *c == '-';
    if (!good) return false;
  }
  return true;
}

}  // namespace berth::shim
