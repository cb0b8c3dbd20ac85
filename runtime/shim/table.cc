#include "runtime/shim/table.h"

#include <string.h>

namespace berth::shim {

Container* Table::Find(const char* id) {
  for (uint32_t i = 0; i < container_end; ++i)
    if (containers[i].state != State::kFree && strcmp(containers[i].id, id) == 0) return &containers[i];
  return nullptr;
}

Container* Table::ByPid(pid_t pid) {
  for (uint32_t i = 0; i < container_end; ++i)
    if (containers[i].state != State::kFree && !containers[i].dead && containers[i].pid == pid) return &containers[i];
  return nullptr;
}

Container* Table::NewContainer() {
  for (uint32_t i = 0; i < kMaxContainers; ++i) {
    if (containers[i].state != State::kFree) continue;
    containers[i] = Container();
    if (i >= container_end) container_end = i + 1;
    return &containers[i];
  }
  return nullptr;
}

void Table::Free(Container* container) {
  container->state = State::kFree;
  while (container_end > 0 && containers[container_end - 1].state == State::kFree) --container_end;
}

Exec* Table::FindExec(uint64_t id) {
  for (uint32_t i = 0; i < exec_end; ++i)
    if (execs[i].id == id) return &execs[i];
  return nullptr;
}

Exec* Table::ExecByPid(pid_t pid) {
  for (uint32_t i = 0; i < exec_end; ++i)
    if (execs[i].id != 0 && execs[i].pid == pid) return &execs[i];
  return nullptr;
}

Exec* Table::NewExec() {
  for (uint32_t i = 0; i < kMaxExecs; ++i) {
    if (execs[i].id != 0) continue;
    execs[i] = Exec();
    execs[i].id = ++last_exec;
    if (i >= exec_end) exec_end = i + 1;
    return &execs[i];
  }
  return nullptr;
}

void Table::Free(Exec* exec) {
  exec->id = 0;
  while (exec_end > 0 && execs[exec_end - 1].id == 0) --exec_end;
}

Attach* Table::NewAttach() {
  for (uint32_t i = 0; i < kMaxAttaches; ++i) {
    if (attaches[i].id != 0) continue;
    attaches[i] = Attach();
    attaches[i].id = ++last_attach;
    if (i >= attach_end) attach_end = i + 1;
    return &attaches[i];
  }
  return nullptr;
}

Attach* Table::FindAttach(uint64_t id) {
  for (uint32_t i = 0; i < attach_end; ++i)
    if (attaches[i].id == id) return &attaches[i];
  return nullptr;
}

void Table::Free(Attach* attach) {
  attach->id = 0;
  while (attach_end > 0 && attaches[attach_end - 1].id == 0) --attach_end;
}

}  // namespace berth::shim
