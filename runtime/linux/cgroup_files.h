#pragma once
// Control files, read and written; what the parts of cgroup share. Internal to runtime/linux.
#include <fcntl.h>
#include <unistd.h>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/linux/cgroup.h"

namespace berth::runtime::cgroup {

// The group's directory in the hierarchy of a version 1 controller; nullopt when it is not version 1.
inline std::optional<std::string> V1Dir(const Layout& layout, std::string_view controller, const Group& group) {
  const Hierarchy* h = layout.V1(controller);
  if (!h) return std::nullopt;
  return h->mount + group.path;
}

// Small control files in one read(2); bigger ones are cut at `limit`.
inline Result<std::string> ReadControl(const std::string& path, size_t limit = 1 << 20) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SysErr("open {}", path);
  unique_fd owned(fd);
  std::string text;
  size_t have = 0;
  for (;;) {
    text.resize(have + 4096);
    ssize_t n = ::read(fd, text.data() + have, 4096);
    if (n < 0) {
      if (errno == EINTR) continue;
      return SysErr("read {}", path);
    }
    have += static_cast<size_t>(n);
    if (n == 0 || have >= limit) break;
    if (n < 4096 && have < 4096) break;  // kernfs gives a short file at once
  }
  text.resize(have);
  return text;
}

inline Result<void> WriteControl(const std::string& path, std::string_view value) {
  int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return SysErr("open {}", path);
  unique_fd owned(fd);
  ssize_t n;
  do n = ::write(fd, value.data(), value.size());
  while (n < 0 && errno == EINTR);
  if (n < 0) return SysErr("write \"{}\" to {}", value, path);
  return {};
}

inline std::string_view Trim(std::string_view s) {
  while (!s.empty() && (s.back() == '\n' || s.back() == ' ')) s.remove_suffix(1);
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  return s;
}

// "max" and what is not a number: nullopt.
inline std::optional<uint64_t> Number(std::string_view s) {
  s = Trim(s);
  uint64_t n = 0;
  auto [end, err] = std::from_chars(s.data(), s.data() + s.size(), n);
  if (err != std::errc() || end != s.data() + s.size()) return std::nullopt;
  return n;
}

// The value after `key` in a flat keyed file ("oom_kill 3\n").
inline std::optional<uint64_t> Keyed(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ' ')
      return Number(line.substr(key.size() + 1));
  }
  return std::nullopt;
}

inline std::optional<uint64_t> ReadNumber(const std::string& path) {
  auto text = ReadControl(path);
  return text ? Number(*text) : std::nullopt;
}

std::vector<std::string> Words(std::string_view text, char separator = ' ');  // trimmed, without empty ones
std::vector<std::string> Children(const std::string& dir);                    // names of the directories in it
Result<void> CheckPath(const std::string& path);
// Hands a controller down from the root to the group's parent (version 2).
Result<void> EnableController(const Layout& layout, const Group& group, const std::string& controller);

// Device rules: version 1 writes them, version 2 runs a program loaded once per rule set. (devices.cc)
Result<void> ApplyDevicesV1(const std::string& dir, const std::vector<oci::DeviceRule>& rules);
Result<void> UpdateDevicesV1(const std::string& dir, const std::vector<oci::DeviceRule>& rules);
Result<void> ApplyDevicesV2(const std::string& dir, const std::vector<oci::DeviceRule>& rules);

inline constexpr std::string_view kAt = "linux.resources";

}  // namespace berth::runtime::cgroup
