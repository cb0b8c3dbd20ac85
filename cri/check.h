#pragma once
// Checks of request fields. Every error is kInvalidArgument (or kUnimplemented for what is truthfully not there),
// begins with the field's path in the request and says what would be right: `config.metadata.name: must not be empty`.
#include <string>
#include <string_view>

#include "base/error.h"

namespace google::protobuf {
class Message;
}

namespace berth::cri {

// What every field of every message must keep, by reflection: strings without NUL and at most 1 MiB, map keys likewise
// (bytes may be anything), enum numbers that exist, at most 65536 elements. Bounded by the message, which gRPC bounds
// at 16 MiB.
Result<void> CheckShape(const google::protobuf::Message& message);

std::unexpected<Error> Bad(std::string_view field, std::string_view rule);
std::unexpected<Error> NotYet(std::string_view field, std::string_view what);  // kUnimplemented

// For error texts: in double quotes, control characters and invalid bytes escaped, cut at 64 bytes.
std::string Quote(std::string_view text);

// Not empty, at most `limit` bytes, no control characters, no slash.
Result<void> CheckName(std::string_view field, std::string_view value, size_t limit = 253);
// Absolute, at most 4095 bytes, each part at most 255, no `..` part, no control characters.
Result<void> CheckAbsolutePath(std::string_view field, std::string_view value);
// Not empty, stays below its base: relative, no `..` part; else as above.
Result<void> CheckRelativePath(std::string_view field, std::string_view value);
// A literal IPv4 or IPv6 address.
Result<void> CheckAddress(std::string_view field, std::string_view value);
// One word for a line of a file: not empty, printable, no blanks.
Result<void> CheckWord(std::string_view field, std::string_view value, size_t limit = 255);
Result<void> CheckRange(std::string_view field, int64_t value, int64_t low, int64_t high);

}  // namespace berth::cri
