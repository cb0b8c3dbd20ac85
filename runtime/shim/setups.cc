// Processes on their way to execve. The child does the work, which may hang on a filesystem or in a frozen cgroup; the
// monitor takes its messages as they come.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"
#include "runtime/init/plan.h"
#include "runtime/shim/monitor_state.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

namespace berth::shim {
namespace {

Setup SetupOf(const Request& r) {
  return {static_cast<uint32_t>(r.client - self.clients), r.client->generation, r.id,
          static_cast<int64_t>(r.message->header.expires)};
}

// Nobody's place when the client has gone: answers to it go nowhere.
Client* Asker(const Setup& setup) {
  static Client nobody;
  Client* client = &self.clients[setup.client];
  return client->generation == setup.generation ? client : &nobody;
}

void Enter(Stage* stage, Stage next) {
  *stage = next;
  ++table.setups;
}
void Leave(Stage* stage) {
  *stage = Stage::kSettled;
  --table.setups;
}

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

// Kills a child that is not to go on; it is reaped when it has died.
void Discard(pid_t pid, int pidfd) {
  init::PidfdSignal(pidfd, SIGKILL);
  if (self.discarded_count < sizeof self.discarded / sizeof self.discarded[0]) self.discarded[self.discarded_count++] = pid;
}

size_t FactCount(const ContainerPolicy& policy) {
  return static_cast<size_t>(__builtin_popcount(policy.fact_fds & (kFactMemory | kFactCpu | kFactPids | kFactUnified)));
}

// False: refused.
bool CheckPolicy(const Request& r, ContainerPolicy* policy, bool has_log, bool has_dir) {
  policy->log_name[sizeof policy->log_name - 1] = '\0';
  if (policy->log_bytes == 0 || (has_log && has_dir && policy->log_files != 0 && policy->log_name[0] != '\0' &&
                                 strchr(policy->log_name, '/') == nullptr && strlen(policy->log_name) <= 240))
    return true;
  Refuse(r.client, r.id, Status::kInvalid, 0,
         "a log that is rotated needs its directory, a name of at most 240 characters and a number of files");
  return false;
}

// Takes the log's directory, when there is one, and the cgroup's, beginning with descriptor `at`.
void SetPolicy(Container* c, const ContainerPolicy& policy, uint32_t flags, Message* message, size_t at) {
  c->policed = true;
  c->stdin_once = (flags & kStdinOnce) != 0 && !c->tty;
  bool json = policy.log_format == LogFormat::kJson;
  for (Output& o : c->outputs) o.stream.json = json;
  c->outputs[0].stream.terminal = c->tty && !json;
  int dir = flags & kHasLogDir ? message->TakeFd(at++) : -1;
  if (policy.log_bytes != 0) {
    c->log.Rotate(dir, policy.log_name, policy.log_bytes, policy.log_files);
  } else {
    CloseFd(&dir);
  }
  c->gate.Set(policy.log_mode, policy.log_rate);
  if (policy.fact_fds & kFactUnified) {
    c->memory = c->cpu = c->pids = message->TakeFd(at);
    return;
  }
  if (policy.fact_fds & kFactMemory) c->memory = message->TakeFd(at++);
  if (policy.fact_fds & kFactCpu) c->cpu = message->TakeFd(at++);
  if (policy.fact_fds & kFactPids) c->pids = message->TakeFd(at++);
}

void FailCreation(Container* c, const ErrorReply& error) {
  Client* asker = Asker(c->setup);
  uint64_t request = c->setup.request;
  Unwatch(c->sync);
  Discard(c->pid, c->pidfd);
  Leave(&c->stage);
  Forget(c);
  Refuse(asker, request, error);
}

void Created(Container* c) {
  Unwatch(c->sync);
  Leave(&c->stage);
  WatchOutputs(c);
  PidReply reply;
  reply.pid = c->pid;
  Answer(Asker(c->setup), c->setup.request, &reply, sizeof reply);
}

void Started(Container* c, bool worked, const init::Failure& failure) {
  Unwatch(c->sync);
  CloseFd(&c->sync);
  Leave(&c->stage);
  if (!worked) {
    c->started_at = 0;
    c->start_failed = true;
    init::PidfdSignal(c->pidfd, SIGKILL);
    return Refuse(Asker(c->setup), c->setup.request, failure);
  }
  c->state = State::kRunning;
  StartReply reply;
  reply.started_at = c->started_at;
  Answer(Asker(c->setup), c->setup.request, &reply, sizeof reply);
}

void ForgetExec(Exec* exec) {
  CloseFd(&exec->sync);
  CloseFd(&exec->terminal);
  CloseFd(&exec->slave);
  CloseFd(&exec->exit);
  CloseFd(&exec->pidfd);
  table.Free(exec);
}

void FailExec(Exec* exec, const ErrorReply& error) {
  Setup setup = exec->setup;
  Unwatch(exec->sync);
  Discard(exec->pid, exec->pidfd);
  Leave(&exec->stage);
  ForgetExec(exec);
  Refuse(Asker(setup), setup.request, error);
}

void ExecStarted(Exec* exec) {
  Unwatch(exec->sync);
  CloseFd(&exec->sync);
  Leave(&exec->stage);
  HoldSlave(exec, exec->terminal);
  ExecReply reply;
  reply.exec = exec->id;
  reply.pid = exec->pid;
  Answer(Asker(exec->setup), exec->setup.request, &reply, sizeof reply, &exec->terminal, exec->terminal >= 0 ? 1 : 0);
  CloseFd(&exec->terminal);  // the agent's alone: when it goes, the terminal hangs up
}

}  // namespace

bool MakeStdio(Container* c, uint32_t flags, init::Stdio* stdio) {
  int out[2] = {-1, -1}, err[2] = {-1, -1}, in[2] = {-1, -1};
  bool good = pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0 && (!(flags & kKeepStdin) || pipe2(in, O_CLOEXEC) == 0);
  c->outputs[0].fd = out[0];
  c->outputs[1].fd = err[0];
  c->stdin_fd = in[1];
  *stdio = {in[0], out[1], err[1]};
  for (Output& o : c->outputs)
    if (good) good = fcntl(o.fd, F_SETFL, O_NONBLOCK) == 0;
  if (good && c->stdin_fd >= 0) good = fcntl(c->stdin_fd, F_SETFL, O_NONBLOCK) == 0;
  return good;
}

void CloseStdio(init::Stdio* stdio) {
  int error = errno;
  CloseFd(&stdio->in);
  CloseFd(&stdio->out);
  CloseFd(&stdio->err);
  errno = error;
}

void TakeTerminal(Container* c, int master) {
  c->terminal = c->outputs[0].fd = master;
  fcntl(master, F_SETFL, O_NONBLOCK);
  if (c->keep_stdin) c->stdin_fd = fcntl(master, F_DUPFD_CLOEXEC, 0);
}

void HoldSlave(Exec* exec, int master) {
  if (master >= 0) exec->slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

void Create(const Request& r) {
  auto create = r.message->As<CreateRequest>();
  if (!ValidId(create.id)) return Refuse(r.client, r.id, Status::kInvalid, 0, "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -");
  if (self.ending) return Refuse(r.client, r.id, Status::kState, 0, "the pod is being stopped");
  if (table.Find(create.id) != nullptr) return Refuse(r.client, r.id, Status::kExists, 0, "container exists: ", create.id);
  // Plan, log, what the policy brings, then the plan's.
  const bool has_log = (create.flags & kHasLog) != 0, has_dir = (create.flags & kHasLogDir) != 0;
  const size_t policy_fds = has_log ? 2 : 1, plan_fds = policy_fds + has_dir + FactCount(create.policy);
  if (create.plan_fds > kMaxFds || r.message->fd_count != plan_fds + create.plan_fds)
    return Refuse(r.client, r.id, Status::kInvalid, 0, "create: the number of descriptors is not the one that is given");
  if (!CheckPolicy(r, &create.policy, has_log, has_dir)) return;

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
    made = init::Begin(plan, create.plan_size, r.message->fds + plan_fds, create.plan_fds, stdio, options, &process, &failure);
    if (!made) Refuse(r.client, r.id, failure);
  }
  CloseStdio(&stdio);
  munmap(const_cast<void*>(plan), create.plan_size);
  if (!made) return Forget(c);

  c->state = State::kCreated;
  c->pid = process.pid;
  c->pidfd = process.pidfd;
  c->sync = process.sync;
  c->guided = process.guided;
  c->keep_stdin = (create.flags & kKeepStdin) != 0;
  c->tty = (create.flags & kTty) != 0;
  c->outputs[1].stream.error = true;
  c->log.Open(has_log ? r.message->TakeFd(1) : LogFile::kNone);
  SetPolicy(c, create.policy, create.flags, r.message, policy_fds);
  c->setup = SetupOf(r);
  Enter(&c->stage, Stage::kCreating);
  if (Watch(c->sync, Source::kCreation, table.Place(c))) return;
  ErrorReply error;
  Fail(&error, Status::kSystem, errno, "watch the container's process");
  FailCreation(c, error);
}

void ChangePolicy(const Request& r) {
  auto request = r.message->As<PolicyRequest>();
  Container* c = Lookup(r, request.id);
  if (c == nullptr) return;
  const bool has_dir = (request.flags & kHasLogDir) != 0;
  if (r.message->fd_count != has_dir + FactCount(request.policy))
    return Refuse(r.client, r.id, Status::kInvalid, 0, "policy: the number of descriptors is not the one that is given");
  if (c->policed) return Refuse(r.client, r.id, Status::kState, 0, "container has its policy already: ", c->id);
  if (!CheckPolicy(r, &request.policy, true, has_dir)) return;
  SetPolicy(c, request.policy, request.flags, r.message, 0);
  Answer(r.client, r.id, nullptr, 0);
}

void ContinueCreation(Container* c, bool ended) {
  init::Failure failure;
  while (c->state != State::kFree && c->stage != Stage::kSettled) {
    init::Process process;
    process.pid = c->pid;
    process.pidfd = c->pidfd;
    process.sync = c->sync;
    process.released = c->stage == Stage::kStarting;
    process.guided = c->guided;
    init::Progress progress = init::Continue(&process, false, &failure);
    if (process.pid != c->pid) {  // a helper has named the container's process, and was what ended
      ended = false;
      c->pid = process.pid;
      c->pidfd = process.pidfd;
      c->guided = process.guided;
      continue;
    }
    if (process.terminal >= 0) {
      TakeTerminal(c, process.terminal);
      continue;
    }
    switch (progress) {
      case init::Progress::kMore:
        if (process.warnings[0] != '\0') continue;
        if (!ended) return;
        // A hook's descendant holds the socket open. The exit code says how the program fared, if it was run at all.
        if (c->stage == Stage::kStarting) return Started(c, true, failure);
        init::Describe(&failure, 0, "the process ended while it was set up");
        break;
      case init::Progress::kReady: return Created(c);
      case init::Progress::kStarted: return Started(c, true, failure);
      case init::Progress::kFailed: break;
    }
    if (c->stage == Stage::kStarting) return Started(c, false, failure);
    ErrorReply error;
    Fail(&error, failure);
    return FailCreation(c, error);
  }
}

void Start(const Request& r) {
  Container* c = Lookup(r, r.message->As<ContainerRequest>().id);
  if (c == nullptr) return;
  if (c->foreign) return Refuse(r.client, r.id, Status::kState, 0, "container belongs to another runtime: ", c->id);
  if (c->state != State::kCreated || c->dead || c->stage != Stage::kSettled || c->sync < 0)
    return Refuse(r.client, r.id, Status::kState, 0, "container is not in state created: ", c->id);
  init::Process process;
  process.sync = c->sync;
  init::Failure failure;
  c->started_at = Unix();
  c->setup = SetupOf(r);
  Enter(&c->stage, Stage::kStarting);
  if (!init::Release(&process, &failure) || !Watch(c->sync, Source::kCreation, table.Place(c))) Started(c, false, failure);
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
  bool made = init::Begin(plan, request.plan_size, r.message->fds + first, request.plan_fds, stdio, options, &process, &failure);
  munmap(const_cast<void*>(plan), request.plan_size);
  if (!made) {
    table.Free(exec);
    return Refuse(r.client, r.id, failure);
  }
  exec->pid = process.pid;
  exec->pidfd = process.pidfd;
  exec->sync = process.sync;
  exec->guided = process.guided;
  exec->exit = r.message->TakeFd(1);
  exec->container = table.Place(c);
  fcntl(exec->exit, F_SETFL, O_NONBLOCK);
  exec->setup = SetupOf(r);
  Enter(&exec->stage, Stage::kCreating);
  if (Watch(exec->sync, Source::kExec, table.Place(exec))) return;
  ErrorReply error;
  Fail(&error, Status::kSystem, errno, "watch the exec's process");
  FailExec(exec, error);
}

void ContinueExec(Exec* exec, bool ended) {
  while (exec->id != 0 && exec->stage != Stage::kSettled) {
    init::Process process;
    init::Failure failure;
    process.pid = exec->pid;
    process.pidfd = exec->pidfd;
    process.sync = exec->sync;
    process.terminal = exec->terminal;
    process.released = exec->stage == Stage::kStarting;
    process.guided = exec->guided;
    init::Progress progress = init::Continue(&process, false, &failure);
    if (process.pid != exec->pid) {
      ended = false;
      exec->pid = process.pid;
      exec->pidfd = process.pidfd;
      exec->guided = process.guided;
      continue;
    }
    bool more = process.terminal != exec->terminal || process.warnings[0] != '\0';
    exec->terminal = process.terminal;
    if (progress == init::Progress::kReady) {
      exec->stage = Stage::kStarting;
      if (init::Release(&process, &failure)) continue;
      progress = init::Progress::kFailed;
    }
    if (progress == init::Progress::kMore) {
      if (more) continue;
      if (!ended) return;
      init::Describe(&failure, 0, "the process ended while it was set up");
    }
    if (progress == init::Progress::kStarted) return ExecStarted(exec);
    ErrorReply error;
    Fail(&error, failure);
    return FailExec(exec, error);
  }
}

void Cancel(Container* c, Status status, const char* why) {
  ErrorReply error;
  Fail(&error, status, 0, why, c->id);
  FailCreation(c, error);
}

int64_t NextExpiry() {
  if (table.setups == 0) return 0;
  int64_t next = 0;
  auto see = [&](Stage stage, const Setup& setup) {
    if (stage != Stage::kSettled && setup.expires != 0 && (next == 0 || setup.expires < next)) next = setup.expires;
  };
  for (uint32_t i = 0; i < table.container_end; ++i)
    if (table.containers[i].state != State::kFree) see(table.containers[i].stage, table.containers[i].setup);
  for (uint32_t i = 0; i < table.exec_end; ++i)
    if (table.execs[i].id != 0) see(table.execs[i].stage, table.execs[i].setup);
  return next;
}

// Nobody waits for them any more. A start cannot be taken back: the container has it and may still run.
void ExpireSetups(int64_t now) {
  constexpr char kWhy[] = "it was not ready when the request expired: ";
  for (uint32_t i = 0; i < table.container_end; ++i) {
    Container* c = &table.containers[i];
    if (c->state == State::kFree || c->stage == Stage::kSettled || c->setup.expires == 0 || now < c->setup.expires) continue;
    if (c->stage == Stage::kCreating) {
      Cancel(c, Status::kExpired, kWhy);
    } else {
      Refuse(Asker(c->setup), c->setup.request, Status::kExpired, 0, kWhy, c->id);
      c->setup = Setup();
      c->setup.client = kMaxClients - 1;
      c->setup.generation = ~0U;
    }
  }
  for (uint32_t i = 0; i < table.exec_end; ++i) {
    Exec* exec = &table.execs[i];
    if (exec->id == 0 || exec->stage == Stage::kSettled || exec->setup.expires == 0 || now < exec->setup.expires) continue;
    ErrorReply error;
    Fail(&error, Status::kExpired, 0, kWhy, "exec");
    FailExec(exec, error);
  }
}

}  // namespace berth::shim
