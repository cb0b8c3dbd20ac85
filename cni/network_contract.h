#pragma once
// What every implementation of the seam keeps. An implementation runs it with
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Native, NetworkContract, NativeWorld);
//
// where the world is default-constructible and has
//   Network& network();
//   Attachment Pod(std::vector<PortMapping> ports = {});   // a new pod with a namespace (where that means something)
//   void DropNamespace(const PodId&);                      // the namespace dies, before any Detach
//   uint16_t FreePort();                                   // a host port nobody has
//   bool Usable();                                         // false: the test was skipped by the world
#include <gtest/gtest.h>

#include "base/json.h"
#include "cni/network.h"

namespace berth::cni {

template <class World>
class NetworkContract : public testing::Test {
 protected:
  World world_;
  Network& net() { return world_.network(); }
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }
};
TYPED_TEST_SUITE_P(NetworkContract);

#define CONTRACT_READY() \
  if (!this->world_.Usable()) GTEST_SKIP() << "needs root and network namespaces"

TYPED_TEST_P(NetworkContract, AttachGivesAddressAndResult) {
  CONTRACT_READY();
  auto pod = this->world_.Pod();
  auto r = this->net().Attach(pod, this->Soon());
  ASSERT_TRUE(r.has_value()) << r.error().what;
  ASSERT_FALSE(r->addresses.empty());
  EXPECT_NE(r->addresses[0].cidr.find('/'), std::string::npos);
  EXPECT_EQ(r->interface, "eth0");
  EXPECT_EQ(r->mac.size(), 17u);
  EXPECT_FALSE(r->network.empty());
  auto tree = json::ParseTree(r->result_json, "result");
  ASSERT_TRUE(tree.has_value()) << tree.error().what;
  EXPECT_EQ(tree->at("cniVersion").as_string(), "1.1.0");
  EXPECT_EQ(tree->at("ips").as_array()[0].at("address").as_string(), r->addresses[0].cidr);
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value());
}

TYPED_TEST_P(NetworkContract, SecondAttachOfOnePodIsRefused) {
  CONTRACT_READY();
  auto pod = this->world_.Pod();
  ASSERT_TRUE(this->net().Attach(pod, this->Soon()).has_value());
  auto again = this->net().Attach(pod, this->Soon());
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, Code::kAlreadyExists);
  EXPECT_TRUE(this->net().Stats(pod.pod).has_value()) << "the first attachment must be unharmed";
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value());
}

TYPED_TEST_P(NetworkContract, AddressesDiffer) {
  CONTRACT_READY();
  auto a = this->world_.Pod(), b = this->world_.Pod();
  auto ra = this->net().Attach(a, this->Soon()), rb = this->net().Attach(b, this->Soon());
  ASSERT_TRUE(ra.has_value() && rb.has_value());
  EXPECT_NE(ra->addresses[0].cidr, rb->addresses[0].cidr);
  EXPECT_NE(ra->mac, rb->mac);
}

TYPED_TEST_P(NetworkContract, DetachIsIdempotent) {
  CONTRACT_READY();
  auto pod = this->world_.Pod();
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value()) << "never attached";
  ASSERT_TRUE(this->net().Attach(pod, this->Soon()).has_value());
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value());
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value());
  EXPECT_EQ(this->net().Stats(pod.pod).error().code, Code::kNotFound);
}

TYPED_TEST_P(NetworkContract, DetachWorksWithoutNamespace) {
  CONTRACT_READY();
  uint16_t port = this->world_.FreePort();
  auto pod = this->world_.Pod({{.host_port = port, .container_port = 80}});
  ASSERT_TRUE(this->net().Attach(pod, this->Soon()).has_value());
  this->world_.DropNamespace(pod.pod);
  EXPECT_TRUE(this->net().Detach(pod.pod, this->Soon()).has_value());
  auto next = this->world_.Pod({{.host_port = port, .container_port = 80}});
  auto r = this->net().Attach(next, this->Soon());
  EXPECT_TRUE(r.has_value()) << r.error().what;
}

