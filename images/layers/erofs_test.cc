#include "images/layers/erofs.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/testing.h"
#include "images/layers/chunks.h"
#include "images/layers/crc32c.h"
#include "images/layers/testing.h"

namespace berth::images {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;

// ---- chunks
// -------------------------------------------------------------------------------------------------------------

std::string Show(const Chunks& chunks) {
  std::string text = fmt::format("{}:", 1ull << chunks.bits());
  chunks.ForEachRun([&](const Chunks::Run& run) {
    text += fmt::format(" {}+{}{}", run.first, run.count,
                        run.kind == Chunks::Kind::kHole   ? "h"
                        : run.kind == Chunks::Kind::kCopy ? "c"
                                                          : fmt::format("@{}", run.source));
  });
  return text + fmt::format(" cost {} copied {}", chunks.cost(), chunks.copied());
}

std::string Choose(uint64_t size, std::vector<Extent> extents, Chunks::Source source = Chunks::Source::kTar) {
  Chunks chunks(size, std::move(extents), source);
  auto chosen = chunks.Choose();
  return chosen ? Show(chunks) : "error: " + chosen.error().what;
}

TEST(Chunks, WholeFilesTakeOneEntry) {
  EXPECT_EQ(Choose(1, {{0, 1, 512}}), "512: 0+1@512 cost 0 copied 0");
  EXPECT_EQ(Choose(512, {{0, 512, 512}}), "512: 0+1@512 cost 0 copied 0");
  EXPECT_EQ(Choose(513, {{0, 513, 512}}), "1024: 0+1@512 cost 0 copied 0");
  EXPECT_EQ(Choose(5'000'000'000, {{0, 5'000'000'000, 1024}}), "8589934592: 0+1@1024 cost 0 copied 0");
  EXPECT_EQ(Choose(1024, {{0, 512, 512}, {512, 512, 1024}}), "1024: 0+1@512 cost 0 copied 0");  // neighbours are one
}

TEST(Chunks, HolesAndAlignment) {
  EXPECT_EQ(Choose(1'000'000, {}), "1048576: 0+1h cost 0 copied 0");
  EXPECT_EQ(Choose(16384, {{4096, 4096, 512}}), "4096: 0+1h 1+1@512 2+2h cost 24 copied 0");
  EXPECT_EQ(Choose(8292, {{4096, 4196, 512}}), "4096: 0+1h 1+2@512 cost 16 copied 0");  // the end of the file is exempt
  EXPECT_EQ(Choose(4096, {{0, 100, 512}}), "512: 0+1c 1+7h cost 568 copied 512");       // half a block of data
  EXPECT_EQ(Choose(1000, {{0, 1000, 513}}), "1024: 0+1c cost 1024 copied 1024");        // at no block of the tar
  EXPECT_EQ(Choose(1 << 20, {{0, 1 << 20, 512}}, Chunks::Source::kCopy), "1048576: 0+1c cost 1048576 copied 1048576");
}

TEST(Chunks, ATinyExtentInAHugeFileIsCopiedRatherThanIndexedFinely) {
  // 1 TB with 512 bytes in the middle: chunks of 512 would be 2 billion entries.
  std::string text = Choose(1ull << 40, {{1ull << 39, 512, 512}});
  EXPECT_NE(text.find("c "), std::string::npos) << text;
  Chunks chunks(1ull << 40, {{1ull << 39, 512, 512}}, Chunks::Source::kTar);
  ASSERT_TRUE(IsOk(chunks.Choose()));
  EXPECT_LT(chunks.cost(), 16u << 20);
}

