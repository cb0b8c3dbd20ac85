#include "runtime/oci/launch.h"
#include "runtime/oci/listener.h"
#include "runtime/oci/notify.h"

namespace berth::runtime::oci {

Result<void> Start(const RuntimeHost& host, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  Status status = TRY(StatusOf(dir, state));
  if (status == Status::kStopped) return Err(Code::kConflict, "cannot start a container that has stopped");
  if (status != Status::kCreated) return Err(Code::kConflict, "cannot start an already running container");
  unique_fd process = TRY(OpenProcess(state));
  std::optional<Listener> listener = TRY(Listener::Connect(state, state.pid, "created"));
  std::optional<NotifySocket> notify;
  if (!state.notifySocket.empty()) notify = TRY(NotifySocket::Listen(dir.path(), state.notifySocket));
  unique_fd connection = TRY(dir.Connect());
  init::Failure failure;
  bool started = init::StartOver(connection.release(), Listener::Observe(listener), &failure);
  dir.RemoveSocket();
  int code;
  if (!started) {
    // It ends by itself, but not when only the agent's side went wrong.
    if (listener) EndProcess(static_cast<pid_t>(state.pid), process.get());
    if (failure.kind == 3) {
      EndProcess(static_cast<pid_t>(state.pid), process.get());
      if (auto gone = TearDown(host, dir, state); !gone) host.warn(gone.error().what);
    }
    return FromFailure(failure, &code);
  }
  TRY(Started(host, dir, state, process.get()));
  if (notify) TRY(notify->UntilReady(static_cast<pid_t>(state.pid), process.get()));
  return {};
}

}  // namespace berth::runtime::oci
