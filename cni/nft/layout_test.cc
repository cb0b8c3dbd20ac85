#include "cni/nft/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cni/nft/elements.h"

namespace berth::cni::nft {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Hex(const std::string& bytes) {
  std::string out;
  for (unsigned char c : bytes) out += fmt::format("{:02x}", c);
  return out;
}

TEST(Elements, FieldsArePaddedToFourBytes) {
  PublishedPort any{"tcp", "", 8080, *ParseIp("10.89.0.2"), 80};
  EXPECT_EQ(Hex(PortKeyBytes(any)),
            "06000000"
            "1f900000");
  EXPECT_EQ(Hex(PortValueBytes(any)),
            "0a590002"
            "00500000");
  PublishedPort one{"udp", "10.0.0.1", 53, *ParseIp("10.89.0.2"), 5353};
  EXPECT_EQ(Hex(PortKeyBytes(one)),
            "0a000001"
            "11000000"
            "00350000");
  PublishedPort six{"sctp", "fd00::1", 1, *ParseIp("fd00::2"), 65535};
  EXPECT_EQ(Hex(PortKeyBytes(six)),
            "fd000000000000000000000000000001"
            "84000000"
            "00010000");
  EXPECT_EQ(Hex(PortValueBytes(six)),
            "fd000000000000000000000000000002"
            "ffff0000");
}

TEST(Elements, OneMessageAMapAndFamily) {
  std::vector<PublishedPort> ports;
  for (uint16_t i = 0; i < 1001; ++i)
    ports.push_back({"tcp", "", static_cast<uint16_t>(1000 + i), *ParseIp("10.89.0.2"), 80});
  ports.push_back({"tcp", "10.0.0.1", 80, *ParseIp("10.89.0.2"), 80});
  ports.push_back({"tcp", "", 80, *ParseIp("fd00::2"), 80});
  ElementBatch add = EncodePorts("berth", ports, true, 7);
  EXPECT_EQ(add.first, 8u);
  EXPECT_EQ(add.messages, 5u) << "three for a thousand, one by address, one IPv6";
  EXPECT_LT(EncodePorts("berth", ports, false, 7).bytes.size(), add.bytes.size()) << "removal needs no values";
}

TEST(Layout, PortsOfAPod) {
  AttachmentRow row{.native_ports = true};
  row.leases = {{*ParseIp("10.89.0.2"), 16, {}, 0}, {*ParseIp("fd00::2"), 64, {}, 1}};
  row.ports = {{"tcp", 80, 8080, ""}, {"udp", 53, 53, "127.0.0.1"}, {"tcp", 81, 81, "::"}};
  auto ports = PortsOf(row);
  ASSERT_EQ(ports.size(), 4u);
  EXPECT_EQ(ports[0].to.Text(), "10.89.0.2");
  EXPECT_EQ(ports[1].to.Text(), "fd00::2");
  EXPECT_EQ(ports[2].host_ip, "127.0.0.1");
  EXPECT_EQ(ports[3].host_ip, "") << "the unspecified address is every address of its family";
  EXPECT_EQ(ports[3].to.family, 6);
  row.native_ports = false;
  EXPECT_TRUE(PortsOf(row).empty());
}

TEST(Layout, OverlappingSubnetsBecomeTheWidest) {
  std::string text = ContentsText("berth", {.networks = {{"a", "br0", {"10.1.0.0/16", "fd00::/64"}, true, true, false},
                                                         {"b", "br0", {"10.1.2.0/24"}, true, true, false},
                                                         {"c", "br1", {"10.1.2.0/24"}, false, false, true}}});
  EXPECT_THAT(text, HasSubstr("add element ip berth nets { 10.1.0.0/16 }"));
  EXPECT_THAT(text, Not(HasSubstr("nets { 10.1.2.0/24 }")));
  EXPECT_THAT(text, Not(HasSubstr("10.1.2.0/24 . \"br0\"")));
  EXPECT_THAT(text, HasSubstr("add element ip berth net_if { 10.1.2.0/24 . \"br1\" }"));
  EXPECT_THAT(text, HasSubstr("add element ip6 berth masq { fd00::/64 }"));
  EXPECT_THAT(text, HasSubstr("add element ip berth icc { \"br0\" . \"br0\" }"));
  EXPECT_THAT(text, Not(HasSubstr("\"br1\" . \"br1\"")));
  EXPECT_THAT(text, HasSubstr("add element ip6 berth routed { \"br1\" }"));
  EXPECT_THAT(text, Not(HasSubstr("routed { \"br0\" }")));
}

TEST(Layout, RulesOfTheAdministrator) {
  EXPECT_EQ(
      RulesOf(
          "table ip berth {\n\tchain admin {\n\t\tip saddr 1.2.3.4 drop\n\t\tct state vmap { new : accept }\n\t}\n}\n"),
      "    ip saddr 1.2.3.4 drop\n    ct state vmap { new : accept }\n");
  EXPECT_EQ(RulesOf("table ip berth {\n\tchain admin {\n\t}\n}\n"), "");
  EXPECT_EQ(RulesOf(""), "");
}

}  // namespace
}  // namespace berth::cni::nft
