#include "cni/ipam.h"

#include <gtest/gtest.h>

namespace berth::cni {
namespace {

Range MakeRange(const char* subnet, const char* start, const char* end, const char* gateway) {
  return {*ParseSubnet(subnet), *ParseIp(start), *ParseIp(end), *ParseIp(gateway)};
}

std::string Next(Gaps& gaps, std::optional<Ip>& last) {
  auto ip = gaps.Take(last);
  if (ip) last = ip;
  return ip ? ip->Text() : "full";
}

TEST(Gaps, GoRoundAndSkipTheGateway) {
  RangeSet set{MakeRange("10.0.0.0/29", "10.0.0.1", "10.0.0.4", "10.0.0.1")};
  Gaps gaps(set);
  std::optional<Ip> last;
  EXPECT_EQ(Next(gaps, last), "10.0.0.2");
  EXPECT_EQ(Next(gaps, last), "10.0.0.3");
  gaps.Free(*ParseIp("10.0.0.2"));
  EXPECT_EQ(Next(gaps, last), "10.0.0.4") << "not the one just freed";
  EXPECT_EQ(Next(gaps, last), "10.0.0.2");
  EXPECT_EQ(Next(gaps, last), "full");
  gaps.Free(*ParseIp("10.0.0.1"));
  EXPECT_EQ(Next(gaps, last), "full") << "the gateway is never given";
  gaps.Free(*ParseIp("192.168.0.1"));
  gaps.Free(*ParseIp("10.0.0.3"));
  gaps.Free(*ParseIp("10.0.0.3"));
  EXPECT_EQ(Next(gaps, last), "10.0.0.3");
  EXPECT_EQ(Next(gaps, last), "full");
}

TEST(Gaps, TakesTheRangesOfASetInTheirOrder) {
  RangeSet set{MakeRange("10.9.0.0/24", "10.9.0.10", "10.9.0.11", "10.9.0.1"),
               MakeRange("10.1.0.0/24", "10.1.0.10", "10.1.0.11", "10.1.0.1")};
  Gaps gaps(set);
  std::optional<Ip> last;
  for (const char* want : {"10.9.0.10", "10.9.0.11", "10.1.0.10", "10.1.0.11", "full"})
    EXPECT_EQ(Next(gaps, last), want);
  gaps.Free(*ParseIp("10.9.0.10"));
  EXPECT_EQ(Next(gaps, last), "10.9.0.10");
}

TEST(Gaps, MergeSoThatTheirNumberStaysSmall) {
  RangeSet set{MakeRange("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1")};
  Gaps gaps(set);
  std::optional<Ip> last;
  for (int i = 0; i < 1000; ++i) Next(gaps, last);
  EXPECT_EQ(last->Text(), "fd00::3e9");
  EXPECT_EQ(gaps.gaps(), 1u);
  for (int i = 0; i < 1000; i += 2) gaps.Free({6, ParseIp("fd00::2")->value + i});
  EXPECT_EQ(gaps.gaps(), 501u);
  for (int i = 1; i < 1000; i += 2) gaps.Free({6, ParseIp("fd00::2")->value + i});
  EXPECT_EQ(gaps.gaps(), 1u);
}

TEST(Ip, ParsesAndRefuses) {
  EXPECT_EQ(ParseIp("fd00::0:1")->Text(), "fd00::1");
  for (const char* bad : {"", "10.0.0", "10.0.0.256", "x", "fd00::1%eth0", "10.0.0.1/8"})
    EXPECT_FALSE(ParseIp(bad)) << bad;
  EXPECT_EQ(ParseSubnet("10.1.2.0/24")->Last().Text(), "10.1.2.255");
  EXPECT_EQ(ParseSubnet("::/0")->Last().Text(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
  EXPECT_TRUE(ParseSubnet("0.0.0.0/0")->Contains(*ParseIp("255.255.255.255")));
  EXPECT_FALSE(ParseSubnet("0.0.0.0/0")->Contains(*ParseIp("::1")));
  EXPECT_EQ(ParseSubnet("10.1.2.3/24").error().what, "'10.1.2.3/24' has host bits set; the subnet is 10.1.2.0/24");
  for (const char* bad : {"10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8x", "10.0.0.0/-1", "/8"})
    EXPECT_FALSE(ParseSubnet(bad)) << bad;
}

}  // namespace
}  // namespace berth::cni
