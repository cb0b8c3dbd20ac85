#include "images/layers/tar_number.h"

#include <charconv>

namespace berth::images {
namespace {

std::optional<int64_t> ParseBase256(std::string_view field) {
  bool negative = (field[0] & 0x40) != 0;
  uint64_t value = negative ? ~uint64_t{0} : 0;
  for (size_t i = 0; i < field.size(); ++i) {
    uint8_t byte = static_cast<uint8_t>(field[i]);
    if (i == 0) byte = negative ? (byte | 0x80) : (byte & 0x7f);
    if (i == 0 && negative && byte != 0xff) return std::nullopt;  // larger than the 63 bits we keep, or damaged
    uint64_t top = value >> 56;
    if (top != (negative ? 0xffu : 0u)) return std::nullopt;
    value = (value << 8) | byte;
  }
  int64_t result = static_cast<int64_t>(value);
  if ((result < 0) != negative) return std::nullopt;
  return result;
}

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string_view NextField(std::string_view& rest, char separator) {
  size_t end = rest.find(separator);
  std::string_view field = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  return field;
}

void PutLittle(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

}  // namespace

std::optional<int64_t> ParseHeaderNumber(std::string_view field) {
  if (field.empty()) return 0;
  if (field[0] & 0x80) return ParseBase256(field);
  size_t begin = field.find_first_not_of(std::string_view(" \0", 2));
  if (begin == std::string_view::npos) return 0;
  uint64_t value = 0;
  size_t i = begin;
  for (; i < field.size() && field[i] >= '0' && field[i] <= '7'; ++i) {
    if (value >> 60) return std::nullopt;
    value = value * 8 + static_cast<uint64_t>(field[i] - '0');
  }
  if (i == begin) return std::nullopt;
  // Blanks may follow, then a NUL ends the field; what old writers left behind the NUL does not count.
  while (i < field.size() && field[i] == ' ') ++i;
  if (i < field.size() && field[i] != '\0') return std::nullopt;
  return static_cast<int64_t>(value);
}

std::optional<uint64_t> ParseDecimal(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<Timestamp> ParsePaxTime(std::string_view text) {
  bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  std::string_view fraction = text;
  auto whole = ParseDecimal(NextField(fraction, '.'));
  if (!whole || *whole > uint64_t{1} << 62) return std::nullopt;
  uint32_t nanoseconds = 0;
  bool dust = false;  // digits beyond the ninth
  uint32_t unit = 100'000'000;
  for (char c : fraction) {
    if (c < '0' || c > '9') return std::nullopt;
    if (unit == 0)
      dust |= c != '0';
    else
      nanoseconds += static_cast<uint32_t>(c - '0') * unit;
    unit /= 10;
  }
  int64_t seconds = static_cast<int64_t>(*whole);
  if (!negative) return Timestamp{seconds, nanoseconds};
  if (dust) ++nanoseconds;  // down means away from zero here
  if (nanoseconds == 0) return Timestamp{-seconds, 0};
  return Timestamp{-seconds - 1, 1'000'000'000 - nanoseconds};
}

std::optional<std::string> DecodeBase64(std::string_view text) {
  while (text.ends_with('=') || text.ends_with('\n')) text.remove_suffix(1);
  std::string out;
  out.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int digit = Base64Digit(c);
    if (digit < 0) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count);
    }
  }
  if (count == 6) return std::nullopt;  // one digit alone carries no byte
  return out;
}

std::optional<std::string> DecodePercent(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || HexDigit(text[i + 1]) < 0 || HexDigit(text[i + 2]) < 0) return std::nullopt;
    out += static_cast<char>(HexDigit(text[i + 1]) * 16 + HexDigit(text[i + 2]));
    i += 2;
  }
  return out;
}

std::optional<std::string> EncodeAclText(std::string_view text) {
  // acl(5) names, posix_acl_xattr.h numbers: version 2, then tag, permissions, id; ordered by tag, then id.
  struct Entry {
    uint16_t tag;
    uint16_t permissions;
    uint32_t id;
  };
  constexpr uint32_t kNoId = 0xffffffff;
  std::vector<Entry> entries;
  while (!text.empty()) {
    size_t end = text.find_first_of(",\n");
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (line.empty()) continue;
    std::string_view kind = NextField(line, ':');
    std::string_view name = NextField(line, ':');
    std::string_view bits = NextField(line, ':');
    std::string_view number = NextField(line, ':');  // star adds the numeric id as a fourth field
    Entry entry{0, 0, kNoId};
    for (char c : bits) {
      if (c == 'r')
        entry.permissions |= 4;
      else if (c == 'w')
        entry.permissions |= 2;
      else if (c == 'x')
        entry.permissions |= 1;
      else if (c != '-')
        return std::nullopt;
    }
    bool user = kind == "user" || kind == "u", group = kind == "group" || kind == "g";
    if (user || group) {
      if (name.empty()) {
        entry.tag = user ? 0x01 : 0x04;
      } else {
        entry.tag = user ? 0x02 : 0x08;
        auto id = ParseDecimal(number.empty() ? name : number);
        if (!id || *id >= kNoId) return std::nullopt;
        entry.id = static_cast<uint32_t>(*id);
      }
    } else if (kind == "mask" || kind == "m") {
      entry.tag = 0x10;
    } else if (kind == "other" || kind == "o") {
      entry.tag = 0x20;
    } else {
      return std::nullopt;
    }
    entries.push_back(entry);
  }
  if (entries.empty()) return std::nullopt;
  std::ranges::stable_sort(entries, {}, [](const Entry& e) { return std::pair(e.tag, e.id); });
  std::string out;
  PutLittle(out, 2, 4);
  for (const Entry& entry : entries) {
    PutLittle(out, entry.tag, 2);
    PutLittle(out, entry.permissions, 2);
    PutLittle(out, entry.id, 4);
  }
  return out;
}

}  // namespace berth::images
