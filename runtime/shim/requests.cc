#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "runtime/init/kernel.h"
#include "runtime/shim/exit_record.h"
#include "runtime/shim/monitor_state.h"

namespace berth::shim {

Container* Lookup(const Request& r, const char (&id)[kIdSize], bool unfinished) {
  if (!ValidId(id)) {
    Refuse(r.client, r.id, Status::kInvalid, 0, "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -");
    return nullptr;
  }
  Container* c = table.Find(id);
  if (c == nullptr) {
    Refuse(r.client, r.id, Status::kNotFound, 0, "no such container: ", id);
  } else if (c->stage == Stage::kCreating && !unfinished) {
    Refuse(r.client, r.id, Status::kState, 0, "container is being created: ", id);
    return nullptr;
  }
  return c;
}

// Closes everything of a container that is dead or was never made.
void Forget(Container* c) {
  EndAttaches(c, true);
  CloseStdin(c);
  for (Output& o : c->outputs) {
    if (o.watched) Unwatch(o.fd);
    o.watched = false;
    CloseFd(&o.fd);
    self.pool.Give(o.stream.hold);
    o.stream.hold = nullptr;
  }
  c->log.Close(self.pool);
  CloseFd(&c->pidfd);
  CloseFd(&c->sync);
  if (c->cpu == c->memory) c->cpu = -1;
  if (c->pids == c->memory) c->pids = -1;
  CloseFd(&c->memory);
  CloseFd(&c->cpu);
  CloseFd(&c->pids);
  table.Free(c);
}

namespace {

void Hello(const Request& r) {
  auto hello = r.message->As<HelloRequest>();
  if (hello.oldest_major > kMajor || hello.newest_major < kMajor) {
    Refuse(r.client, r.id, Status::kUnimplemented, 0, "this monitor speaks protocol version 1 only");
    return;
  }
  SendHello(r.client, r.id, hello.minor);
}

void List(const Request& r) {
  constexpr size_t kPerPart = (kMaxMessage - sizeof(Header)) / sizeof(ContainerEntry);
  static ContainerEntry entries[kPerPart];
  uint32_t i = 0;
  bool more = true;
  while (more && r.client->fd >= 0) {
    size_t count = 0;
    for (; i < table.container_end && count < kPerPart; ++i) {
      const Container& c = table.containers[i];
      if (c.state == State::kFree || c.stage == Stage::kCreating) continue;
      ContainerEntry& e = entries[count++];
      e = ContainerEntry();
      memcpy(e.id, c.id, kIdSize);
      e.state = c.state;
      e.pid = c.dead ? -1 : c.pid;
      e.started_at = c.started_at;
      if (c.state != State::kExited) continue;
      e.exit_code = c.exit_code;
      e.finished_at = c.finished_at;
    }
    more = i < table.container_end;
    if (!Send(r.client->fd, Type::kReply, more ? kMore : 0, r.id, entries, count * sizeof(ContainerEntry))) Drop(r.client);
  }
}

void Signal(const Request& r) {
  auto signal = r.message->As<SignalRequest>();
  Container* c = Lookup(r, signal.id);
  if (c == nullptr) return;
  if (signal.signal < 0 || signal.signal > 64) return Refuse(r.client, r.id, Status::kInvalid, 0, "signal: must be 0 to 64");
  if (c->pid < 0) return Refuse(r.client, r.id, Status::kState, 0, "container is being created: ", c->id);
  if (!c->dead && !c->early && init::PidfdSignal(c->pidfd, signal.signal) < 0 && errno != ESRCH)
    return Refuse(r.client, r.id, Status::kSystem, errno, "signal container ", c->id);
  Answer(r.client, r.id, nullptr, 0);
}

void Delete(const Request& r) {
  auto request = r.message->As<ContainerRequest>();
  Container* c = Lookup(r, request.id, true);
  if (c == nullptr) return;
  if (c->stage == Stage::kCreating) {
    Cancel(c, Status::kState, "container was deleted while it was created: ");
    return Answer(r.client, r.id, nullptr, 0);
  }
  if (c->busy) return AbandonForeign(r, c);
  if ((c->state == State::kRunning || c->stage == Stage::kStarting) && !c->dead)
    return Refuse(r.client, r.id, Status::kState, 0, "container is running: ", c->id);
  if (!c->dead) {
    init::PidfdSignal(c->pidfd, SIGKILL);
    siginfo_t info;
    while (waitid(P_PIDFD, static_cast<id_t>(c->pidfd), &info, WEXITED) < 0 && errno == EINTR) {
    }
  }
  RemoveExitRecord(self.state_dir, c->id);
  Forget(c);
  Answer(r.client, r.id, nullptr, 0);
}

void SignalExec(const Request& r) {
  auto request = r.message->As<SignalExecRequest>();
  if (request.signal < 0 || request.signal > 64) return Refuse(r.client, r.id, Status::kInvalid, 0, "signal: must be 0 to 64");
  Exec* exec = request.exec == 0 ? nullptr : table.FindExec(request.exec);
  if (exec != nullptr && init::PidfdSignal(exec->pidfd, request.signal) < 0 && errno != ESRCH)
    return Refuse(r.client, r.id, Status::kSystem, errno, "signal exec");
  Answer(r.client, r.id, nullptr, 0);
}

void ReopenLog(const Request& r) {
  Container* c = Lookup(r, r.message->As<ContainerRequest>().id);
  if (c == nullptr) return;
  int fd = r.message->TakeFd(0);
  if (fd < 0) return Refuse(r.client, r.id, Status::kInvalid, 0, "reopen: the new log file is missing");
  c->log.Reopen(fd);
  RetryAt(Monotonic());  // what the old disk refused may fit now
  Answer(r.client, r.id, nullptr, 0);
}

void CloseInput(const Request& r) {
  Container* c = Lookup(r, r.message->As<ContainerRequest>().id);
  if (c == nullptr) return;
  CloseStdin(c);
  Answer(r.client, r.id, nullptr, 0);
}

void Resize(const Request& r) {
  auto request = r.message->As<ResizeRequest>();
  Container* c = Lookup(r, request.id);
  if (c == nullptr) return;
  if (c->terminal < 0) return Refuse(r.client, r.id, Status::kState, 0, "container has no terminal: ", c->id);
  winsize size{request.rows, request.columns, 0, 0};
  if (ioctl(c->terminal, TIOCSWINSZ, &size) < 0) return Refuse(r.client, r.id, Status::kSystem, errno, "resize the terminal of ", c->id);
  Answer(r.client, r.id, nullptr, 0);
}

void ResizeExec(const Request& r) {
  auto request = r.message->As<ResizeExecRequest>();
  Exec* exec = request.exec == 0 ? nullptr : table.FindExec(request.exec);
  if (exec == nullptr) return Answer(r.client, r.id, nullptr, 0);
  if (exec->slave < 0) return Refuse(r.client, r.id, Status::kState, 0, "exec has no terminal");
  winsize size{request.rows, request.columns, 0, 0};
  if (ioctl(exec->slave, TIOCSWINSZ, &size) < 0 && errno != EIO) return Refuse(r.client, r.id, Status::kSystem, errno, "resize the terminal of an exec");
  Answer(r.client, r.id, nullptr, 0);
}

void Shm(const Request& r) {
  int fd = CloneShm(self.pod);
  if (fd < 0) return Refuse(r.client, r.id, Status::kSystem, errno, "clone the pod's /dev/shm");
  Answer(r.client, r.id, nullptr, 0, &fd, 1);
  close(fd);
}

void Socket(const Request& r) {
  const int family = r.message->As<SocketRequest>().family;
  if (family != AF_INET && family != AF_INET6) return Refuse(r.client, r.id, Status::kInvalid, 0, "a socket of another family than IPv4 or IPv6");
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Refuse(r.client, r.id, Status::kSystem, errno, "make a socket in the pod's network");
  Answer(r.client, r.id, nullptr, 0, &fd, 1);
  close(fd);
}

void Shutdown(const Request& r) {
  self.ending = true;
  self.ending_client = static_cast<int>(r.client - self.clients);
  self.ending_request = r.id;
  for (uint32_t i = 0; i < table.exec_end; ++i)
    if (table.execs[i].id != 0) init::PidfdSignal(table.execs[i].pidfd, SIGKILL);
  for (uint32_t i = 0; i < table.container_end; ++i)
    if (table.containers[i].state != State::kFree && !table.containers[i].dead)
      init::PidfdSignal(table.containers[i].pidfd, SIGKILL);
  if (self.pod.init > 0) init::PidfdSignal(self.pod.init_pidfd, SIGKILL);
  KillForeign();
  if (!AnyAlive()) End();
}

}  // namespace

void Serve(const Request& r) {
  const Header& h = r.message->header;
  if (h.expires != 0 && Monotonic() > static_cast<int64_t>(h.expires))
    return Refuse(r.client, r.id, Status::kExpired, 0, "the request came to its turn after its deadline");
  switch (h.type) {
    case Type::kHello: return Hello(r);
    case Type::kList: return List(r);
    case Type::kCreate: return Create(r);
    case Type::kStart: return Start(r);
    case Type::kSignal: return Signal(r);
    case Type::kDelete: return Delete(r);
    case Type::kExec: return StartExec(r);
    case Type::kSignalExec: return SignalExec(r);
    case Type::kReopenLog: return ReopenLog(r);
    case Type::kCloseStdin: return CloseInput(r);
    case Type::kResize: return Resize(r);
    case Type::kShm: return Shm(r);
    case Type::kShutdown: return Shutdown(r);
    case Type::kForeign: return StartForeign(r);
    case Type::kPolicy: return ChangePolicy(r);
    case Type::kFacts: return Facts(r);
    case Type::kAttach: return AttachClient(r);
    case Type::kDetach: return DetachClient(r);
    case Type::kResizeExec: return ResizeExec(r);
    case Type::kSocket: return Socket(r);
    default: return Refuse(r.client, r.id, Status::kUnimplemented, 0, "this monitor does not know the request");
  }
}

}  // namespace berth::shim
