#pragma once
// Connection tracking: a UDP "connection" outlives the rules it was made under, so a published or unpublished UDP port
// takes effect for running flows only when their entries go.
#include <vector>

#include "base/deadline.h"
#include "cni/nft/layout.h"

namespace berth::cni::nft {

// Removes UDP entries whose original destination is one of the host ports, or whose replies come from the port behind
// it. Reads the whole table once: call it off the request's path. Number of entries removed.
Result<int> FlushUdp(const std::vector<PublishedPort>& ports, const Deadline& until);

}  // namespace berth::cni::nft
