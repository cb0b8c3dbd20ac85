#include "runtime/linux/cgroup_stats.h"

#include "base/atomic_file.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/cgroup_oom.h"

namespace berth::runtime::cgroup {
namespace {

std::string Text(const std::string& path) {
  auto text = ReadControl(path);
  return text ? std::move(*text) : std::string();
}

uint64_t NumberOf(const std::string& path) { return ReadNumber(path).value_or(0); }

// Version 1 writes "no limit" as the largest multiple of a page.
uint64_t LimitOrNone(std::optional<uint64_t> n) { return n && *n < (1ULL << 62) ? *n : 0; }

template <class F>
void EachLine(std::string_view text, F f) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line = Trim(line); !line.empty()) f(line);
  }
}

std::map<std::string, uint64_t> Flat(std::string_view text) {
  std::map<std::string, uint64_t> values;
  EachLine(text, [&](std::string_view line) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos) return;
    if (auto n = Number(line.substr(space + 1))) values.emplace(line.substr(0, space), *n);
  });
  return values;
}

uint64_t ValueIn(const std::map<std::string, uint64_t>& values, const char* key) {
  auto it = values.find(key);
  return it == values.end() ? 0 : it->second;
}

std::vector<uint64_t> Numbers(std::string_view text) {
  std::vector<uint64_t> out;
  for (const std::string& word : Words(text))
    if (auto n = Number(word)) out.push_back(*n);
  return out;
}

// "0-2,5" as the kernel writes lists.
std::vector<uint16_t> List(std::string_view text) {
  std::vector<uint16_t> out;
  for (const std::string& range : Words(Trim(text), ',')) {
    size_t dash = range.find('-');
    auto first = Number(std::string_view(range).substr(0, dash));
    auto last = dash == std::string::npos ? first : Number(std::string_view(range).substr(dash + 1));
    if (!first || !last || *last > UINT16_MAX) continue;
    for (uint64_t n = *first; n <= *last; ++n) out.push_back(static_cast<uint16_t>(n));
  }
  return out;
}

std::optional<std::pair<uint64_t, uint64_t>> Device(std::string_view word) {
  size_t colon = word.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  auto major = Number(word.substr(0, colon)), minor = Number(word.substr(colon + 1));
  if (!major || !minor) return std::nullopt;
  return std::pair(*major, *minor);
}

// "8:0 Read 4096", "8:0 12"; the closing "Total 4096" is of no device.
std::vector<IoEntry> BlkioFile(const std::string& path) {
  std::vector<IoEntry> out;
  EachLine(Text(path), [&](std::string_view line) {
    auto words = Words(line);
    auto device = words.empty() ? std::nullopt : Device(words[0]);
    auto value = words.size() < 2 ? std::nullopt : Number(words.back());
    if (device && value) out.push_back({device->first, device->second, words.size() > 2 ? words[1] : "", *value});
  });
  return out;
}

Pressure ParsePressure(std::string_view text) {
  Pressure p;
  EachLine(text, [&](std::string_view line) {
    auto words = Words(line);
    PressureLine& to = words[0] == "full" ? p.full : p.some;
    for (const std::string& word : words) {
      const char* value = strchr(word.c_str(), '=');
      if (!value) continue;
      ++value;
      if (word.starts_with("avg10=")) to.avg10 = strtod(value, nullptr);
      if (word.starts_with("avg60=")) to.avg60 = strtod(value, nullptr);
      if (word.starts_with("avg300=")) to.avg300 = strtod(value, nullptr);
      if (word.starts_with("total=")) to.total_us = strtoull(value, nullptr, 10);
    }
  });
  return p;
}

class Collector {
 public:
  Collector(const Layout& layout, const Group& group, Stats* s) : layout_(layout), group_(group), s_(*s) {}

  void CpuOf() {
    if (auto dir = Dir1("cpuacct")) {
      s_.cpu_usage_ns = NumberOf(*dir + "/cpuacct.usage");
      std::string stat = Text(*dir + "/cpuacct.stat");  // in ticks of USER_HZ
      uint64_t tick = 1000000000ULL / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
      s_.cpu_user_ns = Keyed(stat, "user").value_or(0) * tick;
      s_.cpu_system_ns = Keyed(stat, "system").value_or(0) * tick;
      if (auto cpu = Dir1("cpu")) {
        std::string throttle = Text(*cpu + "/cpu.stat");
        Throttling(throttle, "throttled_time", "burst_time", 1);
      }
      return;
    }
    if (!Has2()) return;
    std::string stat = Text(v2_ + "/cpu.stat");
    s_.cpu_usage_ns = Keyed(stat, "usage_usec").value_or(0) * 1000;
    s_.cpu_user_ns = Keyed(stat, "user_usec").value_or(0) * 1000;
    s_.cpu_system_ns = Keyed(stat, "system_usec").value_or(0) * 1000;
    Throttling(stat, "throttled_usec", "burst_usec", 1000);
  }

