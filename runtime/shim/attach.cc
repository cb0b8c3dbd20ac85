// Clients that are attached to a container. Each has streams of its own, pipes or sockets, that the monitor reads and
// writes without ever waiting for them:
//
//   client --in---> [in_block]  --> the container's stdin        a full stdin: the client's input waits
//   client <--out-- [out_block] <-- what the log has got as well  a full client: by its SlowClient
//
// The blocks hold what the other side has not yet taken. Their pages are there only while something is in them. An
// out_block holds one read of output, and behind it what a container leaves in its pipe when it ends: kWait loses nothing.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kOutBlock = 2 * kInput;

alignas(kPage) char in_block[kMaxAttaches][kPage];
alignas(kPage) char out_block[kMaxAttaches][2][kOutBlock];
bool blocks_used;

char* InBlock(const Attach* a) { return in_block[table.Place(a)]; }
char* OutBlock(const Attach* a, size_t stream) { return out_block[table.Place(a)][stream]; }

bool Tell(const Attach* a, AttachNewsKind kind, size_t stream, uint64_t count) {
  AttachNews news;
  news.kind = kind;
  news.stream = static_cast<uint32_t>(stream);
  news.count = count;
  return write(a->news, &news, sizeof news) == static_cast<ssize_t>(sizeof news);
}

void TellDropped(Attach* a, size_t stream) {
  if (a->dropped[stream] != 0 && Tell(a, AttachNewsKind::kDropped, stream + 1, a->dropped[stream])) a->dropped[stream] = 0;
}

void CloseIn(Attach* a) {
  if (a->in_watched) Unwatch(a->in);
  a->in_watched = false;
  CloseFd(&a->in);
}

void CloseOut(Attach* a, size_t stream) {
  if (a->out_watched[stream]) Unwatch(a->out[stream]);
  a->out_watched[stream] = false;
  CloseFd(&a->out[stream]);
  a->out_size[stream] = 0;
}

// Does the container wait for a client?
void CheckBlocked(Container* c) {
  if (!(c->blocked & kByClient)) return;
  for (uint32_t i = 0; i < table.attach_end; ++i) {
    const Attach& a = table.attaches[i];
    if (a.id != 0 && &table.containers[a.container] == c && (a.out_size[0] | a.out_size[1]) != 0) return;
  }
  Unblock(c, kByClient);
}

void WatchStdin(Container* c, bool wanted) {
  if (c->stdin_fd < 0 || c->stdin_watched == wanted) return;
  if (wanted) {
    c->stdin_watched = Watch(c->stdin_fd, Source::kStdin, table.Place(c), EPOLLOUT);
  } else {
    Unwatch(c->stdin_fd);
    c->stdin_watched = false;
  }
}

void End(Attach* a, AttachEnd why) {
  Container* c = &table.containers[a->container];
  for (size_t s = 0; s < 2; ++s) {
    a->dropped[s] += a->out_size[s];
    TellDropped(a, s);
    CloseOut(a, s);
  }
  CloseIn(a);
  Tell(a, AttachNewsKind::kEnded, 0, static_cast<uint64_t>(why));
  CloseFd(&a->news);
  table.Free(a);
  CheckBlocked(c);
}

