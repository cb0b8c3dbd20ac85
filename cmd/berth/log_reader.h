#pragma once
// Reads a container log in CRI form (`TIME STREAM TAG CONTENT`), follows it as it grows and across rotation.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace berth::cli {

struct LogRecord {
  std::string_view time, stream, content;  // content: the bytes of the record, with the newline when it ends a line
};

// One line without its newline. kDataLoss when it is not in CRI form.
Result<LogRecord> ParseLogLine(std::string_view line, std::string& storage);

struct LogOptions {
  int64_t tail = -1;  // last lines only; -1: all
  std::string since;  // RFC 3339 time: records from then on
  bool follow = false;
};

class LogReader {
 public:
  using Sink = std::function<void(const LogRecord&)>;
  LogReader(std::string path, LogOptions options) : path_(std::move(path)), options_(std::move(options)) {}
  // Emits what is there. Missing file: kNotFound.
  Result<void> ReadExisting(const Sink& sink);
  // Emits what has come since; switches to the new file when the path was rotated and the old one is read to its end.
  Result<void> ReadMore(const Sink& sink);
  // Waits for a change of the file, at most `timeout_ms`, or until `wake_fd` (-1: none) is readable.
  Result<void> WaitForChange(int timeout_ms, int wake_fd);

 private:
  Result<void> OpenFile();
  Result<bool> Drain(const Sink& sink);  // true when something was read
  std::string path_;
  LogOptions options_;
  unique_fd file_, inotify_;
  std::string partial_;
};

}  // namespace berth::cli
