// The native network against the kernel: who reaches whom, and what is left behind.
#include <gmock/gmock.h>

#include "cni/netlink/sysctl.h"
#include "cni/network_contract.h"
#include "cni/test_world.h"

namespace berth::cni {

INSTANTIATE_TYPED_TEST_SUITE_P(Native, NetworkContract, test::World);

namespace {

using test::Ask;
using test::InNs;
using test::Server;
using test::Shell;
using testing::HasSubstr;

class NativeNetwork : public testing::Test {
 protected:
  void SetUp() override {
    if (!world_.Usable()) GTEST_SKIP() << "needs root and network namespaces";
  }
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }
  AttachResult MustAttach(const Attachment& a) {
    auto r = world_.network().Attach(a, Soon());
    if (!r) {
      ADD_FAILURE() << r.error().what;
      return {};
    }
    return *r;
  }
  static std::string V4(const AttachResult& r) { return r.addresses.empty() ? "" : r.addresses[0].Ip(); }
  static std::string V6(const AttachResult& r) { return r.addresses.size() < 2 ? "" : r.addresses[1].Ip(); }
  static std::string First(const std::string& answer) { return answer.substr(0, answer.find(' ')); }
  static int Count(const std::string& text, std::string_view what) {
    int n = 0;
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
    return n;
  }
  // Links, leases, elements and ledger rows that pods own.
  std::string Leftovers() {
    std::string out = Shell("ip -o link 2>/dev/null | grep -o 'veth[0-9a-f]*' | sort -u");
    for (const char* map : {"pub_any", "pub_ip"})
      for (const char* family : {"ip", "ip6"})
        out += Shell(fmt::format("nft list map {} berth {} 2>/dev/null | grep elements || true", family, map));
    for (const char* table : {"cni_attachments", "cni_leases", "cni_ports"})
      (void)world_.db().Each(fmt::format("SELECT count(*) FROM {}", table), [&](const Db::Row& r) {
        if (r.Int(0) != 0) out += fmt::format("{}: {} rows\n", table, r.Int(0));
      });
    return out;
  }
  // The same once namespaces that are dying have gone; "" when nothing is left.
  std::string Settled() {
    std::string out = Leftovers();
    for (int i = 0; i < 200 && !out.empty(); ++i, out = Leftovers()) poll(nullptr, 0, 50);
    return out;
  }
  test::World world_;
};

TEST_F(NativeNetwork, ConfiguresThePodInOneGo) {
  auto pod = world_.Pod();
  auto r = MustAttach(pod);
  EXPECT_EQ(r.network, "berth");
  EXPECT_EQ(r.addresses.size(), 2u);
  EXPECT_EQ(r.addresses[0].gateway, "10.89.0.1");
  std::string addresses = InNs(pod.netns, [] { return Shell("ip -j addr"); });
  EXPECT_THAT(addresses, HasSubstr("\"local\":\"" + V4(r) + "\",\"prefixlen\":16"));
  EXPECT_THAT(addresses, HasSubstr("\"local\":\"" + V6(r) + "\",\"prefixlen\":64"));
  EXPECT_THAT(addresses, HasSubstr("\"address\":\"" + r.mac + "\""));
  EXPECT_THAT(addresses, testing::Not(HasSubstr("\"tentative\":true")));
  EXPECT_THAT(
      InNs(pod.netns, [] { return Shell("ip route; ip -6 route"); }),
      testing::AllOf(HasSubstr("default via 10.89.0.1 dev eth0"), HasSubstr("default via fd00:be27::1 dev eth0")));
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o link show lo"); }), HasSubstr("LOOPBACK,UP"));
  std::string host = Shell("ip -o link show " + r.host_interface);
  EXPECT_THAT(host, HasSubstr("master berth0"));
  EXPECT_THAT(host, HasSubstr("alias berth/berth/" + pod.pod.str()));
  EXPECT_EQ(Ask(pod.netns, "10.89.0.1", 1), "refused");  // by the gateway, so it was reached
  EXPECT_EQ(Ask(pod.netns, "fd00:be27::1", 1), "refused");
}

TEST_F(NativeNetwork, PodsReachEachOtherAndTheHost) {
  auto a = world_.Pod(), b = world_.Pod();
  auto ra = MustAttach(a), rb = MustAttach(b);
  Server sb(b.netns, "b", 80), host(world_.host(), "host", 9000);
  for (bool udp : {false, true}) {
    EXPECT_EQ(Ask(a.netns, V4(rb), 80, udp), "b " + V4(ra));
    EXPECT_EQ(Ask(a.netns, V6(rb), 80, udp), "b " + V6(ra));
    EXPECT_EQ(Ask(a.netns, "10.89.0.1", 9000, udp), "host " + V4(ra));
    EXPECT_EQ(Ask(a.netns, "fd00:be27::1", 9000, udp), "host " + V6(ra));
    EXPECT_EQ(Ask(world_.host(), V4(rb), 80, udp), "b 10.89.0.1");
    EXPECT_EQ(Ask(world_.host(), V6(rb), 80, udp), "b fd00:be27::1");
  }
}

class HostPorts : public NativeNetwork, public testing::WithParamInterface<const char*> {};

TEST_P(HostPorts, FromEverywhere) {
  int outside = world_.Outside();
  // With and without bridged frames passing through the IP hooks, as kube-proxy's documentation asks for.
  for (const char* name : {"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"})
    if (!netlink::SetSysctl(name, GetParam()) && *GetParam() == '1') GTEST_SKIP() << "needs the module br_netfilter";
  auto a = world_.Pod({{.host_port = 8080, .container_port = 80},
                       {.protocol = "udp", .host_port = 8080, .container_port = 80},
                       {.host_port = 8081, .container_port = 80, .host_ip = "192.0.2.1"},
                       {.host_port = 8082, .container_port = 80, .host_ip = "127.0.0.1"},
                       {.host_port = 8083, .container_port = 80, .host_ip = "fd02::1"}});
  auto b = world_.Pod();
  auto ra = MustAttach(a), rb = MustAttach(b);
  Server sa(a.netns, "a", 80), out(outside, "outside", 7000);
  for (bool udp : {false, true}) {
    // From outside the client's own address is seen.
    EXPECT_EQ(Ask(outside, "192.0.2.1", 8080, udp), "a 192.0.2.2") << udp;
    EXPECT_EQ(Ask(outside, "fd02::1", 8080, udp), "a fd02::2") << udp;
    // From the host, by each of its addresses.
    EXPECT_EQ(First(Ask(world_.host(), "127.0.0.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(world_.host(), "192.0.2.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(world_.host(), "10.89.0.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(world_.host(), "fd02::1", 8080, udp)), "a") << udp;
    // From another pod, and from the pod to itself.
    EXPECT_EQ(First(Ask(b.netns, "192.0.2.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(b.netns, "fd02::1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(b.netns, "10.89.0.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(a.netns, "192.0.2.1", 8080, udp)), "a") << udp;
    EXPECT_EQ(First(Ask(a.netns, "fd02::1", 8080, udp)), "a") << udp;
    // A way out is masqueraded.
    EXPECT_EQ(Ask(a.netns, "192.0.2.2", 7000, udp), "outside 192.0.2.1") << udp;
    EXPECT_EQ(Ask(a.netns, "fd02::2", 7000, udp), "outside fd02::1") << udp;
  }
  // One address only.
  EXPECT_EQ(First(Ask(outside, "192.0.2.1", 8081)), "a");
  EXPECT_EQ(Ask(world_.host(), "10.89.0.1", 8081), "refused");
  EXPECT_EQ(First(Ask(world_.host(), "127.0.0.1", 8082)), "a");
  EXPECT_EQ(Ask(outside, "192.0.2.1", 8082), "refused");
  EXPECT_EQ(First(Ask(outside, "fd02::1", 8083)), "a");
  EXPECT_EQ(Ask(outside, "192.0.2.1", 8083), "refused");
  // What is not translated is refused, not swallowed by the reservation.
  EXPECT_EQ(Ask(world_.host(), "::1", 8080), "refused");
  // From outside nobody gets in but by a published port.
  EXPECT_EQ(Ask(outside, V4(ra), 80, false, 300), "timeout");
  EXPECT_EQ(Ask(outside, V6(ra), 80, false, 300), "timeout");
  // The host's own 127/8 stays the host's.
  Server local(world_.host(), "local", 6000, 4, "127.0.0.1");
  InNs(b.netns, [] {
    netlink::SetSysctl("net/ipv4/conf/all/route_localnet", "1");
    Shell("ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.0/8 via 10.89.0.1");
  });
  EXPECT_EQ(Ask(b.netns, "127.0.0.1", 6000, false, 300), "timeout");
  // Nothing is left when it goes.
  ASSERT_TRUE(world_.network().Detach(a.pod, Soon()).has_value());
  EXPECT_EQ(Ask(outside, "192.0.2.1", 8080), "refused");
}
INSTANTIATE_TEST_SUITE_P(BridgeNetfilter, HostPorts, testing::Values("1", "0"));

TEST_F(NativeNetwork, UdpFlowsFollowThePort) {
  int outside = world_.Outside();
  auto a = world_.Pod({{.protocol = "udp", .host_port = 5353, .container_port = 53}});
  auto b = a;
  MustAttach(a);
  auto c = world_.Pod({{.protocol = "udp", .host_port = 5353, .container_port = 53}});
  Server sa(a.netns, "a", 53), sc(c.netns, "c", 53);
  // One client socket, so that the flow stays the same five-tuple.
  unique_fd client = InNs(outside, [] {
    unique_fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    test::Endpoint e("192.0.2.1", 5353);
    connect(fd.get(), e.get(), e.length);
    return fd;
  });
  auto ask = [&]() -> std::string {
    send(client.get(), "?", 1, 0);
    pollfd p{client.get(), POLLIN, 0};
    char buffer[64];
    if (poll(&p, 1, 100) <= 0) return "";
    ssize_t n = recv(client.get(), buffer, sizeof buffer, 0);
    return n < 0 ? "" : First({buffer, static_cast<size_t>(n)});
  };
  EXPECT_EQ(ask(), "a");
  ASSERT_TRUE(world_.network().Detach(a.pod, Soon()).has_value());
  MustAttach(c);
  std::string got;
  for (int i = 0; i < 50 && got != "c"; ++i) got = ask();  // the keeper clears the old flow in its own time
  EXPECT_EQ(got, "c");
}

TEST_F(NativeNetwork, AProgramsPortIsAConflict) {
  Server other(world_.host(), "other", 8088, 4);
  auto pod = world_.Pod({{.host_port = 8088, .container_port = 80}});
  for (const char* protocol : {"tcp", "udp"}) {
    pod.ports[0].protocol = protocol;
    auto r = world_.network().Attach(pod, Soon());
    ASSERT_FALSE(r.has_value());
    EXPECT_EQ(r.error().code, Code::kConflict);
    EXPECT_THAT(r.error().what, testing::AllOf(HasSubstr("8088"), HasSubstr("another program")));
  }
  EXPECT_EQ(Settled(), "");
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o link"); }), testing::Not(HasSubstr("eth0")));
  EXPECT_EQ(First(Ask(world_.host(), "127.0.0.1", 8088)), "other");
}

TEST_F(NativeNetwork, AHeldPortIsNotGivenToPrograms) {
  auto pod = world_.Pod({{.host_port = 8089, .container_port = 80}});
  MustAttach(pod);
  auto bind_it = [&] {
    unique_fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int one = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    test::Endpoint e("0.0.0.0", 8089);
    return bind(fd.get(), e.get(), e.length) == 0 && listen(fd.get(), 1) == 0 ? 0 : errno;
  };
  EXPECT_EQ(bind_it(), EADDRINUSE);
  world_.Open();
  EXPECT_EQ(bind_it(), EADDRINUSE) << "held again after a restart";
  ASSERT_TRUE(world_.network().Detach(pod.pod, Soon()).has_value());
  EXPECT_EQ(bind_it(), 0);
}

TEST_F(NativeNetwork, AnExistingInterfaceIsRefusedAndKept) {
  auto pod = world_.Pod({{.host_port = 8090, .container_port = 80}});
  InNs(pod.netns, [] { Shell("ip link add eth0 type bridge"); });
  auto r = world_.network().Attach(pod, Soon());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, Code::kAlreadyExists);
  EXPECT_THAT(r.error().what, HasSubstr("eth0"));
  EXPECT_EQ(Settled(), "");
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -d -o link show eth0"); }), HasSubstr("bridge"));
}

TEST_F(NativeNetwork, OtherLinksInTheNamespaceDoNotDisturb) {
  auto pod = world_.Pod();
  InNs(pod.netns, [] { Shell("ip link add net1 type bridge"); });  // takes number 2
  auto r = MustAttach(pod);
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o addr show eth0"); }), HasSubstr(V4(r)));
}

TEST_F(NativeNetwork, FailureHalfWayLeavesNothing) {
  // IPv6 switched off inside makes the address step fail, after the links are made.
  auto pod = world_.Pod({{.host_port = 8091, .container_port = 80}});
  InNs(pod.netns, [] {
    netlink::SetSysctl("net/ipv6/conf/default/disable_ipv6", "1");
    netlink::SetSysctl("net/ipv6/conf/all/disable_ipv6", "1");
  });
  auto r = world_.network().Attach(pod, Soon());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(r.error().what, HasSubstr("disable_ipv6"));
  EXPECT_EQ(Settled(), "");
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o link"); }), testing::Not(HasSubstr("eth0")));
  InNs(pod.netns, [] {
    netlink::SetSysctl("net/ipv6/conf/default/disable_ipv6", "0");
    netlink::SetSysctl("net/ipv6/conf/all/disable_ipv6", "0");
  });
  EXPECT_EQ(V4(MustAttach(pod)), "10.89.0.3") << "the address before went round";
}

TEST_F(NativeNetwork, AttachAgainInTheSameNamespace) {
  auto pod = world_.Pod();
  MustAttach(pod);
  ASSERT_TRUE(world_.network().Detach(pod.pod, Soon()).has_value());
  auto r = MustAttach(pod);  // the unplugged link is still there
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o addr show eth0"); }), HasSubstr(V4(r)));
  EXPECT_EQ(Ask(pod.netns, "10.89.0.1", 1), "refused");
}

TEST_F(NativeNetwork, DetachAfterRestartAndCollect) {
  auto a = world_.Pod({{.host_port = 8092, .container_port = 80}}), b = world_.Pod(), c = world_.Pod();
  MustAttach(a), MustAttach(b);
  auto rc = MustAttach(c);
  world_.DropNamespace(b.pod);
  world_.Open();
  EXPECT_TRUE(world_.network().Stats(a.pod).has_value());
  // Things nobody owns: a link with our mark, an element, a lease.
  Shell("ip link add vethdeadbeef type veth peer name x && ip link set vethdeadbeef alias berth/berth/feed");
  Shell("ip link add vethother type veth peer name y && ip link set vethother alias somebody");
  Shell("nft add element ip berth pub_any { tcp . 9999 : 10.89.7.7 . 80 }");
  (void)world_.db().Exec("INSERT INTO cni_leases VALUES('berth','10.89.9.9',16,'',0,'gone')");
  auto done = world_.network().Collect({c.pod}, Soon());
  ASSERT_TRUE(done.has_value()) << done.error().what;
  EXPECT_THAT(Shell("ip -o link"), testing::AllOf(testing::Not(HasSubstr("vethdeadbeef")), HasSubstr("vethother"),
                                                  HasSubstr(rc.host_interface)));
  EXPECT_EQ(Shell("nft list map ip berth pub_any | grep elements || true"), "");
  int leases = -1;
  (void)world_.db().Each("SELECT count(*) FROM cni_leases", [&](const Db::Row& r) { leases = r.Int(0); });
  EXPECT_EQ(leases, 2) << "IPv4 and IPv6 of the living pod";
  EXPECT_TRUE(world_.network().Detach(c.pod, Soon()).has_value());
  Shell("ip link del vethother");
}

TEST_F(NativeNetwork, FlushedRulesetComesBack) {
  auto pod = world_.Pod({{.host_port = 8093, .container_port = 80}});
  MustAttach(pod);
  Server s(pod.netns, "pod", 80);
  Shell("nft add rule ip berth admin counter comment \\\"mine\\\"");
  // Another layout: replaced in one transaction, with the administrator's rules.
  Shell("nft delete chain ip berth layout-1");
  world_.Open();
  EXPECT_THAT(Shell("nft list chain ip berth admin"), HasSubstr("mine"));
  EXPECT_EQ(First(Ask(world_.host(), "127.0.0.1", 8093)), "pod");
  Shell("nft flush ruleset");
  EXPECT_TRUE(world_.network().Status().ready);  // looks, and repairs when the keeper has not yet
  EXPECT_EQ(First(Ask(world_.host(), "127.0.0.1", 8093)), "pod");
  Shell("nft flush ruleset");
  auto other = world_.Pod({{.host_port = 8094, .container_port = 80}});
  MustAttach(other);
  EXPECT_THAT(Shell("nft list map ip berth pub_any"), testing::AllOf(HasSubstr("8093"), HasSubstr("8094")));
}

TEST_F(NativeNetwork, AnElementOfSomebodyElseGivesWay) {
  MustAttach(world_.Pod());
  Shell("nft add element ip berth pub_any { tcp . 8098 : 10.89.7.7 . 80 }");
  auto pod = world_.Pod({{.host_port = 8098, .container_port = 80}});
  auto r = MustAttach(pod);
  EXPECT_THAT(Shell("nft list map ip berth pub_any"), HasSubstr("8098 : " + V4(r) + " . 80"));
  // And one that somebody removed is no obstacle to detaching.
  Shell("nft delete element ip berth pub_any { tcp . 8098 }");
  EXPECT_TRUE(world_.network().Detach(pod.pod, Soon()).has_value());
  EXPECT_EQ(Shell("nft list map ip6 berth pub_any | grep elements || true"), "");
}

TEST_F(NativeNetwork, ADeletedBridgeComesBack) {
  auto a = world_.Pod();
  MustAttach(a);
  Shell("ip link del berth0");
  auto b = world_.Pod();
  auto rb = MustAttach(b);
  Server sa(a.netns, "a", 80);
  EXPECT_EQ(Ask(b.netns, "10.89.0.2", 80), "a " + V4(rb)) << "pods that ran are plugged in again";
  EXPECT_EQ(Ask(b.netns, "10.89.0.1", 1), "refused");
}

TEST_F(NativeNetwork, AFullBridgeSaysSo) {
  MustAttach(world_.Pod());
  std::string batch;
  // Both ends of a pair are ports.
  for (int i = 0; i < 512; ++i)
    batch += fmt::format("link add d{0} master berth0 type veth peer name e{0}\nlink set e{0} master berth0\n", i);
  FILE* f = fopen((world_.dir() + "/batch").c_str(), "w");
  fwrite(batch.data(), 1, batch.size(), f);
  fclose(f);
  Shell("ip -force -batch " + world_.dir() + "/batch");
  ASSERT_EQ(Shell("ip -o link show master berth0 2>/dev/null | wc -l"), "1023\n");
  auto pod = world_.Pod();
  auto r = world_.network().Attach(pod, Soon());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, Code::kResourceExhausted);
  EXPECT_THAT(r.error().what, testing::AllOf(HasSubstr("berth0"), HasSubstr("1023 ports")));
}

TEST_F(NativeNetwork, StatsAreThePodsView) {
  auto pod = world_.Pod();
  MustAttach(pod);
  Server s(world_.host(), "host", 9000);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(First(Ask(pod.netns, "10.89.0.1", 9000)), "host");
  auto host = world_.network().Stats(pod.pod);
  ASSERT_TRUE(host.has_value());
  EXPECT_EQ(host->name, "eth0");
  auto inside = json::ParseTree(InNs(pod.netns, [] { return Shell("ip -j -s link show eth0"); }), "ip");
  ASSERT_TRUE(inside.has_value());
  auto& stats = inside->at(0).at("stats64");
  EXPECT_GE(host->rx_bytes, 20u * 60);
  EXPECT_LE(host->rx_bytes, stats.at("rx").at("bytes").to_number<uint64_t>())
      << "read later; neighbours may have spoken since";
  EXPECT_GE(host->tx_packets, 20u);
  EXPECT_GE(host->rx_packets, 20u);
}

TEST_F(NativeNetwork, TwoHundredInParallel) {
  std::vector<Attachment> pods;
  for (int i = 0; i < 200; ++i) pods.push_back(world_.Pod({{.host_port = world_.FreePort(), .container_port = 80}}));
  Network& net = world_.network();
  std::mutex mutex;
  std::set<std::string> addresses;
  std::atomic<size_t> next{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 16; ++t)
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < pods.size();) {
        auto r = net.Attach(pods[i], Soon());
        std::lock_guard lock(mutex);
        if (!r)
          ADD_FAILURE() << r.error().what;
        else
          addresses.insert(V4(*r)), addresses.insert(V6(*r));
      }
    });
  threads.clear();
  EXPECT_EQ(addresses.size(), 400u);
  EXPECT_EQ(Count(Shell("ip -o link show master berth0"), "master berth0"), 200);
  EXPECT_EQ(Count(Shell("nft list map ip berth pub_any"), "10.89."), 200);
  next = 0;
  for (int t = 0; t < 16; ++t)
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < pods.size();)
        if (auto r = net.Detach(pods[i].pod, Soon()); !r) ADD_FAILURE() << r.error().what;
    });
  threads.clear();
  for (auto& pod : pods) world_.DropNamespace(pod.pod);
  EXPECT_EQ(Shell("ip -o link show up master berth0 2>/dev/null"), "") << "down at once; gone with the namespaces";
  EXPECT_THAT(Leftovers(), testing::Not(HasSubstr("rows")));
}

// A crash at each step: this program runs itself with a failpoint set, attaches, and dies. Whatever it leaves is
// collected. With the failpoint as an error, nothing is left at once.
TEST_F(NativeNetwork, CrashesAndErrorsAtEachStep) {
  for (const char* step : {"ledger", "ports", "veth", "address", "nft", "detach.nft", "detach.link"})
    for (const char* kind : {"", ":error"}) {
      bool detach = std::string_view(step).starts_with("detach");
      if (detach && *kind) continue;
      SCOPED_TRACE(fmt::format("{}{}", step, kind));
      (void)world_.network();
      world_.Close();
      std::string name = fmt::format("network.{}{}", detach ? "" : "attach.", step);
      std::string out =
          Shell(fmt::format("BERTH_FAILPOINT={}{} BERTH_CNI_TEST_DIR={} /proc/{}/exe "
                            "--gtest_filter=Helper.AttachesAndDetaches",
                            name, kind, world_.dir(), getpid()));
      if (*kind) {
        EXPECT_THAT(out, HasSubstr("attach: failpoint " + name));
        EXPECT_EQ(Settled(), "");
      } else {
        EXPECT_THAT(out, HasSubstr("[exit"));
        EXPECT_NE(Leftovers(), "") << "the crash was meant to leave something\n" << out;
      }
      world_.Open();
      auto done = world_.network().Collect({}, Soon());
      EXPECT_TRUE(done.has_value()) << done.error().what;
      EXPECT_EQ(Settled(), "");
      auto pod = world_.Pod({{.host_port = 8097, .container_port = 80}});
      EXPECT_TRUE(world_.network().Attach(pod, Soon()).has_value());
      EXPECT_TRUE(world_.network().Detach(pod.pod, Soon()).has_value());
      world_.DropNamespace(pod.pod);
      EXPECT_TRUE(world_.network().Collect({}, Soon()).has_value());
    }
}

// Not a test: what the one above runs, in the namespace and with the database it made.
TEST(Helper, AttachesAndDetaches) {
  const char* dir = getenv("BERTH_CNI_TEST_DIR");
  if (!dir) return;
  auto db = Db::OpenFile(std::string(dir) + "/berth.db");
  Options options;
  options.config_dir = std::string(dir) + "/net.d";
  auto network = OpenNetwork(options, **db);
  Attachment a{.pod = NewPodId(), .ports = {{.host_port = 8097, .container_port = 80}}};
  unique_fd ns, netlink;
  std::thread([&] {
    if (unshare(CLONE_NEWNET) != 0) abort();
    ns = test::OpenNs();
    netlink.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  }).join();
  a.netns = ns.get(), a.netlink = netlink.get();
  auto r = (*network)->Attach(a, Deadline::After(std::chrono::seconds(20)));
  if (!r)
    fmt::print("attach: {}\n", r.error().what);
  else if (auto d = (*network)->Detach(a.pod, Deadline::After(std::chrono::seconds(20))); !d)
    fmt::print("detach: {}\n", d.error().what);
}

// Configurations.

constexpr const char* kRouted = R"({"cniVersion":"1.0.0","name":"routed","plugins":[
  {"type":"bridge","bridge":"cbr0","isGateway":true,"ipMasq":false,"mtu":1400,"portIsolation":true,
   "ipam":{"type":"host-local","ranges":[[{"subnet":"10.44.0.0/24","rangeStart":"10.44.0.10","rangeEnd":"10.44.0.11"}]],
           "routes":[{"dst":"0.0.0.0/0"}]}}]})";

