#pragma once
// The pure part of attaching: checking the request, names, and what a lease means for the pod and for the result.
#include "cni/conflist.h"
#include "cni/ledger.h"
#include "cni/netlink/links.h"

namespace berth::cni {

// Errors: kInvalidArgument naming the field.
Result<void> CheckAttachment(const Attachment& attachment);
// Ports that publish something, with lower-case protocol and the unspecified address as "".
Result<std::vector<PortMapping>> WantedPorts(const std::vector<PortMapping>& ports);

// "veth" and eight hex digits of the pod's id: those from digit 8 * attempt on.
std::string LinkName(const PodId& pod, int attempt);
// Written into the link, so that it is known whose it is without the ledger.
std::string LinkAlias(const std::string& table, const PodId& pod);
// 0a:58 and the low four bytes of the first address: an address given again keeps its neighbours' caches right.
netlink::Mac MacFor(const AttachmentRow& row);
netlink::PodInterface InterfaceFor(const BridgeConfig& bridge, const AttachmentRow& row, int index);
// The bridge plugin's result: bridge, host end and pod's end, addresses on the last.
CniResult BridgeResult(const BridgeConfig& bridge, const netlink::Mac& bridge_mac, const AttachmentRow& row);
AttachResult ToAttachResult(const AttachmentRow& row, const CniResult& result);

}  // namespace berth::cni
