#include "base/id.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace berth {

std::string RandomHex(size_t digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(digits, '0');
  unsigned char bytes[32];
  for (size_t i = 0; i < digits;) {
    ssize_t n = ::getrandom(bytes, std::min(sizeof bytes, (digits - i + 1) / 2), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) std::abort();  // every kernel we run on has getrandom; ids that repeat would be worse than a crash
    for (ssize_t b = 0; b < n && i < digits; ++b) {
      out[i++] = kDigits[bytes[b] >> 4];
      if (i < digits) out[i++] = kDigits[bytes[b] & 15];
    }
  }
  return out;
}

}  // namespace berth
