#include "runtime/linux/names.h"

#include <sys/resource.h>
#include <charconv>
#include <csignal>

#include <fmt/format.h>

namespace berth::runtime {
namespace {

struct Row {
  std::string_view name;
  int number;
};

constexpr Row kLimits[] = {
    {"RLIMIT_AS", RLIMIT_AS},           {"RLIMIT_CORE", RLIMIT_CORE},         {"RLIMIT_CPU", RLIMIT_CPU},
    {"RLIMIT_DATA", RLIMIT_DATA},       {"RLIMIT_FSIZE", RLIMIT_FSIZE},       {"RLIMIT_LOCKS", RLIMIT_LOCKS},
    {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK}, {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", RLIMIT_NICE},
    {"RLIMIT_NOFILE", RLIMIT_NOFILE},   {"RLIMIT_NPROC", RLIMIT_NPROC},       {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},   {"RLIMIT_RTTIME", RLIMIT_RTTIME},     {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_STACK", RLIMIT_STACK}};

// Linux numbers of the architectures we run on (amd64, arm64: the generic ones).
constexpr Row kSignals[] = {{"HUP", 1},   {"INT", 2},     {"QUIT", 3},  {"ILL", 4},     {"TRAP", 5},  {"ABRT", 6},
                            {"BUS", 7},   {"FPE", 8},     {"KILL", 9},  {"USR1", 10},   {"SEGV", 11}, {"USR2", 12},
                            {"PIPE", 13}, {"ALRM", 14},   {"TERM", 15}, {"STKFLT", 16}, {"CHLD", 17}, {"CONT", 18},
                            {"STOP", 19}, {"TSTP", 20},   {"TTIN", 21}, {"TTOU", 22},   {"URG", 23},  {"XCPU", 24},
                            {"XFSZ", 25}, {"VTALRM", 26}, {"PROF", 27}, {"WINCH", 28},  {"IO", 29},   {"PWR", 30},
                            {"SYS", 31},  {"IOT", 6},     {"CLD", 17},  {"POLL", 29}};
constexpr int kRtMin = 34, kRtMax = 64;  // what the C libraries leave to programs

std::optional<int> Integer(std::string_view s) {
  int n = 0;
  auto [end, err] = std::from_chars(s.data(), s.data() + s.size(), n);
  if (err != std::errc() || end != s.data() + s.size()) return std::nullopt;
  return n;
}

}  // namespace

std::optional<unsigned> RlimitNumber(std::string_view name) {
  for (const Row& row : kLimits)
    if (row.name == name) return static_cast<unsigned>(row.number);
  return std::nullopt;
}

std::string_view RlimitName(unsigned resource) {
  for (const Row& row : kLimits)
    if (row.number == static_cast<int>(resource)) return row.name;
  return {};
}

std::optional<int> SignalNumber(std::string_view name) {
  if (auto n = Integer(name)) {
    if (*n >= 1 && *n <= kRtMax) return n;
    return std::nullopt;
  }
  std::string upper(name);
  for (char& c : upper)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
  std::string_view s = upper;
  if (s.starts_with("SIG")) s.remove_prefix(3);
  for (const Row& row : kSignals)
    if (row.name == s) return row.number;
  for (auto [prefix, base] : {Row{"RTMIN", kRtMin}, Row{"RTMAX", kRtMax}}) {
    if (!s.starts_with(prefix)) continue;
    s.remove_prefix(prefix.size());
    if (s.empty()) return base;
    char sign = s.front();
    if (sign != (base == kRtMin ? '+' : '-')) return std::nullopt;
    auto n = Integer(s.substr(1));
    if (!n || *n < 0 || *n > kRtMax - kRtMin) return std::nullopt;
    return base == kRtMin ? base + *n : base - *n;
  }
  return std::nullopt;
}

std::string SignalName(int signal) {
  for (const Row& row : kSignals)
    if (row.number == signal) return fmt::format("SIG{}", row.name);
  if (signal == kRtMin) return "SIGRTMIN";
  if (signal > kRtMin && signal <= kRtMax) return fmt::format("SIGRTMIN+{}", signal - kRtMin);
  return fmt::format("{}", signal);
}

}  // namespace berth::runtime
