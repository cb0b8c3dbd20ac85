#pragma once
// The network of this node: configuration lists run in-process where we can (see conflist.h) and as programs where not.
//
// "Host" is the network namespace of the thread that calls; all callers must be in the one that OpenNetwork was called
// in. Order of locks: pod, network, then those of ledger and ruleset.
#include <memory>

#include "base/db.h"
#include "cni/network.h"
#include "cni/options.h"

namespace berth::cni {

// Reads the ledger, holds the host ports it names, rebuilds the nftables elements when a network was in use. `db`
// outlives the result. A configuration that is missing or wrong is no error here: Status tells, and a fixed file is
// taken up.
Result<std::unique_ptr<Network>> OpenNetwork(const Options& options, Db& db);

}  // namespace berth::cni
