#include "cmd/berth/table.h"

#include <algorithm>
#include <chrono>

#include <fmt/format.h>

namespace berth::cli {

std::string Table::Text() const {
  std::vector<size_t> width;
  for (const auto& row : rows_) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); i++) width[i] = std::max(width[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); i++) line += fmt::format("{:<{}}", row[i], width[i] + 2);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string HumanSize(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) value /= 1000, unit++;
  if (unit == 0) return fmt::format("{} B", bytes);
  return value < 99.95 ? fmt::format("{:.1f} {}", value, kUnits[unit]) : fmt::format("{:.0f} {}", value, kUnits[unit]);
}

std::string HumanAge(int64_t unix_nanos) {
  if (unix_nanos <= 0) return "never";
  auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  int64_t seconds = std::max<int64_t>(0, now - unix_nanos / 1'000'000'000);
  auto say = [](int64_t n, const char* unit) { return fmt::format("{} {}{} ago", n, unit, n == 1 ? "" : "s"); };
  if (seconds < 60) return say(seconds, "second");
  if (seconds < 3600) return say(seconds / 60, "minute");
  if (seconds < 86400) return say(seconds / 3600, "hour");
  return say(seconds / 86400, "day");
}

std::string ShortId(const std::string& id) { return (id.starts_with("sha256:") ? id.substr(7) : id).substr(0, 12); }

}  // namespace berth::cli
