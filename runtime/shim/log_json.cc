// Docker's form of log records (daemon/logger/jsonfilelog of moby): escapes as its encoder does.
#include <string.h>

#include "runtime/shim/log_format.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace berth::shim {
namespace {

size_t Smaller(size_t a, size_t b) { return a < b ? a : b; }

// Length of the valid UTF-8 sequence at `s`, 0: none. *rune: what it stands for.
size_t Decode(const unsigned char* s, size_t size, uint32_t* rune) {
  auto more = [&](size_t i) { return i < size && (s[i] & 0xc0) == 0x80; };
  unsigned char a = s[0];
  if (a < 0x80) {
    *rune = a;
    return 1;
  }
  if (a >= 0xc2 && a < 0xe0 && more(1)) {
    *rune = (a & 0x1fU) << 6 | (s[1] & 0x3fU);
    return 2;
  }
  if (a >= 0xe0 && a < 0xf0 && more(1) && more(2)) {
    *rune = (a & 0x0fU) << 12 | (s[1] & 0x3fU) << 6 | (s[2] & 0x3fU);
    return *rune >= 0x800 && (*rune < 0xd800 || *rune > 0xdfff) ? 3 : 0;
  }
  if (a >= 0xf0 && a < 0xf5 && more(1) && more(2) && more(3)) {
    *rune = (a & 0x07U) << 18 | (s[1] & 0x3fU) << 12 | (s[2] & 0x3fU) << 6 | (s[3] & 0x3fU);
    return *rune >= 0x10000 && *rune <= 0x10ffff ? 4 : 0;
  }
  return 0;
}

bool Plain(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'; }

char* Escape(char* to, unsigned char c) {
  static const char kHex[] = "0123456789abcdef";
  *to++ = '\\';
  if (c == '"' || c == '\\') {
    *to++ = static_cast<char>(c);
  } else if (c == '\n' || c == '\r') {
    *to++ = c == '\n' ? 'n' : 'r';
  } else {
    memcpy(to, "u00", 3);
    to[3] = kHex[c >> 4];
    to[4] = kHex[c & 15];
    to += 5;
  }
  return to;
}

// At most 6 bytes for each; writes up to 15 further.
char* Quote(char* to, const char* in, size_t size) {
  const char* const end = in + size;
  while (in < end) {
#ifdef __SSE2__
    // Runs of bytes that stand for themselves. As signed numbers, those from 0x80 on are less than 0x20 too.
    const __m128i low = _mm_set1_epi8(0x20), quote = _mm_set1_epi8('"'), back = _mm_set1_epi8('\\'), less = _mm_set1_epi8('<'),
                  more = _mm_set1_epi8('>'), amp = _mm_set1_epi8('&');
    while (in < end) {
      __m128i block = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), block);
      __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmplt_epi8(block, low), _mm_cmpeq_epi8(block, quote)),
                                 _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(block, back), _mm_cmpeq_epi8(block, less)),
                                              _mm_or_si128(_mm_cmpeq_epi8(block, more), _mm_cmpeq_epi8(block, amp))));
      auto mask = static_cast<unsigned>(_mm_movemask_epi8(odd));
      size_t run = Smaller(mask == 0 ? 16 : static_cast<size_t>(__builtin_ctz(mask)), static_cast<size_t>(end - in));
      in += run;
      to += run;
      if (mask != 0) break;
    }
#else
    while (in < end && Plain(static_cast<unsigned char>(*in))) *to++ = *in++;
#endif
    while (in < end && !Plain(static_cast<unsigned char>(*in))) {
      auto c = static_cast<unsigned char>(*in);
      if (c < 0x80) {
        to = Escape(to, c);
        ++in;
        continue;
      }
      uint32_t rune = 0;
      size_t length = Decode(reinterpret_cast<const unsigned char*>(in), static_cast<size_t>(end - in), &rune);
      if (length == 0) {
        memcpy(to, "\\ufffd", 6);
        to += 6;
        ++in;
      } else if (rune == 0x2028 || rune == 0x2029) {
        memcpy(to, rune == 0x2028 ? "\\u2028" : "\\u2029", 6);
        to += 6;
        in += length;
      } else {
        memcpy(to, in, length);
        to += length;
        in += length;
      }
    }
  }
  return to;
}