// Against a plain reading of the definition.
TEST(Chunks, RunsCoverTheFileAndAgreeWithTheExtents) {
  uint64_t seed = 99;
  auto random = [&](uint64_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
  };
  for (int round = 0; round < 500; ++round) {
    uint64_t size = 1 + random(60000), at = 0, tar = 512 * random(5);
    std::vector<Extent> extents;
    while (at < size && extents.size() < 12) {
      at += random(3) ? 512 * random(20) : random(3000);
      uint64_t length = random(3) ? 512 * (1 + random(10)) : 1 + random(3000);
      if (at >= size) break;
      length = std::min(length, size - at);
      extents.push_back({at, length, tar});
      at += length;
      tar += length;
      if (random(4) == 0) tar = (tar + 511) & ~511ull;
    }
    Chunks chunks(size, extents, random(5) ? Chunks::Source::kTar : Chunks::Source::kCopy);
    ASSERT_TRUE(IsOk(chunks.Choose()));
    uint64_t next = 0, copied = 0, chunk = 1ull << chunks.bits();
    std::vector<int64_t> where(size, -1);  // tar offset of each byte, -1 in holes
    for (const Extent& e : extents)
      for (uint64_t i = 0; i < e.length; ++i) where[e.offset + i] = static_cast<int64_t>(e.source + i);
    chunks.ForEachRun([&](const Chunks::Run& run) {
      ASSERT_EQ(run.first, next);
      next += run.count;
      for (uint64_t c = run.first; c < run.first + run.count; ++c) {
        if (run.kind == Chunks::Kind::kCopy) copied += (chunks.BytesIn(c) + 511) & ~511ull;
        bool aligned = run.kind != Chunks::Kind::kTar || (run.source + (c - run.first) * chunk) % 512 == 0;
        ASSERT_TRUE(aligned);
        for (uint64_t i = 0; i < chunks.BytesIn(c) && run.kind != Chunks::Kind::kCopy; ++i) {
          int64_t expected =
              run.kind == Chunks::Kind::kHole ? -1 : static_cast<int64_t>(run.source + (c - run.first) * chunk + i);
          ASSERT_EQ(where[c * chunk + i], expected);
        }
      }
    });
    ASSERT_EQ(next, chunks.count());
    ASSERT_EQ(copied, chunks.copied());
  }
}

// ---- the image
// ----------------------------------------------------------------------------------------------------------

TEST(Crc32c, KnownVector) { EXPECT_EQ(~Crc32c(0xFFFFFFFF, "123456789"), 0xE3069283u); }  // RFC 3720 B.4

uint64_t Little(std::string_view image, size_t at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(image.at(at + static_cast<size_t>(i)));
  return value;
}

struct Image {
  std::string bytes;
  ErofsResult result;
};

Result<Image> Write(const TarMaker& maker, const std::string& tar) {
  unique_fd source(memfd_create("tar", MFD_CLOEXEC)), out(memfd_create("index", MFD_CLOEXEC));
  TRY(WriteAll(source.get(), tar));
  Tree tree = TRY(Tree::Build(TRY(Scan(maker.Finish())), nullptr));
  ErofsRequest request{.tree = tree, .tar = source.get(), .tar_size = tar.size()};
  request.uuid.fill(0x5a);
  request.tag = std::string(64, 'd');
  Image image;
  image.result = TRY(WriteErofs(request, out.get()));
  image.bytes.resize(image.result.bytes);
  if (pread(out.get(), image.bytes.data(), image.bytes.size(), 0) != static_cast<ssize_t>(image.bytes.size()))
    return SysErr("read back");
  return image;
}
Result<Image> Write(const TarMaker& maker) { return Write(maker, maker.Finish()); }

// A reader made from the format's description, for what the writer writes: extended inodes, chunk indexes, one tar.
class Reader {
 public:
  Reader(std::string_view image, std::string_view tar) : image_(image), tar_(tar) {}