TEST_F(NativeNetwork, AConflistTakesOverWithoutRestart) {
  world_.options().built_in_default = false;
  auto status = world_.network().Status();
  EXPECT_FALSE(status.ready);
  EXPECT_EQ(status.reason, "NetworkPluginNotReady");
  EXPECT_THAT(status.message, HasSubstr("cni plugin not initialized"));
  EXPECT_EQ(world_.network().Attach(world_.Pod(), Soon()).error().code, Code::kFailedPrecondition);
  world_.WriteConfig("05-broken.conflist",
                     R"({"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge","mtu":"big"}]})");
  EXPECT_THAT(world_.network().Status().message, HasSubstr("05-broken.conflist: plugins[0].mtu"));
  world_.WriteConfig("10-routed.conflist", kRouted);
  status = world_.network().Status();
  EXPECT_TRUE(status.ready) << status.message;
  EXPECT_THAT(status.message, HasSubstr("05-broken.conflist"));
  int outside = world_.Outside();
  auto a = world_.Pod({{.host_port = 8095, .container_port = 80}}), b = world_.Pod(), c = world_.Pod();
  auto ra = MustAttach(a), rb = MustAttach(b);
  EXPECT_EQ(ra.network, "routed");
  EXPECT_EQ(V4(ra), "10.44.0.10");
  EXPECT_EQ(Shell("nft list map ip berth pub_any | grep elements || true"), "") << "there is no portmap in the list";
  EXPECT_THAT(Shell("ip -o link show " + ra.host_interface), HasSubstr("mtu 1400"));
  auto full = world_.network().Attach(c, Soon());
  EXPECT_EQ(full.error().code, Code::kResourceExhausted);
  Server sa(a.netns, "a", 80), so(outside, "out", 7000);
  EXPECT_EQ(Ask(outside, V4(ra), 80), "a 192.0.2.2")
      << "routed: reachable from outside, as the reference plugin leaves it";
  EXPECT_EQ(Ask(a.netns, "192.0.2.2", 7000), "out " + V4(ra)) << "not masqueraded";
  EXPECT_EQ(Ask(b.netns, V4(ra), 80, false, 300), "timeout") << "port isolation";
  // The old pods are detached by what the ledger says, whatever the configuration says now.
  std::filesystem::remove(world_.options().config_dir + "/10-routed.conflist");
  EXPECT_FALSE(world_.network().Status().ready);
  EXPECT_TRUE(world_.network().Detach(a.pod, Soon()).has_value());
  EXPECT_TRUE(world_.network().Detach(b.pod, Soon()).has_value());
  EXPECT_EQ(Leftovers().find("rows"), std::string::npos);
}

