#include "runtime/shim/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/init/executor.h"
#include "runtime/init/kernel.h"
#include "runtime/init/plan.h"
#include "runtime/shim/exit_record.h"
#include "runtime/shim/table.h"
#include "runtime/shim/wire.h"

namespace berth::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kRetryEvery = 100 * kMillisecond;       // a full disk is asked again
constexpr int64_t kExitPatience = 10'000 * kMillisecond;  // a full disk delays the news of an exit at most this long
constexpr int64_t kTrimAfter = 1'000 * kMillisecond;      // quiet for so long: buffers go back to the kernel
constexpr size_t kPage = 4096;

enum class Source : uint32_t { kSignals, kListener, kClient, kOutput };

struct Client {
  int fd = -1;
  bool events = false;  // said Hello
};

struct Monitor {
  Pod pod;
  int state_dir;
  int listener;
  int signals;
  int epoll;
  Client clients[kMaxClients];
  HoldPool pool;
  bool dirty;            // buffers were used since the last trim
  int waiting;           // containers that a timer must look at: full disk
  int64_t next_retry;
  int64_t trim_at;
  bool ending;           // Shutdown was asked
  int ending_client;
  uint64_t ending_request;
};

// All in .bss: a page that is not touched is not there. (Table's zero bytes mean "all free".)
alignas(kPage) char input[kInput + kPage];
alignas(kPage) char output[kOutput];
alignas(Table) char table_bytes[sizeof(Table)];
alignas(Monitor) char monitor_bytes[sizeof(Monitor)];
Table& table = *reinterpret_cast<Table*>(table_bytes);
Monitor& self = *reinterpret_cast<Monitor*>(monitor_bytes);

int64_t Clock(clockid_t which) {
  timespec now;
  clock_gettime(which, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}
int64_t Monotonic() { return Clock(CLOCK_MONOTONIC); }
int64_t Unix() { return Clock(CLOCK_REALTIME); }

void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

bool Watch(int fd, Source source, uint32_t index) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = static_cast<uint64_t>(source) << 32 | index;
  return epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}
void Unwatch(int fd) { epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, nullptr); }

// --- clients

void Drop(Client* client) {
  if (client->fd < 0) return;
  close(client->fd);
  *client = Client();
}

void Answer(Client* client, uint64_t request, const void* body, size_t size, const int* fds = nullptr, size_t count = 0) {
  if (client->fd >= 0 && !Send(client->fd, Type::kReply, 0, request, body, size, fds, count)) Drop(client);
}

void Refuse(Client* client, uint64_t request, const ErrorReply& error) {
  if (client->fd >= 0 && !Send(client->fd, Type::kError, 0, request, &error, sizeof error)) Drop(client);
}

void Refuse(Client* client, uint64_t request, Status status, int sys, const char* what, const char* subject = "") {
  ErrorReply error;
  Fail(&error, status, sys, what, subject);
  Refuse(client, request, error);
}

void Refuse(Client* client, uint64_t request, const init::Failure& failure) {
  ErrorReply error;
  error.status = failure.kind == 1   ? Status::kNoExecutable
                 : failure.kind == 2 ? Status::kNotExecutable
                                     : Status::kSystem;
  error.sys = failure.sys;
  static_assert(sizeof error.what >= sizeof failure.what);
  memcpy(error.what, failure.what, sizeof failure.what);
  Refuse(client, request, error);
}

