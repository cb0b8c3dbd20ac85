#include <gtest/gtest.h>

#include "images/content/inflate.h"
#include "images/store_testing.h"

namespace berth::images {
namespace {

// Feeds in pieces of `step` bytes.
Result<std::string> Inflate(const std::string& bytes, size_t step, Compression* kind = nullptr) {
  std::string out;
  Inflater inflater([&](std::string_view part) -> Result<void> {
    out += part;
    return {};
  });
  for (size_t at = 0; at < bytes.size(); at += step) TRY(inflater.Feed(std::string_view(bytes).substr(at, step)));
  TRY(inflater.Finish());
  if (kind != nullptr) *kind = inflater.kind();
  return out;
}

TEST(Inflater, FindsOutWhatItIs) {
  const std::string text = Noise(400'000, 1) + std::string(700'000, 'a') + Noise(3, 2);
  for (size_t step : {size_t{1}, size_t{7}, size_t{4096}, size_t{1} << 20}) {
    if (step == 1 && text.size() > 100'000) {
      std::string small = text.substr(399'000, 5000);
      EXPECT_EQ(Inflate(Gzip(small), 1).value(), small);
      EXPECT_EQ(Inflate(Zstd(small), 1).value(), small);
      EXPECT_EQ(Inflate(small, 1).value(), small);
      continue;
    }
    Compression kind;
    EXPECT_EQ(Inflate(Gzip(text), step, &kind).value(), text);
    EXPECT_EQ(kind, Compression::kGzip);
    EXPECT_EQ(Inflate(Zstd(text), step, &kind).value(), text);
    EXPECT_EQ(kind, Compression::kZstd);
    EXPECT_EQ(Inflate(text, step, &kind).value(), text);
    EXPECT_EQ(kind, Compression::kNone);
  }
  EXPECT_EQ(Inflate("", 1).value(), "");
  EXPECT_EQ(Inflate("abc", 1).value(), "abc");
}

TEST(Inflater, SeveralMembersFramesAndPadding) {
  const std::string a = Noise(1000, 1), b = Noise(300'000, 2);
  for (size_t step : {size_t{1}, size_t{13}, size_t{1} << 20}) {
    EXPECT_EQ(Inflate(Gzip(a) + Gzip(b), step).value(), a + b);
    EXPECT_EQ(Inflate(Gzip(a) + Gzip("") + Gzip(a), step).value(), a + a);
    EXPECT_EQ(Inflate(Gzip(a) + std::string(100, '\0'), step).value(), a);
    EXPECT_EQ(Inflate(Zstd(a) + Zstd(b), step).value(), a + b);
    std::string skippable = std::string("\x50\x2a\x4d\x18\x04\x00\x00\x00", 8) + "skip";
    EXPECT_EQ(Inflate(skippable + Zstd(a) + skippable, step).value(), a);
  }
}

TEST(Inflater, EveryCutIsNoticed) {
  const std::string text = Noise(2000, 3);
  for (const std::string& packed : {Gzip(text), Zstd(text)})
    for (size_t keep = 6; keep < packed.size(); keep += 31) {
      auto got = Inflate(packed.substr(0, keep), 100);
      ASSERT_FALSE(got.has_value()) << keep;
      EXPECT_EQ(got.error().code, Code::kInvalidArgument);
    }
}

TEST(Inflater, HostileBytesAreAnErrorOrBytes) {
  const std::string text = Noise(2000, 3);
  for (const std::string& packed : {Gzip(text), Zstd(text)})
    for (size_t i = 0; i < packed.size() * 8; i += 137) {
      std::string flipped = packed;
      flipped[i / 8] ^= static_cast<char>(1 << (i % 8));
      (void)Inflate(flipped, 500);
    }
  EXPECT_FALSE(Inflate(Gzip(text) + "junk after", 100).has_value());
  EXPECT_EQ(Inflate("BZh91AY&SY", 4).error().code, Code::kUnimplemented);
  EXPECT_EQ(Inflate("\xfd"
                    "7zXZ\x00\x00",
                    4)
                .error()
                .code,
            Code::kUnimplemented);
}

TEST(Inflater, SinkErrorsComeThrough) {
  Inflater inflater([](std::string_view) -> Result<void> { return Err(Code::kResourceExhausted, "full"); });
  EXPECT_EQ(inflater.Feed(Gzip(Noise(100'000, 1))).error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace berth::images
