#include <gtest/gtest.h>

#include <linux/mount.h>
#include <sys/resource.h>
#include <csignal>

#include "runtime/linux/caps.h"
#include "runtime/linux/mount.h"
#include "runtime/linux/names.h"

namespace berth::runtime {
namespace {

TEST(Caps, NamesAreReadInAnyForm) {
  EXPECT_EQ(caps::Number("CAP_NET_RAW"), 13U);
  EXPECT_EQ(caps::Number("net_raw"), 13U);
  EXPECT_EQ(caps::Number("cap_Checkpoint_Restore"), 40U);
  EXPECT_FALSE(caps::Number("CAP_"));
  EXPECT_FALSE(caps::Number("CAP_NET_RA"));
  EXPECT_FALSE(caps::Number(""));
}

TEST(Caps, SetsGoBothWaysAndReportTheUnknown) {
  std::vector<std::string> unknown;
  caps::Set set = caps::FromNames({"CAP_CHOWN", "CAP_FLY", "CAP_BPF"}, &unknown);
  EXPECT_EQ(set, 1ULL | 1ULL << 39);
  EXPECT_EQ(unknown, std::vector<std::string>{"CAP_FLY"});
  EXPECT_EQ(caps::ToNames(set), (std::vector<std::string>{"CAP_CHOWN", "CAP_BPF"}));
  EXPECT_EQ(caps::FromNames(caps::AllNames(), nullptr), (1ULL << 41) - 1);
}

TEST(Caps, DefaultIsDockersFourteen) { EXPECT_EQ(caps::Default(), 0xa80425fbULL); }

TEST(Names, Signals) {
  EXPECT_EQ(SignalNumber("SIGTERM"), SIGTERM);
  EXPECT_EQ(SignalNumber("term"), SIGTERM);
  EXPECT_EQ(SignalNumber("9"), SIGKILL);
  EXPECT_EQ(SignalNumber("RTMIN"), 34);
  EXPECT_EQ(SignalNumber("SIGRTMIN+3"), 37);
  EXPECT_EQ(SignalNumber("SIGRTMAX-1"), 63);
  for (const char* bad : {"", "0", "65", "-9", "SIG", "TERMX", "RTMIN+40", "RTMIN-1", "9x"})
    EXPECT_FALSE(SignalNumber(bad)) << bad;
  EXPECT_EQ(SignalName(15), "SIGTERM");
  EXPECT_EQ(SignalName(37), "SIGRTMIN+3");
}

TEST(Names, Rlimits) {
  EXPECT_EQ(RlimitNumber("RLIMIT_NOFILE"), static_cast<unsigned>(RLIMIT_NOFILE));
  EXPECT_FALSE(RlimitNumber("nofile"));
  EXPECT_EQ(RlimitName(RLIMIT_CORE), "RLIMIT_CORE");
}

TEST(Mount, OptionsSplitIntoFlagsAndData) {
  auto o = mount::ParseOptions({"nosuid", "strictatime", "mode=755", "size=65536k", "ro", "rw"});
  EXPECT_EQ(o.ms_flags, static_cast<uint64_t>(MS_NOSUID | MS_STRICTATIME));
  EXPECT_EQ(o.data, "mode=755,size=65536k");
  EXPECT_EQ(o.attr_set, static_cast<uint64_t>(MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME));
  EXPECT_EQ(o.attr_clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME | MOUNT_ATTR_RDONLY));
  EXPECT_FALSE(o.bind);
}

TEST(Mount, RecursiveWordsDoNotGetInTheWayOfOthers) {
  auto o = mount::ParseOptions({"rbind", "rro", "rslave", "relatime", "rw", "remount"});
  EXPECT_TRUE(o.bind && o.recursive && o.remount && o.propagation_recursive);
  EXPECT_EQ(o.tree_set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
  EXPECT_EQ(o.propagation, static_cast<uint64_t>(MS_SLAVE));
  EXPECT_EQ(o.ms_flags, static_cast<uint64_t>(MS_RELATIME));
  EXPECT_EQ(o.data, "");
}

TEST(Mount, UnknownWordsAreTheFilesystems) {
  EXPECT_EQ(mount::ParseOptions({"rfoo", "context=\"a:b\"", "rdata"}).data, "rfoo,context=\"a:b\",rdata");
}

}  // namespace
}  // namespace berth::runtime
