#include <signal.h>
#include <sys/syscall.h>

#include "runtime/linux/cgroup.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {

Result<void> Kill(const RuntimeHost& host, const std::string& id, int signal, bool all) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  if (all && !state.cgroup.empty()) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    cgroup::Group group{state.cgroup};
    if (signal == SIGKILL) return cgroup::KillAll(*layout, group);
    return cgroup::SignalAll(*layout, group, signal);
  }
  unique_fd process = TRY(OpenProcess(state));
  if (::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0) < 0) {
    if (errno == ESRCH) return Err(Code::kConflict, "container not running");
    return SysErr("signal {} to container {}", signal, id);
  }
  return {};
}

}  // namespace berth::runtime::oci