  void EachCpu() {
    auto dir = Dir1("cpuacct");
    if (!dir) return;
    s_.cpu_usage_each_ns = Numbers(Text(*dir + "/cpuacct.usage_percpu"));
    s_.cpu_user_each_ns = Numbers(Text(*dir + "/cpuacct.usage_percpu_user"));
    s_.cpu_system_each_ns = Numbers(Text(*dir + "/cpuacct.usage_percpu_sys"));
  }

  void MemoryOf(bool all) {
    if (auto dir = Dir1("memory"))
      Memory1(*dir + "/memory.", all);
    else if (layout_.V2("memory"))
      Memory2(v2_ + "/memory.", all);
    s_.memory_working_set = s_.memory_usage > s_.inactive_file ? s_.memory_usage - s_.inactive_file : 0;
  }

  void PidsOf() {
    auto dir = Dir("pids");
    if (!dir) return;
    s_.pids = NumberOf(*dir + "/pids.current");
    s_.pids_limit = NumberOf(*dir + "/pids.max");
  }

  void Io() {
    if (auto dir = Dir1("blkio")) {
      const std::string at = *dir + "/blkio.";
      // A scheduler that counts (bfq; cfq before 5.0) knows more; the throttling layer sees every request all the same.
      auto first = [&](std::initializer_list<const char*> files) {
        for (const char* file : files)
          if (auto entries = BlkioFile(at + file); !entries.empty()) return entries;
        return std::vector<IoEntry>();
      };
      s_.io_bytes = first({"throttle.io_service_bytes_recursive", "bfq.io_service_bytes_recursive",
                           "io_service_bytes_recursive", "throttle.io_service_bytes"});
      s_.io_operations = first({"throttle.io_serviced_recursive", "bfq.io_serviced_recursive", "io_serviced_recursive",
                                "throttle.io_serviced"});
      s_.io_queued = first({"bfq.io_queued_recursive", "io_queued_recursive"});
      s_.io_service_time = first({"bfq.io_service_time_recursive", "io_service_time_recursive"});
      s_.io_wait_time = first({"bfq.io_wait_time_recursive", "io_wait_time_recursive"});
      s_.io_merged = first({"bfq.io_merged_recursive", "io_merged_recursive"});
      s_.io_time = first({"bfq.time_recursive", "time_recursive", "bfq.time"});
      s_.io_sectors = first({"bfq.sectors_recursive", "sectors_recursive", "bfq.sectors"});
      return;
    }
    if (!layout_.V2("io")) return;
    EachLine(Text(v2_ + "/io.stat"), [&](std::string_view line) {
      auto words = Words(line);
      auto device = Device(words[0]);
      if (!device) return;
      for (const std::string& word : words) {
        size_t equals = word.find('=');
        auto value = equals == std::string::npos ? std::nullopt : Number(std::string_view(word).substr(equals + 1));
        if (!value) continue;
        auto add = [&](std::vector<IoEntry>& to, const char* op) {
          to.push_back({device->first, device->second, op, *value});
        };
        if (word.starts_with("rbytes=")) add(s_.io_bytes, "Read");
        if (word.starts_with("wbytes=")) add(s_.io_bytes, "Write");
        if (word.starts_with("dbytes=")) add(s_.io_bytes, "Discard");
        if (word.starts_with("rios=")) add(s_.io_operations, "Read");
        if (word.starts_with("wios=")) add(s_.io_operations, "Write");
        if (word.starts_with("dios=")) add(s_.io_operations, "Discard");
      }
    });
  }

  void Hugetlb() {
    auto dir = Dir("hugetlb");
    if (!dir) return;
    const bool v1 = Dir1("hugetlb").has_value();
    for (const std::string& size : PageSizes()) {
      // Reservations are what a limit on them meets; a kernel before 5.7 counts use alone.
      std::string base = *dir + "/hugetlb." + size;
      if (!v1) {
        std::string at = Exists(base + ".rsvd.current") ? base + ".rsvd" : base;
        s_.hugetlb[size] = {NumberOf(at + ".current"), 0, Keyed(Text(base + ".events"), "max").value_or(0)};
      } else {
        std::string at = Exists(base + ".rsvd.usage_in_bytes") ? base + ".rsvd" : base;
        s_.hugetlb[size] = {NumberOf(at + ".usage_in_bytes"), NumberOf(at + ".max_usage_in_bytes"),
                            NumberOf(at + ".failcnt")};
      }
    }
  }

