#pragma once
// The agent as a whole: makes every part in order, serves until it is told to end, takes them down in reverse. The only
// place that knows everybody.
//
//   configuration -> directories, locks -> database -> snapshotter, images -> network -> launcher -> core -> recovery
//     -> CRI socket -> metrics -> READY
//
// Ending leaves every pod running: its monitor needs no agent.
#include "base/error.h"
#include "config/config.h"

namespace berth {

// Returns after SIGTERM or SIGINT, once running operations have ended or ten seconds are over.
Result<void> Serve(const config::Loaded& loaded, const std::string& version);

}  // namespace berth
