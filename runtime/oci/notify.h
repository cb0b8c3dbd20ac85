#pragma once
// sd_notify(3) from inside a container: its messages go to a socket of ours that is mounted at /run/notify, and from
// there to the service manager, with the process id that the manager knows.
#include <optional>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

class NotifySocket {
 public:
  // Makes <state_dir>/notify, and the mount and the variable in `spec`; what its env said before is replaced.
  static Result<void> Prepare(const std::string& state_dir, Spec& spec);
  // Listens there, before the container's process is started. `manager` is NOTIFY_SOCKET: a path, or @abstract.
  static Result<NotifySocket> Listen(const std::string& state_dir, const std::string& manager);
  // Passes messages on until one says READY=1, or the process has ended. `pid` joins that one as MAINPID.
  Result<void> UntilReady(pid_t pid, int pidfd);
  // The same until the process has ended, in a child of ours: for a caller that has more to do meanwhile.
  Result<void> InBackground(pid_t pid, int pidfd);

 private:
  Result<bool> Pass(pid_t pid, int pidfd);  // one message; false: the process has ended
  unique_fd socket_, manager_;
  bool ready_ = false;
};

}  // namespace berth::runtime::oci
