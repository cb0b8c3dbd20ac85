#include "runtime/shim/log_format.h"

#include <string.h>
#include <sys/mman.h>

#include "runtime/init/text.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace berth::shim {
namespace {

size_t Smaller(size_t a, size_t b) { return a < b ? a : b; }

// Copies up to `limit` bytes and stops before a newline; returns how many, *newline says why it stopped. Reads and writes
// up to 15 bytes further: one pass over the bytes is what makes short lines cheap.
size_t CopyLine(char* out, const char* in, size_t limit, bool* newline) {
  *newline = false;
#ifdef __SSE2__
  const __m128i lf = _mm_set1_epi8('\n');
  for (size_t at = 0; at < limit; at += 16) {
    __m128i block = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + at));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), block);
    int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(block, lf));
    if (mask == 0) continue;
    size_t found = at + static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(mask)));
    if (found >= limit) return limit;
    *newline = true;
    return found;
  }
  return limit;
#else
  const void* found = memchr(in, '\n', limit);
  size_t count = found == nullptr ? limit : static_cast<size_t>(static_cast<const char*>(found) - in);
  memcpy(out, in, count);
  *newline = found != nullptr;
  return count;
#endif
}

void Digits(char* out, uint32_t value, int count) {
  for (int i = count - 1; i >= 0; --i, value /= 10) out[i] = static_cast<char>('0' + value % 10);
}

char* PutPrefix(char* out, const Stamp& stamp, const LogStream& stream, char tag) {
  memcpy(out, stamp.prefix, kPrefix);
  if (stream.error) memcpy(out + 34, "err", 3);  // "stdout" -> "stderr"
  out[38] = tag;
  return out + kPrefix;
}

// May an unfinished line of this length wait for more? On a terminal a CR beyond the limit waits for its LF.
bool MayHold(const LogStream& stream, const char* line, size_t size) {
  return size <= kMaxLine || (stream.terminal && size == kMaxLine + 1 && line[kMaxLine] == '\r');
}

}  // namespace

