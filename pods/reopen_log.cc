#include "base/atomic_file.h"
#include "pods/core.h"
#include "pods/operations.h"
#include "pods/registry.h"

namespace berth::pods {

Result<void> ReopenLog(Core& core, const std::string& container, const Deadline& until) {
  auto c = TRY(core.registry.FindContainer(container));
  if (c->phase == ContainerPhase::kCreating) return Err(Code::kNotFound, "container {}: no such container", container);
  if (c->phase != ContainerPhase::kRunning) return Err(Code::kConflict, "container {}: is not running", c->id.Short());
  if (c->log_path.empty()) return {};  // output is dropped: nothing to reopen
  Operation op(core, "reopen_log", c->id.str());
  TRY(op.Stage("reopen", "reopen the log file"));
  return op.In(core.launcher.ReopenLog(c->pod, c->id, c->log_path, until));
}

}  // namespace berth::pods
