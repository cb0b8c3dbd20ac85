#pragma once
// Exec and attach: a process's standard streams and the client's, in one loop. Kubernetes' remote command protocol (v1 to
// v5): a stream each for error, stdin, stdout, stderr and resize.
#include <optional>

#include "cri/streaming/mux.h"
#include "cri/streaming/tickets.h"
#include "cri/streaming/wire.h"

namespace berth::cri::streaming {

// What is at the other end. Descriptors are non-blocking; invalid: not there.
class Process {
 public:
  virtual ~Process() = default;
  // Called once, when the client has opened its streams; rows and columns are 0 until it says them.
  virtual Result<void> Start(uint16_t rows, uint16_t columns, const Deadline& until) = 0;
  virtual void Resize(uint16_t rows, uint16_t columns) = 0;
  // Readable when there is news; Over reads it and says whether it is over. Then Outcome is the exit code, nothing where there
  // is none to tell (attach), or what went wrong.
  virtual int news() const = 0;
  virtual bool Over() = 0;
  virtual Result<std::optional<int>> Outcome() = 0;
  virtual void Abandon() = 0;  // the client has left

  unique_fd in, out, err;
};

// Returns when the command is over or the client gone. status: the error stream carries a Status as JSON.
Result<void> ServeCommand(Wire& wire, Mux& mux, std::string early, const Streams& streams, bool status, Process& process, const Deadline& stop);

// The Status object of the error stream (apimachinery meta/v1): success, an exit code, or a failure.
std::string StatusJson(const Result<std::optional<int>>& outcome);

}  // namespace berth::cri::streaming
