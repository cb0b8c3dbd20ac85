// Containers that another OCI runtime makes: protocol.h, ForeignRequest.
//
// A command is a child like any other. Its container's process is a grandchild, which the kernel hands to us when the
// command ends, perhaps already dead. So that none is reaped before its number has been read from the pid file, nothing
// unknown is reaped while commands are at work: it stays a zombie, which also keeps its number from being used again.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "runtime/init/kernel.h"
#include "runtime/init/text.h"
#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kAdoptTime = 5'000 * kMillisecond;  // for what stands between us and the process to end
constexpr int64_t kAdoptEvery = 2 * kMillisecond;
constexpr const char kLog[] = "monitor.log";  // in the bundle: why a command could not be run

enum class Step : uint8_t { kFree = 0, kRunning, kAdopting };

struct Command {
  Step phase;
  Verb verb;
  bool abandoned;  // its container is to be deleted: `delete_*` waits for that
  pid_t pid;       // of the command
  Container* container;
  Exec* exec;
  int bundle, console;  // -1: none
  char pid_file[sizeof(ForeignRequest::pid_file)];
  int client, delete_client;  // index; -1: nobody waits
  uint64_t request, delete_request;
  pid_t process;  // that it named, while that has not come to us
  int process_fd;
  int64_t give_up;  // monotonic
};

// Zero bytes are free places.
Command commands[kMaxCommands];
uint32_t at_work;
char* words[kMaxWords + 2];

Client* ClientOf(int index) {
  static Client nobody;
  return index >= 0 ? &self.clients[index] : &nobody;
}

Command* NewCommand() {
  for (Command& c : commands) {
    if (c.phase != Step::kFree) continue;
    memset(static_cast<void*>(&c), 0, sizeof c);
    c.bundle = c.console = c.process_fd = c.client = c.delete_client = -1;
    return &c;
  }
  return nullptr;
}

void Free(Command* c) {
  CloseFd(&c->bundle);
  CloseFd(&c->console);
  CloseFd(&c->process_fd);
  c->phase = Step::kFree;
  --at_work;
}

// --- the command's side

void Complain(int bundle, const char* what, const char* subject) {
  int sys = errno;
  init::Line<512> line;
  line.text << "{\"level\":\"error\",\"msg\":\"" << what << subject << ": " << strerror(sys) << "\"}\n";
  int fd = openat(bundle, kLog, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd >= 0 && write(fd, line.bytes, strlen(line.bytes)) < 0) _exit(126);
}