  void Walk(uint64_t nid, const std::string& path, std::map<std::string, std::string>& out) {
    size_t at = nid * 32;
    ASSERT_EQ(Little(image_, at, 2) & 1, 1u);
    unsigned layout = Little(image_, at, 2) >> 1;
    uint64_t mode = Little(image_, at + 4, 2), size = Little(image_, at + 8, 8);
    uint64_t xattrs = Little(image_, at + 2, 2) == 0 ? 0 : 12 + 4 * (Little(image_, at + 2, 2) - 1);
    std::string content = layout == 4 ? FromChunks(at, xattrs, size) : FromBlocks(at, layout, xattrs, size);
    out[path] = fmt::format("{:o} {}:{} n{} {}", mode, Little(image_, at + 24, 4), Little(image_, at + 28, 4),
                            Little(image_, at + 44, 4), (mode & 0170000) == 0040000 ? "" : Digest::Of(content).hex());
    if ((mode & 0170000) != 0040000) return;
    std::string before;
    bool seen_dot = false, seen_dots = false;
    for (size_t block = 0; block < content.size(); block += 512) {
      std::string_view part = std::string_view(content).substr(block, 512);
      size_t count = Little(part, 8, 2) / 12;
      for (size_t i = 0; i < count; ++i) {
        size_t from = Little(part, 12 * i + 8, 2), to = i + 1 < count ? Little(part, 12 * i + 20, 2) : part.size();
        std::string name(part.substr(from, to - from));
        name = name.c_str();
        ASSERT_FALSE(name.empty());
        ASSERT_LT(before, name);  // over the whole directory
        before = name;
        seen_dot |= name == ".";
        seen_dots |= name == "..";
        if (name != "." && name != "..") Walk(Little(part, 12 * i, 8), path + "/" + name, out);
      }
    }
    ASSERT_TRUE(seen_dot && seen_dots);
  }

 private:
  std::string FromBlocks(size_t at, unsigned layout, uint64_t xattrs, uint64_t size) {
    std::string content;
    uint64_t tail = layout == 2 ? size % 512 : 0;
    if (size - tail > 0) content = image_.substr(Little(image_, at + 16, 4) * 512, size - tail);
    if (tail > 0) {
      size_t begin = at + 64 + xattrs;
      EXPECT_EQ(begin / 512, (begin + tail - 1) / 512) << "a tail crosses a block";
      content += image_.substr(begin, tail);
    }
    return content;
  }
  std::string FromChunks(size_t at, uint64_t xattrs, uint64_t size) {
    uint64_t chunk = 512ull << (Little(image_, at + 16, 4) & 31);
    EXPECT_EQ(Little(image_, at + 16, 4) & ~31ull, 32u);
    size_t entry = (at + 64 + xattrs + 7) / 8 * 8;
    std::string content;
    for (uint64_t done = 0; done < size; done += chunk, entry += 8) {
      uint64_t n = std::min(chunk, size - done), device = Little(image_, entry + 2, 2),
               block = Little(image_, entry + 4, 4);
      if (block == 0xFFFFFFFF)
        content.append(n, '\0');
      else
        content += (device == 1 ? tar_ : image_).substr(block * 512, n);
    }
    return content;
  }
  std::string_view image_, tar_;
};

TEST(Erofs, SuperblockAndDeviceSlot) {
  TarMaker maker;
  maker.Dir("./").File("f", "content");
  auto image = Write(maker);
  ASSERT_TRUE(IsOk(image));
  const std::string& b = image->bytes;
  EXPECT_EQ(b.size() % 512, 0u);
  EXPECT_EQ(Little(b, 1024, 4), 0xE0F5E1E2u);
  std::string range = b.substr(1024, 512);
  range.replace(4, 4, 4, '\0');
  EXPECT_EQ(Little(b, 1028, 4), Crc32c(0xFFFFFFFF, range));
  EXPECT_EQ(Little(b, 1032, 4), 3u);
  EXPECT_EQ(Little(b, 1036, 1), 9u);
  EXPECT_EQ(Little(b, 1040, 8), 2u);
  EXPECT_EQ(Little(b, 1060, 4), b.size() / 512);
  EXPECT_EQ(b.substr(1072, 16), std::string(16, 0x5a));
  EXPECT_EQ(Little(b, 1104, 4), 12u);
  EXPECT_EQ(Little(b, 1110, 2), 1u);
  EXPECT_EQ(Little(b, 1112, 2), 9u);
  EXPECT_EQ(b.substr(1152, 64), std::string(64, 'd'));
  EXPECT_EQ(Little(b, 1216, 4), maker.Finish().size() / 512);
  EXPECT_EQ(image->result.sha256, Digest::Of(b));
}

TEST(Erofs, IsAFunctionOfItsInput) {
  TarMaker maker;
  for (int i = 0; i < 500; ++i) maker.File(fmt::format("d{}/f{}", i % 9, i), fmt::format("{}", i));
  EXPECT_EQ(Write(maker)->bytes, Write(maker)->bytes);
}

