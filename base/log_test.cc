#include "base/log.h"

#include <limits>

#include <gtest/gtest.h>

#include "base/id.h"
#include "base/secret.h"

namespace berth::log {
namespace {

constexpr int64_t kWhen = 1'700'000'000'123'456'789;
constexpr std::string_view kStamp = "2023-11-14T22:13:20.123456Z";

std::string Logfmt(Fields f) { return Line(Format::kLogfmt, kWhen, Level::kInfo, "pod.ready", f); }
std::string Json(Fields f) { return Line(Format::kJson, kWhen, Level::kWarn, "pod.ready", f); }

TEST(Log, Logfmt) {
  EXPECT_EQ(Logfmt({{"took_ms", 12}, {"ok", true}, {"path", "/a/b"}, {"empty", ""}, {"text", "two words"}}),
            fmt::format("ts={} level=info event=pod.ready took_ms=12 ok=true path=/a/b empty=\"\" text=\"two words\"", kStamp));
}

TEST(Log, Json) {
  EXPECT_EQ(Json({{"took_ms", 1.5}, {"ok", false}, {"id", PodId("ab")}}),
            fmt::format(R"({{"ts":"{}","level":"warn","event":"pod.ready","took_ms":1.5,"ok":false,"id":"ab"}})", kStamp));
}

TEST(Log, ValuesCannotForgeLinesOrFields) {
  EXPECT_TRUE(Logfmt({{"x", "a\nlevel=error b=\"c\" \\"}}).ends_with(R"(x="a\nlevel=error b=\"c\" \\")"));
  EXPECT_TRUE(Json({{"x", "a\n\",\"y\":1 \x1b[31m"}}).ends_with(R"("x":"a\n\",\"y\":1 \u001b[31m"})"));
  EXPECT_TRUE(Json({{"x", "\xFF"}}).ends_with(R"("x":"\ufffd"})"));
  EXPECT_TRUE(Logfmt({{"x", "a=b"}}).ends_with(R"(x="a=b")"));
}

TEST(Log, NumbersJsonDoesNotKnowAreStrings) {
  EXPECT_TRUE(Json({{"x", std::numeric_limits<double>::quiet_NaN()}}).ends_with(R"("x":"nan"})"));
  EXPECT_TRUE(Json({{"x", -std::numeric_limits<double>::infinity()}}).ends_with(R"("x":"-inf"})"));
  EXPECT_TRUE(Json({{"x", 'c'}}).ends_with(R"("x":"c"})"));
  EXPECT_TRUE(Json({{"x", -3}}).ends_with(R"("x":-3})"));
}

TEST(Log, SecretsAndErrors) {
  const Error e{Code::kInternal, "it broke", 0, {}};
  EXPECT_TRUE(Logfmt({{"password", Secret("p")}, {"error", e}}).ends_with("password=*** error=\"it broke\""));
}

TEST(Log, LevelDecides) {
  EXPECT_FALSE(Enabled(Level::kDebug));
  EXPECT_TRUE(Enabled(Level::kInfo));
}

}  // namespace
}  // namespace berth::log
