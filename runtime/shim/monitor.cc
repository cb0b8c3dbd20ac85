#include "runtime/shim/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

// Zero bytes are their empty state.
alignas(Table) char table_bytes[sizeof(Table)];
alignas(Monitor) char monitor_bytes[sizeof(Monitor)];

void ServeClient(Client* client) {
  if (client->fd < 0) return;
  Message message;
  switch (Receive(client->fd, &message)) {
    case Got::kNothing: return;
    case Got::kClosed: return Drop(client);
    case Got::kMessage: break;
  }
  // Another major version of the header may mean anything: only Hello is understood by all.
  if (message.header.major != kMajor && message.header.type != Type::kHello) {
    Refuse(client, message.header.request, Status::kUnimplemented, 0, "say Hello first: this monitor speaks protocol version 1");
  } else {
    Serve({client, message.header.request, &message});
  }
  message.CloseFds();
}

void Accept() {
  int fd = accept4(self.listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  ucred peer{};
  socklen_t size = sizeof peer;
  bool allowed = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == 0 || peer.uid == geteuid());
  for (Client& client : self.clients) {
    if (!allowed) break;
    if (client.fd >= 0) continue;
    if (!Watch(fd, Source::kClient, static_cast<uint32_t>(&client - self.clients))) break;
    client.fd = fd;
    return;
  }
  ErrorReply error;
  Fail(&error, Status::kFull, 0, allowed ? "the monitor has too many clients" : "not allowed");
  Send(fd, Type::kError, 0, 0, &error, sizeof error);
  close(fd);
}

}  // namespace

Table& table = *reinterpret_cast<Table*>(table_bytes);
Monitor& self = *reinterpret_cast<Monitor*>(monitor_bytes);

bool Watch(int fd, Source source, uint32_t index, uint32_t wanted) {
  epoll_event event{};
  event.events = wanted;
  event.data.u64 = static_cast<uint64_t>(source) << 32 | index;
  return epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}
void Unwatch(int fd) { epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, nullptr); }

// --- clients

void Drop(Client* client) {
  if (client->fd < 0) return;
  if (client - self.clients == self.ending_client) self.ending_client = -1;
  ForgetClient(static_cast<int>(client - self.clients));
  close(client->fd);
  uint32_t generation = client->generation + 1;
  *client = Client();
  client->generation = generation;
}

void Answer(Client* client, uint64_t request, const void* body, size_t size, const int* fds, size_t count) {
  if (client->fd >= 0 && !Send(client->fd, Type::kReply, 0, request, body, size, fds, count)) Drop(client);
}

void Refuse(Client* client, uint64_t request, const ErrorReply& error) {
  if (client->fd >= 0 && !Send(client->fd, Type::kError, 0, request, &error, sizeof error)) Drop(client);
}

void Refuse(Client* client, uint64_t request, Status status, int sys, const char* what, const char* subject) {
  ErrorReply error;
  Fail(&error, status, sys, what, subject);
  Refuse(client, request, error);
}

void Fail(ErrorReply* reply, const init::Failure& failure) {
  ErrorReply& error = *reply;
  error.status = failure.kind == 1   ? Status::kNoExecutable
                 : failure.kind == 2 ? Status::kNotExecutable
                                     : Status::kSystem;
  error.sys = failure.sys;
  static_assert(sizeof error.what >= sizeof failure.what);
  memcpy(error.what, failure.what, sizeof failure.what);
}

void Refuse(Client* client, uint64_t request, const init::Failure& failure) {
  ErrorReply error;
  Fail(&error, failure);
  Refuse(client, request, error);
}

bool SendHello(Client* client, uint64_t request, uint16_t minor) {
  HelloReply reply;
  reply.minor = minor < kMinor ? minor : kMinor;
  int fds[8];
  size_t count = OpenHelloFds(self.pod, fds, &reply.fds);
  reply.pid = getpid();
  reply.init = self.pod.init > 0 ? self.pod.init : 0;
  memcpy(reply.pod, self.pod.id, kIdSize);
  for (uint32_t i = 0; i < table.container_end; ++i) reply.containers += table.containers[i].state != State::kFree && table.containers[i].stage != Stage::kCreating;
  bool sent = Send(client->fd, Type::kReply, 0, request, &reply, sizeof reply, fds, count);
  for (size_t i = 0; i < count; ++i)
    if (fds[i] != self.pod.shm) close(fds[i]);
  if (sent) {
    client->events = true;
  } else {
    Drop(client);
  }
  return sent;
}

void RunMonitor(const Pod& pod, const MonitorFds& fds, uint64_t request) {
  self.pod = pod;
  self.state_dir = fds.state_dir;
  self.listener = fds.listener;
  self.ending_client = -1;
  for (Client& client : self.clients) client = Client();

  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  self.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  self.epoll = epoll_create1(EPOLL_CLOEXEC);
  fcntl(fds.client, F_SETFL, O_NONBLOCK);
  fcntl(fds.listener, F_SETFL, O_NONBLOCK);
  Client* first = &self.clients[0];
  first->fd = fds.client;
  bool good = self.signals >= 0 && self.epoll >= 0 && listen(self.listener, 16) == 0 &&
              Watch(self.signals, Source::kSignals, 0) && Watch(self.listener, Source::kListener, 0) &&
              Watch(first->fd, Source::kClient, 0);
  if (!good) {
    Refuse(first, request, Status::kSystem, errno, "set up the monitor");
    _exit(1);
  }
  if (!SendHello(first, request, kMinor)) _exit(1);

  while (true) {
    epoll_event events[32];
    int count = epoll_wait(self.epoll, events, 32, Timers());
    for (int i = 0; i < count; ++i) {
      uint32_t index = static_cast<uint32_t>(events[i].data.u64);
      switch (static_cast<Source>(events[i].data.u64 >> 32)) {
        case Source::kSignals: Reap(); break;
        case Source::kListener: Accept(); break;
        case Source::kClient: ServeClient(&self.clients[index]); break;
        case Source::kOutput: {
          Container* c = &table.containers[index / 2];
          if (c->state != State::kFree) ReadOutput(c, &c->outputs[index % 2]);
          break;
        }
        case Source::kCreation: ContinueCreation(&table.containers[index]); break;
        case Source::kExec: ContinueExec(&table.execs[index]); break;
        case Source::kStdin: StdinWritable(&table.containers[index]); break;
        case Source::kAttachIn: AttachReadable(&table.attaches[index]); break;
        case Source::kAttachOut: AttachWritable(&table.attaches[index / 2], index % 2, events[i].events); break;
      }
    }
  }
}

}  // namespace berth::shim
