#include "cni/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cni/attach_plan.h"

namespace berth::cni {
namespace {

using testing::HasSubstr;

class LedgerTest : public testing::Test {
 protected:
  LedgerTest() : db_(*Db::OpenMemory()) { Open(); }
  void Open() {
    ledger_.reset();
    auto opened = Ledger::Open(*db_);
    ASSERT_TRUE(opened) << opened.error().what;
    ledger_ = std::move(*opened);
  }
  static RangeSet Set(const char* subnet, const char* start, const char* end, const char* gateway) {
    return {{*ParseSubnet(subnet), *ParseIp(start), *ParseIp(end), *ParseIp(gateway)}};
  }
  Result<AttachmentPtr> Insert(const std::string& id, std::vector<PortMapping> ports = {}) {
    return ledger_->Insert({.pod = PodId(id),
                            .network = "n",
                            .interface = "eth0",
                            .link = "veth" + id,
                            .native_ports = true,
                            .ports = std::move(ports)},
                           sets_);
  }
  std::unique_ptr<Db> db_;
  std::unique_ptr<Ledger> ledger_;
  std::vector<RangeSet> sets_{Set("10.0.0.0/24", "10.0.0.1", "10.0.0.5", "10.0.0.1"),
                              Set("fd00::/64", "fd00::1", "fd00::5", "fd00::1")};
};

TEST_F(LedgerTest, KeepsEverythingOverARestart) {
  auto a = Insert("a", {{.host_port = 80, .container_port = 8080, .host_ip = "10.9.9.9"}});
  ASSERT_TRUE(a);
  EXPECT_EQ((*a)->leases[0].Cidr(), "10.0.0.2/24");
  EXPECT_EQ((*a)->leases[1].Cidr(), "fd00::2/64");
  ASSERT_TRUE(ledger_->PutNetwork({"n", "br0", {"10.0.0.0/24"}, true, false, true}));
  ASSERT_TRUE(ledger_->SetResult(PodId("a"), "{}", "other"));
  Open();
  auto again = ledger_->Find(PodId("a"));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->leases[1].Cidr(), "fd00::2/64");
  EXPECT_EQ(again->leases[1].gateway->Text(), "fd00::1");
  ASSERT_EQ(again->ports.size(), 1u);
  EXPECT_EQ(again->ports[0].container_port, 8080);
  EXPECT_EQ(again->link, "vetha") << "a link we made is not renamed by a result";
  EXPECT_EQ(again->result, "{}");
  EXPECT_TRUE(ledger_->LinkTaken("vetha"));
  ASSERT_EQ(ledger_->Networks().size(), 1u);
  EXPECT_TRUE(ledger_->Networks()[0].masquerade && ledger_->Networks()[0].port_isolation);
  EXPECT_EQ((*Insert("b"))->leases[0].ip.Text(), "10.0.0.3");
  ASSERT_TRUE(ledger_->Remove(PodId("b")));
  Open();
  EXPECT_EQ((*Insert("c"))->leases[0].ip.Text(), "10.0.0.4") << "round robin goes on";
}

TEST_F(LedgerTest, FullRangeAndRelease) {
  for (const char* id : {"a", "b", "c", "d"}) ASSERT_TRUE(Insert(id)) << id;
  auto full = Insert("e", {{.host_port = 80, .container_port = 80}});
  EXPECT_EQ(full.error().code, Code::kResourceExhausted);
  EXPECT_THAT(full.error().what, HasSubstr("10.0.0.1 to 10.0.0.5"));
  ASSERT_TRUE(ledger_->Remove(PodId("b")));
  ASSERT_TRUE(ledger_->Remove(PodId("b")));
  auto e = Insert("e", {{.host_port = 80, .container_port = 80}});
  ASSERT_TRUE(e) << e.error().what;
  EXPECT_EQ((*e)->leases[0].ip.Text(), "10.0.0.3");
}

TEST_F(LedgerTest, PortsClashWhereTheirAddressesMeet) {
  auto with = [&](const std::string& id, const std::string& ip, const char* protocol = "tcp") {
    auto r = Insert(id, {{.protocol = protocol, .host_port = 80, .container_port = 80, .host_ip = ip}});
    if (!r) return r.error().what;
    EXPECT_TRUE(ledger_->Remove(PodId(id)));
    return std::string("ok");
  };
  ASSERT_TRUE(Insert("a", {{.host_port = 80, .container_port = 80, .host_ip = "127.0.0.1"}}));
  EXPECT_EQ(with("b", "127.0.0.1"), "host port 127.0.0.1:80/tcp: taken by pod a");
  EXPECT_THAT(with("b", ""), HasSubstr("taken by pod a"));
  EXPECT_THAT(with("b", "0.0.0.0"), HasSubstr("taken by pod a"));
  EXPECT_EQ(with("b", "::"), "ok");
  EXPECT_EQ(with("b", "127.0.0.2"), "ok");
  EXPECT_EQ(with("b", "127.0.0.1", "udp"), "ok");
  auto twice = Insert("c", {{.host_port = 81, .container_port = 80}, {.host_port = 81, .container_port = 81}});
  EXPECT_EQ(twice.error().code, Code::kConflict);
  EXPECT_TRUE(Insert("c", {{.host_port = 81, .container_port = 80}})) << "the failed attempt took nothing";
}

TEST_F(LedgerTest, FollowsAChangeOfRanges) {
  ASSERT_TRUE(Insert("a"));
  sets_ = {Set("10.0.0.0/24", "10.0.0.1", "10.0.0.3", "10.0.0.1")};
  EXPECT_EQ((*Insert("b"))->leases[0].ip.Text(), "10.0.0.3");
  EXPECT_EQ(Insert("c").error().code, Code::kResourceExhausted) << "10.0.0.2 is still a's";
  ASSERT_TRUE(ledger_->Remove(PodId("a")));
  EXPECT_EQ((*Insert("c"))->leases[0].ip.Text(), "10.0.0.2");
}

TEST(AttachPlan, ChecksTheRequest) {
  auto wrong = [](PortMapping p) {
    auto r = WantedPorts({p});
    return r ? std::string("ok") : r.error().what;
  };
  EXPECT_THAT(wrong({.protocol = "icmp", .host_port = 1, .container_port = 1}), HasSubstr("ports[0].protocol"));
  EXPECT_THAT(wrong({.host_port = 1, .container_port = 0}), HasSubstr("ports[0].container_port"));
  EXPECT_THAT(wrong({.host_port = 1, .container_port = 1, .host_ip = "here"}), HasSubstr("ports[0].host_ip"));
  EXPECT_THAT(wrong({.host_port = 1, .container_port = 1, .host_ip = "::1"}), HasSubstr("127.0.0.1"));
  EXPECT_EQ(
      (*WantedPorts({{.protocol = "TCP", .host_port = 1, .container_port = 1, .host_ip = "fd00:0::1"}}))[0].host_ip,
      "fd00::1");
  Attachment a{.pod = PodId("ok"), .netns = 3, .netlink = 4};
  EXPECT_TRUE(CheckAttachment(a));
  a.interface = "much-too-long-name";
  EXPECT_THAT(CheckAttachment(a).error().what, HasSubstr("interface"));
  a.interface = "eth0", a.netns = -1;
  EXPECT_THAT(CheckAttachment(a).error().what, HasSubstr("netns"));
  a.netns = 3, a.pod = PodId("../x");
  EXPECT_THAT(CheckAttachment(a).error().what, HasSubstr("pod"));
}

TEST(AttachPlan, NamesOfLinks) {
  PodId pod("0123456789abcdef");
  EXPECT_EQ(LinkName(pod, 0), "veth01234567");
  EXPECT_EQ(LinkName(pod, 1), "veth89abcdef");
  EXPECT_EQ(LinkName(pod, 2).size(), 12u);
  EXPECT_NE(LinkName(PodId("pod-1"), 0), LinkName(PodId("pod-2"), 0));
}

}  // namespace
}  // namespace berth::cni
