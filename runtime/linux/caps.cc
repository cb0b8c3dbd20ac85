#include "runtime/linux/caps.h"

#include <linux/capability.h>
#include <sys/prctl.h>

namespace berth::runtime::caps {
namespace {

constexpr std::string_view kNames[] = {"CAP_CHOWN",
                                       "CAP_DAC_OVERRIDE",
                                       "CAP_DAC_READ_SEARCH",
                                       "CAP_FOWNER",
                                       "CAP_FSETID",
                                       "CAP_KILL",
                                       "CAP_SETGID",
                                       "CAP_SETUID",
                                       "CAP_SETPCAP",
                                       "CAP_LINUX_IMMUTABLE",
                                       "CAP_NET_BIND_SERVICE",
                                       "CAP_NET_BROADCAST",
                                       "CAP_NET_ADMIN",
                                       "CAP_NET_RAW",
                                       "CAP_IPC_LOCK",
                                       "CAP_IPC_OWNER",
                                       "CAP_SYS_MODULE",
                                       "CAP_SYS_RAWIO",
                                       "CAP_SYS_CHROOT",
                                       "CAP_SYS_PTRACE",
                                       "CAP_SYS_PACCT",
                                       "CAP_SYS_ADMIN",
                                       "CAP_SYS_BOOT",
                                       "CAP_SYS_NICE",
                                       "CAP_SYS_RESOURCE",
                                       "CAP_SYS_TIME",
                                       "CAP_SYS_TTY_CONFIG",
                                       "CAP_MKNOD",
                                       "CAP_LEASE",
                                       "CAP_AUDIT_WRITE",
                                       "CAP_AUDIT_CONTROL",
                                       "CAP_SETFCAP",
                                       "CAP_MAC_OVERRIDE",
                                       "CAP_MAC_ADMIN",
                                       "CAP_SYSLOG",
                                       "CAP_WAKE_ALARM",
                                       "CAP_BLOCK_SUSPEND",
                                       "CAP_AUDIT_READ",
                                       "CAP_PERFMON",
                                       "CAP_BPF",
                                       "CAP_CHECKPOINT_RESTORE"};
static_assert(std::size(kNames) == CAP_CHECKPOINT_RESTORE + 1);

bool EqualNoCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return (x >= 'a' && x <= 'z' ? x - 32 : x) == y; });
}

constexpr Set Bits(std::initializer_list<unsigned> numbers) {
  Set set = 0;
  for (unsigned n : numbers) set |= Set{1} << n;
  return set;
}

}  // namespace

std::optional<unsigned> Number(std::string_view name) {
  bool prefixed = name.size() > 4 && EqualNoCase(name.substr(0, 4), "CAP_");
  for (unsigned i = 0; i < std::size(kNames); ++i)
    if (EqualNoCase(name, prefixed ? kNames[i] : kNames[i].substr(4))) return i;
  return std::nullopt;
}

std::string_view Name(unsigned number) { return number < std::size(kNames) ? kNames[number] : std::string_view(); }

const std::vector<std::string>& AllNames() {
  static const std::vector<std::string> all(std::begin(kNames), std::end(kNames));
  return all;
}

Set FromNames(const std::vector<std::string>& names, std::vector<std::string>* unknown) {
  Set set = 0;
  for (const std::string& name : names) {
    if (auto n = Number(name))
      set |= Set{1} << *n;
    else if (unknown)
      unknown->push_back(name);
  }
  return set;
}

std::vector<std::string> ToNames(Set set) {
  std::vector<std::string> names;
  for (unsigned i = 0; i < std::size(kNames); ++i)
    if (set >> i & 1) names.emplace_back(kNames[i]);
  return names;
}

Set OwnBounding() {
  static const Set bounding = [] {
    Set set = 0;
    for (unsigned i = 0; i < 64; ++i) {
      int r = prctl(PR_CAPBSET_READ, i, 0, 0, 0);
      if (r < 0) break;
      if (r == 1) set |= Set{1} << i;
    }
    return set;
  }();
  return bounding;
}

Set Default() {
  return Bits({CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER, CAP_MKNOD, CAP_NET_RAW, CAP_SETGID, CAP_SETUID,
               CAP_SETFCAP, CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL, CAP_AUDIT_WRITE});
}

}  // namespace berth::runtime::caps