TEST(Erofs, ReadsBackAsWritten) {
  TarMaker maker;
  TarItem odd{.path = "odd", .data = std::string(1000, 'o')};
  odd.pax = {{"GNU.sparse.map", "100,1000"}, {"GNU.sparse.size", "5000"}};
  TarItem attributes{.path = "attributes", .data = "a", .uid = 4'000'000'000};
  for (int i = 0; i < 20; ++i)
    attributes.pax.emplace_back(fmt::format("SCHILY.xattr.user.{}", i), std::string(static_cast<size_t>(i * 40), 'v'));
  maker.Dir("./").Add(odd).Add(attributes).File("empty", "").Link("again", "attributes");
  for (int size : {1, 5, 300, 447, 448, 449, 480, 511, 512, 513, 3000}) {
    TarItem link{
        .type = '2', .path = fmt::format("link{}", size), .target = std::string(static_cast<size_t>(size), 't')};
    if (size > 100) link.pax = {{"linkpath", link.target}};
    if (size % 2) link.pax.emplace_back("SCHILY.xattr.trusted.x", std::string(static_cast<size_t>(size % 7), 'v'));
    maker.Add(link);
  }
  for (int i = 0; i < 900; ++i)
    maker.File(fmt::format("many/{}{}", i, std::string(static_cast<size_t>(i % 80), 'n')),
               std::string(static_cast<size_t>(i * 3), 'c'));
  for (const char* name : {"!", "-", "..x", ".a", "\xff", "~"}) maker.File(std::string("order/") + name, name);
  std::string longest(255, 'L');
  TarItem named{.path = "x"};
  named.pax = {{"path", "order/" + longest}};
  maker.Add(named);
  std::string tar = maker.Finish();
  auto image = Write(maker, tar);
  ASSERT_TRUE(IsOk(image));
  std::map<std::string, std::string> out;
  Reader(image->bytes, tar).Walk(Little(image->bytes, 1038, 2), "", out);
  EXPECT_EQ(out.size(), 1u + 4 + 11 + 901 + 8);
  auto hash = [](const std::string& s) { return Digest::Of(s).hex(); };
  EXPECT_EQ(out[""], "40755 0:0 n4 ");
  EXPECT_EQ(out["/odd"],
            "100644 0:0 n1 " + hash(std::string(100, '\0') + std::string(1000, 'o') + std::string(3900, '\0')));
  EXPECT_EQ(out["/attributes"], "100644 4000000000:0 n2 " + hash("a"));
  EXPECT_EQ(out["/again"], out["/attributes"]);
  EXPECT_EQ(out["/empty"], "100644 0:0 n1 " + hash(""));
  for (int size : {1, 447, 449, 511, 512, 513, 3000})
    EXPECT_EQ(out[fmt::format("/link{}", size)], "120777 0:0 n1 " + hash(std::string(static_cast<size_t>(size), 't')))
        << size;
  for (int i = 0; i < 900; ++i)
    EXPECT_EQ(out[fmt::format("/many/{}{}", i, std::string(static_cast<size_t>(i % 80), 'n'))],
              "100644 0:0 n1 " + hash(std::string(static_cast<size_t>(i * 3), 'c')));
  EXPECT_EQ(out["/order/" + longest], "100644 0:0 n1 " + hash(""));
}

TEST(Erofs, RefusesWhatWouldNotFit) {
  TarMaker maker;
  TarItem scattered{.path = "scattered"};
  std::string map;
  for (uint64_t i = 0; i < 4000; ++i) {
    if (i > 0) map += ",";
    map += fmt::format("{},1", i << 40);
    scattered.data += 'x';
  }
  scattered.pax = {{"GNU.sparse.map", map}, {"GNU.sparse.size", fmt::format("{}", 4000ull << 40)}};
  EXPECT_TRUE(IsErr(Write(maker.Dir("./").Add(scattered)), Code::kInvalidArgument, "sparse"));
  Tree tree = *Tree::Build({}, nullptr);
  ErofsRequest request{.tree = tree, .tar_size = 3ull << 40};
  EXPECT_TRUE(IsErr(WriteErofs(request, -1), Code::kInvalidArgument, "2 TiB"));
}

TEST(Erofs, AFullDiskIsNamed) {
  unique_fd full = *Open("/dev/full", O_WRONLY);
  Tree tree = *Tree::Build({}, nullptr);
  ErofsRequest request{.tree = tree, .tar_size = 1024};
  EXPECT_TRUE(IsErr(WriteErofs(request, full.get()), Code::kResourceExhausted, "index"));
}

// Damaged archives through everything that parses and writes: any answer is fine; crashes, endless work and an index
// out of proportion are not.
TEST(Erofs, SurvivesDamagedArchives) {
  TarMaker maker;
  TarItem sparse{.path = "s", .data = std::string(1100, 's')};
  sparse.pax = {{"GNU.sparse.map", "100,512,1048576,512,1999900,76"},
                {"GNU.sparse.size", "2000000"},
                {"SCHILY.xattr.user.a", "b"}};
  maker.Dir("d")
      .Add(sparse)
      .File("d/f", "content")
      .Link("h", "d/f")
      .Symlink("l", "d")
      .File("l/g", "")
      .Whiteout("d", "x")
      .Opaque("d");
  const std::string tar = maker.Finish();
  struct Lower : LowerView {
    Result<std::optional<LowerNode>> Lookup(const std::string& path) override {
      LowerNode node;
      node.type = path.size() % 3 == 1 ? EntryType::kSymlink : EntryType::kDirectory;
      node.target = "../d/e";
      return path.size() % 4 == 3 ? std::optional<LowerNode>() : std::optional(node);
    }
    Result<unique_fd> Open(const std::string& path) override { return Err(Code::kNotFound, "{}", path); }
  } lower;
  uint64_t seed = 5;
  auto random = [&](uint64_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
  };
  int written = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bad = tar;
    for (int i = 0; i <= round % 3; ++i) {
      size_t at = random(bad.size());
      bad[at] = random(2) ? static_cast<char>(random(256)) : "0179./ \n="[random(9)];
      std::string header = bad.substr(at & ~size_t{511}, 512);
      bool is_header = header.substr(257, 5) == "ustar";
      if (is_header) TarMaker::Seal(header);
      bad.replace(at & ~size_t{511}, 512, header);
    }
    auto entries = Scan(bad, 1 + random(3000));
    if (!entries) continue;
    auto tree = Tree::Build(std::move(*entries), round % 2 ? &lower : nullptr);
    if (!tree) continue;
    unique_fd source(memfd_create("tar", MFD_CLOEXEC)), out(memfd_create("index", MFD_CLOEXEC));
    ASSERT_TRUE(IsOk(WriteAll(source.get(), bad)));
    ErofsRequest request{.tree = *tree, .tar = source.get(), .tar_size = bad.size(), .lower = &lower};
    auto result = WriteErofs(request, out.get());
    if (!result) continue;
    ++written;
    EXPECT_EQ(result->bytes % 512, 0u);
    EXPECT_LT(result->bytes, 512u << 20);
  }
  EXPECT_GT(written, 300);
}