bool SendHello(Client* client, uint64_t request) {
  HelloReply reply;
  int fds[8];
  size_t count = OpenHelloFds(self.pod, fds, &reply.fds);
  reply.pid = getpid();
  memcpy(reply.pod, self.pod.id, kIdSize);
  for (uint32_t i = 0; i < table.container_end; ++i) reply.containers += table.containers[i].state != State::kFree;
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

// --- output

void TouchBuffers() {
  self.dirty = true;
  self.trim_at = Monotonic() + kTrimAfter;
}

void WatchOutputs(Container* c) {
  uint32_t index = static_cast<uint32_t>(c - table.containers) * 2;
  for (uint32_t s = 0; s < 2; ++s) {
    Output& o = c->outputs[s];
    if (o.fd >= 0 && !o.watched) o.watched = Watch(o.fd, Source::kOutput, index + s);
  }
}

void UnwatchOutputs(Container* c) {
  for (Output& o : c->outputs) {
    if (o.watched) Unwatch(o.fd);
    o.watched = false;
  }
}

void WaitForDisk(Container* c) {
  UnwatchOutputs(c);
  self.next_retry = Monotonic() + kRetryEvery;
}

void EndOutput(Container* c, Output* o, const Stamp& stamp) {
  if (o->watched) Unwatch(o->fd);
  o->watched = false;
  o->drain = 0;
  if (o->fd == c->terminal) c->terminal = -1;
  CloseFd(&o->fd);
  if (!c->log.Flush(o->stream, self.pool, stamp, output)) WaitForDisk(c);
}

// One read. False: nothing more for now (empty, ended, or the log takes no more).
bool ReadOutput(Container* c, Output* o) {
  if (o->fd < 0 || c->log.stalled()) return false;
  ssize_t n;
  do n = read(o->fd, input, kInput);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return false;
  TouchBuffers();
  Stamp stamp;
  stamp.Set(Unix());
  if (n <= 0) {  // a pty master says EIO once no process has its terminal open
    EndOutput(c, o, stamp);
    return false;
  }
  size_t size = static_cast<size_t>(n);
  o->drain = o->drain > size ? o->drain - size : 0;
  if (c->log.Write(o->stream, self.pool, stamp, input, size, output)) return true;
  WaitForDisk(c);
  return false;
}

// --- exits

void TellExit(Container* c) {
  c->state = State::kExited;
  ExitEvent event;
  memcpy(event.id, c->id, kIdSize);
  event.exit_code = c->exit_code;
  event.finished_at = c->finished_at;
  for (Client& client : self.clients)
    if (client.fd >= 0 && client.events && !Send(client.fd, Type::kExit, 0, 0, &event, sizeof event)) Drop(&client);
}

// Output first, then the record, then the news. What a full disk holds up is tried again by the timer.
void FinishExit(Container* c) {
  bool late = Monotonic() >= c->give_up;
  if (!c->drained) {
    for (Output& o : c->outputs) {
      while (o.drain > 0 && ReadOutput(c, &o)) {
      }
      if (c->log.stalled()) continue;
      o.drain = 0;
      ReadOutput(c, &o);  // sees the end when no descendant holds it open
      Stamp stamp;
      stamp.Set(Unix());
      if (!c->log.stalled() && !c->log.Flush(o.stream, self.pool, stamp, output)) WaitForDisk(c);
    }
    c->drained = !c->log.stalled() && c->outputs[0].drain == 0 && c->outputs[1].drain == 0;
  }
  if ((c->drained || late) && !c->recorded) c->recorded = WriteExitRecord(self.state_dir, c->id, c->exit_code, c->finished_at);
  if (c->recorded || late) {
    if (c->state != State::kExited) TellExit(c);
  } else {
    self.next_retry = Monotonic() + kRetryEvery;
  }
}

void ContainerDied(Container* c, int status) {
  c->dead = true;
  c->finished_at = Unix();
  c->give_up = Monotonic() + kExitPatience;
  c->exit_code = c->start_failed      ? 128
                 : WIFEXITED(status)  ? WEXITSTATUS(status)
                                      : 128 + WTERMSIG(status);
  CloseFd(&c->pidfd);
  CloseFd(&c->sync);
  CloseFd(&c->stdin_fd);
  for (Output& o : c->outputs) {
    int waiting = 0;
    if (o.fd >= 0 && ioctl(o.fd, FIONREAD, &waiting) == 0 && waiting > 0) o.drain = static_cast<size_t>(waiting);
    // On a terminal some may not have come through the line discipline yet: read on until it says there is no more.
    if (o.fd >= 0 && o.fd == c->terminal) o.drain = 1 << 20;
  }
  FinishExit(c);
}

void ExecDied(Exec* exec, int status) {
  int32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (write(exec->exit, &code, sizeof code) < 0 && errno == EINTR) {
  }
  CloseFd(&exec->exit);
  CloseFd(&exec->pidfd);
  table.Free(exec);
}

bool AnyAlive() {
  if (table.exec_end > 0 || self.pod.init > 0) return true;
  for (uint32_t i = 0; i < table.container_end; ++i)
    if (table.containers[i].state != State::kFree && !table.containers[i].dead) return true;
  return false;
}

[[noreturn]] void End() {
  if (self.ending_client >= 0) Answer(&self.clients[self.ending_client], self.ending_request, nullptr, 0);
  _exit(0);
}

void Reap() {
  signalfd_siginfo info;
  while (read(self.signals, &info, sizeof info) == sizeof info) {
  }
  while (true) {
    int status = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) break;
    if (Container* c = table.ByPid(pid)) {
      ContainerDied(c, status);
    } else if (Exec* exec = table.ExecByPid(pid)) {
      ExecDied(exec, status);
    } else if (pid == self.pod.init) {
      self.pod.init = -1;
      CloseFd(&self.pod.init_pidfd);
    }  // else an orphan that came to us
  }
  if (self.ending && !AnyAlive()) End();
}

