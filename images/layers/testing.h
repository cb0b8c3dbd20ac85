#pragma once
// For tests: composes tar archives byte by byte, so that they can be wrong on purpose.
#include <string>
#include <string_view>
#include <vector>

#include "images/layers/tar.h"

namespace berth::images {

struct TarItem {
  char type = '0';
  std::string path;
  std::string target;
  std::string data;
  int mode = 0644;
  uint32_t uid = 0, gid = 0;
  int64_t mtime = 0;
  uint32_t major = 0, minor = 0;
  std::vector<std::pair<std::string, std::string>> pax;  // records of an extended header in front
  std::optional<uint64_t> size;                          // in the header, else data.size()
};

class TarMaker {
 public:
  TarMaker& Add(const TarItem& item) {
    if (!item.pax.empty()) {
      std::string records;
      for (const auto& [key, value] : item.pax) records += Record(key, value);
      Raw('x', "PaxHeaders/x", records);
    }
    bytes_ += Header(item);
    Data(item.data);
    return *this;
  }
  TarMaker& Dir(std::string path, int mode = 0755) { return Add({.type = '5', .path = std::move(path), .mode = mode}); }
  TarMaker& File(std::string path, std::string data, int mode = 0644) {
    return Add({.path = std::move(path), .data = std::move(data), .mode = mode});
  }
  TarMaker& Symlink(std::string path, std::string target) {
    return Add({.type = '2', .path = std::move(path), .target = std::move(target), .mode = 0777});
  }
  TarMaker& Link(std::string path, std::string target) {
    return Add({.type = '1', .path = std::move(path), .target = std::move(target)});
  }
  TarMaker& Whiteout(const std::string& directory, const std::string& name) {
    return File(directory.empty() ? ".wh." + name : directory + "/.wh." + name, "");
  }
  TarMaker& Opaque(const std::string& directory) { return File(directory + "/.wh..wh..opq", ""); }
  TarMaker& Raw(char type, const std::string& path, const std::string& data) {  // a header without pax in front
    bytes_ += Header({.type = type, .path = path, .data = data});
    Data(data);
    return *this;
  }
  TarMaker& Bytes(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  std::string Unfinished() const { return bytes_; }
  std::string Finish() const { return bytes_ + std::string(1024, '\0'); }

  static std::string Record(const std::string& key, const std::string& value) {
    size_t body = key.size() + value.size() + 3;  // blank, equals sign, newline
    size_t length = body + 1;
    while (std::to_string(length).size() + body != length) ++length;
    return std::to_string(length) + " " + key + "=" + value + "\n";
  }
  static std::string Header(const TarItem& item) {
    std::string h(512, '\0');
    auto put = [&](size_t at, std::string_view text, size_t limit) {
      h.replace(at, std::min(text.size(), limit), text.substr(0, limit));
    };
    put(0, item.path, 100);
    put(100, fmt::format("{:07o}", item.mode), 8);
    Number(h, 108, 8, item.uid);
    Number(h, 116, 8, item.gid);
    Number(h, 124, 12, static_cast<int64_t>(item.size.value_or(item.data.size())));
    Number(h, 136, 12, item.mtime);
    h[156] = item.type;
    put(157, item.target, 100);
    put(257, std::string_view("ustar\00000", 8), 8);
    Number(h, 329, 8, item.major);
    Number(h, 337, 8, item.minor);
    Seal(h);
    return h;
  }
  static void Seal(std::string& header) {
    header.replace(148, 8, 8, ' ');
    unsigned sum = 0;
    for (unsigned char c : header) sum += c;
    header.replace(148, 8, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  }
  // Octal where it fits, else base-256 as GNU tar writes it.
  static void Number(std::string& header, size_t at, size_t size, int64_t value) {
    if (value >= 0 && static_cast<uint64_t>(value) < uint64_t{1} << (3 * (size - 1))) {
      header.replace(at, size - 1, fmt::format("{:0{}o}", value, size - 1));
      return;
    }
    uint64_t bits = static_cast<uint64_t>(value);
    for (size_t i = size; i-- > 0;) {
      header[at + i] = static_cast<char>(bits);
      bits = (bits >> 8) | (value < 0 ? uint64_t{0xff} << 56 : 0);
    }
    header[at] = static_cast<char>(static_cast<unsigned char>(header[at]) | 0x80);
  }

 private:
  void Data(const std::string& data) {
    bytes_ += data;
    bytes_.append((512 - data.size() % 512) % 512, '\0');
  }
  std::string bytes_;
};

inline Result<std::vector<TarEntry>> Scan(std::string_view tar, size_t chunk = SIZE_MAX, TarLimits limits = {}) {
  std::vector<TarEntry> entries;
  TarScanner scanner(
      [&](TarEntry&& e) -> Result<void> {
        entries.push_back(std::move(e));
        return {};
      },
      limits);
  while (!tar.empty()) {
    std::string_view part = tar.substr(0, chunk);
    tar.remove_prefix(part.size());
    TRY(scanner.Feed(part));
  }
  TRY(scanner.Finish());
  return entries;
}

}  // namespace berth::images
