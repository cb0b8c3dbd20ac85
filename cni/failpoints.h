#pragma once
// The failpoints of this folder (base/failpoint.h), for `berthd failpoints` and the recovery tests.
#include <string_view>

namespace berth::cni {

inline constexpr std::string_view kFailpoints[] = {
    "network.attach.ledger",   // the row is written, nothing is in the kernel
    "network.attach.ports",    // host ports are held
    "network.attach.veth",     // the links exist
    "network.attach.address",  // the pod's side is configured
    "network.attach.program",  // a foreign plugin has run
    "network.attach.nft",      // the ports are published
    "network.detach.nft",      // the ports are not published any more
    "network.detach.link",     // the link is unplugged
};

}  // namespace berth::cni
