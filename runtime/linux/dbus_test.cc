#include "runtime/linux/dbus.h"

#include <gtest/gtest.h>

#include "runtime/linux/systemd.h"

namespace berth::runtime {
namespace {

using dbus::Message;
using dbus::Value;

std::string Bytes(const Value& v) {
  std::string out;
  dbus::Marshal(v, &out);
  return out;
}

TEST(DBus, BytesAreAsTheSpecificationHasThem) {
  using namespace std::string_literals;
  EXPECT_EQ(Bytes(Value::Text("foo")), "\3\0\0\0foo\0"s);
  EXPECT_EQ(Bytes(Value::Array("u", {Value::U32(5)})), "\4\0\0\0\5\0\0\0"s);
  EXPECT_EQ(Bytes(Value::Array("t", {Value::U64(5)})), "\10\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"s);  // padding is not counted
  EXPECT_EQ(Bytes(Value::Array("(sv)", {})), "\0\0\0\0\0\0\0\0"s);
  EXPECT_EQ(Bytes(Value::Variant(Value::Bool(true))), "\1b\0\0\1\0\0\0"s);
}

TEST(DBus, MessagesSurviveTheTrip) {
  Message m{.type = Message::kCall, .serial = 7, .path = "/a/b", .interface = "i.f", .member = "M", .destination = "d"};
  m.body = {
      Value::Text("unit"), Value::Bool(true),
      Value::Array("(sv)", {Value::Struct({Value::Text("MemoryMax"), Value::Variant(Value::U64(UINT64_MAX))}),
                            Value::Struct({Value::Text("PIDs"), Value::Variant(Value::Array("u", {Value::U32(42)}))}),
                            Value::Struct({Value::Text("Empty"), Value::Variant(Value::Array("(ss)", {}))})})};
  std::string bytes = dbus::Encode(m);
  for (size_t n = 0; n < bytes.size(); ++n) {  // not whole: more is awaited
    size_t used;
    auto part = dbus::Decode(std::string_view(bytes).substr(0, n), &used);
    ASSERT_TRUE(part) << n;
    EXPECT_EQ(used, 0U) << n;
  }
  size_t used;
  auto back = dbus::Decode(bytes + "more", &used);
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_EQ(used, bytes.size());
  EXPECT_EQ(back->path, "/a/b");
  EXPECT_EQ(back->member, "M");
  EXPECT_EQ(back->serial, 7U);
  EXPECT_EQ(back->signature, "sba(sv)");
  ASSERT_EQ(back->body.size(), 3U);
  EXPECT_EQ(back->body[2].items[0].items[1].items[0].number, UINT64_MAX);
  EXPECT_EQ(back->body[2].items[1].items[1].items[0].items[0].number, 42U);
}

TEST(DBus, DamageIsAnError) {
  Message m{.type = Message::kSignal,
            .serial = 1,
            .path = "/",
            .interface = "i.f",
            .member = "S",
            .body = {Value::Text("x")}};
  std::string good = dbus::Encode(m);
  for (size_t at = 0; at < good.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      size_t used;
      (void)dbus::Decode(bad, &used);  // any answer, no fault
      EXPECT_LE(used, bad.size());
    }
  EXPECT_FALSE(dbus::Unmarshal(std::string("\xff\xff\xff\xff", 4), "s"));
  EXPECT_FALSE(dbus::Unmarshal(std::string("\4\0\0\0\0\0\0", 7), "au"));
  EXPECT_FALSE(dbus::Unmarshal("", "("));
  EXPECT_FALSE(dbus::Unmarshal(std::string(400, '\1'), std::string(200, 'a') + "y"));
}

TEST(DBus, VariantText) {
  auto read = [](const char* text) {
    auto v = dbus::ParseVariantText(text);
    return v ? v->Signature() + (v->text.empty() ? fmt::format(" {}", static_cast<int64_t>(v->number)) : " " + v->text)
             : std::string("error");
  };
  EXPECT_EQ(read("true"), "b 1");
  EXPECT_EQ(read("5"), "i 5");
  EXPECT_EQ(read("-5"), "i -5");
  EXPECT_EQ(read("uint64 18446744073709551615"), "t -1");
  EXPECT_EQ(read("'inactive-or-failed'"), "s inactive-or-failed");
  EXPECT_EQ(read("\"it's\""), "s it's");
  EXPECT_EQ(read("@as []"), "as 0");
  EXPECT_EQ(read("['a', 'b']"), "as 0");
  EXPECT_EQ(read("[('/dev/null', 'rw')]"), "a(ss) 0");
  EXPECT_EQ(read("byte 0xff"), "y 255");
  EXPECT_EQ(read("byte 256"), "error");
  EXPECT_EQ(read("uint32 -1"), "error");
  EXPECT_EQ(read("[]"), "error");
  EXPECT_EQ(read("[1, 'a']"), "error");
  EXPECT_EQ(read("nonsense"), "error");
  EXPECT_EQ(read("5 6"), "error");
  EXPECT_EQ(read("'open"), "error");
  EXPECT_EQ(read(""), "error");
}

TEST(Systemd, ScopeNames) {
  auto name = [](const char* path) {
    auto s = systemd::ScopeOf(path, "id7", false);
    return s ? s->slice + " " + s->unit + " " + systemd::PathOf(*s) : std::string("error");
  };
  EXPECT_EQ(name(""), "system.slice berth-oci-id7.scope /system.slice/berth-oci-id7.scope");
  EXPECT_EQ(name("a-b.slice:cri-o:x"), "a-b.slice cri-o-x.scope /a.slice/a-b.slice/cri-o-x.scope");
  EXPECT_EQ(name(":docker:y"), "system.slice docker-y.scope /system.slice/docker-y.scope");
  EXPECT_EQ(name("-.slice::z"), "-.slice z.scope /z.scope");
  for (const char* bad : {"/a/b", "a:b", "a.slice:b:", "a/b.slice:c:d", "a--b.slice:c:d", "-a.slice:c:d",
                          "a.slice:c:d/e", "a.scope:c:d", "a.slice:b:c:d"})
    EXPECT_EQ(name(bad), "error") << bad;
  EXPECT_EQ(systemd::ScopeOf("", "x", true)->slice, "user.slice");
}

std::string Text(const std::vector<systemd::Property>& properties) {
  std::string out;
  for (const auto& [name, v] : properties) {
    out += name + "=";
    if (v.kind == 'a' && v.element == "y")
      for (const Value& b : v.items) out += fmt::format("{:02x}", b.number);
    else if (v.kind == 'a')
      for (const Value& item : v.items) out += item.items[0].text + ":" + item.items[1].text + ",";
    else
      out += v.text.empty() ? fmt::format("{}", static_cast<int64_t>(v.number)) : v.text;
    out += " ";
  }
  return out;
}

TEST(Systemd, LimitsBecomeProperties) {
  cgroup::Layout v2{{}, "/cg", {"memory", "cpu", "cpuset", "pids", "io"}};
  oci::Resources r;
  r.memory = oci::Memory{.limit = 100, .reservation = 50, .swap = 300};
  r.cpu = oci::Cpu{.shares = 1024, .period = 100000, .quota = 12340, .cpus = "0-2,9", .mems = "0"};
  r.pids = oci::Pids{0};
  r.blockIO = oci::BlockIO{.weight = 10};
  EXPECT_EQ(Text(*systemd::LimitProperties(v2, r, 252)),
            "MemoryMax=100 MemoryLow=50 MemorySwapMax=200 CPUWeight=100 CPUQuotaPeriodUSec=100000 "
            "CPUQuotaPerSecUSec=130000 AllowedCPUs=0702 AllowedMemoryNodes=01 TasksMax=1 IOWeight=1 ");
  EXPECT_EQ(
      Text(*systemd::LimitProperties(v2, r, 240)),
      "MemoryMax=100 MemoryLow=50 MemorySwapMax=200 CPUWeight=100 CPUQuotaPerSecUSec=130000 TasksMax=1 IOWeight=1 ");
  cgroup::Layout v1{{{"/m", {"memory"}}, {"/c", {"cpu"}}}, "", {}};
  r.cpu->cpus.clear();
  r.cpu->mems.clear();
  EXPECT_EQ(Text(*systemd::LimitProperties(v1, r, 252)),
            "MemoryLimit=100 CPUShares=1024 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=130000 TasksMax=1 "
            "BlockIOWeight=10 ");
  r = {};
  r.cpu = oci::Cpu{.quota = -1};
  r.unified = {{"memory.high", "max"}, {"cpuset.cpus", "1"}, {"memory.oom.group", "1"}};
  EXPECT_EQ(Text(*systemd::LimitProperties(v2, r, 252)), "CPUQuotaPerSecUSec=-1 AllowedCPUs=02 MemoryHigh=-1 ");
  r = {};
  r.devices = {
      {false, "a", "rwm", {}, {}}, {true, "c", "rw", 1, 3}, {true, "c", "rwm", 136, {}}, {true, "b", "m", {}, {}}};
  EXPECT_EQ(Text(*systemd::LimitProperties(v2, r, 252)),
            "DevicePolicy=strict DeviceAllow=/dev/char/1:3:rw,char-pts:rwm,block-*:m, ");
  r.cpu = oci::Cpu{.cpus = "2-1"};
  EXPECT_FALSE(systemd::LimitProperties(v2, r, 252));
}

TEST(Systemd, Annotations) {
  auto text = [](const char* name, const char* value) {
    auto p = systemd::AnnotatedProperties({{std::string("org.systemd.property.") + name, value}, {"other", "x"}});
    return p ? Text(*p) : p.error().what;
  };
  EXPECT_EQ(text("TimeoutStopSec", "7"), "TimeoutStopUSec=7000000 ");
  EXPECT_EQ(text("TimeoutStopUSec", "uint64 7"), "TimeoutStopUSec=7 ");
  EXPECT_EQ(text("RuntimeMaxSec", "1.5"), "RuntimeMaxUSec=1500000 ");
  EXPECT_EQ(text("CollectMode", "'inactive'"), "CollectMode=inactive ");
  EXPECT_NE(text("CollectMode", "inactive").find("annotations[\"org.systemd.property.CollectMode\"]"),
            std::string::npos);
  EXPECT_NE(text("TimeoutStopSec", "'x'").find("is not a number of seconds"), std::string::npos);
  EXPECT_NE(text("a/b", "1").find("is not the name of a property"), std::string::npos);
}

}  // namespace
}  // namespace berth::runtime