// --- requests

struct Request {
  Client* client;
  uint64_t id;
  Message* message;
};

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

Container* Lookup(const Request& r, const char (&id)[kIdSize]) {
  if (!ValidId(id)) {
    Refuse(r.client, r.id, Status::kInvalid, 0, "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -");
    return nullptr;
  }
  Container* c = table.Find(id);
  if (c == nullptr) Refuse(r.client, r.id, Status::kNotFound, 0, "no such container: ", id);
  return c;
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

// Closes everything of a container that is dead or was never made.
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
  if (!c->dead && init::PidfdSignal(c->pidfd, signal.signal) < 0 && errno != ESRCH)
    return Refuse(r.client, r.id, Status::kSystem, errno, "signal container ", c->id);
  Answer(r.client, r.id, nullptr, 0);
}

void Delete(const Request& r) {
  auto request = r.message->As<ContainerRequest>();
  Container* c = Lookup(r, request.id);
  if (c == nullptr) return;
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
  if (!AnyAlive()) End();
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
    default: return Refuse(r.client, r.id, Status::kUnimplemented, 0, "this monitor does not know the request");
  }
}

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

// --- time

// True while something waits for the disk.
bool RetryDisk() {
  bool waiting = false;
  Stamp stamp;
  stamp.Set(Unix());
  for (uint32_t i = 0; i < table.container_end; ++i) {
    Container* c = &table.containers[i];
    if (c->state == State::kFree) continue;
    if (c->log.stalled() && c->log.Retry(self.pool, stamp, output)) {
      TouchBuffers();
      for (Output& o : c->outputs)
        if (o.fd < 0 && !c->log.stalled()) c->log.Flush(o.stream, self.pool, stamp, output);
      if (!c->log.stalled()) WatchOutputs(c);
    }
    if (c->dead && (!c->recorded || !c->drained)) FinishExit(c);
    waiting = waiting || c->log.stalled() || (c->dead && !c->recorded);
  }
  return waiting;
}

void Trim() {
  // What is unfinished stays; the big buffers hold nothing between two rounds of the loop.
  madvise(input, sizeof input, MADV_DONTNEED);
  madvise(output, sizeof output, MADV_DONTNEED);
  self.pool.Trim();
  self.dirty = false;
}

int Timers() {
  int64_t now = Monotonic();
  if (self.next_retry != 0 && now >= self.next_retry) {
    self.next_retry = 0;
    if (RetryDisk()) self.next_retry = now + kRetryEvery;
  }
  if (self.dirty && now >= self.trim_at) Trim();
  int64_t next = self.next_retry;
  if (self.dirty && (next == 0 || self.trim_at < next)) next = self.trim_at;
  if (next == 0) return -1;
  return next <= now ? 0 : static_cast<int>((next - now) / kMillisecond) + 1;
}

}  // namespace

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
  if (!SendHello(first, request)) _exit(1);

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
      }
    }
  }
}

}  // namespace berth::shim
