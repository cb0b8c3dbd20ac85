// Docker's form, rotation, limits: what LogFile and LogGate do beside CRI's form (log_writer_test.cc).
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "base/atomic_file.h"
#include "base/testing.h"
#include "base/unique_fd.h"
#include "runtime/shim/log_gate.h"
#include "runtime/shim/log_writer.h"

namespace berth::shim {
namespace {

constexpr char kTime[] = "2026-01-02T03:04:05.123456789Z";
constexpr int64_t kNanos = 1767323045123456789;

size_t RuneAt(std::string_view s) {   // length of a valid UTF-8 sequence at the beginning, by the table of RFC 3629; 0: none
  auto c = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0U; };
  auto in = [&](size_t i, unsigned low, unsigned high) { return c(i) >= low && c(i) <= high; };
  if (in(0, 0x00, 0x7f)) return 1;
  if (in(0, 0xc2, 0xdf)) return in(1, 0x80, 0xbf) ? 2 : 0;
  const bool three = (in(0, 0xe0, 0xe0) && in(1, 0xa0, 0xbf)) || (in(0, 0xe1, 0xec) && in(1, 0x80, 0xbf)) ||
                     (in(0, 0xed, 0xed) && in(1, 0x80, 0x9f)) || (in(0, 0xee, 0xef) && in(1, 0x80, 0xbf));
  if (three) return in(2, 0x80, 0xbf) ? 3 : 0;
  const bool four = (in(0, 0xf0, 0xf0) && in(1, 0x90, 0xbf)) || (in(0, 0xf1, 0xf3) && in(1, 0x80, 0xbf)) ||
                    (in(0, 0xf4, 0xf4) && in(1, 0x80, 0x8f));
  return four && in(2, 0x80, 0xbf) && in(3, 0x80, 0xbf) ? 4 : 0;
}

std::string Quoted(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t n = RuneAt(text);
    const std::string_view rune = text.substr(0, std::max<size_t>(n, 1));
    text.remove_prefix(rune.size());
    const auto c = static_cast<unsigned char>(rune[0]);
    if (n == 0) out += "\\ufffd";
    else if (rune == "\n") out += "\\n";
    else if (rune == "\r") out += "\\r";
    else if (rune == "\"" || rune == "\\") (out += '\\') += rune;
    else if (rune == "\xe2\x80\xa8") out += "\\u2028";
    else if (rune == "\xe2\x80\xa9") out += "\\u2029";
    else if (c < 0x20 || rune == "<" || rune == ">" || rune == "&") out += fmt::format("\\u{:04x}", c);
    else out += rune;
  }
  return out;
}

std::string JsonReference(std::string_view output, const std::string& stream = "stdout") {
  std::string log;
  auto record = [&](std::string_view content, bool full) {
    log += fmt::format("{{\"log\":\"{}{}\",\"stream\":\"{}\",\"time\":\"{}\"}}\n", Quoted(content), full ? "\\n" : "", stream, kTime);
  };
  while (!output.empty()) {
    const size_t lf = output.find('\n');
    std::string_view line = output.substr(0, lf);
    const bool full = lf != std::string_view::npos;
    output.remove_prefix(full ? lf + 1 : output.size());
    while (line.size() > kMaxLine) {
      size_t cut = kMaxLine;   // not inside a character that is whole otherwise
      for (size_t back = 1; back <= 3; ++back) {
        const auto c = static_cast<unsigned char>(line[kMaxLine - back]);
        if ((c & 0xc0) == 0x80) continue;
        const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        if (length > back) cut = kMaxLine - back;
        break;
      }
      record(line.substr(0, cut), false);
      line.remove_prefix(cut);
    }
    if (full || !line.empty()) record(line, full);
  }
  return log;
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
  bool All(std::string_view text, size_t chunk = kInput) {
    for (; !text.empty(); text.remove_prefix(std::min(chunk, text.size())))
      if (!Give(text.substr(0, chunk))) return false;
    return file.Flush(stream, pool, stamp, out.data());
  }
};

std::string Text(const std::string& path) { return ReadFile(path, 1 << 30).value_or("(missing)"); }

