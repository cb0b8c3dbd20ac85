#include "base/json.h"

#include <limits>

#include <gtest/gtest.h>

#include "base/testing.h"

namespace berth::json {
namespace {

enum class Propagation { kPrivate, kHostToContainer };
BOOST_DESCRIBE_ENUM(Propagation, kPrivate, kHostToContainer)

struct Port {
  uint16_t number = 80;
  std::string protocol = "tcp";
};
BOOST_DESCRIBE_STRUCT(Port, (), (number, protocol))

struct Base {
  std::string name;
  std::optional<int64_t> memory;
};
BOOST_DESCRIBE_STRUCT(Base, (), (name, memory))

struct Words {  // a string or a list of strings
  std::vector<std::string> list;
};

struct Inner {
  bool on = false;
};
BOOST_DESCRIBE_STRUCT(Inner, (), (on))

struct Document : Base {
  std::vector<Port> ports;
  std::map<std::string, std::string> labels;
  Propagation propagation = Propagation::kPrivate;
  Value extra;
  bool privileged = false;
  double weight = 0;
  int8_t nice = 0;
  std::string os_version;
  std::optional<Port> health;
  std::map<std::string, std::optional<Port>> exposed;
  Words command;
  Inner inner;
};
BOOST_DESCRIBE_STRUCT(Document, (Base),
                      (ports, labels, propagation, extra, privileged, weight, nice, os_version, health, exposed, command, inner))

struct Small {
  int a = 0;
  std::string b;
  std::vector<int> c;
};
BOOST_DESCRIBE_STRUCT(Small, (), (a, b, c))

}  // namespace

template <>
struct Names<Propagation> {
  static constexpr Rename kWire[] = {{"kPrivate", "private"}, {"kHostToContainer", "rslave"}};
};
template <>
struct Names<Document> {
  static constexpr Rename kWire[] = {{"os_version", "os.version"}};
};
template <>
struct Names<Small> {
  static constexpr std::string_view kOmit[] = {"b"};
  static constexpr std::string_view kAlways[] = {"c"};
};
template <>
struct Codec<Words> {
  static Result<Words> Read(const Value& v) {
    if (v.is_string()) return Words{{std::string(v.get_string())}};
    return Words{TRY(FromValue<std::vector<std::string>>(v, "list"))};
  }
  static Value Write(const Words& w) { return ToValue(w.list); }
};

namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;

std::string Refusal(std::string_view text) {
  auto r = Parse<Document>(text, "doc");
  return r ? "accepted" : r.error().what;
}

TEST(Json, ReadsEverything) {
  auto d = Parse<Document>(R"({"name":"web","memory":9223372036854775807,"ports":[{"number":8080}],"labels":{"a":"b"},
    "propagation":"rslave","extra":{"x":[1,null]},"privileged":true,"weight":1,"nice":-128,"os.version":"12","health":{},
    "exposed":{"80/tcp":{},"81/tcp":null},"command":"run","unknown":[{}]})", "doc");
  ASSERT_TRUE(IsOk(d));
  EXPECT_EQ(d->name, "web");
  EXPECT_EQ(d->memory, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(d->ports[0].number, 8080);
  EXPECT_EQ(d->ports[0].protocol, "tcp");
  EXPECT_EQ(d->labels.at("a"), "b");
  EXPECT_EQ(d->propagation, Propagation::kHostToContainer);
  EXPECT_EQ(Serialize(d->extra), R"({"x":[1,null]})");
  EXPECT_EQ(d->nice, -128);
  EXPECT_EQ(d->os_version, "12");
  EXPECT_TRUE(d->health.has_value());
  EXPECT_TRUE(d->exposed.at("80/tcp").has_value());
  EXPECT_FALSE(d->exposed.at("81/tcp").has_value());
  EXPECT_EQ(d->command.list, std::vector<std::string>{"run"});
}

TEST(Json, NullAndMissingLeaveTheDefault) {
  auto d = Parse<Document>(R"({"name":null,"ports":[null],"propagation":null,"command":null,"memory":null})", "doc");
  ASSERT_TRUE(IsOk(d));
  EXPECT_EQ(d->ports.at(0).number, 80);
  EXPECT_FALSE(d->memory);
}

TEST(Json, ErrorsCarryThePath) {
  EXPECT_EQ(Refusal("[]"), "doc: expected object, got array");
  EXPECT_EQ(Refusal(R"({"ports":[{},{"number":"80"}]})"), "doc: ports[1].number: expected integer, got string");
  EXPECT_EQ(Refusal(R"({"ports":[{"number":65536}]})"), "doc: ports[0].number: 65536 is out of range 0 to 65535");
  EXPECT_EQ(Refusal(R"({"ports":[{"number":-1}]})"), "doc: ports[0].number: -1 is out of range 0 to 65535");
  EXPECT_EQ(Refusal(R"({"nice":128})"), "doc: nice: 128 is out of range -128 to 127");
  EXPECT_EQ(Refusal(R"({"memory":9223372036854775808})"),
            "doc: memory: 9223372036854775808 is out of range -9223372036854775808 to 9223372036854775807");
  EXPECT_EQ(Refusal(R"({"memory":1.5})"), "doc: memory: expected integer, got number");
  EXPECT_EQ(Refusal(R"({"labels":{"a.b":1}})"), R"(doc: labels["a.b"]: expected string, got integer)");
  EXPECT_EQ(Refusal(R"({"propagation":"shared"})"), R"(doc: propagation: "shared" is not one of "private", "rslave")");
  EXPECT_EQ(Refusal(R"({"privileged":"yes"})"), "doc: privileged: expected boolean, got string");
  EXPECT_EQ(Refusal(R"({"weight":"x"})"), "doc: weight: expected number, got string");
  EXPECT_EQ(Refusal(R"({"os.version":1})"), R"(doc: ["os.version"]: expected string, got integer)");
  EXPECT_EQ(Refusal(R"({"command":[1]})"), "doc: command: list: [0]: expected string, got integer");
}

TEST(Json, HostileTextIsRefused) {
  EXPECT_TRUE(IsErr(ParseTree("{\"a\":1,}", "f"), Code::kInvalidArgument, "f: byte 7"));
  EXPECT_TRUE(IsErr(ParseTree("{} {}", "f"), Code::kInvalidArgument, "f: byte 3"));
  EXPECT_TRUE(IsErr(ParseTree("{\"a\":", "f"), Code::kInvalidArgument, "incomplete"));
  EXPECT_TRUE(IsErr(ParseTree("", "f"), Code::kInvalidArgument));
  EXPECT_TRUE(IsErr(ParseTree(std::string(100'000, '['), "f"), Code::kInvalidArgument, "deep"));
  EXPECT_TRUE(IsErr(ParseTree("\"\xFF\"", "f"), Code::kInvalidArgument));
  EXPECT_TRUE(IsErr(ParseTree("[1]", "f", 2), Code::kInvalidArgument, "3 bytes"));
  EXPECT_TRUE(IsOk(ParseTree(std::string(64, '[') + std::string(64, ']'), "f")));
  const std::string key(5000, 'k');
  EXPECT_LT(Refusal("{\"labels\":{\"" + key + "\":1}}").size(), 200u);
}

TEST(Json, WritesInOrderWithoutAbsentOptionals) {
  EXPECT_EQ(ToText(Port{}), R"({"number":80,"protocol":"tcp"})");
  Document d;
  d.name = "web";
  EXPECT_EQ(ToText(d), R"({"name":"web","ports":[],"labels":{},"propagation":"private","extra":null,"privileged":false,)"
                       R"("weight":0E0,"nice":0,"os.version":"","exposed":{},"command":[],"inner":{"on":false}})");
}

TEST(Json, OmitEmpty) {
  Document d;
  d.name = "web";
  EXPECT_EQ(ToText(d, Omit::kEmpty), R"({"name":"web","propagation":"private","command":[]})");
  d.health = Port{0, ""};
  d.exposed["80/tcp"];
  d.inner.on = true;
  EXPECT_EQ(ToText(d, Omit::kEmpty),
            R"({"name":"web","propagation":"private","health":{},"exposed":{"80/tcp":null},"command":[],"inner":{"on":true}})");
  EXPECT_EQ(ToText(Small{}), R"({"a":0,"c":[]})");
  EXPECT_EQ(ToText(Small{}, Omit::kEmpty), R"({"c":[]})");
}

TEST(Json, RoundTrip) {
  Document d;
  d.name = "a\xFFz";
  d.memory = -5;
  d.ports = {{1, "udp"}, {2, "sctp"}};
  d.labels = {{"x", "\n\""}};
  d.weight = 0.25;
  auto back = Parse<Document>(ToText(d), "doc");
  ASSERT_TRUE(IsOk(back));
  EXPECT_EQ(back->name, "a\xEF\xBF\xBDz");
  EXPECT_EQ(back->memory, -5);
  EXPECT_EQ(back->ports[1].protocol, "sctp");
  EXPECT_EQ(back->weight, 0.25);
  d.weight = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(IsOk(Parse<Document>(ToText(d), "doc")));
}

TEST(Json, Pretty) {
  EXPECT_EQ(SerializePretty(*ParseTree(R"({"a":[1,{"b":"c\n"}],"d":{},"e":[]})", "f")),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"c\\n\"\n    }\n  ],\n  \"d\": {},\n  \"e\": []\n}");
}

}  // namespace
}  // namespace berth::json