  void RdmaOf() {
    auto dir = Dir("rdma");
    if (!dir) return;
    auto each = [&](const char* file, auto put) {
      EachLine(Text(*dir + file), [&](std::string_view line) {
        auto words = Words(line);
        for (const std::string& word : words) {
          size_t equals = word.find('=');
          if (equals == std::string::npos) continue;
          put(s_.rdma[words[0]], word.substr(0, equals), Number(std::string_view(word).substr(equals + 1)));
        }
      });
    };
    each("/rdma.current", [](RdmaStats& to, const std::string& key, std::optional<uint64_t> n) {
      (key == "hca_handle" ? to.handles : to.objects) = n.value_or(0);
    });
    each("/rdma.max", [](RdmaStats& to, const std::string& key, std::optional<uint64_t> n) {
      (key == "hca_handle" ? to.handles_limit : to.objects_limit) = n;
    });
  }

  void PressureOf() {
    if (!Has2()) return;
    auto read = [&](const char* file) -> std::optional<Pressure> {
      auto text = ReadControl(v2_ + file);  // EOPNOTSUPP: the kernel was booted without
      return text ? std::optional(ParsePressure(*text)) : std::nullopt;
    };
    s_.cpu_pressure = read("/cpu.pressure");
    s_.memory_pressure = read("/memory.pressure");
    s_.io_pressure = read("/io.pressure");
  }

  void Cpuset() {
    CpusetStats c;
    if (auto dir = Dir1("cpuset")) {
      const std::string at = *dir + "/cpuset.";
      c.cpus = List(Text(at + "cpus"));
      c.mems = List(Text(at + "mems"));
      for (auto [file, to] : {std::pair{"cpu_exclusive", &c.cpu_exclusive},
                              {"mem_exclusive", &c.mem_exclusive},
                              {"mem_hardwall", &c.mem_hardwall},
                              {"memory_migrate", &c.memory_migrate},
                              {"memory_spread_page", &c.memory_spread_page},
                              {"memory_spread_slab", &c.memory_spread_slab},
                              {"memory_pressure", &c.memory_pressure},
                              {"sched_load_balance", &c.sched_load_balance}})
        *to = NumberOf(at + file);
      c.sched_relax_domain_level = strtoll(Text(at + "sched_relax_domain_level").c_str(), nullptr, 10);
    } else if (layout_.V2("cpuset")) {
      c.cpus = List(Text(v2_ + "/cpuset.cpus.effective"));
      c.mems = List(Text(v2_ + "/cpuset.mems.effective"));
    } else {
      return;
    }
    s_.cpuset = std::move(c);
  }

 private:
  std::optional<std::string> Dir1(std::string_view controller) const { return V1Dir(layout_, controller, group_); }
  bool Has2() const { return !layout_.v2.empty(); }
  std::optional<std::string> Dir(std::string_view controller) const {
    if (auto dir = Dir1(controller)) return dir;
    return layout_.V2(controller) ? std::optional(v2_) : std::nullopt;
  }

  void Throttling(std::string_view stat, const char* throttled, const char* burst, uint64_t unit) {
    s_.cpu_periods = Keyed(stat, "nr_periods").value_or(0);
    s_.cpu_throttled_periods = Keyed(stat, "nr_throttled").value_or(0);
    s_.cpu_throttled_ns = Keyed(stat, throttled).value_or(0) * unit;
    s_.cpu_bursts = Keyed(stat, "nr_bursts").value_or(0);
    s_.cpu_burst_ns = Keyed(stat, burst).value_or(0) * unit;
  }

  void Memory1(const std::string& at, bool all) {
    auto counter = [](const std::string& prefix) {
      return MemoryCounter{NumberOf(prefix + "usage_in_bytes"), NumberOf(prefix + "max_usage_in_bytes"),
                           LimitOrNone(ReadNumber(prefix + "limit_in_bytes")), NumberOf(prefix + "failcnt")};
    };
    s_.memory_usage = NumberOf(at + "usage_in_bytes");
    s_.memory_limit = LimitOrNone(ReadNumber(at + "limit_in_bytes"));
    auto stat = Flat(Text(at + "stat"));
    s_.memory_rss = ValueIn(stat, "total_rss");
    s_.memory_cache = ValueIn(stat, "total_cache");
    s_.memory_mapped_file = ValueIn(stat, "total_mapped_file");
    s_.memory_swap = ValueIn(stat, "total_swap");
    s_.active_anon = ValueIn(stat, "total_active_anon");
    s_.inactive_anon = ValueIn(stat, "total_inactive_anon");
    s_.active_file = ValueIn(stat, "total_active_file");
    s_.inactive_file = ValueIn(stat, "total_inactive_file");
    s_.unevictable = ValueIn(stat, "total_unevictable");
    s_.page_faults = ValueIn(stat, "total_pgfault");
    s_.major_page_faults = ValueIn(stat, "total_pgmajfault");
    OomFacts oom = ParseOom(Text(at + "oom_control"));
    s_.oom_kills = oom.kills;
    if (!all) return;
    s_.memory_max_usage = NumberOf(at + "max_usage_in_bytes");
    s_.memory_failures = NumberOf(at + "failcnt");
    s_.swap = counter(at + "memsw.");
    s_.kernel = counter(at + "kmem.");
    s_.kernel_tcp = counter(at + "kmem.tcp.");
    s_.memory_stat = std::move(stat);
  }

