#include "runtime/linux/cgroup.h"

#include <random>

#include <gtest/gtest.h>

#include <linux/bpf.h>

#include "runtime/linux/devices.h"

namespace berth::runtime::cgroup {
namespace {

constexpr std::string_view kHybrid =
    "22 1 0:20 / /proc rw - proc proc rw\n"
    "30 1 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "31 1 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 1 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "33 1 0:31 / /mnt/again rw - cgroup cgroup rw,memory\n"
    "34 1 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(Layout, FindsEveryHierarchyOnce) {
  auto layout = DetectLayout(kHybrid, "/nowhere");
  ASSERT_TRUE(layout);
  ASSERT_EQ(layout->v1.size(), 3U);
  EXPECT_EQ(layout->v1[0].controllers, (std::vector<std::string>{"cpu", "cpuacct"}));
  EXPECT_EQ(layout->v1[2].controllers, std::vector<std::string>{"name=systemd"});
  EXPECT_EQ(layout->v2, "/sys/fs/cgroup/unified");
  EXPECT_FALSE(layout->unified());
  EXPECT_EQ(layout->V1("cpuacct")->mount, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(layout->V1("pids"), nullptr);
}

TEST(Layout, UnifiedAloneAndNone) {
  auto layout = DetectLayout("34 1 0:33 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/nowhere");
  ASSERT_TRUE(layout);
  EXPECT_TRUE(layout->unified());
  auto none = DetectLayout("22 1 0:20 / /proc rw - proc proc rw\n");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kFailedPrecondition);
}

TEST(Paths, MustBeCleanAndAbsolute) {
  Layout nothing;
  for (const char* bad : {"", "/", "a", "/a/", "/a/../b", "/a//b", "/a/.", "/a\n"}) {
    auto made = Create(nothing, bad);
    ASSERT_FALSE(made) << bad;
    EXPECT_EQ(made.error().code, Code::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(Create(nothing, "/a/b..c"));
}

TEST(Conversions, SharesToWeight) {
  EXPECT_EQ(WeightFromShares(0), 0U);
  EXPECT_EQ(WeightFromShares(1), 1U);
  EXPECT_EQ(WeightFromShares(2), 1U);
  EXPECT_EQ(WeightFromShares(1024), 100U);
  EXPECT_EQ(WeightFromShares(512), 59U);
  EXPECT_EQ(WeightFromShares(262144), 10000U);
  EXPECT_EQ(WeightFromShares(1 << 30), 10000U);
  for (uint64_t s = 2, last = 0; s <= 262144; s += 97) {
    EXPECT_GE(WeightFromShares(s), last);
    last = WeightFromShares(s);
  }
}

TEST(Conversions, Swap) {
  using M = oci::Memory;
  auto swap = [](std::optional<int64_t> limit, std::optional<int64_t> both) {
    return SwapMax(M{.limit = limit, .swap = both});
  };
  EXPECT_EQ(swap(100, 300)->value(), 200);
  EXPECT_EQ(swap(100, 100)->value(), 0);
  EXPECT_EQ(swap(100, -1)->value(), -1);
  EXPECT_FALSE(swap(100, 0)->has_value());
  EXPECT_FALSE(swap(100, {})->has_value());
  EXPECT_EQ(swap(-1, {})->value(), -1);
  EXPECT_FALSE(swap(100, 50));
  EXPECT_FALSE(swap({}, 50));
}

// ---- Device programs, run by a small interpreter of the instructions they use.
// ----------------------------------------

bool Allowed(const std::vector<bpf_insn>& code, char type, unsigned access, uint32_t major, uint32_t minor) {
  uint32_t context[3] = {(access << 16) | (type == 'b' ? 1U : 2U), major, minor};
  uint64_t r[11] = {};
  for (size_t pc = 0; pc < code.size(); ++pc) {
    const bpf_insn& i = code[pc];
    uint64_t operand = BPF_SRC(i.code) == BPF_X ? r[i.src_reg] : static_cast<uint64_t>(static_cast<int64_t>(i.imm));
    switch (i.code) {
      case BPF_LDX | BPF_MEM | BPF_W:
        r[i.dst_reg] = context[i.off / 4];
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        r[i.dst_reg] = static_cast<uint32_t>(r[i.dst_reg] & operand);
        break;
      case BPF_ALU | BPF_RSH | BPF_K:
        r[i.dst_reg] = static_cast<uint32_t>(r[i.dst_reg]) >> operand;
        break;
      case BPF_ALU64 | BPF_MOV | BPF_X:
      case BPF_ALU64 | BPF_MOV | BPF_K:
        r[i.dst_reg] = operand;
        break;
      case BPF_JMP | BPF_JNE | BPF_K:
        if (r[i.dst_reg] != operand) pc += static_cast<size_t>(i.off);
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        if (r[i.dst_reg] == operand) pc += static_cast<size_t>(i.off);
        break;
      case BPF_JMP | BPF_JA:
        pc += static_cast<size_t>(i.off);
        break;
      case BPF_JMP | BPF_EXIT:
        return r[0] != 0;
      default:
        ADD_FAILURE() << "instruction " << int(i.code);
        return false;
    }
  }
  ADD_FAILURE() << "ran off the end";
  return false;
}

constexpr unsigned kM = 1, kR = 2, kW = 4;

TEST(Devices, DefaultsDenyAllButTheUsual) {
  auto code = DeviceProgram(WithDefaultDevices({{false, "", "rwm", {}, {}}}));
  EXPECT_TRUE(Allowed(code, 'c', kR | kW, 1, 3));
  EXPECT_TRUE(Allowed(code, 'c', kR | kW, 136, 7));
  EXPECT_TRUE(Allowed(code, 'b', kM, 8, 0));
  EXPECT_FALSE(Allowed(code, 'b', kR, 8, 0));
  EXPECT_FALSE(Allowed(code, 'c', kR, 1, 1));
  EXPECT_FALSE(Allowed(code, 'c', kR | kM, 10, 200));
}

TEST(Devices, LaterRulesWinBitByBit) {
  auto code = DeviceProgram({{true, "c", "r", 10, 1},
                             {true, "c", "w", 10, 1},
                             {false, "c", "w", 10, 2},
                             {true, "c", "rw", 10, 2},
                             {false, "c", "w", 10, {}}});
  EXPECT_TRUE(Allowed(code, 'c', kR, 10, 1));
  EXPECT_FALSE(Allowed(code, 'c', kW, 10, 1));
  EXPECT_FALSE(Allowed(code, 'c', kR | kW, 10, 2));
  auto split = DeviceProgram({{true, "c", "r", 10, 1}, {true, "c", "w", 10, 1}});
  EXPECT_TRUE(Allowed(split, 'c', kR | kW, 10, 1));
  EXPECT_FALSE(Allowed(split, 'c', kR | kW | kM, 10, 1));
}

// What the specification says, rule by rule.
bool Reference(const std::vector<oci::DeviceRule>& rules, char type, unsigned access, uint32_t major, uint32_t minor) {
  unsigned granted = 0;
  for (const oci::DeviceRule& r : rules) {
    unsigned bits = r.access.empty() ? kM | kR | kW : 0;
    for (char c : r.access) bits |= c == 'm' ? kM : c == 'r' ? kR : kW;
    const bool meets = (r.type == "a" || r.type.empty() || r.type[0] == type) && (!r.major || *r.major == -1 || *r.major == major) &&
                       (!r.minor || *r.minor == -1 || *r.minor == minor);
    if (!meets) continue;
    granted = r.allow ? granted | bits : granted & ~bits;
  }
  return (granted & access) == access;
}

TEST(Devices, AnyRulesMeanWhatTheySay) {
  std::mt19937 random(7);
  auto pick = [&](unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random); };
  auto number = [&]() -> std::optional<int64_t> {
    if (pick(4) == 0) return pick(2) ? std::optional<int64_t>(-1) : std::nullopt;
    return pick(3);
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<oci::DeviceRule> rules;
    for (unsigned n = pick(9); n > 0; --n) {
      static const char* const kAccess[] = {"rwm", "rwm", "rwm", "r", "w", "m", "rw", ""};
      static const char* const kTypes[] = {"c", "c", "c", "b", "a", ""};
      rules.push_back({pick(4) != 0, kTypes[pick(6)], kAccess[pick(8)], number(), number()});
    }
    const auto code = DeviceProgram(rules);
    for (char type : {'b', 'c'})
      for (unsigned access = 1; access < 8; ++access)
        for (uint32_t major = 0; major < 3; ++major)
          for (uint32_t minor = 0; minor < 3; ++minor)
            ASSERT_EQ(Allowed(code, type, access, major, minor), Reference(rules, type, access, major, minor))
                << "round " << round << ": " << type << " " << access << " " << major << ":" << minor;
  }
}

TEST(Devices, PrivilegedAllowsAll) {
  auto rules = WithDefaultDevices({{true, "a", "rwm", {}, {}}});
  EXPECT_EQ(rules.size(), 1U);
  EXPECT_TRUE(Allowed(DeviceProgram(rules), 'b', kR | kW | kM, 259, 3));
}

TEST(Devices, NoRulesMeanTheDefaults) {
  auto code = DeviceProgram(WithDefaultDevices({}));
  EXPECT_FALSE(Allowed(code, 'b', kR, 8, 0));
  EXPECT_TRUE(Allowed(code, 'c', kR, 1, 5));
}

TEST(Devices, BadRulesAreNamed) {
  auto bad = CheckDeviceRules({{true, "a", "rwm", {}, {}}, {true, "x", "r", {}, {}}});
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().what, "linux.resources.devices[1].type: \"x\": must be a, b or c");
  EXPECT_FALSE(CheckDeviceRules({{true, "c", "rx", {}, {}}}));
}

}  // namespace
}  // namespace berth::runtime::cgroup