TEST_F(NativeNetwork, ForeignChainOfDebiansPlugins) {
  if (access("/usr/lib/cni/bridge", X_OK) != 0) GTEST_SKIP() << "needs the package containernetworking-plugins";
  world_.WriteConfig("10-foreign.conflist", fmt::format(R"({{"cniVersion":"1.0.0","name":"foreign","plugins":[
    {{"type":"bridge","bridge":"fbr0","isDefaultGateway":true,"ipMasq":true,"promiscMode":true,
      "ipam":{{"type":"host-local","dataDir":"{}/leases","ranges":[[{{"subnet":"10.45.0.0/24"}}]]}}}},
    {{"type":"portmap","capabilities":{{"portMappings":true}}}},
    {{"type":"tuning","sysctl":{{"net.core.somaxconn":"333"}}}}]}})",
                                                        world_.dir()));
  int outside = world_.Outside();
  auto pod = world_.Pod({{.host_port = 8096, .container_port = 80}});
  auto r = MustAttach(pod);
  ASSERT_EQ(V4(r), "10.45.0.2");
  EXPECT_THAT(r.result_json, HasSubstr("\"cniVersion\":\"1.1.0\""));
  EXPECT_THAT(r.host_interface, testing::StartsWith("veth"));
  EXPECT_TRUE(world_.network().Stats(pod.pod).has_value());
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("cat /proc/sys/net/core/somaxconn"); }), HasSubstr("333"));
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o link show lo"); }), HasSubstr("LOOPBACK,UP"));
  Server s(pod.netns, "pod", 80);
  EXPECT_EQ(First(Ask(outside, "192.0.2.1", 8096)), "pod");
  EXPECT_TRUE(std::filesystem::exists(world_.dir() + "/leases/foreign/10.45.0.2"));
  world_.Open();  // DEL is run with the list and the result that the ledger kept
  std::filesystem::remove(world_.options().config_dir + "/10-foreign.conflist");
  auto done = world_.network().Detach(pod.pod, Soon());
  ASSERT_TRUE(done.has_value()) << done.error().what;
  EXPECT_FALSE(std::filesystem::exists(world_.dir() + "/leases/foreign/10.45.0.2"));
  EXPECT_EQ(Ask(outside, "192.0.2.1", 8096), "refused");
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("ip -o link"); }), testing::Not(HasSubstr("eth0")));
}

