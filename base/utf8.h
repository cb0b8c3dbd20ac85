#pragma once
// UTF-8, as far as writing JSON and log lines needs it.
#include <cstddef>
#include <string>
#include <string_view>

namespace berth {

// Bytes of the valid UTF-8 sequence at the start of `text`; 0 when it is not one (overlong forms, surrogates and values
// past U+10FFFF are not). RFC 3629 section 4.
size_t Utf8Sequence(std::string_view text);
bool IsUtf8(std::string_view text);
// Each byte that starts no valid sequence becomes U+FFFD.
std::string ToUtf8(std::string_view text);

}  // namespace berth
