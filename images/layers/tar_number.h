#pragma once
// Numbers as tar headers and pax records write them.
#include <cstdint>
#include <optional>
#include <string_view>

#include "images/layers/tar.h"

namespace berth::images {

// A header field: octal digits between blanks or NULs, or base-256 when the first bit is set (GNU). Empty is 0.
std::optional<int64_t> ParseHeaderNumber(std::string_view field);
// Decimal digits only, at least one.
std::optional<uint64_t> ParseDecimal(std::string_view text);
// A pax time: optional minus, decimal digits, optional fraction. Rounded down to a nanosecond.
std::optional<Timestamp> ParsePaxTime(std::string_view text);
// base64 with or without padding (LIBARCHIVE.xattr values).
std::optional<std::string> DecodeBase64(std::string_view text);
// %XX escapes (LIBARCHIVE.xattr names).
std::optional<std::string> DecodePercent(std::string_view text);
// A POSIX access control list as text (SCHILY.acl.*) in the form of the system.posix_acl_* xattrs. Entries that name a
// user or group without a number are refused: there is no account database to ask.
std::optional<std::string> EncodeAclText(std::string_view text);

}  // namespace berth::images
