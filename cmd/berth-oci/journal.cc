#include "cmd/berth-oci/journal.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/log.h"

namespace berth {
namespace {

int file = -1;
bool as_json = false, with_debug = false;

std::string Quote(std::string_view s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (c == '\n')
      out += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\u{:04x}", c);
    else
      out += c;
  }
  return out + '"';
}

}  // namespace

void OpenJournal(const std::string& path, bool json, bool debug) {
  as_json = json;
  with_debug = debug;
  if (!path.empty()) file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

void Journal(std::string_view level, std::string_view message) {
  if (level == "debug" && !with_debug) return;
  if (level == "error" || file < 0) {
    std::string line = fmt::format("berth-oci: {}{}\n", level == "error" ? "" : "warning: ", message);
    [[maybe_unused]] ssize_t n = ::write(2, line.data(), line.size());
  }
  if (file < 0) return;
  time_t now = ::time(nullptr);
  tm t;
  ::gmtime_r(&now, &t);
  std::string when = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
                                 t.tm_hour, t.tm_min, t.tm_sec);
  std::string line = as_json
                         ? fmt::format("{{\"level\":\"{}\",\"msg\":{},\"time\":\"{}\"}}\n", level, Quote(message), when)
                         : fmt::format("time=\"{}\" level={} msg={}\n", when, level, Quote(message));
  [[maybe_unused]] ssize_t n = ::write(file, line.data(), line.size());
}

// base/log as this program does it: the daemon's logger would bring threads, locales and a megabyte into a program that
// lives for milliseconds.
namespace log {

void Configure(Level, Format) {}
bool Enabled(Level level) { return level != Level::kDebug || with_debug; }
void Write(Level level, std::string_view event, Fields fields) {
  std::string message(event);
  for (const Field& f : fields) message += fmt::format(" {}={}", f.key, f.value);
  Journal(level == Level::kDebug ? "debug" : level == Level::kInfo ? "info" : "warning", message);
}

}  // namespace log
}  // namespace berth
