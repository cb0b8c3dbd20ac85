#pragma once
// Text for people: aligned tables, sizes, ages.
#include <cstdint>
#include <string>
#include <vector>

namespace berth::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string Text() const;  // columns separated by two spaces at least, no trailing blanks

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string HumanSize(uint64_t bytes);       // 1.5 MB, decimal as `docker images` prints
std::string HumanAge(int64_t unix_nanos);    // "3 minutes ago"; "never" for 0
std::string ShortId(const std::string& id);  // without "sha256:", 12 digits

}  // namespace berth::cli
