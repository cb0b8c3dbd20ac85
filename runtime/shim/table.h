#pragma once
// The containers and execs of a pod, in fixed tables: pages that were never touched cost nothing. Part of berth-shim.
#include <sys/types.h>

#include "runtime/shim/log_gate.h"
#include "runtime/shim/log_writer.h"
#include "runtime/shim/protocol.h"

namespace berth::shim {

// A request that is answered when a process has got so far. Who asked may be gone by then.
struct Setup {
  uint32_t client = 0, generation = 0;
  uint64_t request = 0;
  int64_t expires = 0;           // monotonic; 0: never
};
enum class Stage : uint8_t { kSettled, kCreating, kStarting };

// Why a container's output is not read.
enum Blocked : uint8_t { kByDisk = 1, kByClient = 2, kByRate = 4 };

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
  bool tty = false, keep_stdin = false;
  bool policed = false;          // it has its ContainerPolicy
  bool stdin_once = false;
  bool stdin_watched = false;    // it took not all that clients gave
  uint8_t blocked = 0;           // Blocked
  Stage stage = Stage::kSettled;
  Setup setup;                   // with another stage
  bool guided = false;           // as init::Process has it
  pid_t pid = -1;
  int pidfd = -1;
  int sync = -1;                 // created: what init::Start takes
  int terminal = -1;             // same descriptor as outputs[0].fd
  int stdin_fd = -1;             // write end of a pipe, or another descriptor of the terminal
  int memory = -1, cpu = -1, pids = -1;   // directories of its cgroup; the same number where it is one directory
  int exit_code = 0;
  int64_t started_at = 0, finished_at = 0;
  ExitDetails details;
  int64_t give_up = 0;           // monotonic: until then a full disk may delay the news of the exit
  Output outputs[2];
  LogFile log;
  LogGate gate;
};

struct Exec {
  uint64_t id = 0;               // 0: free
  pid_t pid = -1;
  int pidfd = -1;
  int exit = -1;                 // pipe that gets the code
  int sync = -1;                 // while it is set up
  int terminal = -1;             // while it is set up: the master, which the client gets
  int slave = -1;                // for its size
  uint32_t container = 0;        // place in the table
  Stage stage = Stage::kSettled;
  Setup setup;
  bool guided = false;
};

// A client's streams, see attach.cc. Index 0 is stdout, 1 stderr.
struct Attach {
  uint64_t id = 0;               // 0: free
  uint32_t container = 0;        // place in the table
  SlowClient slow{};
  bool in_watched = false;
  bool ending = false;           // ends when what waits is written
  bool out_watched[2] = {};
  int in = -1, news = -1;
  int out[2] = {-1, -1};
  uint32_t in_at = 0, in_size = 0;           // of in_block: not yet taken by the container
  uint32_t out_at[2] = {}, out_size[2] = {}; // of out_block: not yet taken by the client
  uint64_t dropped[2] = {};      // bytes since the last news
};

// Zero bytes are an empty table: it lives in .bss and is never constructed.
struct Table {
  Container containers[kMaxContainers];
  Exec execs[kMaxExecs];
  Attach attaches[kMaxAttaches];
  uint32_t container_end;        // one past the last used place
  uint32_t exec_end;
  uint32_t attach_end;
  uint32_t setups;               // with a stage
  uint64_t last_exec;
  uint64_t last_attach;

  Container* Find(const char* id);
  Container* ByPid(pid_t pid);
  Container* NewContainer();     // nullptr: full
  Exec* FindExec(uint64_t id);
  Exec* ExecByPid(pid_t pid);
  Exec* NewExec();
  Attach* NewAttach();           // nullptr: full
  Attach* FindAttach(uint64_t id);
  void Free(Container* container);   // descriptors must be closed
  void Free(Exec* exec);
  void Free(Attach* attach);

  uint32_t Place(const Container* c) const { return static_cast<uint32_t>(c - containers); }
  uint32_t Place(const Exec* e) const { return static_cast<uint32_t>(e - execs); }
  uint32_t Place(const Attach* a) const { return static_cast<uint32_t>(a - attaches); }
};

}  // namespace berth::shim
