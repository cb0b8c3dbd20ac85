#include "images/digest.h"

#include <gtest/gtest.h>

namespace berth::images {
namespace {

// FIPS 180-4 examples.
constexpr char kEmpty[] = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Digest, HashesKnownVectors) {
  EXPECT_EQ(Digest::Of("").str(), kEmpty);
  EXPECT_EQ(Digest::Of("abc").str(), kAbc);
  EXPECT_EQ(Digest::Of("abc").hex(), std::string_view(kAbc).substr(7));
}

TEST(Digest, HashesInPieces) {
  Hasher hasher;
  hasher.Update("a", 1);
  hasher.Update("", 0);
  hasher.Update("bc", 2);
  EXPECT_EQ(hasher.Finish().str(), kAbc);
}

TEST(Digest, ParsesOnlyLowerCaseSha256) {
  EXPECT_EQ(Digest::Parse(kAbc)->str(), kAbc);
  for (std::string bad :
       {std::string(), std::string("sha256:"), std::string(kAbc).substr(0, 70), std::string(kAbc) + "0",
        std::string("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        std::string("sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        std::string("sha256:../../../../../../../../../../../../../../../../../../../../../a")}) {
    auto parsed = Digest::Parse(bad);
    ASSERT_FALSE(parsed.has_value()) << bad;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
  }
  auto other = Digest::Parse("sha512:" + std::string(128, 'a'));
  ASSERT_FALSE(other.has_value());
  EXPECT_NE(other.error().what.find("sha512"), std::string::npos);
}

TEST(Digest, DefaultIsEmpty) {
  Digest none;
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.hex(), "");
}

}  // namespace
}  // namespace berth::images
