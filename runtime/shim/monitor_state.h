#pragma once
// What the files of the monitor share: its state and who may be called from where. Part of berth-shim.
//
//   monitor.cc    the loop: clients come and go
//   requests.cc   what clients ask
//   lives.cc      what happens by itself: output, exits, time
//   foreign.cc    containers of other runtimes
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "runtime/init/executor.h"
#include "runtime/shim/pod.h"
#include "runtime/shim/table.h"
#include "runtime/shim/wire.h"

namespace berth::shim {

enum class Source : uint32_t { kSignals, kListener, kClient, kOutput };

struct Client {
  int fd = -1;
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
  int64_t next_retry;    // monotonic; 0: nothing waits for the disk
  int64_t trim_at;
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
bool Watch(int fd, Source source, uint32_t index);
void Unwatch(int fd);
void Drop(Client* client);
void Answer(Client* client, uint64_t request, const void* body, size_t size, const int* fds = nullptr, size_t count = 0);
void Refuse(Client* client, uint64_t request, const ErrorReply& error);
void Refuse(Client* client, uint64_t request, Status status, int sys, const char* what, const char* subject = "");
void Refuse(Client* client, uint64_t request, const init::Failure& failure);
bool SendHello(Client* client, uint64_t request);

// requests.cc
void Serve(const Request& request);
Container* Lookup(const Request& request, const char (&id)[kIdSize]);  // nullptr: refused
bool MakeStdio(Container* container, uint32_t flags, init::Stdio* stdio);
void CloseStdio(init::Stdio* stdio);
void Forget(Container* container);  // closes everything of one that is dead or was never made

// lives.cc
void WatchOutputs(Container* container);
void UnwatchOutputs(Container* container);
bool ReadOutput(Container* container, Output* output);  // one read; false: nothing more for now
void ContainerDied(Container* container, int status);   // it is reaped
void Reap();                     // after SIGCHLD
bool AnyAlive();
[[noreturn]] void End();         // answers the Shutdown
int Timers();                    // does what is due; milliseconds until the next, -1: never

// foreign.cc
void StartForeign(const Request& request);
void AbandonForeign(const Request& request, Container* container);  // a Delete while it is made
bool ForeignAtWork();            // commands run, or their processes have not come to us yet
pid_t ReapForeign(int* status);  // while ForeignAtWork: waits for what is known only, see foreign.cc; 0: none
void KillForeign();              // the commands
void ForgetClient(int index);    // it waits for no answer any more
int64_t ForeignTimer(int64_t now);  // does what is due; when next, 0: nothing waits

}  // namespace berth::shim
