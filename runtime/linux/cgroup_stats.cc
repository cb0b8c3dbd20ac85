#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

std::string Text(const std::string& path) {
  auto text = ReadControl(path);
  return text ? std::move(*text) : std::string();
}

// Version 1 writes "no limit" as the largest multiple of a page.
uint64_t LimitOrNone(std::optional<uint64_t> n) { return n && *n < (1ULL << 62) ? *n : 0; }

}  // namespace

Result<uint64_t> OomKills(const Layout& layout, const Group& group) {
  if (auto dir = V1Dir(layout, "memory", group)) {
    std::string text = TRY(ReadControl(*dir + "/memory.oom_control"));
    return Keyed(text, "oom_kill").value_or(0);
  }
  if (!layout.V2("memory")) return 0;
  std::string text = TRY(ReadControl(layout.v2 + group.path + "/memory.events"));
  return Keyed(text, "oom_kill").value_or(0);
}

Result<Stats> ReadStats(const Layout& layout, const Group& group) {
  Stats s;
  const std::string v2 = layout.v2 + group.path;
  bool any = false;
  if (auto dir = V1Dir(layout, "cpuacct", group)) {
    any = true;
    s.cpu_usage_ns = ReadNumber(*dir + "/cpuacct.usage").value_or(0);
    std::string stat = Text(*dir + "/cpuacct.stat");  // in ticks of USER_HZ
    uint64_t tick = 1000000000ULL / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
    s.cpu_user_ns = Keyed(stat, "user").value_or(0) * tick;
    s.cpu_system_ns = Keyed(stat, "system").value_or(0) * tick;
    if (auto cpu = V1Dir(layout, "cpu", group)) {
      std::string throttle = Text(*cpu + "/cpu.stat");
      s.cpu_periods = Keyed(throttle, "nr_periods").value_or(0);
      s.cpu_throttled_periods = Keyed(throttle, "nr_throttled").value_or(0);
      s.cpu_throttled_ns = Keyed(throttle, "throttled_time").value_or(0);
    }
  } else if (!layout.v2.empty()) {
    any = true;
    std::string stat = Text(v2 + "/cpu.stat");
    s.cpu_usage_ns = Keyed(stat, "usage_usec").value_or(0) * 1000;
    s.cpu_user_ns = Keyed(stat, "user_usec").value_or(0) * 1000;
    s.cpu_system_ns = Keyed(stat, "system_usec").value_or(0) * 1000;
    s.cpu_periods = Keyed(stat, "nr_periods").value_or(0);
    s.cpu_throttled_periods = Keyed(stat, "nr_throttled").value_or(0);
    s.cpu_throttled_ns = Keyed(stat, "throttled_usec").value_or(0) * 1000;
  }
  uint64_t inactive_file = 0;
  if (auto dir = V1Dir(layout, "memory", group)) {
    any = true;
    s.memory_usage = ReadNumber(*dir + "/memory.usage_in_bytes").value_or(0);
    s.memory_limit = LimitOrNone(ReadNumber(*dir + "/memory.limit_in_bytes"));
    std::string stat = Text(*dir + "/memory.stat");
    s.memory_rss = Keyed(stat, "total_rss").value_or(0);
    s.memory_cache = Keyed(stat, "total_cache").value_or(0);
    s.memory_mapped_file = Keyed(stat, "total_mapped_file").value_or(0);
    s.memory_swap = Keyed(stat, "total_swap").value_or(0);
    s.page_faults = Keyed(stat, "total_pgfault").value_or(0);
    s.major_page_faults = Keyed(stat, "total_pgmajfault").value_or(0);
    inactive_file = Keyed(stat, "total_inactive_file").value_or(0);
    s.oom_kills = Keyed(Text(*dir + "/memory.oom_control"), "oom_kill").value_or(0);
  } else if (layout.V2("memory")) {
    any = true;
    s.memory_usage = ReadNumber(v2 + "/memory.current").value_or(0);
    s.memory_limit = LimitOrNone(ReadNumber(v2 + "/memory.max"));
    std::string stat = Text(v2 + "/memory.stat");
    s.memory_rss = Keyed(stat, "anon").value_or(0);
    s.memory_cache = Keyed(stat, "file").value_or(0);
    s.memory_mapped_file = Keyed(stat, "file_mapped").value_or(0);
    s.memory_swap = ReadNumber(v2 + "/memory.swap.current").value_or(0);
    s.page_faults = Keyed(stat, "pgfault").value_or(0);
    s.major_page_faults = Keyed(stat, "pgmajfault").value_or(0);
    inactive_file = Keyed(stat, "inactive_file").value_or(0);
    s.oom_kills = Keyed(Text(v2 + "/memory.events"), "oom_kill").value_or(0);
  }
  s.memory_working_set = s.memory_usage > inactive_file ? s.memory_usage - inactive_file : 0;
  std::string pids;
  if (auto dir = V1Dir(layout, "pids", group))
    pids = *dir;
  else if (layout.V2("pids"))
    pids = v2;
  if (!pids.empty()) {
    any = true;
    s.pids = ReadNumber(pids + "/pids.current").value_or(0);
    s.pids_limit = ReadNumber(pids + "/pids.max").value_or(0);
  }
  std::string probe = layout.v2.empty() ? layout.v1.front().mount + group.path : v2;
  if (!any || ::access(probe.c_str(), F_OK) != 0) return Err(Code::kNotFound, "cgroup {}: not there", group.path);
  return s;
}

}  // namespace berth::runtime::cgroup
