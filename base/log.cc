#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <ctime>

#include "base/clock.h"
#include "base/utf8.h"

namespace berth::log {
namespace {

std::atomic<Level> g_level = Level::kInfo;
std::atomic<Format> g_format = Format::kLogfmt;

constexpr std::string_view kLevelNames[] = {"debug", "info", "warn", "error"};

spdlog::level::level_enum SpdlogLevel(Level level) {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarn: return spdlog::level::warn;
    case Level::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& Sink() {
  // Never destroyed: threads may log while the process exits.
  static spdlog::logger& logger = *[] {
    auto* l = new spdlog::logger("berth", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l->set_pattern("%v");
    l->set_level(spdlog::level::trace);
    return l;
  }();
  return logger;
}

std::string Timestamp(int64_t unix_nanos) {
  std::time_t seconds = unix_nanos / 1'000'000'000;
  std::tm tm{};
  ::gmtime_r(&seconds, &tm);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                     tm.tm_min, tm.tm_sec, unix_nanos % 1'000'000'000 / 1000);
}

void AppendQuoted(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const size_t n = Utf8Sequence(text);
    const auto c = static_cast<unsigned char>(text[0]);
    if (n == 0) out += "\\ufffd";
    else if (c == '"' || c == '\\') (out += '\\') += text[0];
    else if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (c == '\r') out += "\\r";
    else if (c < 0x20 || c == 0x7f) out += fmt::format("\\u{:04x}", c);
    else out += text.substr(0, n);
    text.remove_prefix(n == 0 ? 1 : n);
  }
  out += '"';
}

bool Bare(std::string_view text) {  // needs no quotes in logfmt
  if (text.empty()) return false;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (u <= 0x20 || u >= 0x7f || c == '"' || c == '=' || c == '\\') return false;
  }
  return true;
}

// A number as JSON knows it (no nan, no inf, no lone letter) or a truth value.
bool JsonScalar(std::string_view text) {
  if (text == "true" || text == "false") return true;
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text[0] >= '0' && text[0] <= '9' && text.find_first_not_of("0123456789.e+-") == text.npos;
}

}  // namespace

std::string Line(Format format, int64_t unix_nanos, Level level, std::string_view event, Fields fields) {
  std::string out;
  const auto add = [&](std::string_view key, std::string_view value, bool quoted) {
    if (format == Format::kJson) {
      out += out.empty() ? '{' : ',';
      AppendQuoted(out, key);
      out += ':';
      if (!quoted && JsonScalar(value)) out += value;
      else AppendQuoted(out, value);
      return;
    }
    if (!out.empty()) out += ' ';
    (out += key) += '=';
    if (Bare(value)) out += value;
    else AppendQuoted(out, value);
  };
  add("ts", Timestamp(unix_nanos), true);
  add("level", kLevelNames[static_cast<int>(level)], true);
  add("event", event, true);
  for (const Field& field : fields) add(field.key, field.value, field.quoted);
  if (format == Format::kJson) out += '}';
  return out;
}

void Configure(Level level, Format format) {
  g_level = level;
  g_format = format;
}

bool Enabled(Level level) { return level >= g_level.load(std::memory_order_relaxed); }

void Write(Level level, std::string_view event, Fields fields) {
  if (!Enabled(level)) return;
  const std::string line = Line(g_format, Clock::System().UnixNanos(), level, event, fields);
  Sink().log(spdlog::source_loc{}, SpdlogLevel(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace berth::log