// Writes what the client takes; false: it is gone.
bool Push(Attach* a, size_t stream, const char* bytes, size_t size, size_t* taken) {
  *taken = 0;
  while (*taken < size) {
    ssize_t n = write(a->out[stream], bytes + *taken, size - *taken);
    if (n > 0) {
      *taken += static_cast<size_t>(n);
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else {
      return n >= 0 || errno == EAGAIN;
    }
  }
  return true;
}

// One of its outputs is closed from the other end. Input that is still on its way is delivered.
void OutGone(Attach* a) {
  CloseOut(a, 0);
  CloseOut(a, 1);
  if (a->in < 0) return End(a, AttachEnd::kGone);
  CheckBlocked(&table.containers[a->container]);
}

void WatchOut(Attach* a, size_t stream, uint32_t events) {
  if (a->out_watched[stream]) Unwatch(a->out[stream]);
  a->out_watched[stream] = Watch(a->out[stream], Source::kAttachOut, table.Place(a) * 2 + static_cast<uint32_t>(stream), events);
}

void Give(Attach* a, size_t stream, const char* bytes, size_t size) {
  Container* c = &table.containers[a->container];
  size_t taken = 0;
  bool waits = a->out_size[stream] > 0;
  if (!waits && !Push(a, stream, bytes, size, &taken)) return OutGone(a);
  if (taken == size) return TellDropped(a, stream);
  if (a->slow == SlowClient::kDetach) {
    a->dropped[stream] += size - taken;
    return End(a, AttachEnd::kSlow);
  }
  if (a->slow == SlowClient::kWait) {
    char* block = OutBlock(a, stream);
    size_t held = a->out_size[stream];
    if (a->out_at[stream] > 0) memmove(block, block + a->out_at[stream], held);
    a->out_at[stream] = 0;
    size_t room = kOutBlock - held, keep = size - taken < room ? size - taken : room;
    memcpy(block + held, bytes + taken, keep);
    a->out_size[stream] += static_cast<uint32_t>(keep);
    taken += keep;
    blocks_used = true;
    if (!waits) WatchOut(a, stream, EPOLLOUT);
    Block(c, kByClient);
  }
  a->dropped[stream] += size - taken;
}

}  // namespace

void AttachClient(const Request& r) {
  auto request = r.message->As<AttachRequest>();
  Container* c = Lookup(r, request.id);
  if (c == nullptr) return;
  size_t streams = static_cast<size_t>(__builtin_popcount(request.flags & (kIn | kOut | kErr)));
  if (streams == 0 || r.message->fd_count != 1 + streams || request.slow > SlowClient::kWait)
    return Refuse(r.client, r.id, Status::kInvalid, 0, "attach: the number of descriptors is not the one that is given");
  if (c->dead) return Refuse(r.client, r.id, Status::kState, 0, "container has ended: ", c->id);
  if ((request.flags & kIn) && c->stdin_fd < 0)
    return Refuse(r.client, r.id, Status::kState, 0, "container takes no input, or no more: ", c->id);
  Attach* a = table.NewAttach();
  if (a == nullptr) return Refuse(r.client, r.id, Status::kFull, 0, "too many clients are attached in the pod");
  a->container = table.Place(c);
  a->slow = request.slow;
  size_t next = 0;
  a->news = r.message->TakeFd(next++);
  if (request.flags & kIn) a->in = r.message->TakeFd(next++);
  if (request.flags & kOut) a->out[0] = r.message->TakeFd(next++);
  if (request.flags & kErr) a->out[1] = r.message->TakeFd(next++);
  bool good = true;
  const int given[] = {a->news, a->in, a->out[0], a->out[1]};
  for (int fd : given)
    if (good && fd >= 0) good = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
  // Without interest in anything epoll still tells of the other end's close.
  for (size_t s = 0; s < 2 && good; ++s) {
    if (a->out[s] < 0) continue;
    WatchOut(a, s, 0);
    good = a->out_watched[s];
  }
  if (good && a->in >= 0) good = a->in_watched = Watch(a->in, Source::kAttachIn, table.Place(a));
  if (!good) {
    Refuse(r.client, r.id, Status::kInvalid, errno, "attach: streams must be pipes or sockets");
    return End(a, AttachEnd::kGone);
  }
  AttachReply reply;
  reply.attach = a->id;
  Answer(r.client, r.id, &reply, sizeof reply);
}

void DetachClient(const Request& r) {
  auto request = r.message->As<DetachRequest>();
  Attach* a = request.attach == 0 ? nullptr : table.FindAttach(request.attach);
  if (a != nullptr) End(a, AttachEnd::kDetached);
  Answer(r.client, r.id, nullptr, 0);
}

void Deliver(Container* c, size_t stream, const char* bytes, size_t size) {
  for (uint32_t i = 0; i < table.attach_end; ++i) {
    Attach* a = &table.attaches[i];
    if (a->id != 0 && &table.containers[a->container] == c && a->out[stream] >= 0) Give(a, stream, bytes, size);
  }
}