// Where a line that is too long is cut: not inside a character.
size_t CutAt(const char* line) {
  for (size_t back = 1; back <= 3; ++back) {
    auto c = static_cast<unsigned char>(line[kMaxLine - back]);
    if ((c & 0xc0) == 0x80) continue;
    size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return length > back ? kMaxLine - back : kMaxLine;
  }
  return kMaxLine;
}

}  // namespace

size_t FindLine(const char* in, size_t limit) {
#ifdef __SSE2__
  const __m128i lf = _mm_set1_epi8('\n');
  for (size_t at = 0; at < limit; at += 16) {
    auto mask = static_cast<unsigned>(
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + at)), lf)));
    if (mask != 0) return Smaller(at + static_cast<size_t>(__builtin_ctz(mask)), limit);
  }
  return limit;
#else
  const void* found = memchr(in, '\n', limit);
  return found == nullptr ? limit : static_cast<size_t>(static_cast<const char*>(found) - in);
#endif
}

char* PutJson(char* out, const LogStream& stream, const Stamp& stamp, const char* content, size_t size, bool full) {
  memcpy(out, "{\"log\":\"", 8);
  out = Quote(out + 8, content, size);
  if (full) {
    memcpy(out, "\\n", 2);
    out += 2;
  }
  constexpr char kStdout[] = "\",\"stream\":\"stdout\",\"time\":\"", kStderr[] = "\",\"stream\":\"stderr\",\"time\":\"";
  memcpy(out, stream.error ? kStderr : kStdout, sizeof kStdout - 1);
  out += sizeof kStdout - 1;
  memcpy(out, stamp.tail, sizeof stamp.tail);
  return out + stamp.tail_size;
}

size_t FormatJson(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, size_t* used, char* out,
                  size_t capacity) {
  const char* at = in;
  const char* const end = in + size;
  char* to = out;
  auto fits = [&](size_t length) {
    return static_cast<size_t>(out + capacity - to) >= kJsonFrame + 6 * length + kSlop;
  };
  while (at < end) {
    if (stream.held == 0) {
      size_t limit = Smaller(static_cast<size_t>(end - at), kMaxLine + 1);
      size_t count = FindLine(at, limit);
      bool newline = count < limit;
      if (!newline && at + count == end && count <= kMaxLine) {
        if (stream.hold == nullptr) stream.hold = pool.Take();
        if (stream.hold != nullptr) {
          memcpy(stream.hold->bytes, at, count);
          stream.held = static_cast<uint32_t>(count);
          at = end;
          break;
        }
      }
      size_t length = newline || count <= kMaxLine ? count : CutAt(at);
      if (!fits(length)) break;
      to = PutJson(to, stream, stamp, at, length, newline);
      at += newline ? length + 1 : length;
      continue;
    }
    char* line = stream.hold->bytes;
    size_t limit = Smaller(static_cast<size_t>(end - at), kMaxLine + 1 - stream.held);
    size_t count = FindLine(at, limit);
    bool newline = count < limit;
    size_t total = stream.held + count;
    if ((newline || total > kMaxLine) && !fits(Smaller(total, kMaxLine))) break;
    memcpy(line + stream.held, at, count);
    at += count;
    stream.held = static_cast<uint32_t>(total);
    if (newline) {
      to = PutJson(to, stream, stamp, line, total, true);
      ++at;
      stream.held = 0;
      pool.Give(stream.hold);
      stream.hold = nullptr;
    } else if (total > kMaxLine) {
      size_t length = CutAt(line);
      to = PutJson(to, stream, stamp, line, length, false);
      stream.held = static_cast<uint32_t>(total - length);
      memmove(line, line + length, stream.held);
    }
  }
  if (stream.held == 0 && stream.hold != nullptr) {
    pool.Give(stream.hold);
    stream.hold = nullptr;
  }
  *used = static_cast<size_t>(at - in);
  return static_cast<size_t>(to - out);
}

}  // namespace berth::shim
