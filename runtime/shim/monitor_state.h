#pragma once
// What the files of the monitor share: its state and who may be called from where. Part of berth-shim.
//
//   monitor.cc    the loop: clients come and go
//   requests.cc   what clients ask
//   setups.cc     processes on their way to execve: nobody waits for them
//   output.cc     from a container's pipes to its log and to attached clients
//   attach.cc     attached clients
//   lives.cc      what happens by itself: exits, time
//   foreign.cc    containers of other runtimes
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "runtime/init/executor.h"
#include "runtime/shim/pod.h"
#include "runtime/shim/table.h"
#include "runtime/shim/wire.h"

namespace berth::shim {

enum class Source : uint32_t { kSignals, kListener, kClient, kOutput, kCreation, kExec, kStdin, kAttachIn, kAttachOut };

struct Client {
  int fd = -1;
  uint32_t generation = 0;   // of this place: another client, another number
  bool events = false;   // said Hello
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
  int64_t next_retry;    // monotonic; 0: nothing waits for the disk or for its rate
  int64_t trim_at;
  pid_t discarded[32];   // killed while they were set up, and not yet reaped
  uint32_t discarded_count;
  bool ending;           // Shutdown was asked
  int ending_client;
  uint64_t ending_request;
};

// Both in .bss: a page that is not touched is not there.
extern Table& table;
extern Monitor& self;

struct Request {
  Client* client;
  uint64_t id;
  Message* message;
};

inline int64_t Clock(clockid_t which) {
  timespec now;
  clock_gettime(which, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}
inline int64_t Monotonic() { return Clock(CLOCK_MONOTONIC); }
inline int64_t Unix() { return Clock(CLOCK_REALTIME); }

inline void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// monitor.cc
bool Watch(int fd, Source source, uint32_t index, uint32_t events = EPOLLIN);
void Unwatch(int fd);
void Drop(Client* client);
void Answer(Client* client, uint64_t request, const void* body, size_t size, const int* fds = nullptr, size_t count = 0);
void Refuse(Client* client, uint64_t request, const ErrorReply& error);
void Refuse(Client* client, uint64_t request, Status status, int sys, const char* what, const char* subject = "");
void Refuse(Client* client, uint64_t request, const init::Failure& failure);
void Fail(ErrorReply* error, const init::Failure& failure);
bool SendHello(Client* client, uint64_t request, uint16_t minor);

// requests.cc
void Serve(const Request& request);

// nullptr: refused already. One that is being created is found when `unfinished`.
Container* Lookup(const Request& r, const char (&id)[kIdSize], bool unfinished = false);
void Forget(Container* container);   // closes everything of one that is dead or was never made

// setups.cc
bool MakeStdio(Container* container, uint32_t flags, init::Stdio* stdio);   // pipes; `stdio` gets the container's ends
void CloseStdio(init::Stdio* stdio);
void TakeTerminal(Container* container, int master);
void HoldSlave(Exec* exec, int master);   // for its size; -1: it has no terminal
void Create(const Request& r);
void ChangePolicy(const Request& r);
void Start(const Request& r);
void StartExec(const Request& r);
// The process's socket is readable; `ended`: it has been reaped.
void ContinueCreation(Container* container, bool ended = false);
void ContinueExec(Exec* exec, bool ended = false);
void Cancel(Container* container, Status status, const char* why);   // while it is created: kills it, answers, forgets it
void ExpireSetups(int64_t now);
int64_t NextExpiry();            // monotonic; 0: none

// output.cc
void Block(Container* container, Blocked reason);     // its output is not read until
void Unblock(Container* container, Blocked reason);   // every reason is gone
void WatchOutputs(Container* container);
bool ReadOutput(Container* container, Output* output);  // one read; false: nothing more for now
void DrainOutput(Container* container);   // of a dead one: sets `drained` once all is in the log
void TouchBuffers();             // they are in use: given back after a while
void RetryAt(int64_t when);      // have the timer look at logs then
bool RetryLogs(int64_t now);     // true: something still waits, see RetryAt
void TrimOutput();

// attach.cc
void AttachClient(const Request& r);
void DetachClient(const Request& r);
void Deliver(Container* container, size_t stream, const char* bytes, size_t size);
void AttachReadable(Attach* attach);    // its input
void AttachWritable(Attach* attach, size_t stream, uint32_t events);
void StdinWritable(Container* container);
void CloseStdin(Container* container);
void EndAttaches(Container* container, bool force);   // its output has ended; what waits is still written unless forced
void TrimAttaches();

// facts.cc
void Facts(const Request& r);
void NoteEnd(Container* container);     // fills `details` from the cgroup, while it is there

// lives.cc
void ContainerDied(Container* container, int status);   // it is reaped
void Reap();                     // after SIGCHLD
bool AnyAlive();
[[noreturn]] void End();         // answers the Shutdown
int Timers();                    // does what is due; milliseconds until the next, -1: never

// foreign.cc
void StartForeign(const Request& request);
void AbandonForeign(const Request& request, Container* container);  // a Delete while it is made
bool ForeignAtWork();            // commands run, or their processes have not come to us yet
// While ForeignAtWork: waits for what is known only, see foreign.cc; 0: none.
pid_t ReapForeign(int* status, rusage* usage);
void KillForeign();              // the commands
void ForgetClient(int index);    // it waits for no answer any more
int64_t ForeignTimer(int64_t now);  // does what is due; when next, 0: nothing waits

}  // namespace berth::shim
