#pragma once
// What a cgroup has used. The names of memory_stat are the kernel's.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/linux/cgroup.h"

namespace berth::runtime::cgroup {

// Reading costs two to four system calls a file, so a reader says what it wants.
enum StatsPart : unsigned {
  kCpuStats = 1,
  kMemoryStats = 2,
  kPidsStats = 4,
  kIoStats = 8,
  kHugetlbStats = 16,
  kRdmaStats = 32,
  kPressureStats = 64,  // version 2
  kCpusetStats = 128,
  kUsageStats = kCpuStats | kMemoryStats | kPidsStats,
  kAllStats = 255
};

struct PressureLine {
  double avg10 = 0, avg60 = 0, avg300 = 0;  // percent of the last 10, 60, 300 seconds
  uint64_t total_us = 0;
};
struct Pressure {
  PressureLine some, full;  // some processes waited; all of them did
};

struct IoEntry {
  uint64_t major = 0, minor = 0;
  std::string op;  // "Read", "Write", "Sync", "Async", "Discard", "Total"; version 2: Read, Write, Discard
  uint64_t value = 0;
};

struct MemoryCounter {
  uint64_t usage = 0, max_usage = 0, limit = 0, failures = 0;  // limit 0: none
};

struct HugepageStats {
  uint64_t usage = 0, max_usage = 0, failures = 0;  // bytes
};

struct RdmaStats {
  uint64_t handles = 0, objects = 0;
  std::optional<uint64_t> handles_limit, objects_limit;  // absent: none
};

struct CpusetStats {
  std::vector<uint16_t> cpus, mems;  // in effect
  uint64_t cpu_exclusive = 0, mem_exclusive = 0, mem_hardwall = 0, memory_migrate = 0, memory_spread_page = 0,
           memory_spread_slab = 0, memory_pressure = 0, sched_load_balance = 0;
  int64_t sched_relax_domain_level = 0;
};

struct Stats {
  uint64_t cpu_usage_ns = 0, cpu_user_ns = 0, cpu_system_ns = 0;
  std::vector<uint64_t> cpu_usage_each_ns, cpu_user_each_ns, cpu_system_each_ns;  // by CPU; version 1
  uint64_t cpu_periods = 0, cpu_throttled_periods = 0, cpu_throttled_ns = 0, cpu_bursts = 0, cpu_burst_ns = 0;

  uint64_t memory_usage = 0;        // bytes, with page cache
  uint64_t memory_max_usage = 0;    // 0: the kernel does not say (version 2 before 5.19)
  uint64_t memory_working_set = 0;  // usage minus inactive file pages, as cAdvisor counts
  uint64_t memory_limit = 0;        // 0: none
  uint64_t memory_failures = 0;     // allocations that met the limit
  uint64_t memory_rss = 0, memory_cache = 0, memory_mapped_file = 0, memory_swap = 0;
  uint64_t active_anon = 0, inactive_anon = 0, active_file = 0, inactive_file = 0, unevictable = 0;
  uint64_t page_faults = 0, major_page_faults = 0;
  MemoryCounter swap;                           // memory and swap together, whatever the version
  MemoryCounter kernel, kernel_tcp;             // kernel_tcp: version 1
  std::map<std::string, uint64_t> memory_stat;  // memory.stat as it is
  uint64_t oom_kills = 0, oom_events = 0, oom_group_kills = 0, memory_low_events = 0, memory_high_events = 0;

  uint64_t pids = 0, pids_limit = 0;  // 0: none

  std::vector<IoEntry> io_bytes, io_operations;  // since the group was made, subtree included
  std::vector<IoEntry> io_queued, io_service_time, io_wait_time, io_merged, io_time,
      io_sectors;  // version 1 with a scheduler that counts

  std::map<std::string, HugepageStats> hugetlb;  // by page size: "2MB"
  std::map<std::string, RdmaStats> rdma;         // by device
  std::optional<Pressure> cpu_pressure, memory_pressure, io_pressure;
  std::optional<CpusetStats> cpuset;
};

// Controllers that are not there leave zeros. Maxima, failures of swap and kernel memory, single CPUs and memory_stat
// come with kAllStats only. kNotFound: no such group.
Result<Stats> ReadStats(const Layout& layout, const Group& group, unsigned parts = kUsageStats);

}  // namespace berth::runtime::cgroup
