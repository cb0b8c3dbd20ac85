#pragma once
// The agent's side of the spawner: starts it from a sealed copy of berth-shim, starts it anew when it has died, hands it
// requests for monitors. Thread-safe.
#include <mutex>
#include <string>

#include "base/child.h"
#include "base/deadline.h"
#include "base/unique_fd.h"
#include "runtime/shim/agent_socket.h"

namespace berth::runtime {

class SpawnerClient {
 public:
  explicit SpawnerClient(std::string program) : program_(std::move(program)) {}
  ~SpawnerClient();   // the spawner ends; monitors stay

  Result<void> EnsureRunning(const Deadline& until);
  // The answer comes on the other end of request.fds[0]. A spawner that died is replaced and asked again, once.
  Result<void> Spawn(const Outgoing& request, uint64_t id, const Deadline& until);
  // It did not do what it was asked in time: ends it, so that it will not do it later.
  void Abandon();
  pid_t pid() const;

 private:
  Result<void> StartLocked(const Deadline& until);
  void EndLocked(bool kill);

  const std::string program_;
  mutable std::mutex mutex_;
  unique_fd image_;     // sealed memfd of the program
  Spawned process_;
  unique_fd socket_;
};

// A sealed memfd with these bytes. Name is what /proc shows.
Result<unique_fd> SealedFile(const char* name, std::string_view bytes, bool executable);

}  // namespace berth::runtime