  void Memory2(const std::string& at, bool all) {
    s_.memory_usage = NumberOf(at + "current");
    s_.memory_limit = LimitOrNone(ReadNumber(at + "max"));
    auto stat = Flat(Text(at + "stat"));
    s_.memory_rss = ValueIn(stat, "anon");
    s_.memory_cache = ValueIn(stat, "file");
    s_.memory_mapped_file = ValueIn(stat, "file_mapped");
    s_.memory_swap = NumberOf(at + "swap.current");
    s_.active_anon = ValueIn(stat, "active_anon");
    s_.inactive_anon = ValueIn(stat, "inactive_anon");
    s_.active_file = ValueIn(stat, "active_file");
    s_.inactive_file = ValueIn(stat, "inactive_file");
    s_.unevictable = ValueIn(stat, "unevictable");
    s_.page_faults = ValueIn(stat, "pgfault");
    s_.major_page_faults = ValueIn(stat, "pgmajfault");
    auto events = Flat(Text(at + "events"));
    s_.oom_kills = ValueIn(events, "oom_kill");
    s_.oom_events = ValueIn(events, "oom");
    s_.oom_group_kills = ValueIn(events, "oom_group_kill");
    s_.memory_failures = ValueIn(events, "max");
    s_.memory_low_events = ValueIn(events, "low");
    s_.memory_high_events = ValueIn(events, "high");
    if (!all) return;
    s_.memory_max_usage = NumberOf(at + "peak");
    // Version 2 counts swap alone; readers of version 1's numbers expect the sum.
    uint64_t swap_limit = LimitOrNone(ReadNumber(at + "swap.max"));
    bool limited = s_.memory_limit && ReadNumber(at + "swap.max");
    s_.swap = {s_.memory_usage + s_.memory_swap, 0, limited ? s_.memory_limit + swap_limit : 0,
               Keyed(Text(at + "swap.events"), "fail").value_or(0)};
    s_.kernel.usage = ValueIn(stat, "kernel");
    s_.memory_stat = std::move(stat);
  }

  // Of this machine: "2MB", "1GB", as the files of the controller are named.
  static const std::vector<std::string>& PageSizes() {
    static const std::vector<std::string> sizes = [] {
      std::vector<std::string> out;
      for (const std::string& name : Children("/sys/kernel/mm/hugepages")) {
        uint64_t kb = strtoull(name.c_str() + std::min<size_t>(name.size(), 10), nullptr, 10);  // hugepages-2048kB
        if (kb == 0) continue;
        out.push_back(kb >= 1 << 20   ? fmt::format("{}GB", kb >> 20)
                      : kb >= 1 << 10 ? fmt::format("{}MB", kb >> 10)
                                      : fmt::format("{}KB", kb));
      }
      return out;
    }();
    return sizes;
  }

  const Layout& layout_;
  const Group& group_;
  Stats& s_;
  const std::string v2_ = layout_.v2 + group_.path;
};

}  // namespace

Result<Stats> ReadStats(const Layout& layout, const Group& group, unsigned parts) {
  Stats s;
  Collector c(layout, group, &s);
  const bool all = (parts & kAllStats) == kAllStats;
  if (parts & kCpuStats) c.CpuOf();
  if (all) c.EachCpu();
  if (parts & kMemoryStats) c.MemoryOf(all);
  if (parts & kPidsStats) c.PidsOf();
  if (parts & kIoStats) c.Io();
  if (parts & kHugetlbStats) c.Hugetlb();
  if (parts & kRdmaStats) c.RdmaOf();
  if (parts & kPressureStats) c.PressureOf();
  if (parts & kCpusetStats) c.Cpuset();
  std::string probe = (layout.v2.empty() ? layout.v1.empty() ? "" : layout.v1.front().mount : layout.v2) + group.path;
  if (::access(probe.c_str(), F_OK) != 0) return Err(Code::kNotFound, "cgroup {}: not there", group.path);
  return s;
}

}  // namespace berth::runtime::cgroup
