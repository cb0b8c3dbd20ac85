#include "cmd/berth/log_reader.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <deque>

namespace berth::cli {

Result<LogRecord> ParseLogLine(std::string_view line, std::string& storage) {
  size_t a = line.find(' ');
  size_t b = a == line.npos ? a : line.find(' ', a + 1);
  size_t c = b == line.npos ? b : line.find(' ', b + 1);
  if (c == line.npos) return Err(Code::kDataLoss, "log record is not in CRI form: {}", line.substr(0, 80));
  LogRecord record{line.substr(0, a), line.substr(a + 1, b - a - 1), {}};
  std::string_view tag = line.substr(b + 1, c - b - 1);
  storage.assign(line.substr(c + 1));
  if (!tag.starts_with('P')) storage += '\n';
  record.content = storage;
  return record;
}

Result<void> LogReader::OpenFile() {
  file_ = TRY(Open(path_, O_RDONLY));
  return {};
}

Result<bool> LogReader::Drain(const Sink& sink) {
  char buffer[1 << 16];
  bool any = false;
  std::string storage;
  while (true) {
    ssize_t n = ::read(file_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("read {}", path_);
    if (n == 0) return any;
    any = true;
    partial_.append(buffer, n);
    size_t start = 0;
    for (size_t end; (end = partial_.find('\n', start)) != partial_.npos; start = end + 1) {
      auto record = TRY(ParseLogLine(std::string_view(partial_).substr(start, end - start), storage));
      if (!options_.since.empty() && record.time < options_.since) continue;
      sink(record);
    }
    partial_.erase(0, start);
  }
}

Result<void> LogReader::ReadExisting(const Sink& sink) {
  TRY(OpenFile());
  if (options_.tail < 0) {
    TRY(Drain(sink));
    return {};
  }
  struct Kept {
    std::string time, stream, content;
  };
  std::deque<Kept> last;  // whole lines: a P record is joined with what follows
  bool open_line = false;
  TRY(Drain([&](const LogRecord& r) {
    if (open_line) {
      last.back().content += r.content;
    } else {
      last.push_back({std::string(r.time), std::string(r.stream), std::string(r.content)});
      if (static_cast<int64_t>(last.size()) > options_.tail) last.pop_front();
    }
    open_line = !r.content.ends_with('\n') && !last.empty();
  }));
  for (const auto& kept : last) sink({kept.time, kept.stream, kept.content});
  return {};
}

Result<void> LogReader::ReadMore(const Sink& sink) {
  TRY(Drain(sink));
  struct stat ours, now;
  if (::fstat(file_.get(), &ours) < 0) return SysErr("stat {}", path_);
  if (::stat(path_.c_str(), &now) < 0 || (now.st_ino == ours.st_ino && now.st_dev == ours.st_dev)) return {};
  TRY(Drain(sink));  // the writer moved on: what it wrote before is complete now
  TRY(OpenFile());
  inotify_.reset();
  TRY(Drain(sink));
  return {};
}

Result<void> LogReader::WaitForChange(int timeout_ms, int wake_fd) {
  if (!inotify_.valid()) {
    inotify_ = unique_fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    std::string directory = path_.substr(0, path_.rfind('/'));
    if (!inotify_.valid() || ::inotify_add_watch(inotify_.get(), path_.c_str(), IN_MODIFY) < 0 ||
        ::inotify_add_watch(inotify_.get(), directory.c_str(), IN_CREATE | IN_MOVED_TO) < 0)
      return SysErr("watch {}", path_);
  }
  pollfd fds[2] = {{inotify_.get(), POLLIN, 0}, {wake_fd, POLLIN, 0}};
  if (::poll(fds, wake_fd >= 0 ? 2 : 1, timeout_ms) < 0 && errno != EINTR) return SysErr("wait for {}", path_);
  char events[4096];
  while (::read(inotify_.get(), events, sizeof events) > 0) {
  }
  return {};
}

}  // namespace berth::cli
