#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "runtime/init/kernel.h"
#include "runtime/init/plan.h"
#include "runtime/shim/exit_record.h"
#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

bool MapPlan(const Request& r, int fd, uint64_t size, const void** at) {
  int seals = fcntl(fd, F_GET_SEALS);
  struct stat status;
  if (seals < 0 || (seals & (F_SEAL_WRITE | F_SEAL_SHRINK)) != (F_SEAL_WRITE | F_SEAL_SHRINK) || fstat(fd, &status) < 0 ||
      size == 0 || size > init::kPlanLimit || static_cast<uint64_t>(status.st_size) < size) {
    Refuse(r.client, r.id, Status::kInvalid, 0, "plan: must be a sealed memfd of the size that is given");
    return false;
  }
  void* map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) {
    Refuse(r.client, r.id, Status::kSystem, errno, "map the plan");
    return false;
  }
  *at = map;
  return true;
}

void Hello(const Request& r) {
  auto hello = r.message->As<HelloRequest>();
  if (hello.oldest_major > kMajor || hello.newest_major < kMajor) {
    Refuse(r.client, r.id, Status::kUnimplemented, 0, "this monitor speaks protocol version 1 only");
    return;
  }
  SendHello(r.client, r.id);
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
      if (c.state == State::kFree) continue;
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

void Create(const Request& r) {
  auto create = r.message->As<CreateRequest>();
  if (!ValidId(create.id)) return Refuse(r.client, r.id, Status::kInvalid, 0, "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -");
  if (self.ending) return Refuse(r.client, r.id, Status::kState, 0, "the pod is being stopped");
  if (table.Find(create.id) != nullptr) return Refuse(r.client, r.id, Status::kExists, 0, "container exists: ", create.id);
  size_t first = create.flags & kHasLog ? 2 : 1;
  if (create.plan_fds > kMaxFds || r.message->fd_count != first + create.plan_fds)
    return Refuse(r.client, r.id, Status::kInvalid, 0, "create: the number of descriptors is not the one that is given");

  init::Options options;
  if (create.flags & kJoinPodPid) {
    if (self.pod.init_pidfd < 0) return Refuse(r.client, r.id, Status::kState, 0, "the pod has no PID namespace of its own");
    options.pid_namespace = self.pod.init_pidfd;
  } else if (create.flags & kJoinTargetPid) {
    Container* target = Lookup(r, create.target);
    if (target == nullptr) return;
    if (target->dead) return Refuse(r.client, r.id, Status::kState, 0, "target container does not run: ", target->id);
    options.pid_namespace = target->pidfd;
  }
  Container* c = table.NewContainer();
  if (c == nullptr) return Refuse(r.client, r.id, Status::kFull, 0, "the pod has too many containers; delete exited ones");
  const void* plan = nullptr;
  if (!MapPlan(r, r.message->fds[0], create.plan_size, &plan)) return;

  init::Stdio stdio;
  init::Process process;
  init::Failure failure;
  memcpy(c->id, create.id, kIdSize);
  bool made = (create.flags & kTty) || MakeStdio(c, create.flags, &stdio);
  if (!made) {
    Refuse(r.client, r.id, Status::kSystem, errno, "make pipes for the output");
  } else {
    made = init::Create(plan, create.plan_size, r.message->fds + first, create.plan_fds, stdio, options, &process, &failure);
    if (!made) Refuse(r.client, r.id, failure);
  }
  CloseStdio(&stdio);
  munmap(const_cast<void*>(plan), create.plan_size);
  if (!made) return Forget(c);

  c->state = State::kCreated;
  c->pid = process.pid;
  c->pidfd = process.pidfd;
  c->sync = process.sync;
  if (create.flags & kTty) {
    c->terminal = c->outputs[0].fd = process.terminal;
    c->outputs[0].stream.terminal = true;
    fcntl(process.terminal, F_SETFL, O_NONBLOCK);
  }
  c->outputs[1].stream.error = true;
  c->log.Open(create.flags & kHasLog ? r.message->TakeFd(1) : LogFile::kNone);
  WatchOutputs(c);
  PidReply reply;
  reply.pid = c->pid;
  Answer(r.client, r.id, &reply, sizeof reply);
}

void Start(const Request& r) {
  Container* c = Lookup(r, r.message->As<ContainerRequest>().id);
  if (c == nullptr) return;
  if (c->foreign) return Refuse(r.client, r.id, Status::kState, 0, "container belongs to another runtime: ", c->id);
  if (c->state != State::kCreated || c->dead) return Refuse(r.client, r.id, Status::kState, 0, "container is not in state created: ", c->id);
  init::Process process;
  process.pid = c->pid;
  process.pidfd = c->pidfd;
  process.sync = c->sync;
  init::Failure failure;
  c->started_at = Unix();
  bool started = init::Start(&process, &failure);
  c->sync = process.sync;
  CloseFd(&c->sync);
  if (!started) {
    c->started_at = 0;
    c->start_failed = true;
    init::PidfdSignal(c->pidfd, SIGKILL);
    return Refuse(r.client, r.id, failure);
  }
  c->state = State::kRunning;
  StartReply reply;
  reply.started_at = c->started_at;
  Answer(r.client, r.id, &reply, sizeof reply);
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
  Container* c = Lookup(r, request.id);
  if (c == nullptr) return;
  if (c->busy) return AbandonForeign(r, c);
  if (c->state == State::kRunning && !c->dead) return Refuse(r.client, r.id, Status::kState, 0, "container is running: ", c->id);
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

void StartExec(const Request& r) {
  auto request = r.message->As<ExecRequest>();
  Container* c = Lookup(r, request.container);
  if (c == nullptr) return;
  if (c->state != State::kRunning || c->dead) return Refuse(r.client, r.id, Status::kState, 0, "container is not running: ", c->id);
  if (c->foreign) return Refuse(r.client, r.id, Status::kState, 0, "container belongs to another runtime: ", c->id);
  size_t first = 2;
  init::Stdio stdio;
  int* streams[] = {&stdio.in, &stdio.out, &stdio.err};
  for (uint32_t i = 0; i < 3; ++i)
    if (request.flags & (kIn << i)) *streams[i] = first < r.message->fd_count ? r.message->fds[first++] : -1;
  if (request.plan_fds > kMaxFds || r.message->fd_count != first + request.plan_fds)
    return Refuse(r.client, r.id, Status::kInvalid, 0, "exec: the number of descriptors is not the one that is given");
  Exec* exec = table.NewExec();
  if (exec == nullptr) return Refuse(r.client, r.id, Status::kFull, 0, "too many execs run in the pod");
  const void* plan = nullptr;
  if (!MapPlan(r, r.message->fds[0], request.plan_size, &plan)) return table.Free(exec);
  init::Options options;
  options.target = c->pidfd;
  init::Process process;
  init::Failure failure;
  bool made = init::Exec(plan, request.plan_size, r.message->fds + first, request.plan_fds, stdio, options, &process, &failure);
  munmap(const_cast<void*>(plan), request.plan_size);
  if (!made) {
    table.Free(exec);
    return Refuse(r.client, r.id, failure);
  }
  CloseFd(&process.sync);
  exec->pid = process.pid;
  exec->pidfd = process.pidfd;
  exec->exit = r.message->TakeFd(1);
  fcntl(exec->exit, F_SETFL, O_NONBLOCK);
  ExecReply reply;
  reply.exec = exec->id;
  reply.pid = exec->pid;
  Answer(r.client, r.id, &reply, sizeof reply, &process.terminal, process.terminal >= 0 ? 1 : 0);
  CloseFd(&process.terminal);  // the agent's alone: when it goes, the terminal hangs up
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
  self.next_retry = Monotonic();  // what the old disk refused may fit now
  Answer(r.client, r.id, nullptr, 0);
}

void CloseStdin(const Request& r) {
  Container* c = Lookup(r, r.message->As<ContainerRequest>().id);
  if (c == nullptr) return;
  CloseFd(&c->stdin_fd);
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

void Shm(const Request& r) {
  int fd = CloneShm(self.pod);
  if (fd < 0) return Refuse(r.client, r.id, Status::kSystem, errno, "clone the pod's /dev/shm");
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

Container* Lookup(const Request& r, const char (&id)[kIdSize]) {
  if (!ValidId(id)) {
    Refuse(r.client, r.id, Status::kInvalid, 0, "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -");
    return nullptr;
  }
  Container* c = table.Find(id);
  if (c == nullptr) Refuse(r.client, r.id, Status::kNotFound, 0, "no such container: ", id);
  return c;
}

// Pipes for what is not a terminal. stdio.in/out/err are the container's ends.
bool MakeStdio(Container* c, uint32_t flags, init::Stdio* stdio) {
  int out[2] = {-1, -1}, err[2] = {-1, -1}, in[2] = {-1, -1};
  bool good = pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0 && (!(flags & kKeepStdin) || pipe2(in, O_CLOEXEC) == 0);
  c->outputs[0].fd = out[0];
  c->outputs[1].fd = err[0];
  c->stdin_fd = in[1];
  *stdio = {in[0], out[1], err[1]};
  for (Output& o : c->outputs)
    if (good) good = fcntl(o.fd, F_SETFL, O_NONBLOCK) == 0;
  return good;
}

void CloseStdio(init::Stdio* stdio) {
  int error = errno;
  CloseFd(&stdio->in);
  CloseFd(&stdio->out);
  CloseFd(&stdio->err);
  errno = error;
}

void Forget(Container* c) {
  UnwatchOutputs(c);
  for (Output& o : c->outputs) {
    CloseFd(&o.fd);
    self.pool.Give(o.stream.hold);
    o.stream.hold = nullptr;
  }
  c->log.Close(self.pool);
  CloseFd(&c->pidfd);
  CloseFd(&c->sync);
  CloseFd(&c->stdin_fd);
  table.Free(c);
}

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
    case Type::kCloseStdin: return CloseStdin(r);
    case Type::kResize: return Resize(r);
    case Type::kShm: return Shm(r);
    case Type::kShutdown: return Shutdown(r);
    case Type::kForeign: return StartForeign(r);
    default: return Refuse(r.client, r.id, Status::kUnimplemented, 0, "this monitor does not know the request");
  }
}

}  // namespace berth::shim