std::string Json(std::string_view output, size_t chunk) {
  testing::TempDir dir;
  Writer w(::open((dir / "log").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
  w.stream.json = true;
  EXPECT_TRUE(w.All(output, chunk));
  return Text(dir / "log");
}

TEST(JsonLog, IsAsDockerWritesIt) {
  EXPECT_EQ(Json("hello World\n", 5), fmt::format("{{\"log\":\"hello World\\n\",\"stream\":\"stdout\",\"time\":\"{}\"}}\n", kTime));
  EXPECT_EQ(Json("$ ", 1), fmt::format("{{\"log\":\"$ \",\"stream\":\"stdout\",\"time\":\"{}\"}}\n", kTime));
  std::string every;
  for (int c = 0; c < 256; ++c) every += static_cast<char>(c);
  for (size_t chunk : {size_t{1}, size_t{7}, kInput}) {
    EXPECT_EQ(Json(every + "\n", chunk), JsonReference(every + "\n"));
    EXPECT_EQ(Json("a\t\"b\"\\ <&> \xe2\x82\xac \xe2\x80\xa8 \xf0\x9f\x90\xb3 \xff\xc0\xaf \xed\xa0\x80\r\n", chunk),
              JsonReference("a\t\"b\"\\ <&> \xe2\x82\xac \xe2\x80\xa8 \xf0\x9f\x90\xb3 \xff\xc0\xaf \xed\xa0\x80\r\n"));
  }
}

TEST(JsonLog, TimeHasNoZerosAtItsEnd) {
  auto tail = [](int64_t nanos) {
    Stamp stamp;
    stamp.Set(nanos);
    return std::string(stamp.tail, stamp.tail_size);
  };
  EXPECT_EQ(tail(kNanos), fmt::format("{}\"}}\n", kTime));
  EXPECT_EQ(tail(1767323045120000000), "2026-01-02T03:04:05.12Z\"}\n");
  EXPECT_EQ(tail(1767323040000000000), "2026-01-02T03:04:00Z\"}\n");
}

TEST(JsonLog, LosesNothingAtAnyChunking) {
  std::mt19937 random(20260103);
  const std::string_view pieces[] = {"a", "b", "\"", "\xe2\x82\xac", "\xf0\x9f\x90\xb3", "\xc3\xa9", "<", "\x01", "\r"};
  for (int round = 0; round < 60; ++round) {
    std::string output;
    const size_t total = random() % 150000;
    while (output.size() < total) {
      const size_t n = random() % 4 == 0 ? random() % (2 * kMaxLine) : random() % 120;
      for (size_t i = 0; i < n; ++i) output += random() % 20 == 0 ? pieces[random() % std::size(pieces)] : std::string_view("x");
      if (random() % 8 != 0) output += '\n';
    }
    ASSERT_EQ(Json(output, 1 + random() % (round % 2 == 0 ? 300 : kInput)), JsonReference(output)) << "round " << round;
  }
}

TEST(Rotation, KeepsEveryRecordWholeAndInOrder) {
  for (bool json : {false, true}) {
    for (uint64_t limit : {200, 1000, 4096, 100'000}) {
      for (size_t chunk : {size_t{100}, kInput}) {
        testing::TempDir dir;
        Writer w(::open((dir / "c.log").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
        w.stream.json = json;
        constexpr uint32_t kFiles = 500;
        w.file.Rotate(::open(dir.path().c_str(), O_PATH | O_DIRECTORY), "c.log", limit, kFiles);
        std::string output;
        for (int i = 0; output.size() < (limit < 4096 ? 12 * limit / 4 : 300'000); ++i) output += fmt::format("line {} of it\n", i);
        ASSERT_TRUE(w.All(output, chunk));
        std::vector<std::string> files;
        for (int i = 1; Exists(fmt::format("{}.{}", dir / "c.log", i)); ++i) files.push_back(Text(fmt::format("{}.{}", dir / "c.log", i)));
        std::string all;
        for (auto it = files.rbegin(); it != files.rend(); ++it) {
          EXPECT_LE(it->size(), limit);
          EXPECT_GT(it->size() + 120, limit) << "rotated too early";
          EXPECT_TRUE(it->ends_with('\n'));
          all += *it;
        }
        all += Text(dir / "c.log");
        EXPECT_LE(Text(dir / "c.log").size(), limit);
        EXPECT_EQ(w.file.counters().rotations, files.size());
        Writer plain(::open((dir / "plain").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
        plain.stream.json = json;
        ASSERT_TRUE(plain.All(output, chunk));
        EXPECT_TRUE(all == Text(dir / "plain")) << json << " " << limit << " " << chunk;
        EXPECT_FALSE(Exists(dir / "c.log.next"));
      }
    }
  }
}

TEST(Rotation, CountsFiles) {
  testing::TempDir dir;
  Writer w(::open((dir / "l").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
  w.file.Rotate(::open(dir.path().c_str(), O_PATH | O_DIRECTORY), "l", 100, 3);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(w.Give(fmt::format("{:040}\n", i)));   // one record a file
  EXPECT_NE(Text(dir / "l").find("00009\n"), std::string::npos);
  EXPECT_NE(Text(dir / "l.1").find("00008\n"), std::string::npos);
  EXPECT_NE(Text(dir / "l.2").find("00007\n"), std::string::npos);
  EXPECT_FALSE(Exists(dir / "l.3"));
  struct stat status;
  ASSERT_EQ(::stat((dir / "l").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  ASSERT_TRUE(w.Give(std::string(500, 'x') + "\n"));   // longer than a file may be: alone in its own
  ASSERT_TRUE(w.Give("next\n"));
  EXPECT_EQ(Text(dir / "l.1").size(), kPrefix + 501);
}

TEST(Rotation, OneFileIsEmptied) {
  testing::TempDir dir;
  Writer w(::open((dir / "l").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
  w.file.Rotate(::open(dir.path().c_str(), O_PATH | O_DIRECTORY), "l", 100, 1);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(w.Give(fmt::format("{:040}\n", i)));
  EXPECT_EQ(Text(dir / "l"), fmt::format("{} stdout F {:040}\n", kTime, 9));
  EXPECT_FALSE(Exists(dir / "l.1"));
}

TEST(Rotation, ThatIsImpossibleLosesNothing) {
  testing::TempDir dir;
  Writer w(::open((dir / "l").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
  const int log_dir = ::open(dir.path().c_str(), O_PATH | O_DIRECTORY);
  ASSERT_EQ(::mkdir((dir / "l.next").c_str(), 0700), 0);   // its place is taken
  w.file.Rotate(log_dir, "l", 100, 3);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(w.Give(fmt::format("{:040}\n", i)));
  EXPECT_EQ(Text(dir / "l").size(), 4 * (kPrefix + 41));
  EXPECT_GT(w.file.counters().errors, 0u);
  ASSERT_EQ(::rmdir((dir / "l.next").c_str()), 0);
  ASSERT_TRUE(w.Give("later\n"));
  EXPECT_EQ(Text(dir / "l.1").size(), 4 * (kPrefix + 41));
  EXPECT_EQ(Text(dir / "l"), fmt::format("{} stdout F later\n", kTime));
  ASSERT_EQ(::symlink("/nonexistent/elsewhere", (dir / "l.next").c_str()), 0);
  ASSERT_TRUE(w.Give(std::string(90, 'y') + "\n"));
  ASSERT_TRUE(w.Give("after the link\n"));
  EXPECT_EQ(Text(dir / "l"), fmt::format("{} stdout F after the link\n", kTime)) << "a link in the way is replaced, not followed";
}

TEST(Rotation, CountsWhatTheFileHadBefore) {
  testing::TempDir dir;
  unique_fd before(::open((dir / "l").c_str(), O_WRONLY | O_CREAT, 0640));
  ASSERT_TRUE(testing::IsOk(WriteAll(before.get(), fmt::format("{:090}\n", 0))));
  Writer w(::open((dir / "l").c_str(), O_WRONLY | O_APPEND));
  w.file.Rotate(::open(dir.path().c_str(), O_PATH | O_DIRECTORY), "l", 100, 2);
  ASSERT_TRUE(w.Give("new\n"));
  EXPECT_EQ(Text(dir / "l.1").size(), 91u);
}

constexpr int64_t kSecond = 1'000'000'000;

TEST(LogGate, BlockingAllowsTheRateAndASecondAtOnce) {
  LogGate gate;
  gate.Set(LogMode::kBlock, 10'000);
  int64_t now = 5 * kSecond;
  size_t total = 0;
  const int64_t begin = now;
  while (now < begin + 10 * kSecond) {
    const size_t n = gate.Allowance(now);
    if (n == 0) {
      const int64_t next = gate.NextAt(now);
      ASSERT_GT(next, now);
      ASSERT_LT(next, now + kSecond);
      now = next;
      continue;
    }
    gate.Spend(n);
    total += n;
  }
  EXPECT_GE(total, 109'000u);
  EXPECT_LE(total, 111'000u);
  LogGate open;
  open.Set(LogMode::kBlock, 0);
  EXPECT_TRUE(open.open());
  EXPECT_EQ(open.Allowance(1), kInput);
}

// What is kept and what is dropped, when the gate decides over a stream of numbered lines.
struct Sieve {
  LogGate gate;
  LogStream stream;
  std::string kept;
  uint64_t noticed_lines = 0, noticed_bytes = 0;
  std::vector<char> buffer = std::vector<char>(kInput + kSlop);
  void Give(std::string_view text, bool stuck, int64_t now) {
    std::copy(text.begin(), text.end(), buffer.begin());
    size_t at = 0;
    while (at < text.size()) {
      if (!stuck && gate.Resumes(stream, now)) {
        if (stream.cut_off) kept += "|\n";
        stream.cut_off = stream.open_line = false;
        noticed_lines += stream.dropped_lines;
        noticed_bytes += stream.dropped_bytes;
        stream.dropped_lines = stream.dropped_bytes = 0;
      }
      const LogGate::Piece piece = gate.Cut(stream, buffer.data() + at, text.size() - at, stuck, now);
      ASSERT_GT(piece.size, 0u);
      ASSERT_LE(piece.size, text.size() - at);
      if (piece.keep) kept.append(buffer.data() + at, piece.size);
      at += piece.size;
    }
  }
};

TEST(LogGate, DropsWholeLinesAndCountsThem) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Sieve sieve;
    sieve.gate.Set(LogMode::kDrop, random() % 3 == 0 ? 0 : 2000);
    std::string output, expected_lines;
    const int lines = 3000;
    for (int i = 0; i < lines; ++i) output += fmt::format("{}:{}\n", i, std::string(random() % 60, 'x'));
    int64_t now = kSecond;
    for (size_t at = 0; at < output.size();) {
      const size_t n = std::min<size_t>(1 + random() % 3000, output.size() - at);
      sieve.Give(std::string_view(output).substr(at, n), random() % 5 == 0, now);
      at += n;
      now += static_cast<int64_t>(random() % 500'000'000);
    }
    now += 10 * kSecond;
    sieve.Give("end\n", false, now);
    LogGate::End(sieve.stream);
    // Every kept line is one of the output's, in order, or was cut off and says so; all others were counted.
    uint64_t whole = 0, bytes = 0;
    size_t at = 0;
    std::string_view rest(sieve.kept);
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n') + 1);
      rest.remove_prefix(line.size());
      if (line == "end\n") continue;
      if (line.ends_with("|\n")) {
        bytes += line.size() - 2;
        continue;
      }
      const size_t found = output.find(line, at);
      ASSERT_NE(found, std::string::npos) << line;
      ASSERT_TRUE(found == 0 || output[found - 1] == '\n') << "not the beginning of a line: " << line;
      at = found + line.size();
      ++whole;
      bytes += line.size();
    }
    ASSERT_EQ(whole + sieve.noticed_lines, static_cast<uint64_t>(lines)) << "round " << round;
    ASSERT_EQ(bytes + sieve.noticed_bytes, output.size()) << "round " << round;
    ASSERT_EQ(sieve.gate.dropped_bytes, sieve.noticed_bytes);
  }
}

TEST(LogGate, NoticeIsARecord) {
  testing::TempDir dir;
  for (bool json : {false, true}) {
    const std::string path = dir / (json ? "json" : "cri");
    Writer w(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0640));
    w.stream.json = json;
    w.stream.dropped_lines = 3;
    w.stream.dropped_bytes = 77;
    ASSERT_TRUE(w.file.Notice(w.stream, w.stamp, w.out.data()));
    EXPECT_EQ(w.stream.dropped_lines, 0u);
    const std::string text = "berth: 3 lines (77 bytes) of output dropped: the log did not take them";
    EXPECT_EQ(Text(path), json ? JsonReference(text + "\n") : fmt::format("{} stdout F {}\n", kTime, text));
  }
}

}  // namespace
}  // namespace berth::shim
