#pragma once
// Structured log: an event name, then fields.
//
//   log::Info("pod.ready", {{"pod", id}, {"took_ms", ms}});
//
// logfmt by default, JSON by option, to standard error. Event names are `noun.verb`, lower case. Thread-safe. A Secret
// formats as stars. An error is logged once, at the door that answers the caller.
#include <initializer_list>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace berth::log {

enum class Level { kDebug, kInfo, kWarn, kError };
enum class Format { kLogfmt, kJson };

struct Field {
  std::string_view key;
  std::string value;
  bool quoted;  // false for numbers and booleans in JSON
  template <class T>
  Field(std::string_view k, const T& v)
      : key(k), value(fmt::format("{}", v)), quoted(!std::is_arithmetic_v<T>) {}
  Field(std::string_view k, const Error& e) : key(k), value(e.what), quoted(true) {}
};
using Fields = std::initializer_list<Field>;

// One line without its newline, as it would be written: pure. Control characters and invalid UTF-8 are escaped, so that a
// value never starts a line or a field of its own.
std::string Line(Format format, int64_t unix_nanos, Level level, std::string_view event, Fields fields);

void Configure(Level level, Format format);  // call once, before threads
bool Enabled(Level level);
void Write(Level level, std::string_view event, Fields fields);
inline void Debug(std::string_view event, Fields f = {}) { if (Enabled(Level::kDebug)) Write(Level::kDebug, event, f); }
inline void Info(std::string_view event, Fields f = {}) { Write(Level::kInfo, event, f); }
inline void Warn(std::string_view event, Fields f = {}) { Write(Level::kWarn, event, f); }
inline void Fail(std::string_view event, Fields f = {}) { Write(Level::kError, event, f); }

}  // namespace berth::log
