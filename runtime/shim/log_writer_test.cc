#include "runtime/shim/log_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

namespace berth::shim {
namespace {

constexpr char kTime[] = "2026-01-02T03:04:05.123456789Z";
constexpr int64_t kNanos = 1767323045123456789;

// What the log must be, said plainly.
std::string Reference(std::string_view output, bool terminal, const std::string& stream = "stdout") {
  std::string log;
  auto record = [&](char tag, std::string_view content) {
    log += fmt::format("{} {} {} {}\n", kTime, stream, tag, content);
  };
  while (!output.empty()) {
    size_t lf = output.find('\n');
    std::string_view line = output.substr(0, lf);
    output.remove_prefix(lf == std::string_view::npos ? output.size() : lf + 1);
    bool full = lf != std::string_view::npos;
    if (full && terminal && line.ends_with('\r')) line.remove_suffix(1);
    while (line.size() > kMaxLine) {
      record('P', line.substr(0, kMaxLine));
      line.remove_prefix(kMaxLine);
    }
    if (full || !line.empty()) record(full ? 'F' : 'P', line);
  }
  return log;
}

int MemFile() { return ::memfd_create("log", MFD_CLOEXEC); }
std::string Content(int fd) {
  struct stat status;
  EXPECT_EQ(::fstat(fd, &status), 0);
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), status.st_size);
  return bytes;
}

struct Writer {
  HoldPool pool;
  Stamp stamp;
  LogStream stream;
  LogFile file;
  std::vector<char> in = std::vector<char>(kInput + kSlop), out = std::vector<char>(kOutput);
  explicit Writer(int fd) {
    stamp.Set(kNanos);
    file.Open(fd);
  }
  ~Writer() {
    file.Close(pool);
    pool.Give(stream.hold);
    pool.Trim();
  }
  bool Give(std::string_view chunk) {
    std::copy(chunk.begin(), chunk.end(), in.begin());
    return file.Write(stream, pool, stamp, in.data(), chunk.size(), out.data());
  }
  bool End() { return file.Flush(stream, pool, stamp, out.data()); }
};

// The log of `output` when read in chunks of the given sizes (the last is repeated).
std::string Logged(std::string_view output, const std::vector<size_t>& chunks, bool terminal = false, bool error = false) {
  int fd = MemFile();
  int copy = ::dup(fd);
  Writer w(fd);
  w.stream.terminal = terminal;
  w.stream.error = error;
  size_t i = 0;
  while (!output.empty()) {
    size_t n = std::min({output.size(), chunks[std::min(i++, chunks.size() - 1)], kInput});
    EXPECT_TRUE(w.Give(output.substr(0, n)));
    output.remove_prefix(n);
  }
  EXPECT_TRUE(w.End());
  EXPECT_EQ(w.stream.held, 0u);
  std::string log = Content(copy);
  ::close(copy);
  return log;
}

