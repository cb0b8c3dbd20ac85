#include "images/layers/tar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "images/layers/tar_number.h"
#include "images/layers/testing.h"

namespace berth::images {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Show(const TarEntry& e) {
  std::string text = fmt::format("{} {} {} {:o} {}:{} {}.{:09} {} {},{}", e.number, e.path, e.target, e.mode, e.uid,
                                 e.gid, e.mtime.seconds, e.mtime.nanoseconds, e.size, e.major, e.minor);
  for (const Extent& x : e.extents) text += fmt::format(" [{}+{}@{}]", x.offset, x.length, x.source);
  for (const auto& [name, value] : e.xattrs) text += fmt::format(" {}={}", name, value.size());
  return text + fmt::format(" t{}", static_cast<int>(e.type));
}

std::string Show(const Result<std::vector<TarEntry>>& entries) {
  if (!entries) return "error: " + entries.error().what;
  std::string text;
  for (const TarEntry& e : *entries) text += Show(e) + "\n";
  return text;
}

std::string ErrorOf(const std::string& tar, TarLimits limits = {}) {
  auto entries = Scan(tar, SIZE_MAX, limits);
  if (entries) return "accepted";
  EXPECT_EQ(entries.error().code, Code::kInvalidArgument);
  return entries.error().what;
}

TEST(TarNumber, HeaderFields) {
  EXPECT_EQ(ParseHeaderNumber("0000644"), 0644);
  EXPECT_EQ(ParseHeaderNumber(std::string_view("  644 \0x", 8)), 0644);
  EXPECT_EQ(ParseHeaderNumber(std::string_view("\0\0\0\0", 4)), 0);
  EXPECT_EQ(ParseHeaderNumber("0000648"), std::nullopt);
  EXPECT_EQ(ParseHeaderNumber("-1"), std::nullopt);
  EXPECT_EQ(ParseHeaderNumber(std::string_view("\x80\0\0\0\0\0\0\0\xee\x6b\x28\0", 12)), 4000000000);
  EXPECT_EQ(ParseHeaderNumber(std::string(12, '\xff')), -1);
  EXPECT_EQ(ParseHeaderNumber(std::string_view("\x80\0\0\0\x80\0\0\0\0\0\0\0", 12)), std::nullopt);
  EXPECT_EQ(ParseHeaderNumber(std::string_view("\xc0\0\0\0\0\0\0\0\0\0\0\0", 12)), std::nullopt);
}

TEST(TarNumber, PaxTimes) {
  EXPECT_EQ(ParsePaxTime("1.5"), (Timestamp{1, 500'000'000}));
  EXPECT_EQ(ParsePaxTime("-1.5"), (Timestamp{-2, 500'000'000}));
  EXPECT_EQ(ParsePaxTime("-0.25"), (Timestamp{-1, 750'000'000}));
  EXPECT_EQ(ParsePaxTime("-3"), (Timestamp{-3, 0}));
  EXPECT_EQ(ParsePaxTime("1.1234567899"), (Timestamp{1, 123'456'789}));
  EXPECT_EQ(ParsePaxTime("-1.0000000001"), (Timestamp{-2, 999'999'999}));
  EXPECT_EQ(ParsePaxTime("7."), (Timestamp{7, 0}));
  for (std::string_view bad : {"", "-", ".5", "1e9", "1.x", " 1", "99999999999999999999"})
    EXPECT_EQ(ParsePaxTime(bad), std::nullopt) << bad;
}

TEST(TarNumber, Encodings) {
  EXPECT_EQ(DecodeBase64("AAH/"), std::string("\0\1\xff", 3));
  EXPECT_EQ(DecodeBase64("AA=="), std::string("\0", 1));
  EXPECT_EQ(DecodeBase64("AA"), std::string("\0", 1));
  EXPECT_EQ(DecodeBase64("A"), std::nullopt);
  EXPECT_EQ(DecodeBase64("A*=="), std::nullopt);
  EXPECT_EQ(DecodePercent("user.a%3Db"), "user.a=b");
  EXPECT_EQ(DecodePercent("a%3"), std::nullopt);
  EXPECT_EQ(EncodeAclText("user::rw-,user:1000:r--,group::r--,mask::r--,other::---"),
            std::string("\2\0\0\0"
                        "\1\0\6\0\xff\xff\xff\xff"
                        "\2\0\4\0\xe8\3\0\0"
                        "\4\0\4\0\xff\xff\xff\xff"
                        "\x10\0\4\0\xff\xff\xff\xff"
                        "\x20\0\0\0\xff\xff\xff\xff",
                        44));
  EXPECT_EQ(EncodeAclText("user::rw-,user:lisa:r--:502,group::r--,mask::r--,other::---")->substr(12, 8),
            std::string("\2\0\4\0\xf6\1\0\0", 8));
  EXPECT_EQ(EncodeAclText("user:lisa:r--"), std::nullopt);
}

TEST(Tar, ReadsPlainEntries) {
  TarMaker maker;
  maker.Dir("etc/").File("etc/passwd", "root:x:0:0\n", 0600);
  maker.Add({.type = '2', .path = "sh", .target = "busybox", .uid = 7, .gid = 8, .mtime = -5});
  maker.Add({.type = '3', .path = "null", .mode = 0666, .major = 1, .minor = 3});
  maker.Add({.type = '4', .path = "disk", .major = 259, .minor = 1048575}).Add({.type = '6', .path = "pipe"});
  maker.Link("hard", "etc/passwd");
  auto entries = Scan(maker.Finish());
  EXPECT_EQ(Show(entries),
            "1 etc/  755 0:0 0.000000000 0 0,0 t1\n"
            "2 etc/passwd  600 0:0 0.000000000 11 0,0 [0+11@1024] t0\n"
            "3 sh busybox 644 7:8 -5.000000000 0 0,0 t2\n"
            "4 null  666 0:0 0.000000000 0 1,3 t4\n"
            "5 disk  644 0:0 0.000000000 0 259,1048575 t5\n"
            "6 pipe  644 0:0 0.000000000 0 0,0 t6\n"
            "7 hard etc/passwd 644 0:0 0.000000000 0 0,0 t3\n");
}

TEST(Tar, PaxOverridesTheHeader) {
  TarItem item{.path = "short", .data = "0123456789"};
  item.size = 3;
  item.pax = {{"path",
               "a/lon\xff"
               "ger name"},
              {"size", "10"},
              {"uid", "4000000000"},
              {"gid", "4294967294"},
              {"mtime", "-1.5"},
              {"SCHILY.xattr.user.a=b", std::string("x\0\ny", 4)},
              {"LIBARCHIVE.xattr.user.c%20d", "AAH/"},
              {"comment", "nothing"}};
  auto entries = Scan(TarMaker().Add(item).File("next", "n").Finish());
  ASSERT_TRUE(entries) << entries.error().what;
  ASSERT_EQ(entries->size(), 2u);
  const TarEntry& e = (*entries)[0];
  EXPECT_EQ(e.path,
            "a/lon\xff"
            "ger name");
  EXPECT_EQ(e.size, 10u);
  EXPECT_EQ(e.uid, 4000000000u);
  EXPECT_EQ(e.gid, 4294967294u);
  EXPECT_EQ(e.mtime, (Timestamp{-2, 500'000'000}));
  // The record's key ends at its first equals sign (POSIX pax): what looks like "user.a=b" is "user.a".
  EXPECT_THAT(e.xattrs, testing::UnorderedElementsAre(
                            std::pair<std::string, std::string>("user.a", std::string("b=x\0\ny", 6)),
                            std::pair<std::string, std::string>("user.c d", std::string("\0\1\xff", 3))));
  EXPECT_EQ((*entries)[1].path, "next");
}

TEST(Tar, GnuLongNamesAndPrefix) {
  std::string longer(300, 'n'), target(200, 't');
  TarMaker maker;
  maker.Raw('L', "././@LongLink", longer + '\0').Raw('K', "././@LongLink", target + '\0').Symlink("cut", "cut");
  std::string header = TarMaker::Header({.path = "name"});
  header.replace(345, 3, "dir");
  TarMaker::Seal(header);
  maker.Bytes(header);
  header.replace(257, 8, "ustar  \0", 8);  // GNU keeps times behind byte 345
  TarMaker::Seal(header);
  maker.Bytes(header);
  auto entries = Scan(maker.Finish());
  ASSERT_TRUE(entries) << entries.error().what;
  EXPECT_EQ((*entries)[0].path, longer);
  EXPECT_EQ((*entries)[0].target, target);
  EXPECT_EQ((*entries)[1].path, "dir/name");
  EXPECT_EQ((*entries)[2].path, "name");
}

TEST(Tar, SparseInAllDialects) {
  std::string data = std::string(512, 'a') + std::string(100, 'b');
  std::string expected = " 1048676 0,0 [0+512@{}] [1048576+100@{}] t0";
  auto check = [&](const std::string& tar, uint64_t at) {
    auto entries = Scan(tar);
    ASSERT_TRUE(entries) << entries.error().what;
    ASSERT_EQ(entries->size(), 2u);
    EXPECT_EQ((*entries)[0].path, "sparse");
    EXPECT_EQ((*entries)[0].size, 1048676u);
    EXPECT_EQ((*entries)[0].extents, (std::vector<Extent>{{0, 512, at}, {1048576, 100, at + 512}}));
    EXPECT_EQ((*entries)[1].path, "next");
  };
  auto gnu = TarMaker::Header({.type = 'S', .path = "sparse", .data = data});
  gnu.replace(257, 8, "ustar  \0", 8);
  auto pair = [](std::string& block, size_t at, uint64_t offset, uint64_t length) {
    TarMaker::Number(block, at, 12, static_cast<int64_t>(offset));
    TarMaker::Number(block, at + 12, 12, static_cast<int64_t>(length));
  };
  std::string direct = gnu;
  pair(direct, 386, 0, 512);
  pair(direct, 410, 1048576, 100);
  TarMaker::Number(direct, 483, 12, 1048676);
  TarMaker::Seal(direct);
  std::string padded = data + std::string(412, '\0');
  check(TarMaker().Bytes(direct).Bytes(padded).File("next", "").Finish(), 512);

  std::string more = gnu, extension(512, '\0');
  pair(more, 386, 0, 512);
  more[482] = 1;
  TarMaker::Number(more, 483, 12, 1048676);
  TarMaker::Seal(more);
  pair(extension, 0, 1048576, 100);
  check(TarMaker().Bytes(more).Bytes(extension).Bytes(padded).File("next", "").Finish(), 1024);

  TarItem item{.path = "GNUSparseFile.1/sparse", .data = data};
  item.pax = {{"GNU.sparse.size", "1048676"},
              {"GNU.sparse.numblocks", "2"},
              {"GNU.sparse.offset", "0"},
              {"GNU.sparse.numbytes", "512"},
              {"GNU.sparse.offset", "1048576"},
              {"GNU.sparse.numbytes", "100"},
              {"path", "sparse"}};
  check(TarMaker().Add(item).File("next", "").Finish(), 1536);
  item.pax = {{"GNU.sparse.name", "sparse"}, {"GNU.sparse.size", "1048676"}, {"GNU.sparse.map", "0,512,1048576,100"}};
  check(TarMaker().Add(item).File("next", "").Finish(), 1536);
  item.pax = {{"GNU.sparse.major", "1"},
              {"GNU.sparse.minor", "0"},
              {"GNU.sparse.name", "sparse"},
              {"GNU.sparse.realsize", "1048676"}};
  std::string map = "2\n0\n512\n1048576\n100\n";
  map.resize(512, '\0');
  item.data = map + data;
  check(TarMaker().Add(item).File("next", "").Finish(), 2048);
}

TEST(Tar, EveryChunkingGivesTheSame) {
  TarMaker maker;
  std::mt19937 random(7);
  for (int i = 0; i < 60; ++i) {
    TarItem item{.path = fmt::format("d{}/f{}", i % 7, i), .data = std::string(random() % 3000, 'x')};
    if (i % 3 == 0)
      item.pax = {{"mtime", fmt::format("{}.25", i)}, {"SCHILY.xattr.user.k", std::string(random() % 900, 'v')}};
    if (i % 10 == 5) maker.Raw('L', "././@LongLink", std::string(200 + i, 'l') + '\0');
    maker.Add(item);
  }
  std::string tar = maker.Finish();
  std::string whole = Show(Scan(tar));
  EXPECT_THAT(whole, Not(HasSubstr("error")));
  for (size_t chunk : {1, 3, 511, 512, 513, 1000, 65536}) EXPECT_EQ(Show(Scan(tar, chunk)), whole) << chunk;
  for (int round = 0; round < 20; ++round) {
    std::vector<TarEntry> entries;
    TarScanner scanner([&](TarEntry&& e) -> Result<void> {
      entries.push_back(std::move(e));
      return {};
    });
    for (size_t at = 0; at < tar.size();) {
      size_t n = std::min<size_t>(random() % 2000, tar.size() - at);
      ASSERT_TRUE(scanner.Feed(std::string_view(tar).substr(at, n)));
      at += n;
    }
    ASSERT_TRUE(scanner.Finish());
    EXPECT_EQ(scanner.offset(), tar.size());
    EXPECT_EQ(Show(Result<std::vector<TarEntry>>(std::move(entries))), whole);
  }
}

TEST(Tar, TruncationIsNoticedUnlessBetweenEntries) {
  TarMaker maker;
  std::vector<size_t> boundaries{0};
  for (int i = 0; i < 4; ++i) {
    TarItem item{.path = fmt::format("f{}", i), .data = std::string(700 * i, 'x')};
    if (i == 2) item.pax = {{"mtime", "1.5"}};
    maker.Add(item);
    boundaries.push_back(maker.Unfinished().size());
  }
  std::string tar = maker.Finish();
  for (size_t n = 0; n < maker.Unfinished().size(); n += 64) {
    bool boundary = std::ranges::find(boundaries, n) != boundaries.end();
    auto entries = Scan(tar.substr(0, n));
    EXPECT_EQ(entries.has_value(), boundary) << n;
    if (!entries) {
      EXPECT_THAT(entries.error().what, HasSubstr("the archive ends")) << n;
    }
  }
  EXPECT_THAT(ErrorOf(tar.substr(0, boundaries[2] - 1)), HasSubstr("tar entry 2 \"f1\""));
}

TEST(Tar, EndOfArchive) {
  std::string one = TarMaker().File("a", "1").Unfinished();
  std::string zeros(512, '\0');
  EXPECT_EQ(Scan(one)->size(), 1u);
  EXPECT_EQ(Scan(one + zeros)->size(), 1u);
  EXPECT_EQ(Scan(one + zeros + zeros + "trailing rubbish of any length")->size(), 1u);
  EXPECT_EQ(Scan("")->size(), 0u);
  EXPECT_EQ(Scan(zeros + zeros)->size(), 0u);
  EXPECT_THAT(ErrorOf(one + zeros + TarMaker().File("b", "").Finish()), HasSubstr("single zero block"));
}

TEST(Tar, HostileHeadersAreRefusedByName) {
  auto broken = [](size_t at, std::string_view bytes, bool seal = true) {
    std::string header = TarMaker::Header({.path = "victim", .data = "x"});
    header.replace(at, bytes.size(), bytes);
    if (seal) TarMaker::Seal(header);
    return header + std::string(512, 'x') + std::string(1024, '\0');
  };
  EXPECT_THAT(ErrorOf(broken(100, "0000999", false)), HasSubstr("checksum"));
  EXPECT_THAT(ErrorOf(broken(100, "zzzzzzz")), HasSubstr("tar entry 1 \"victim\": mode"));
  EXPECT_THAT(ErrorOf(broken(124, "99999999999")), HasSubstr("size field"));
  EXPECT_THAT(ErrorOf(broken(124, std::string(12, '\xff'))), HasSubstr("size field"));
  EXPECT_THAT(ErrorOf(broken(124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")), HasSubstr("size field"));
  EXPECT_THAT(ErrorOf(broken(108, std::string(8, '\xff'))), HasSubstr("uid"));
  EXPECT_THAT(ErrorOf(broken(116, std::string_view("\x80\0\0\0\xff\xff\xff\xff", 8))), HasSubstr("gid"));
  EXPECT_THAT(ErrorOf(broken(156, "M")), HasSubstr("multi-volume"));
  EXPECT_THAT(ErrorOf(broken(156, "s")), HasSubstr("socket"));
  EXPECT_THAT(ErrorOf(broken(0, std::string_view("\0", 1))), HasSubstr("no name"));
  EXPECT_THAT(ErrorOf(broken(156, "2")), HasSubstr("no target"));
  EXPECT_THAT(ErrorOf(std::string(5000, 'q')), HasSubstr("not a tar archive"));
  TarItem device{.type = '3', .path = "dev", .major = 4096};
  EXPECT_THAT(ErrorOf(TarMaker().Add(device).Finish()), HasSubstr("major"));
  device = {.type = '3', .path = "dev", .minor = 1 << 20};
  EXPECT_THAT(ErrorOf(TarMaker().Add(device).Finish()), HasSubstr("minor"));
  EXPECT_THAT(ErrorOf(TarMaker().Raw('x', "x", "12 path=a").Finish()), HasSubstr("record"));
  EXPECT_THAT(ErrorOf(TarMaker().Raw('x', "x", TarMaker::Record("path", "a")).Finish()), HasSubstr("no entry behind"));
}

TEST(Tar, HostilePaxRecords) {
  auto with = [](std::vector<std::pair<std::string, std::string>> pax, std::string data = "x") {
    TarItem item{.path = "victim", .data = std::move(data)};
    item.pax = std::move(pax);
    return ErrorOf(TarMaker().Add(item).Finish());
  };
  for (const char* raw :
       {"99999999999999999999 a=b\n", "-6 a=b\n", "0 a=b\n", "6 a=b", "7 a=b\n", "3 a\n", " a=b\n", "6 =ab\n"})
    EXPECT_THAT(ErrorOf(TarMaker().Raw('x', "x", raw).File("f", "").Finish()), Not("accepted")) << raw;
  EXPECT_THAT(with({{"path", std::string("a\0b", 3)}}), HasSubstr("NUL"));
  EXPECT_THAT(with({{"path", std::string(40000, 'a')}}), HasSubstr("40000 bytes"));
  EXPECT_THAT(with({{"size", "-1"}}), HasSubstr("size"));
  EXPECT_THAT(with({{"size", "18446744073709551615"}}), HasSubstr("size"));
  EXPECT_THAT(with({{"uid", "4294967295"}}), HasSubstr("uid"));
  EXPECT_THAT(with({{"mtime", "soon"}}), HasSubstr("mtime"));
  EXPECT_THAT(with({{"SCHILY.xattr.", "v"}}), HasSubstr("attribute name"));
  EXPECT_THAT(with({{"SCHILY.xattr.user.big", std::string(70000, 'v')}}), HasSubstr("70000"));
  EXPECT_THAT(with({{"LIBARCHIVE.xattr.user.a", "***"}}), HasSubstr("base64"));
  EXPECT_THAT(with({{"SCHILY.acl.access", "user:lisa:rwx"}}), HasSubstr("numeric"));
  EXPECT_THAT(with({{"GNU.sparse.map", "0,512,100,512"}, {"GNU.sparse.size", "1000"}}), HasSubstr("overlaps"));
  EXPECT_THAT(with({{"GNU.sparse.map", "0,1,x"}, {"GNU.sparse.size", "1000"}}), HasSubstr("pairs"));
  EXPECT_THAT(with({{"GNU.sparse.map", "900,200"}, {"GNU.sparse.size", "1000"}}), HasSubstr("beyond"));
  EXPECT_THAT(with({{"GNU.sparse.map", "0,500"}, {"GNU.sparse.size", "1000"}}), HasSubstr("names 500 bytes"));
  EXPECT_THAT(with({{"GNU.sparse.numbytes", "5"}}), HasSubstr("without"));
  EXPECT_THAT(with({{"GNU.sparse.map", "18446744073709551615,1"}, {"GNU.sparse.size", "1"}}), HasSubstr("larger"));
  EXPECT_THAT(with({{"GNU.sparse.major", "1"}, {"GNU.sparse.realsize", "5"}}, "no number at all"), Not("accepted"));
  EXPECT_THAT(with({{"GNU.sparse.major", "1"}, {"GNU.sparse.realsize", "5"}}, std::string(600, '1')),
              HasSubstr("not a number"));
  EXPECT_THAT(with({{"GNU.sparse.major", "1"}, {"GNU.sparse.realsize", "5"}}, "9999999\n" + std::string(504, '\n')),
              HasSubstr("number"));
  EXPECT_THAT(with({{"GNU.sparse.major", "2"}}), HasSubstr("major"));
}

TEST(Tar, LimitsHold) {
  TarLimits few;
  few.entries = 2;
  EXPECT_THAT(ErrorOf(TarMaker().File("a", "").File("b", "").File("c", "").Finish(), few),
              HasSubstr("more than 2 entries"));
  TarLimits small;
  small.metadata = 200;
  EXPECT_THAT(ErrorOf(TarMaker().File("a", "").File("b", "").File("c", "").File("d", "").Finish(), small),
              HasSubstr("exceed 200"));
  TarLimits head;
  head.extended = 100;
  EXPECT_THAT(ErrorOf(TarMaker().Raw('x', "x", std::string(101, 'a')).Finish(), head), HasSubstr("at most 100"));
  EXPECT_THAT(ErrorOf(TarMaker().Raw('L', "x", std::string(101, 'a')).Finish(), head), HasSubstr("at most 100"));
}

TEST(Tar, AnErrorStays) {
  TarScanner scanner([](TarEntry&&) -> Result<void> { return {}; });
  EXPECT_FALSE(scanner.Feed(std::string(512, 'x')));
  EXPECT_FALSE(scanner.Feed(std::string(512, '\0')));
  EXPECT_FALSE(scanner.Finish());
}

// Random damage: any answer is fine, crashes and unbounded memory are not.
TEST(Tar, SurvivesDamage) {
  TarMaker maker;
  TarItem sparse{.path = "s", .data = std::string(1024, 's')};
  sparse.pax = {{"GNU.sparse.map", "0,512,1048576,512"}, {"GNU.sparse.size", "2000000"}};
  maker.Dir("d")
      .Add(sparse)
      .Raw('L', "x", std::string(150, 'n'))
      .File("d/f", "content")
      .Link("h", "d/f")
      .Symlink("l", "d");
  const std::string tar = maker.Finish();
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = tar;
    for (int i = 0; i < 1 + round % 4; ++i) {
      size_t at = random() % bad.size();
      bad[at] = static_cast<char>(random());
      if (round % 2) {  // with a good checksum, to get past the first gate
        std::string header = bad.substr(at & ~size_t{511}, 512);
        TarMaker::Seal(header);
        bad.replace(at & ~size_t{511}, 512, header);
      }
    }
    (void)Scan(bad, 1 + random() % 2000);
  }
}

// What GNU tar itself writes, in each of its formats.
class GnuTar : public testing::TestWithParam<const char*> {};

TEST_P(GnuTar, IsRead) {
  std::string command = fmt::format(
      "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d; mkdir -p tree/sub; printf hello > tree/sub/file; ln -s "
      "sub/file tree/link; "
      "ln tree/sub/file tree/hard; mkfifo tree/pipe; truncate -s 3000000 tree/sparse; printf end >> tree/sparse; "
      "touch -d '1960-05-05 01:02:03.5 UTC' tree/link -h; touch -d '2040-01-01 00:00:00 UTC' tree/sub; "
      "n=$(printf 'n%.0s' $(seq 200)); printf x > tree/$n; tar --sort=name --owner=12:34 --group=56:78 -cSf - "
      "--format={} tree",
      GetParam());
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string tar;
  char buffer[65536];
  while (size_t n = fread(buffer, 1, sizeof buffer, pipe)) tar.append(buffer, n);
  if (pclose(pipe) != 0) GTEST_SKIP() << "GNU tar cannot write format " << GetParam() << " here";
  auto entries = Scan(tar, 777);
  ASSERT_TRUE(entries) << entries.error().what;
  std::map<std::string, const TarEntry*> by_path;
  for (const TarEntry& e : *entries) by_path[e.path] = &e;
  ASSERT_EQ(by_path.size(), 8u);
  EXPECT_EQ(by_path["tree/sub/"]->mtime.seconds, 2208988800);
  EXPECT_EQ(by_path["tree/sub/"]->uid, 34u);
  EXPECT_EQ(by_path["tree/sub/"]->gid, 78u);
  EXPECT_EQ(by_path["tree/link"]->target, "sub/file");
  EXPECT_EQ(by_path["tree/link"]->mtime.seconds, -304815477);
  EXPECT_EQ(by_path["tree/pipe"]->type, EntryType::kFifo);
  EXPECT_EQ(by_path["tree/hard"]->extents.empty(), by_path["tree/sub/file"]->type == EntryType::kFile);
  EXPECT_TRUE(by_path.contains("tree/" + std::string(200, 'n')));
  const TarEntry& sparse = *by_path["tree/sparse"];
  EXPECT_EQ(sparse.size, 3000003u);
  ASSERT_FALSE(sparse.extents.empty());
  const Extent& last = sparse.extents.back();
  EXPECT_EQ(tar.substr(last.source + (3000000 - last.offset), 3), "end");
}
INSTANTIATE_TEST_SUITE_P(Formats, GnuTar, testing::Values("gnu", "posix", "oldgnu", "pax"));

}  // namespace
}  // namespace berth::images
