// Properties of reading and checking config.json, over random documents. The seed is told when one fails; BERTH_SEED
// repeats it, BERTH_ROUNDS asks for more.
#include <random>

#include <gtest/gtest.h>

#include "base/json.h"
#include "runtime/oci/validate.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t Below(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(engine_); }
  bool Chance(int percent) { return Below(100) < static_cast<uint64_t>(percent); }
  template <class T>
  const T& Of(const std::vector<T>& items) {
    return items[Below(items.size())];
  }
  std::string Word() {
    std::string out;
    for (uint64_t i = 1 + Below(12); i > 0; --i) out += "abcdefghijklmnopqrstuvwxyz0123456789-_"[Below(38)];
    return out;
  }
  std::string Path() {
    std::string out;
    for (uint64_t i = 1 + Below(4); i > 0; --i) out.append(1, '/').append(Word());
    return out;
  }
  std::string Text() {  // any bytes that JSON can hold: control characters, quotes, UTF-8
    std::string out;
    for (uint64_t i = Below(20); i > 0; --i)
      out += Of<std::string>({"a", "\"", "\\", "\n", "\x01", "ä", "€", "𐍈", "=", " "});
    return out;
  }
  template <class F>
  auto Some(uint64_t most, F make) {
    std::vector<decltype(make())> out;
    for (uint64_t i = Below(most + 1); i > 0; --i) out.push_back(make());
    return out;
  }

 private:
  std::mt19937_64 engine_;
};

// A specification that ValidateSpec accepts, with members of every part.
Spec ValidSpec(Random& r) {
  Spec s;
  s.ociVersion = r.Of<std::string>({"1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"});
  s.root = Root{r.Chance(50) ? r.Path() : r.Word(), r.Chance(50)};
  Process p;
  p.args = r.Some(4, [&] { return r.Text(); });
  p.args.insert(p.args.begin(), r.Path());
  p.env = r.Some(5, [&] { return fmt::format("{}={}", r.Word(), r.Text()); });
  p.cwd = r.Path();
  p.terminal = r.Chance(20);
  if (r.Chance(30)) p.consoleSize = Box{static_cast<uint16_t>(r.Below(65536)), static_cast<uint16_t>(r.Below(65536))};
  p.user.uid = static_cast<uint32_t>(r.Below(UINT32_MAX));
  p.user.gid = static_cast<uint32_t>(r.Below(UINT32_MAX));
  if (r.Chance(30)) p.user.umask = static_cast<uint32_t>(r.Below(0777));
  p.user.additionalGids = r.Some(5, [&] { return static_cast<uint32_t>(r.Below(UINT32_MAX)); });
  auto caps = [&] {
    return r.Some(5, [&] { return r.Of<std::string>({"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_UNKNOWN"}); });
  };
  if (r.Chance(70)) p.capabilities = Capabilities{caps(), caps(), caps(), caps(), caps()};
  for (const char* type : {"RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS"}) {
    if (!r.Chance(40)) continue;
    uint64_t soft = r.Below(1 << 20);
    p.rlimits.push_back({type, soft + r.Below(1 << 20), soft});
  }
  p.noNewPrivileges = r.Chance(50);
  if (r.Chance(40)) p.oomScoreAdj = static_cast<int>(r.Below(2001)) - 1000;
  s.process = p;
  for (uint64_t i = r.Below(6); i > 0; --i)
    s.mounts.push_back({r.Path(), r.Of<std::string>({"tmpfs", "bind", "proc", "mqueue"}), r.Path(), r.Some(4, [&] {
                          return r.Of<std::string>({"ro", "nosuid", "rbind", "rslave", "size=1m", "rro"});
                        })});
  s.annotations = {{r.Word(), r.Text()}, {fmt::format("org.{}", r.Word()), ""}};
  Linux l;
  l.namespaces = {{"mount", ""}};
  for (const char* type : {"pid", "network", "ipc", "uts", "cgroup"})
    if (r.Chance(70)) l.namespaces.push_back({type, r.Chance(20) ? r.Path() : ""});
  bool uts = std::ranges::any_of(l.namespaces, [](const Namespace& n) { return n.type == "uts"; });
  bool net = std::ranges::any_of(l.namespaces, [](const Namespace& n) { return n.type == "network"; });
  if (uts && r.Chance(70)) s.hostname = r.Word();
  if (net && r.Chance(50)) l.sysctl["net.ipv4.ip_forward"] = "1";
  l.maskedPaths = r.Some(4, [&] { return r.Path(); });
  l.readonlyPaths = r.Some(4, [&] { return r.Path(); });
  l.devices = r.Some(3, [&] {
    Device d;
    d.type = r.Of<std::string>({"c", "b", "p", "u"});
    d.path = r.Path();
    d.major = static_cast<int64_t>(r.Below(4096));
    d.minor = static_cast<int64_t>(r.Below(1 << 20));
    if (r.Chance(50)) d.fileMode = static_cast<uint32_t>(r.Below(01000));
    return d;
  });
  l.rootfsPropagation = r.Of<std::string>({"", "private", "rslave", "shared", "unbindable"});
  if (r.Chance(60)) {
    Resources res;
    if (r.Chance(50)) res.pids = {.limit = static_cast<int64_t>(r.Below(10000))};
    if (r.Chance(50)) res.unified = {{"memory.high", "100"}};
    res.devices = r.Some(3, [&] {
      return DeviceRule{r.Chance(50), r.Of<std::string>({"c", "b", "a"}), "rwm", {}, {}};
    });
    l.resources = res;
  }
  s.linux = l;
  return s;
}

