#include "runtime/oci/launch.h"

namespace berth::runtime::oci {

Result<void> Start(const RuntimeHost& host, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  Status status = TRY(StatusOf(dir, state));
  if (status == Status::kStopped) return Err(Code::kConflict, "cannot start a container that has stopped");
  if (status != Status::kCreated) return Err(Code::kConflict, "cannot start an already running container");
  unique_fd connection = TRY(dir.Connect());
  init::Failure failure;
  bool started = init::StartOver(connection.release(), &failure);
  dir.RemoveSocket();
  int code;
  if (!started) return FromFailure(failure, &code);
  return {};
}

}  // namespace berth::runtime::oci
