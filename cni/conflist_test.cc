#include "cni/conflist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace berth::cni {
namespace {

using testing::HasSubstr;
using Kind = PluginStep::Kind;

std::string List(const std::string& plugins) {
  return R"({"cniVersion":"1.0.0","name":"net","plugins":[)" + plugins + "]}";
}
std::string Bridge(const std::string& more = "", const std::string& ipam = R"("subnet":"10.1.0.0/16")") {
  return R"({"type":"bridge","bridge":"br0")" + (more.empty() ? "" : "," + more) + R"(,"ipam":{"type":"host-local",)" +
         ipam + "}}";
}
std::string WhatIsWrong(const std::string& text) {
  auto list = ParseConflist(text, "a.conflist");
  if (list) return "nothing";
  EXPECT_EQ(list.error().code, Code::kInvalidArgument) << list.error().what;
  return list.error().what;
}

TEST(Conflist, BuiltInDefault) {
  auto list = ParseConflist(DefaultConflist(Options()), "built-in");
  ASSERT_TRUE(list) << list.error().what;
  EXPECT_TRUE(list->native());
  EXPECT_TRUE(list->publishes_ports());
  ASSERT_EQ(list->plugins.size(), 3u);
  const BridgeConfig& b = *list->bridge();
  EXPECT_EQ(b.bridge, "berth0");
  EXPECT_TRUE(b.is_gateway && b.is_default_gateway && b.ip_masq && b.isolate);
  ASSERT_EQ(b.ipam.sets.size(), 2u);
  EXPECT_EQ(b.ipam.sets[0][0].gateway.Text(), "10.89.0.1");
  EXPECT_EQ(b.ipam.sets[0][0].end.Text(), "10.89.255.254");
  EXPECT_EQ(b.ipam.sets[1][0].end.Text(), "fd00:be27::ffff:ffff:ffff:ffff");
}

TEST(Conflist, ErrorsNameFileAndKey) {
  EXPECT_THAT(WhatIsWrong("{"), HasSubstr("a.conflist"));
  EXPECT_THAT(WhatIsWrong("[]"), HasSubstr("a.conflist: expected an object"));
  EXPECT_THAT(WhatIsWrong("{}"), HasSubstr("a.conflist: cniVersion: missing"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":"1.0.0"})"), HasSubstr("a.conflist: name: missing"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":"1.0.0","name":"x"})"), HasSubstr("a.conflist: plugins: missing"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":"1.0.0","name":"x","plugins":[]})"), HasSubstr("plugins: at least one"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":"2.0.0","name":"x","plugins":[]})"), HasSubstr("'2.0.0' is not supported"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":1,"name":"x","plugins":[]})"),
              HasSubstr("cniVersion: expected string, got number"));
  EXPECT_THAT(WhatIsWrong(R"({"cniVersion":"1.0.0","name":"-x","plugins":[{"type":"a"}]})"), HasSubstr("name: '-x'"));
  EXPECT_THAT(WhatIsWrong(List("7")), HasSubstr("a.conflist: plugins[0]: expected object"));
  EXPECT_THAT(WhatIsWrong(List("{}")), HasSubstr("plugins[0].type: missing"));
  EXPECT_THAT(WhatIsWrong(List(R"({"type":"../x"})")), HasSubstr("plugins[0].type: '../x'"));
  EXPECT_THAT(WhatIsWrong(List(R"({"type":"x","prevResult":{}})")), HasSubstr("plugins[0].prevResult: reserved"));
  EXPECT_THAT(WhatIsWrong(List(Bridge(R"("mtu":"big")"))),
              HasSubstr("a.conflist: plugins[0].mtu: expected integer, got string"));
  EXPECT_THAT(WhatIsWrong(List(Bridge(R"("mtu":70000)"))), HasSubstr("plugins[0].mtu: must be 0 to 65535"));
  EXPECT_THAT(WhatIsWrong(List(Bridge(R"("ipMasq":"yes")"))),
              HasSubstr("plugins[0].ipMasq: expected boolean, got string"));
  EXPECT_THAT(WhatIsWrong(List(R"({"type":"bridge","bridge":"much-too-long-name","ipam":{"type":"host-local"}})")),
              HasSubstr("plugins[0].bridge"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("subnet":"10.1.0.1/16")"))),
              HasSubstr("ipam.subnet: '10.1.0.1/16' has host bits"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("subnet":"10.1.0.0/31")"))),
              HasSubstr("ipam.subnet: 10.1.0.0/31 is too small"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("subnet":"10.1.0.0/16","gateway":"10.2.0.1")"))),
              HasSubstr("ipam.gateway"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("routes":[])"))), HasSubstr("'subnet' or 'ranges' is needed"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("subnet":"10.1.0.0/16","routes":[{"dst":"x"}])"))),
              HasSubstr("ipam.routes[0].dst"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("ranges":[[{"subnet":"10.1.0.0/16"}],[{"subnet":"10.1.1.0/24"}]])"))),
              HasSubstr("ipam.ranges[1]: overlaps"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("ranges":[[{"subnet":"10.1.0.0/16"},{"subnet":"fd00::/64"}]])"))),
              HasSubstr("one set cannot hold IPv4 and IPv6"));
  EXPECT_THAT(WhatIsWrong(List(Bridge("", R"("subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.3")"))),
              HasSubstr("ipam.rangeEnd"));
  EXPECT_THAT(WhatIsWrong(List(Bridge() + "," + Bridge())), HasSubstr("plugins[1]: a second bridge"));
}

TEST(Conflist, ChoosesTheNewestVersionItSpeaks) {
  auto list = ParseConflist(
      R"({"cniVersion":"0.4.0","cniVersions":["1.0.0","9.0.0","0.3.1"],"name":"n","plugins":[{"type":"x"}]})", "f");
  ASSERT_TRUE(list) << list.error().what;
  EXPECT_EQ(list->version, "1.0.0");
}

TEST(Conflist, ASinglePluginIsAListOfOne) {
  auto list = ParseConflist(R"({"cniVersion":"0.3.1","name":"n","type":"bridge","isGateway":true,
                               "ipam":{"type":"host-local","subnet":"10.1.0.0/16"}})",
                            "f.conf");
  ASSERT_TRUE(list) << list.error().what;
  EXPECT_TRUE(list->native());
  EXPECT_EQ(list->bridge()->bridge, "cni0");
  EXPECT_FALSE(list->publishes_ports());
}

TEST(Conflist, WhatWeDoNotHonourRunsAsAProgram) {
  auto why = [](const std::string& plugin) {
    auto list = ParseConflist(List(plugin), "f");
    if (!list) return list.error().what;
    return list->plugins[0].kind == Kind::kProgram ? list->plugins[0].why_program : std::string("native");
  };
  EXPECT_EQ(why(Bridge()), "native");
  EXPECT_EQ(why(Bridge(R"("vlan":0,"promiscMode":false,"isDefaultGateway":true,"forceAddress":false)")), "native");
  EXPECT_THAT(why(Bridge(R"("vlan":7)")), HasSubstr("vlan"));
  EXPECT_THAT(why(Bridge(R"("promiscMode":true)")), HasSubstr("promiscMode"));
  EXPECT_THAT(why(Bridge(R"("newKey":1)")), HasSubstr("newKey"));
  EXPECT_THAT(why(Bridge("", R"("subnet":"10.1.0.0/16","dataDir":"/x")")), HasSubstr("ipam.dataDir"));
  EXPECT_THAT(why(R"({"type":"bridge","ipam":{"type":"dhcp"}})"), HasSubstr("ipam.type"));
  EXPECT_THAT(why(R"({"type":"bridge"})"), HasSubstr("ipam"));
  auto kind = [](const std::string& portmap, const std::string& before) {
    return ParseConflist(List(before + "," + portmap), "f")->plugins[1].kind;
  };
  EXPECT_EQ(kind(R"({"type":"portmap","snat":true,"capabilities":{"portMappings":true}})", Bridge()), Kind::kPortmap);
  EXPECT_EQ(kind(R"({"type":"portmap","snat":false})", Bridge()), Kind::kProgram);
  EXPECT_EQ(kind(R"({"type":"portmap"})", R"({"type":"calico"})"), Kind::kProgram);
}

class Directory : public testing::Test {
 protected:
  Directory() {
    char path[] = "/tmp/berth-conflist-XXXXXX";
    root_ = mkdtemp(path);
    options_.config_dir = root_ + "/cni/net.d";
  }
  ~Directory() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(options_.config_dir);
    std::ofstream(options_.config_dir + "/" + name) << text;
  }
  std::string root_;
  Options options_;
};

TEST_F(Directory, IsFollowedFromBeforeItExists) {
  options_.built_in_default = false;
  ConfigDir dir(options_);
  auto loaded = dir.Current();
  EXPECT_FALSE(loaded.list);
  EXPECT_THAT(loaded.message, HasSubstr("no network configuration in " + options_.config_dir));
  std::filesystem::create_directories(options_.config_dir);
  EXPECT_FALSE(dir.Current().list);
  Write("20-b.conflist", List(Bridge()));
  ASSERT_TRUE(dir.Current().list);
  EXPECT_EQ(dir.Current().list->file, "20-b.conflist");
  EXPECT_EQ(dir.Current().list, dir.Current().list) << "read once";
  Write("10-a.conf", "{ broken");
  loaded = dir.Current();
  ASSERT_TRUE(loaded.list) << "one broken file does not disable the others";
  EXPECT_EQ(loaded.list->file, "20-b.conflist");
  EXPECT_THAT(loaded.message, HasSubstr("10-a.conf"));
  Write("ignored.txt", "{");
  Write("15-c.json", List(R"({"type":"x"})"));
  EXPECT_EQ(dir.Current().list->file, "15-c.json");
  std::filesystem::remove_all(root_ + "/cni");
  EXPECT_FALSE(dir.Current().list);
  Write("30-d.conflist", List(Bridge()));
  ASSERT_TRUE(dir.Current().list);
}

TEST_F(Directory, BuiltInOnlyWithoutAnyFile) {
  ConfigDir dir(options_);
  ASSERT_TRUE(dir.Current().list);
  EXPECT_EQ(dir.Current().list->file, "");
  Write("10-a.conflist", "{ broken");
  EXPECT_FALSE(dir.Current().list) << "somebody meant another network";
  std::filesystem::create_directory(options_.config_dir + "/09-dir.conflist");
  EXPECT_THAT(dir.Current().message, HasSubstr("09-dir.conflist: not a regular file"));
}

}  // namespace
}  // namespace berth::cni
