#pragma once
// A request as one short line for the debug log, secrets as stars.
#include <set>
#include <string>
#include <string_view>

namespace google::protobuf {
class Message;
}

namespace berth::cri {

// Fields whose value never reaches a log, as "Message.field": those the CRI marks debug_redact, environment values, and
// the passwords of our own messages.
const std::set<std::string_view>& SecretFields();

// At most 1 KiB.
std::string Describe(const google::protobuf::Message& message);

}  // namespace berth::cri
