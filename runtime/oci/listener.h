#pragma once
// Hands the descriptor of a notifying seccomp filter to the agent that answers: linux.seccomp.listenerPath. One
// connection for each process, one message on it (container process state, with the descriptor), then it is closed.
#include <optional>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/init/executor.h"
#include "runtime/oci/container_dir.h"

namespace berth::runtime::oci {

class Listener {
 public:
  // Connects, so that an agent that is not there is found before anything is started. Nothing when state.listenerPath
  // is empty. `pid` is the process that gets the filter; `status` the container's.
  static Result<std::optional<Listener>> Connect(const StateRecord& state, int64_t pid, std::string_view status);
  // For init::Start; an Observer that takes nothing when there is no listener.
  static init::Observer Observe(std::optional<Listener>& listener);

 private:
  Listener(unique_fd socket, std::string path, std::string message)
      : socket_(std::move(socket)), path_(std::move(path)), message_(std::move(message)) {}
  static bool Take(void* context, int fd, init::Failure* failure);

  unique_fd socket_;
  std::string path_, message_;
};

}  // namespace berth::runtime::oci
