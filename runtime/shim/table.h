#pragma once
// The containers and execs of a pod, in fixed tables: pages that were never touched cost nothing. Part of berth-shim.
#include <sys/types.h>

#include "runtime/shim/log_writer.h"
#include "runtime/shim/protocol.h"

namespace berth::shim {

struct Output {
  int fd = -1;                   // read end of the pipe, or the pty master; -1 after its end
  bool watched = false;          // in the epoll set
  size_t drain = 0;              // after the exit: bytes that were in the pipe then and are not yet read
  LogStream stream;
};

struct Container {
  char id[kIdSize] = {};
  State state = State::kFree;    // kExited once the exit may be told: output written, record on disk
  bool dead = false;             // reaped
  bool drained = false;          // what was in the pipes at that time is read
  bool recorded = false;
  bool start_failed = false;     // execve failed: the exit code is 128
  bool foreign = false;          // another runtime makes it (foreign.cc)
  bool busy = false;             //   whose create or start is at work
  bool early = false;            //   it ended while start was at work: `early_status` says how
  int early_status = 0;
  pid_t pid = -1;
  int pidfd = -1;
  int sync = -1;                 // created: what init::Start takes
  int terminal = -1;             // same descriptor as outputs[0].fd
  int stdin_fd = -1;
  int exit_code = 0;
  int64_t started_at = 0, finished_at = 0;
  int64_t give_up = 0;           // monotonic: until then a full disk may delay the news of the exit
  Output outputs[2];
  LogFile log;
};

struct Exec {
  uint64_t id = 0;               // 0: free
  pid_t pid = -1;
  int pidfd = -1;
  int exit = -1;                 // pipe that gets the code
};

// Zero bytes are an empty table: it lives in .bss and is never constructed.
struct Table {
  Container containers[kMaxContainers];
  Exec execs[kMaxExecs];
  uint32_t container_end;        // one past the last used place
  uint32_t exec_end;
  uint64_t last_exec;

  Container* Find(const char* id);
  Container* ByPid(pid_t pid);
  Container* NewContainer();     // nullptr: full
  Exec* FindExec(uint64_t id);
  Exec* ExecByPid(pid_t pid);
  Exec* NewExec();
  void Free(Container* container);   // descriptors must be closed
  void Free(Exec* exec);
};

}  // namespace berth::shim
