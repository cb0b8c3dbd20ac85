#pragma once
// What monitors say of containers, in messages and on disk, as the launcher's types. For monitors of every minor version.
#include <string>
#include <vector>

#include "runtime/launcher.h"
#include "runtime/shim/agent_socket.h"

namespace berth::runtime {

ExitFacts ExitOf(const Packet& event);   // of a kExit message

// Of one part of an answer to kList (monitors of 1.0) or kFacts.
std::vector<ContainerFacts> ContainersOf(const Packet& part, bool facts);
std::vector<shim::FactsEntry> EntriesOf(const Packet& facts);

// *.exit below the directory, the oldest first; damaged ones are left out.
Result<std::vector<ExitFacts>> ReadExitRecordsIn(const std::string& state_dir);

}  // namespace berth::runtime