uint64_t FirstSeed() {
  const char* seed = getenv("BERTH_SEED");
  return seed ? strtoull(seed, nullptr, 10) : std::random_device()();
}
uint64_t Rounds(uint64_t normal) {
  const char* rounds = getenv("BERTH_ROUNDS");
  return getenv("BERTH_SEED") ? 1 : rounds ? strtoull(rounds, nullptr, 10) : normal;
}

TEST(SpecProperties, ValidOnesSurviveWritingAndReading) {
  uint64_t first = FirstSeed();
  for (uint64_t i = 0; i < Rounds(150); ++i) {
    SCOPED_TRACE(fmt::format("BERTH_SEED={}", first + i));
    Random r(first + i);
    Spec spec = ValidSpec(r);
    auto valid = ValidateSpec(spec);
    ASSERT_TRUE(valid) << valid.error().what;
    for (json::Omit omit : {json::Omit::kNothing, json::Omit::kEmpty}) {
      std::string text = json::ToText(spec, omit);
      auto again = ParseSpec(text, "config.json");
      ASSERT_TRUE(again) << again.error().what << "\n" << text;
      ASSERT_EQ(json::ToText(*again, omit), text);
      auto still = ValidateSpec(*again);
      ASSERT_TRUE(still) << still.error().what << "\n" << text;
    }
  }
}

// The member that the edit has touched, as errors spell it: "linux.devices[2].path".
std::string Mutate(json::Value* root, Random& r) {
  std::string path;
  json::Value* at = root;
  for (;;) {
    if (auto* object = at->if_object(); object && !object->empty()) {
      auto member = object->begin() + static_cast<std::ptrdiff_t>(r.Below(object->size()));
      path = fmt::format("{}{}{}", path, path.empty() ? "" : ".", std::string_view(member->key()));
      if (r.Chance(10)) {
        object->erase(member);
        return path;
      }
      at = &member->value();
    } else if (auto* array = at->if_array(); array && !array->empty()) {
      size_t index = r.Below(array->size());
      path += fmt::format("[{}]", index);
      at = &(*array)[index];
    } else {
      break;
    }
    if (r.Chance(15)) break;
  }
  switch (r.Below(9)) {
    case 0:
      *at = nullptr;
      break;
    case 1:
      *at = r.Chance(50);
      break;
    case 2:
      *at = -static_cast<int64_t>(r.Below(INT64_MAX));
      break;
    case 3:
      *at = UINT64_MAX - r.Below(100);
      break;
    case 4:
      *at = 1.5;
      break;
    case 5:
      *at = json::Array{1, "a", nullptr};
      break;
    case 6:
      *at = json::Object{{"zzz", 1}};
      break;
    case 7:
      *at = std::string(r.Below(6000), 'x');
      break;
    default:
      *at = r.Text();
      break;
  }
  return path;
}

TEST(SpecProperties, RefusalsNameAMember) {
  uint64_t first = FirstSeed();
  uint64_t refused = 0, rounds = Rounds(1200);
  for (uint64_t i = 0; i < rounds; ++i) {
    SCOPED_TRACE(fmt::format("BERTH_SEED={}", first + i));
    Random r(first + i);
    json::Value tree = json::ToValue(ValidSpec(r));
    std::string path = Mutate(&tree, r);
    std::string top = path.substr(0, path.find_first_of(".["));
    auto spec = ParseSpec(json::Serialize(tree), "config.json");
    std::string what;
    if (!spec) {
      what = spec.error().what;
      ASSERT_TRUE(what.starts_with("config.json: ")) << what;
    } else if (auto valid = ValidateSpec(*spec); !valid) {
      what = valid.error().what;
    } else {
      continue;
    }
    ++refused;
    // A wrong value may be refused where it meets another member (hostname without a uts namespace): then that one is
    // named.
    static const std::vector<std::string> kTops = {"ociVersion", "root",        "mounts", "process", "hostname",
                                                   "domainname", "annotations", "linux",  "hooks"};
    bool names =
        std::ranges::any_of(kTops, [&](const std::string& name) { return what.find(name) != std::string::npos; });
    ASSERT_TRUE(names) << path << ": " << what;
    if (!spec) {
      ASSERT_NE(what.find(top), std::string::npos) << path << ": " << what;
    }
  }
  if (rounds > 100) {
    EXPECT_GT(refused, rounds / 10);
  }
}

TEST(SpecProperties, DamagedTextNeverReadsAsWhole) {
  uint64_t first = FirstSeed();
  for (uint64_t i = 0; i < Rounds(800); ++i) {
    SCOPED_TRACE(fmt::format("BERTH_SEED={}", first + i));
    Random r(first + i);
    std::string text = json::ToText(ValidSpec(r));
    if (r.Chance(50)) {
      text.resize(r.Below(text.size()));  // every proper prefix of an object is incomplete
      ASSERT_FALSE(ParseSpec(text, "config.json"));
      continue;
    }
    for (uint64_t n = 1 + r.Below(8); n > 0; --n) text[r.Below(text.size())] = static_cast<char>(r.Below(256));
    auto spec = ParseSpec(text, "config.json");
    if (spec) {
      (void)ValidateSpec(*spec);
    } else {
      ASSERT_TRUE(spec.error().what.starts_with("config.json")) << spec.error().what;
    }
  }
}

}  // namespace
}  // namespace berth::runtime::oci