[[noreturn]] void Become(int namespaces, int bundle, const init::Stdio& stdio, char** argv, char** environment) {
  // The runtime works on the host: its mounts, its network, its files. Ours are those of the pod.
  if (setns(namespaces, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0) {
    Complain(bundle, "join the agent's namespaces to run ", argv[0]);
    _exit(127);
  }
  const int given[] = {stdio.in, stdio.out, stdio.err};
  bool good = fchdir(bundle) == 0;
  for (int i = 0; i < 3 && good; ++i) {
    int fd = given[i] >= 0 ? given[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
    good = fd >= 0 && dup2(fd, i) == i;
  }
  for (int signal_number = 1; signal_number <= 64; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  syscall(SYS_close_range, 3, ~0U, init::kCloseRangeCloexec);
  if (good) execve(argv[0], argv, environment);
  Complain(bundle, "run ", argv[0]);
  _exit(127);
}

// --- what a command has made

// The number in the pid file; 0: it is not there or holds none.
pid_t ReadPid(const Command& c) {
  char text[24] = {};
  int fd = openat(c.bundle, c.pid_file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  long pid = 0;
  for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9' && pid < 1L << 30; ++i)
    pid = pid * 10 + (text[i] - '0');
  return static_cast<pid_t>(pid);
}

// The terminal's master, from the connection that the runtime left on the console socket; -1: there is none.
int AcceptTerminal(int console) {
  int connection = accept4(console, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (connection < 0) return -1;
  char name[256];
  iovec data{name, sizeof name};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  int master = -1;
  if (recvmsg(connection, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) >= 0) {
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    if (c != nullptr && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
      memcpy(&master, CMSG_DATA(c), sizeof master);
  }
  close(connection);
  return master;
}

bool IsOurChild(int pidfd) {
  siginfo_t info;
  return waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

// --- ends

void Refuse(Command* c, Status status, int sys, const char* what, const char* subject = "") {
  Refuse(ClientOf(c->client), c->request, status, sys, what, subject);
}

// Takes back what a create or exec made so far. Never a process that is not ours: a runtime may have named any.
void Drop(Command* c) {
  if (c->process_fd >= 0 && IsOurChild(c->process_fd)) init::PidfdSignal(c->process_fd, SIGKILL);
  if (c->exec != nullptr) {
    CloseFd(&c->exec->exit);
    table.Free(c->exec);
  } else if (c->verb == Verb::kCreate) {
    Forget(c->container);
    if (c->abandoned) Answer(ClientOf(c->delete_client), c->delete_request, nullptr, 0);
  }
  Free(c);
}

void FinishStart(Command* c, bool good) {
  Container* container = c->container;
  container->busy = false;
  if (good) {
    container->state = State::kRunning;
    StartReply reply;
    reply.started_at = container->started_at;
    Answer(ClientOf(c->client), c->request, &reply, sizeof reply);
  } else {
    container->started_at = 0;
    container->start_failed = true;
    if (!container->early) init::PidfdSignal(container->pidfd, SIGKILL);
    Refuse(c, Status::kCommand, 0, "the runtime could not start container ", container->id);
  }
  Free(c);
  if (container->early) {
    container->early = false;
    ContainerDied(container, container->early_status);
  }
}

// The process is our child.
void FinishProcess(Command* c) {
  int terminal = -1;
  if (c->console >= 0 && (terminal = AcceptTerminal(c->console)) < 0) {
    Refuse(c, Status::kState, 0, "the runtime sent no terminal for container ", c->container->id);
    return Drop(c);
  }
  if (c->exec != nullptr) {
    c->exec->pid = c->process;
    c->exec->pidfd = c->process_fd;
    HoldSlave(c->exec, terminal);
    ExecReply reply;
    reply.exec = c->exec->id;
    reply.pid = c->process;
    Answer(ClientOf(c->client), c->request, &reply, sizeof reply, &terminal, terminal >= 0 ? 1 : 0);
    CloseFd(&terminal);  // the agent's alone: when it goes, the terminal hangs up
  } else {
    Container* container = c->container;
    container->busy = false;
    container->pid = c->process;
    container->pidfd = c->process_fd;
    if (terminal >= 0) {
      container->outputs[0].stream.terminal = true;
      TakeTerminal(container, terminal);
      WatchOutputs(container);
    }
    PidReply reply;
    reply.pid = container->pid;
    Answer(ClientOf(c->client), c->request, &reply, sizeof reply);
  }
  c->process_fd = -1;
  Free(c);
}

void Adopt(Command* c) {
  c->process = ReadPid(*c);
  if (c->process > 0) c->process_fd = static_cast<int>(init::PidfdOpen(c->process));
  if (c->process_fd < 0) {
    Refuse(c, Status::kState, 0, "the runtime named no process for container ", c->container->id);
    return Drop(c);
  }
  if (IsOurChild(c->process_fd)) return FinishProcess(c);
  c->phase = Step::kAdopting;  // a helper of the runtime is still its parent
  c->give_up = Monotonic() + kAdoptTime;
}

void CommandDied(Command* c, int status) {
  bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  c->pid = -1;
  if (c->verb == Verb::kStart) return FinishStart(c, good);
  if (good && !c->abandoned && !self.ending) return Adopt(c);
  Refuse(c, c->abandoned || self.ending ? Status::kState : Status::kCommand, 0,
         c->abandoned || self.ending ? "it was deleted meanwhile: container " : "the runtime failed for container ",
         c->container->id);
  Drop(c);
}

// --- beginnings

// argv and environment as arrays into the message; false: malformed.
bool Split(const Message& message, const ForeignRequest& request, char*** environment) {
  if (request.argc == 0 || request.argc > kMaxWords || request.envc > kMaxWords ||
      request.argc + request.envc > kMaxWords)
    return false;
  const char* at = message.body + sizeof request;
  const char* end = message.body + message.size;
  char** to = words;
  for (uint32_t i = 0; i < request.argc + request.envc; ++i) {
    const char* stop = at < end ? static_cast<const char*>(memchr(at, '\0', static_cast<size_t>(end - at))) : nullptr;
    if (stop == nullptr) return false;
    if (i == request.argc) *to++ = nullptr;
    *to++ = const_cast<char*>(at);
    at = stop + 1;
  }
  if (request.envc == 0) *to++ = nullptr;
  *to = nullptr;
  *environment = words + request.argc + 1;
  return true;
}

size_t WantedFds(const ForeignRequest& request) {
  switch (request.verb) {
    case Verb::kCreate:
      return 2 + ((request.flags & kHasLog) != 0) + ((request.flags & kTty) != 0);
    case Verb::kStart:
      return 2;
    case Verb::kExec:
      break;
  }
  if (request.flags & kTty) return 4;
  return 3 + ((request.flags & kIn) != 0) + ((request.flags & kOut) != 0) + ((request.flags & kErr) != 0);
}

// The container that the verb is for, made or found; nullptr: refused.
Container* Subject(const Request& r, const ForeignRequest& request) {
  if (request.verb != Verb::kCreate) {
    Container* c = Lookup(r, request.id);
    if (c == nullptr) return nullptr;
    const bool start = request.verb == Verb::kStart;
    const char* why = !c->foreign ? "container does not belong to another runtime: "
                      : c->busy   ? "its runtime is at work for container "
                      : start && (c->state != State::kCreated || c->dead)  ? "container is not in state created: "
                      : !start && (c->state != State::kRunning || c->dead) ? "container is not running: "
                                                                           : nullptr;
    if (why == nullptr) return c;
    Refuse(r.client, r.id, Status::kState, 0, why, c->id);
    return nullptr;
  }
  const char* why = !ValidId(request.id) ? "container id: must be 1 to 64 of A-Z a-z 0-9 _ . -" : nullptr;
  if (why != nullptr) {
    Refuse(r.client, r.id, Status::kInvalid, 0, why);
    return nullptr;
  }
  if (table.Find(request.id) != nullptr) {
    Refuse(r.client, r.id, Status::kExists, 0, "container exists: ", request.id);
    return nullptr;
  }
  Container* c = table.NewContainer();
  if (c == nullptr) Refuse(r.client, r.id, Status::kFull, 0, "the pod has too many containers; delete exited ones");
  return c;
}

}  // namespace

void StartForeign(const Request& r) {
  auto request = r.message->As<ForeignRequest>();
  Message& m = *r.message;
  char** environment = nullptr;
  if (m.size < sizeof request || request.pid_file[sizeof request.pid_file - 1] != '\0' ||
      strchr(request.pid_file, '/') != nullptr ||
      (request.verb != Verb::kCreate && request.verb != Verb::kStart && request.verb != Verb::kExec) ||
      m.fd_count != WantedFds(request) || !Split(m, request, &environment))
    return Refuse(r.client, r.id, Status::kInvalid, 0, "foreign: malformed request");
  if (self.ending) return Refuse(r.client, r.id, Status::kState, 0, "the pod is being stopped");
  Container* container = Subject(r, request);
  if (container == nullptr) return;
  Command* c = NewCommand();
  if (c == nullptr)
    return Refuse(r.client, r.id, Status::kFull, 0, "too many commands of runtimes are at work in the pod");

  init::Stdio stdio;
  size_t next = 2;
  if (request.verb == Verb::kCreate) {
    memcpy(container->id, request.id, kIdSize);
    container->state = State::kCreated;
    container->foreign = container->busy = true;
    container->tty = (request.flags & kTty) != 0;
    container->keep_stdin = (request.flags & kKeepStdin) != 0;
    container->outputs[1].stream.error = true;
    if (!(request.flags & kTty) && !MakeStdio(container, request.flags, &stdio)) {
      Refuse(r.client, r.id, Status::kSystem, errno, "make pipes for container ", request.id);
      CloseStdio(&stdio);
      return Forget(container);
    }
    container->log.Open(request.flags & kHasLog ? m.TakeFd(next++) : LogFile::kNone);
  } else if (request.verb == Verb::kExec) {
    c->exec = table.NewExec();
    if (c->exec == nullptr) return Refuse(r.client, r.id, Status::kFull, 0, "too many execs run in the pod");
    c->exec->exit = m.TakeFd(next++);
    c->exec->container = table.Place(container);
    fcntl(c->exec->exit, F_SETFL, O_NONBLOCK);
    int* streams[] = {&stdio.in, &stdio.out, &stdio.err};
    for (uint32_t i = 0; i < 3 && !(request.flags & kTty); ++i)
      if (request.flags & (kIn << i)) *streams[i] = m.TakeFd(next++);
  }
  const bool console = (request.flags & kTty) && request.verb != Verb::kStart;
  if (console) c->console = m.TakeFd(next++);
  c->bundle = m.TakeFd(1);
  c->verb = request.verb;
  c->container = container;
  c->client = static_cast<int>(r.client - self.clients);
  c->request = r.id;
  memcpy(c->pid_file, request.pid_file, sizeof c->pid_file);
  if (console) fcntl(c->console, F_SETFL, O_NONBLOCK);
  if (request.verb == Verb::kStart) container->started_at = Unix();

  pid_t pid = fork();
  if (pid == 0) Become(m.fds[0], c->bundle, stdio, words, environment);
  int sys = errno;
  CloseStdio(&stdio);
  c->phase = Step::kRunning;
  ++at_work;
  if (pid < 0) {
    if (request.verb == Verb::kStart) container->started_at = 0;
    Refuse(c, Status::kSystem, sys, "fork the runtime's command for container ", container->id);
    return Drop(c);
  }
  c->pid = pid;
  if (request.verb == Verb::kStart) container->busy = true;
  if (request.verb == Verb::kCreate) WatchOutputs(container);  // the runtime's own complaints come this way too
}

void AbandonForeign(const Request& r, Container* container) {
  for (Command& c : commands) {
    if (c.phase == Step::kFree || c.container != container || c.verb != Verb::kCreate) continue;
    if (c.abandoned) return Refuse(r.client, r.id, Status::kState, 0, "container is being deleted: ", container->id);
    c.abandoned = true;
    c.delete_client = static_cast<int>(r.client - self.clients);
    c.delete_request = r.id;
    if (c.phase == Step::kRunning) {
      kill(c.pid, SIGKILL);
    } else {
      Refuse(&c, Status::kState, 0, "it was deleted meanwhile: container ", container->id);
      Drop(&c);
    }
    return;
  }
  Refuse(r.client, r.id, Status::kState, 0, "its runtime is starting container ", container->id);
}

bool ForeignAtWork() { return at_work > 0; }

pid_t ReapForeign(int* status, rusage* usage) {
  for (Command& c : commands) {
    if (c.phase != Step::kRunning || wait4(c.pid, status, WNOHANG, usage) <= 0) continue;
    pid_t pid = c.pid;
    CommandDied(&c, *status);
    return pid;  // of nobody else
  }
  for (uint32_t i = 0; i < table.container_end; ++i) {
    Container& c = table.containers[i];
    if (c.state != State::kFree && !c.dead && !c.early && c.pid > 0 && wait4(c.pid, status, WNOHANG, usage) > 0) return c.pid;
  }
  for (uint32_t i = 0; i < table.exec_end; ++i) {
    Exec& e = table.execs[i];
    if (e.id != 0 && e.pid > 0 && wait4(e.pid, status, WNOHANG, usage) > 0) return e.pid;
  }
  return self.pod.init > 0 && wait4(self.pod.init, status, WNOHANG, usage) > 0 ? self.pod.init : 0;
}

void KillForeign() {
  for (Command& c : commands) {
    if (c.phase == Step::kRunning) kill(c.pid, SIGKILL);
    if (c.phase != Step::kAdopting) continue;
    Refuse(&c, Status::kState, 0, "the pod is being stopped");
    Drop(&c);
  }
}

void ForgetClient(int index) {
  for (Command& c : commands) {
    if (c.phase == Step::kFree) continue;
    if (c.client == index) c.client = -1;
    if (c.delete_client == index) c.delete_client = -1;
  }
}

int64_t ForeignTimer(int64_t now) {
  if (at_work == 0) return 0;
  bool waiting = false, changed = false;
  for (Command& c : commands) {
    if (c.phase != Step::kAdopting) continue;
    if (IsOurChild(c.process_fd)) {
      FinishProcess(&c);
      changed = true;
    } else if (now >= c.give_up) {
      Refuse(&c, Status::kState, 0, "the runtime keeps the process for itself: container ", c.container->id);
      Drop(&c);
      changed = true;
    } else {
      waiting = true;
    }
  }
  if (changed) Reap();  // of what was left alone until now there is no further signal
  return waiting ? now + kAdoptEvery : 0;
}

}  // namespace berth::shim