TEST_F(NativeNetwork, ForeignPluginBehindOurBridge) {
  if (access("/usr/lib/cni/tuning", X_OK) != 0) GTEST_SKIP() << "needs the package containernetworking-plugins";
  auto list = [&](const char* sysctl) {
    return fmt::format(R"({{"cniVersion":"0.4.0","name":"mixed","plugins":[
      {{"type":"bridge","bridge":"mbr0","isDefaultGateway":true,"ipMasq":true,
        "ipam":{{"type":"host-local","subnet":"10.46.0.0/24"}}}},
      {{"type":"tuning","sysctl":{{"{}":"333"}}}}]}})",
                       sysctl);
  };
  world_.WriteConfig("10-mixed.conflist", list("net.core.somaxconn"));
  auto pod = world_.Pod();
  auto r = MustAttach(pod);
  EXPECT_EQ(V4(r), "10.46.0.2");
  EXPECT_EQ(r.mac.substr(0, 5), "0a:58") << "our bridge made it";
  EXPECT_THAT(InNs(pod.netns, [] { return Shell("cat /proc/sys/net/core/somaxconn"); }), HasSubstr("333"));
  ASSERT_TRUE(world_.network().Detach(pod.pod, Soon()).has_value());
  // The plugin's own words come back, and nothing stays.
  world_.WriteConfig("10-mixed.conflist", list("net.core.no_such_thing"));
  auto bad = world_.Pod();
  auto failed = world_.network().Attach(bad, Soon());
  ASSERT_FALSE(failed.has_value());
  EXPECT_THAT(failed.error().what, testing::AllOf(HasSubstr("cni plugin tuning ADD"), HasSubstr("no_such_thing")));
  EXPECT_THAT(InNs(bad.netns, [] { return Shell("ip -o link"); }), testing::Not(HasSubstr("eth0")));
  // A plugin that is not installed makes the network not ready, and says where it was looked for.
  world_.WriteConfig("10-mixed.conflist",
                     R"({"cniVersion":"1.0.0","name":"none","plugins":[{"type":"no-such-plugin"}]})");
  auto status = world_.network().Status();
  EXPECT_FALSE(status.ready);
  EXPECT_THAT(status.message, testing::AllOf(HasSubstr("no-such-plugin"), HasSubstr("/usr/lib/cni")));
}

}  // namespace
}  // namespace berth::cni