// ---- files of tars
// ------------------------------------------------------------------------------------------------------

TEST(ScanTarFile, FindsWhatTheStreamFinds) {
  TarMaker maker;
  for (int i = 0; i < 300; ++i) {
    TarItem item{.path = fmt::format("f{}", i), .data = std::string(static_cast<size_t>(i * i * 7 % 90000), 'x')};
    if (i % 4 == 0) item.pax = {{"mtime", "1.5"}};
    maker.Add(item);
  }
  std::string tar = maker.Finish();
  unique_fd file(memfd_create("tar", MFD_CLOEXEC));
  ASSERT_TRUE(IsOk(WriteAll(file.get(), tar)));
  auto stream = Scan(tar), seek = ScanTarFile(file.get(), tar.size());
  ASSERT_TRUE(IsOk(seek));
  ASSERT_EQ(seek->size(), stream->size());
  for (size_t i = 0; i < seek->size(); ++i) {
    EXPECT_EQ((*seek)[i].path, (*stream)[i].path);
    EXPECT_EQ((*seek)[i].extents, (*stream)[i].extents);
  }
  EXPECT_FALSE(ScanTarFile(file.get(), 600).has_value());
  EXPECT_FALSE(ScanTarFile(file.get(), tar.size() - 30000).has_value());
}

}  // namespace
}  // namespace berth::images