TEST(Stamp, FormatsEveryKindOfDay) {
  auto text = [](int64_t nanos) {
    Stamp stamp;
    stamp.Set(nanos);
    return std::string(stamp.prefix, kPrefix);
  };
  EXPECT_EQ(text(kNanos), fmt::format("{} stdout F ", kTime));
  EXPECT_EQ(text(0), "1970-01-01T00:00:00.000000000Z stdout F ");
  EXPECT_EQ(text(-1), "1969-12-31T23:59:59.999999999Z stdout F ");
  for (int64_t day = -1000; day < 80000; day += 13) {
    time_t seconds = day * 86400 + day % 86400;
    tm parts;
    gmtime_r(&seconds, &parts);
    char expected[64];
    strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%S.000000042Z stdout F ", &parts);
    EXPECT_EQ(text(seconds * 1'000'000'000 + 42), expected) << day;
  }
  EXPECT_EQ(text(951782400ll * 1'000'000'000).substr(0, 10), "2000-02-29");
  EXPECT_EQ(text(4107542400ll * 1'000'000'000).substr(0, 10), "2100-03-01");
}

TEST(LogWriter, WritesOneRecordALine) {
  EXPECT_EQ(Logged("hello World\n", {100}), fmt::format("{} stdout F hello World\n", kTime));
  EXPECT_EQ(Logged("a\n\nb\n", {100}, false, true), Reference("a\n\nb\n", false, "stderr"));
  EXPECT_EQ(Logged("", {100}), "");
}

TEST(LogWriter, MarksUnfinishedOutputAsPartial) {
  EXPECT_EQ(Logged("$ ", {1}), fmt::format("{} stdout P $ \n", kTime));
  EXPECT_EQ(Logged("a\nb", {1}), Reference("a\nb", false));
}

TEST(LogWriter, JoinsALineThatComesInPieces) {
  EXPECT_EQ(Logged("hello World\n", {1}), fmt::format("{} stdout F hello World\n", kTime));
}

TEST(LogWriter, CutsLongLines) {
  for (size_t n : {kMaxLine - 1, kMaxLine, kMaxLine + 1, kMaxLine + 2, 2 * kMaxLine, 2 * kMaxLine + 1, 5 * kMaxLine + 7})
    for (size_t chunk : {size_t{1}, size_t{4096}, kMaxLine, kMaxLine + 1, kMaxLine + 2, kInput})
      for (bool terminal : {false, true})
        for (const char* end : {"", "\n", "\r\n", "\r", "\rx\n", "\nnext\n"}) {
          std::string output(n, 'a');
          output += end;
          EXPECT_EQ(Logged(output, {chunk}, terminal), Reference(output, terminal)) << n << " " << chunk << " " << terminal;
        }
}

TEST(LogWriter, DropsOneCarriageReturnOnATerminalOnly) {
  EXPECT_EQ(Logged("a\r\nb\r\r\n\r\nc\rd\n", {3}, true), Reference("a\r\nb\r\r\n\r\nc\rd\n", true));
  EXPECT_EQ(Logged("a\r\nb\r\r\n\r\nc\rd\n", {3}, false), Reference("a\r\nb\r\r\n\r\nc\rd\n", false));
}

TEST(LogWriter, LosesNothingAtAnyChunking) {
  std::mt19937 random(20260102);
  for (int round = 0; round < 60; ++round) {
    std::string output;
    size_t total = random() % 200000;
    while (output.size() < total) {
      size_t n = random() % 4 == 0 ? random() % (3 * kMaxLine) : random() % 120;
      for (size_t i = 0; i < n; ++i) output += static_cast<char>(random() % 50 == 0 ? '\r' : random() % 256);
      if (random() % 8 != 0) output += random() % 3 == 0 ? "\r\n" : "\n";
    }
    std::vector<size_t> chunks;
    for (int i = 0; i < 40; ++i) chunks.push_back(1 + random() % (round % 2 == 0 ? 300 : kInput));
    chunks.push_back(1 + random() % kInput);
    bool terminal = random() % 2 == 0;
    ASSERT_EQ(Logged(output, chunks, terminal), Reference(output, terminal)) << "round " << round;
  }
}

// A file that takes only some bytes stands for a full disk: RLIMIT_FSIZE in a child process.
TEST(LogWriter, KeepsWhatTheDiskRefuses) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    std::string output;
    for (int i = 0; i < 4000; ++i) output += fmt::format("line {} of the stream\n", i);
    output.append(40000, 'x');
    output += '\n';
    bool good = true;
    for (size_t limit = 1; limit < 200000 && good; limit = limit * 2 + 37) {
      int fd = MemFile();
      int copy = ::dup(fd);
      Writer w(fd);
      ::fcntl(fd, F_SETFL, O_APPEND);
      rlimit old;
      ::getrlimit(RLIMIT_FSIZE, &old);
      rlimit now{limit, old.rlim_max};
      ::setrlimit(RLIMIT_FSIZE, &now);
      std::string_view rest = output;
      int stalls = 0;
      auto wait = [&](bool ok) {
        while (!ok) {
          good = good && w.file.stalled() && w.file.error() == EFBIG && !w.file.Retry(w.pool, w.stamp, w.out.data());
          now.rlim_cur += 1 + 7919 * static_cast<size_t>(stalls++);
          ::setrlimit(RLIMIT_FSIZE, &now);
          ok = w.file.Retry(w.pool, w.stamp, w.out.data());
        }
        good = good && !w.file.stalled();
      };
      while (!rest.empty()) {
        size_t n = std::min(rest.size(), kInput);
        wait(w.Give(rest.substr(0, n)));
        rest.remove_prefix(n);
      }
      wait(w.End());
      ::setrlimit(RLIMIT_FSIZE, &old);
      good = good && stalls > 0 && Content(copy) == Reference(output, false);
      ::close(copy);
    }
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(LogWriter, MovesAHalfWrittenRecordToTheNewFile) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    int first = MemFile(), second = MemFile();
    int first_copy = ::dup(first), second_copy = ::dup(second);
    Writer w(first);
    rlimit old;
    ::getrlimit(RLIMIT_FSIZE, &old);
    rlimit now{60, old.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &now);
    bool good = !w.Give("one\ntwo\nthree\n") && Content(first_copy).size() == 60;
    ::setrlimit(RLIMIT_FSIZE, &old);
    w.file.Reopen(second);
    good = good && w.file.Retry(w.pool, w.stamp, w.out.data());
    good = good && Content(first_copy) == Reference("one\n", false) && Content(second_copy) == Reference("two\nthree\n", false);
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(LogWriter, HoldsNoBlockWhenNothingIsUnfinished) {
  Writer w(MemFile());
  ASSERT_TRUE(w.Give("unfinished"));
  EXPECT_NE(w.stream.hold, nullptr);
  ASSERT_TRUE(w.Give(" no more\n"));
  EXPECT_EQ(w.stream.hold, nullptr);
}

}  // namespace
}  // namespace berth::shim
