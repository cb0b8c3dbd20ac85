// What options say, as numbers and paths.
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <charconv>

#include "base/atomic_file.h"
#include "cmd/berth-oci/command.h"

namespace berth {

using runtime::oci::Activation;

std::vector<Option> With(std::vector<Option> base, std::initializer_list<Option> more) {
  base.insert(base.end(), more);
  return base;
}

Result<uint32_t> Number(std::string_view text, std::string_view what) {
  uint32_t n = 0;
  auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (err != std::errc() || end != text.data() + text.size())
    return Err(Code::kInvalidArgument, "{}: \"{}\" is not a number from 0 to 4294967295", what, text);
  return n;
}

Result<int64_t> Signed(std::string_view text, std::string_view what) {
  int64_t n = 0;
  auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (err != std::errc() || end != text.data() + text.size())
    return Err(Code::kInvalidArgument, "{}: \"{}\" is not a whole number", what, text);
  return n;
}

Result<int64_t> Bytes(std::string_view text, std::string_view what) {
  if (text == "-1") return -1;
  double n = 0;
  auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), n);
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  if (unit.ends_with("ib"))
    unit.resize(unit.size() - 2);
  else if (unit.ends_with("b"))
    unit.pop_back();
  static constexpr std::string_view kUnits = "kmgtp";
  size_t power = unit.empty() ? 0 : unit.size() == 1 ? kUnits.find(unit[0]) + 1 : 0;
  for (size_t i = 0; i < power && power <= kUnits.size(); ++i) n *= 1024;
  if (err != std::errc() || !(n >= 0) || n >= 9.2e18 || power > kUnits.size() || (power == 0 && !unit.empty()))
    return Err(Code::kInvalidArgument, "{}: \"{}\" is not a size like 64m or 1g, nor -1", what, text);
  return static_cast<int64_t>(n);
}

Result<std::chrono::nanoseconds> Duration(std::string_view text, std::string_view what) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"ns", 1},  {"us", 1e3}, {"ms", 1e6},
                                                                   {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
  double total = 0;
  std::string_view left = text;
  bool ok = !left.empty();
  while (ok && !left.empty()) {
    double n = 0;
    auto [end, err] = std::from_chars(left.data(), left.data() + left.size(), n);
    left.remove_prefix(static_cast<size_t>(end - left.data()));
    std::string_view unit = left.substr(0, left.find_first_of("0123456789."));
    ok = false;
    for (auto [name, size] : kUnits) {
      if (err != std::errc() || name != unit) continue;
      total += n * size;
      ok = true;
    }
    left.remove_prefix(unit.size());
  }
  if (!ok || total < 0 || total > 9e18)
    return Err(Code::kInvalidArgument, "{}: \"{}\" is not a duration like 5s or 100ms", what, text);
  return std::chrono::nanoseconds(static_cast<int64_t>(total));
}

void Print(std::string_view text) { (void)WriteAll(1, text); }

Result<std::string> Absolute(const std::string& path, std::string_view option) {
  char resolved[PATH_MAX];
  if (!::realpath(path.c_str(), resolved)) return SysErr("{}: {}", option, path);
  return std::string(resolved);
}

Result<Activation> ActivationFromEnvironment() {
  Activation a;
  if (const char* socket = ::getenv("NOTIFY_SOCKET")) a.notify_socket = socket;
  const char* fds = ::getenv("LISTEN_FDS");
  if (!fds) return a;
  // With a LISTEN_PID that is not ours they are meant for somebody else.
  if (const char* pid = ::getenv("LISTEN_PID"); pid && fmt::format("{}", ::getpid()) != pid) return a;
  a.listen_fds = TRY(Number(fds, "LISTEN_FDS"));
  if (const char* names = ::getenv("LISTEN_FDNAMES")) a.listen_names = names;
  return a;
}

Result<uint32_t> PreservedFds(const Call& call, uint32_t first) {
  uint32_t n = TRY(Number(call.args.Text("preserve-fds", "0"), "--preserve-fds"));
  if (n > 1 << 20 || first > 1 << 20) return Err(Code::kInvalidArgument, "--preserve-fds: {}: too many", n);
  for (uint32_t fd = 3; fd < 3 + first + n; ++fd)
    if (::fcntl(static_cast<int>(fd), F_GETFD) < 0)
      return Err(Code::kInvalidArgument, "{}: descriptor {} is not open",
                 fd < 3 + first ? "LISTEN_FDS" : "--preserve-fds", fd);
  return n;
}

}  // namespace berth