Hold* HoldPool::Take() {
  if (count_ > 0) return free_[--count_];
  void* at = mmap(nullptr, sizeof(Hold), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<Hold*>(at);
}

void HoldPool::Give(Hold* hold) {
  if (hold == nullptr) return;
  if (count_ < kKeep) {
    free_[count_++] = hold;
  } else {
    munmap(hold, sizeof(Hold));
  }
}

void HoldPool::Trim() {
  while (count_ > 0) munmap(free_[--count_], sizeof(Hold));
}

void Stamp::Set(int64_t unix_nanos) {
  int64_t seconds = unix_nanos / 1000000000;
  int64_t nanos = unix_nanos % 1000000000;
  if (nanos < 0) {
    nanos += 1000000000;
    --seconds;
  }
  int64_t days = seconds / 86400;
  int64_t rest = seconds % 86400;
  if (rest < 0) {
    rest += 86400;
    --days;
  }
  // Days since 1970-01-01 to a date, with years that begin in March so that the leap day is the last of its year.
  days += 719468;
  int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  uint32_t of_era = static_cast<uint32_t>(days - era * 146097);
  uint32_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  uint32_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  uint32_t month_from_march = (5 * of_year + 2) / 153;
  uint32_t day = of_year - (153 * month_from_march + 2) / 5 + 1;
  uint32_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
  int64_t year = static_cast<int64_t>(year_of_era) + era * 400 + (month <= 2 ? 1 : 0);
  uint32_t in_day = static_cast<uint32_t>(rest);

  memcpy(prefix, "0000-00-00T00:00:00.000000000Z stdout F ", kPrefix);
  Digits(prefix, static_cast<uint32_t>(year), 4);
  Digits(prefix + 5, month, 2);
  Digits(prefix + 8, day, 2);
  Digits(prefix + 11, in_day / 3600, 2);
  Digits(prefix + 14, in_day / 60 % 60, 2);
  Digits(prefix + 17, in_day % 60, 2);
  Digits(prefix + 20, static_cast<uint32_t>(nanos), 9);

  // Go's RFC3339Nano, which Docker writes, has no zeros at the end.
  size_t size = 29;
  while (prefix[size - 1] == '0') --size;
  if (prefix[size - 1] == '.') --size;
  memcpy(tail, prefix, size);
  memcpy(tail + size, "Z\"}\n", 4);
  tail_size = size + 4;
}

size_t FormatRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, size_t* used,
                     char* out, size_t capacity) {
  if (stream.json) return FormatJson(stream, pool, stamp, in, size, used, out, capacity);
  const char* at = in;
  const char* const end = in + size;
  char* to = out;
  char* const to_end = out + capacity - kSlop;
  while (at < end && to_end - to >= static_cast<ptrdiff_t>(kMaxRecord)) {
    bool newline = false;
    if (stream.held == 0) {
      // The line begins in this input: it is formatted as it is copied, and taken back when it turns out unfinished.
      char* content = to + kPrefix;
      size_t count = CopyLine(content, at, Smaller(static_cast<size_t>(end - at), kMaxLine + 2), &newline);
      size_t length = count;
      if (newline && stream.terminal && length > 0 && content[length - 1] == '\r') --length;
      if (newline && length <= kMaxLine) {
        PutPrefix(to, stamp, stream, 'F');
        content[length] = '\n';
        to = content + length + 1;
        at += count + 1;
        continue;
      }
      if (!newline && at + count == end && MayHold(stream, at, count)) {
        if (stream.hold == nullptr) stream.hold = pool.Take();
        if (stream.hold != nullptr) {
          memcpy(stream.hold->bytes, at, count);
          stream.held = static_cast<uint32_t>(count);
          at = end;
          continue;
        }
      }
      length = Smaller(count, kMaxLine);
      PutPrefix(to, stamp, stream, 'P');
      content[length] = '\n';
      to = content + length + 1;
      at += length;
      continue;
    }
    char* line = stream.hold->bytes;
    size_t room = kMaxLine + 2 - stream.held;
    size_t count = CopyLine(line + stream.held, at, Smaller(static_cast<size_t>(end - at), room), &newline);
    size_t total = stream.held + count;
    at += count;
    size_t length = total;
    if (newline && stream.terminal && line[length - 1] == '\r') --length;
    bool full = newline && length <= kMaxLine;
    if (!full && !newline && at == end && MayHold(stream, line, total)) {
      stream.held = static_cast<uint32_t>(total);
      continue;
    }
    if (!full) length = kMaxLine;
    char* content = PutPrefix(to, stamp, stream, full ? 'F' : 'P');
    memcpy(content, line, length);
    content[length] = '\n';
    to = content + length + 1;
    if (full) {
      ++at;  // the newline
      stream.held = 0;
      pool.Give(stream.hold);
      stream.hold = nullptr;
    } else {
      stream.held = static_cast<uint32_t>(total - kMaxLine);  // one or two bytes
      memmove(line, line + kMaxLine, stream.held);
    }
  }
  if (stream.held == 0 && stream.hold != nullptr) {
    pool.Give(stream.hold);
    stream.hold = nullptr;
  }
  *used = static_cast<size_t>(at - in);
  return static_cast<size_t>(to - out);
}

size_t FlushRecords(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out) {
  char* to = out;
  size_t done = 0;
  while (done < stream.held) {
    size_t length = Smaller(stream.held - done, kMaxLine);
    const char* line = stream.hold->bytes + done;
    if (stream.json) {
      to = PutJson(to, stream, stamp, line, length, false);
    } else {
      char* content = PutPrefix(to, stamp, stream, 'P');
      memcpy(content, line, length);
      content[length] = '\n';
      to = content + length + 1;
    }
    done += length;
  }
  stream.held = 0;
  pool.Give(stream.hold);
  stream.hold = nullptr;
  return static_cast<size_t>(to - out);
}

size_t FormatNotice(LogStream& stream, const Stamp& stamp, char* out) {
  init::Line<160> text;
  text.text << "berth: " << static_cast<unsigned long>(stream.dropped_lines) << (stream.dropped_lines == 1 ? " line (" : " lines (")
            << static_cast<unsigned long>(stream.dropped_bytes) << " bytes) of output dropped: the log did not take them";
  stream.dropped_lines = stream.dropped_bytes = 0;
  size_t length = strlen(text.bytes);
  if (stream.json) return static_cast<size_t>(PutJson(out, stream, stamp, text.bytes, length, true) - out);
  char* content = PutPrefix(out, stamp, stream, 'F');
  memcpy(content, text.bytes, length);
  content[length] = '\n';
  return kPrefix + length + 1;
}

}  // namespace berth::shim