TYPED_TEST_P(NetworkContract, TakenHostPortNamesThePod) {
  CONTRACT_READY();
  uint16_t port = this->world_.FreePort();
  auto a = this->world_.Pod({{.host_port = port, .container_port = 80}});
  auto b = this->world_.Pod({{.host_port = port, .container_port = 8080}});
  auto udp = this->world_.Pod({{.protocol = "udp", .host_port = port, .container_port = 53}});
  ASSERT_TRUE(this->net().Attach(a, this->Soon()).has_value());
  auto r = this->net().Attach(b, this->Soon());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, Code::kConflict);
  EXPECT_NE(r.error().what.find(a.pod.str()), std::string::npos) << r.error().what;
  EXPECT_TRUE(this->net().Attach(udp, this->Soon()).has_value()) << "another protocol is another port";
  ASSERT_TRUE(this->net().Detach(a.pod, this->Soon()).has_value());
  r = this->net().Attach(b, this->Soon());
  EXPECT_TRUE(r.has_value()) << r.error().what;
}

TYPED_TEST_P(NetworkContract, HostAddressesShareAPort) {
  CONTRACT_READY();
  uint16_t port = this->world_.FreePort();
  auto a = this->world_.Pod({{.host_port = port, .container_port = 80, .host_ip = "127.0.0.1"}});
  auto b = this->world_.Pod({{.host_port = port, .container_port = 80, .host_ip = "127.0.0.2"}});
  auto all = this->world_.Pod({{.host_port = port, .container_port = 80}});
  ASSERT_TRUE(this->net().Attach(a, this->Soon()).has_value());
  EXPECT_TRUE(this->net().Attach(b, this->Soon()).has_value());
  EXPECT_EQ(this->net().Attach(all, this->Soon()).error().code, Code::kConflict);
}

TYPED_TEST_P(NetworkContract, PortZeroPublishesNothing) {
  CONTRACT_READY();
  auto a = this->world_.Pod({{.host_port = 0, .container_port = 80}});
  auto b = this->world_.Pod({{.host_port = 0, .container_port = 80}});
  EXPECT_TRUE(this->net().Attach(a, this->Soon()).has_value());
  EXPECT_TRUE(this->net().Attach(b, this->Soon()).has_value());
}

TYPED_TEST_P(NetworkContract, BadInputIsNamed) {
  CONTRACT_READY();
  auto none = this->world_.Pod();
  none.pod = PodId("");
  EXPECT_EQ(this->net().Attach(none, this->Soon()).error().code, Code::kInvalidArgument);
  auto bad = this->world_.Pod({{.host_port = this->world_.FreePort(), .container_port = 0}});
  auto r = this->net().Attach(bad, this->Soon());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, Code::kInvalidArgument);
  EXPECT_NE(r.error().what.find("container_port"), std::string::npos) << r.error().what;
}

TYPED_TEST_P(NetworkContract, CollectKeepsTheLiving) {
  CONTRACT_READY();
  uint16_t port = this->world_.FreePort();
  auto live = this->world_.Pod();
  auto dead = this->world_.Pod({{.host_port = port, .container_port = 80}});
  ASSERT_TRUE(this->net().Attach(live, this->Soon()).has_value());
  ASSERT_TRUE(this->net().Attach(dead, this->Soon()).has_value());
  auto done = this->net().Collect({live.pod}, this->Soon());
  ASSERT_TRUE(done.has_value()) << done.error().what;
  EXPECT_TRUE(this->net().Stats(live.pod).has_value());
  EXPECT_EQ(this->net().Stats(dead.pod).error().code, Code::kNotFound);
  auto next = this->world_.Pod({{.host_port = port, .container_port = 80}});
  auto r = this->net().Attach(next, this->Soon());
  EXPECT_TRUE(r.has_value()) << r.error().what;
}

TYPED_TEST_P(NetworkContract, StatusIsReady) {
  CONTRACT_READY();
  auto s = this->net().Status();
  EXPECT_TRUE(s.ready) << s.message;
}

REGISTER_TYPED_TEST_SUITE_P(NetworkContract, AttachGivesAddressAndResult, SecondAttachOfOnePodIsRefused,
                            AddressesDiffer, DetachIsIdempotent, DetachWorksWithoutNamespace, TakenHostPortNamesThePod,
                            HostAddressesShareAPort, PortZeroPublishesNothing, BadInputIsNamed, CollectKeepsTheLiving,
                            StatusIsReady);

}  // namespace berth::cni