void AttachReadable(Attach* a) {
  if (a->id == 0 || a->in < 0 || a->in_size > 0) return;
  Container* c = &table.containers[a->container];
  char* block = InBlock(a);
  ssize_t n;
  do n = read(a->in, block, kPage);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return;
  blocks_used = true;
  TouchBuffers();
  if (n <= 0) {
    CloseIn(a);
    if (c->stdin_once) CloseStdin(c);
    if (a->out[0] < 0 && a->out[1] < 0) End(a, AttachEnd::kGone);
    return;
  }
  a->in_at = 0;
  a->in_size = static_cast<uint32_t>(n);
  StdinWritable(c);
}

// Every client's waiting input, as far as it is taken.
void StdinWritable(Container* c) {
  bool waits = false;
  for (uint32_t i = 0; i < table.attach_end; ++i) {
    Attach* a = &table.attaches[i];
    if (a->id == 0 || &table.containers[a->container] != c || a->in_size == 0) continue;
    while (a->in_size > 0 && c->stdin_fd >= 0 && !waits) {
      ssize_t n = write(c->stdin_fd, InBlock(a) + a->in_at, a->in_size);
      if (n > 0) {
        a->in_at += static_cast<uint32_t>(n);
        a->in_size -= static_cast<uint32_t>(n);
      } else if (n < 0 && errno == EINTR) {
        continue;
      } else if (n < 0 && errno != EAGAIN) {
        CloseStdin(c);  // nobody reads there any more; ends this client's input too
      } else {
        waits = true;
      }
    }
    if (a->id == 0 || a->in < 0) continue;
    bool watch = a->in_size == 0;
    if (watch == a->in_watched) continue;
    if (watch) {
      a->in_watched = Watch(a->in, Source::kAttachIn, table.Place(a));
    } else {
      Unwatch(a->in);
      a->in_watched = false;
    }
  }
  WatchStdin(c, waits);
}

void CloseStdin(Container* c) {
  WatchStdin(c, false);
  CloseFd(&c->stdin_fd);
  for (uint32_t i = 0; i < table.attach_end; ++i) {
    Attach* a = &table.attaches[i];
    if (a->id == 0 || &table.containers[a->container] != c) continue;
    a->in_size = 0;
    CloseIn(a);
    if (a->out[0] < 0 && a->out[1] < 0) End(a, AttachEnd::kOutput);
  }
}

void AttachWritable(Attach* a, size_t stream, uint32_t events) {
  if (a->id == 0 || a->out[stream] < 0) return;
  if (a->out_size[stream] > 0) {
    size_t taken = 0;
    if (!Push(a, stream, OutBlock(a, stream) + a->out_at[stream], a->out_size[stream], &taken)) return OutGone(a);
    a->out_at[stream] += static_cast<uint32_t>(taken);
    a->out_size[stream] -= static_cast<uint32_t>(taken);
    TouchBuffers();
    if (a->out_size[stream] > 0) return;
    if (a->ending && a->out_size[1 - stream] == 0) return End(a, AttachEnd::kOutput);
    WatchOut(a, stream, 0);
    CheckBlocked(&table.containers[a->container]);
  } else if (events & (EPOLLERR | EPOLLHUP)) {
    OutGone(a);
  }
}

void EndAttaches(Container* c, bool force) {
  for (uint32_t i = 0; i < table.attach_end; ++i) {
    Attach* a = &table.attaches[i];
    if (a->id == 0 || &table.containers[a->container] != c) continue;
    if (force || (a->out_size[0] | a->out_size[1]) == 0) {
      End(a, AttachEnd::kOutput);
    } else {
      a->ending = true;
      CloseIn(a);
      for (size_t s = 0; s < 2; ++s)
        if (a->out[s] >= 0 && a->out_size[s] == 0) CloseOut(a, s);
    }
  }
}

void TrimAttaches() {
  if (!blocks_used) return;
  blocks_used = false;
  for (uint32_t i = 0; i < kMaxAttaches; ++i) {
    const Attach& a = table.attaches[i];
    bool used = a.id != 0;
    if (!used || a.in_size == 0) madvise(in_block[i], sizeof in_block[i], MADV_DONTNEED);
    for (size_t s = 0; s < 2; ++s)
      if (!used || a.out_size[s] == 0) madvise(out_block[i][s], kOutBlock, MADV_DONTNEED);
    blocks_used = blocks_used || (used && (a.in_size | a.out_size[0] | a.out_size[1]) != 0);
  }
}

}  // namespace berth::shim
