#include "runtime/oci/stats_json.h"

namespace berth::runtime::oci {
namespace {

using json::Array;
using json::Object;

// A zero that runc leaves out.
void Put(Object& o, const char* name, uint64_t n) {
  if (n != 0) o[name] = n;
}

template <class T>
void PutList(Object& o, const char* name, const std::vector<T>& list) {
  if (list.empty()) return;
  Array a;
  for (const T& n : list) a.push_back(static_cast<uint64_t>(n));
  o[name] = std::move(a);
}

void PutIo(Object& o, const char* name, const std::vector<cgroup::IoEntry>& list) {
  if (list.empty()) return;
  Array a;
  for (const cgroup::IoEntry& e : list) {
    Object entry;
    Put(entry, "major", e.major);
    Put(entry, "minor", e.minor);
    if (!e.op.empty()) entry["op"] = e.op;
    Put(entry, "value", e.value);
    a.push_back(std::move(entry));
  }
  o[name] = std::move(a);
}

void PutPressure(Object& o, const std::optional<cgroup::Pressure>& p) {
  if (!p) return;
  auto line = [](const cgroup::PressureLine& l) {
    return Object{{"avg10", l.avg10}, {"avg60", l.avg60}, {"avg300", l.avg300}, {"total", l.total_us}};
  };
  o["psi"] = Object{{"some", line(p->some)}, {"full", line(p->full)}};
}

// "No limit" in runc's words: the kernel's number on version 1, all ones on version 2, which its readers take as none.
constexpr uint64_t kNoLimit = UINT64_MAX;

Object Counter(const cgroup::MemoryCounter& c) {
  Object o{{"limit", c.limit ? c.limit : kNoLimit}};
  Put(o, "usage", c.usage);
  Put(o, "max", c.max_usage);
  o["failcnt"] = c.failures;
  return o;
}

}  // namespace

json::Value StatsDocument(const cgroup::Stats& s) {
  Object usage;
  Put(usage, "total", s.cpu_usage_ns);
  PutList(usage, "percpu", s.cpu_usage_each_ns);
  PutList(usage, "percpu_kernel", s.cpu_system_each_ns);
  PutList(usage, "percpu_user", s.cpu_user_each_ns);
  usage["kernel"] = s.cpu_system_ns;
  usage["user"] = s.cpu_user_ns;
  Object throttling;
  Put(throttling, "periods", s.cpu_periods);
  Put(throttling, "throttledPeriods", s.cpu_throttled_periods);
  Put(throttling, "throttledTime", s.cpu_throttled_ns);
  Object cpu{{"usage", std::move(usage)}, {"throttling", std::move(throttling)}};
  PutPressure(cpu, s.cpu_pressure);

  Object cpuset;
  const cgroup::CpusetStats c = s.cpuset.value_or(cgroup::CpusetStats{});
  PutList(cpuset, "cpus", c.cpus);
  cpuset["cpu_exclusive"] = c.cpu_exclusive;
  PutList(cpuset, "mems", c.mems);
  cpuset["mem_hardwall"] = c.mem_hardwall;
  cpuset["mem_exclusive"] = c.mem_exclusive;
  cpuset["memory_migrate"] = c.memory_migrate;
  cpuset["memory_spread_page"] = c.memory_spread_page;
  cpuset["memory_spread_slab"] = c.memory_spread_slab;
  cpuset["memory_pressure"] = c.memory_pressure;
  cpuset["sched_load_balance"] = c.sched_load_balance;
  cpuset["sched_relax_domain_level"] = c.sched_relax_domain_level;

  Object memory;
  Put(memory, "cache", s.memory_cache);
  memory["usage"] = Counter({s.memory_usage, s.memory_max_usage, s.memory_limit, s.memory_failures});
  memory["swap"] = Counter(s.swap);
  memory["kernel"] = Counter(s.kernel);
  memory["kernelTCP"] = Counter(s.kernel_tcp);
  if (!s.memory_stat.empty()) {
    Object raw;
    for (const auto& [name, value] : s.memory_stat) raw[name] = value;
    memory["raw"] = std::move(raw);
  }
  PutPressure(memory, s.memory_pressure);
  Object counts;
  Put(counts, "low", s.memory_low_events);
  Put(counts, "high", s.memory_high_events);
  Put(counts, "max", s.memory_failures);
  Put(counts, "oom", s.oom_events);
  Put(counts, "oom_kill", s.oom_kills);
  memory["event_count"] = std::move(counts);

  Object pids;
  Put(pids, "current", s.pids);
  Put(pids, "limit", s.pids_limit);

  Object blkio;
  PutIo(blkio, "ioServiceBytesRecursive", s.io_bytes);
  PutIo(blkio, "ioServicedRecursive", s.io_operations);
  PutIo(blkio, "ioQueueRecursive", s.io_queued);
  PutIo(blkio, "ioServiceTimeRecursive", s.io_service_time);
  PutIo(blkio, "ioWaitTimeRecursive", s.io_wait_time);
  PutIo(blkio, "ioMergedRecursive", s.io_merged);
  PutIo(blkio, "ioTimeRecursive", s.io_time);
  PutIo(blkio, "sectorsRecursive", s.io_sectors);
  PutPressure(blkio, s.io_pressure);

  Object hugetlb;
  for (const auto& [size, h] : s.hugetlb) {
    Object o;
    Put(o, "usage", h.usage);
    Put(o, "max", h.max_usage);
    o["failcnt"] = h.failures;
    hugetlb[size] = std::move(o);
  }
  return Object{{"cpu", std::move(cpu)},   {"cpuset", std::move(cpuset)},  {"memory", std::move(memory)},
                {"pids", std::move(pids)}, {"blkio", std::move(blkio)},    {"hugetlb", std::move(hugetlb)},
                {"intel_rdt", Object{}},   {"network_interfaces", nullptr}};
}

}  // namespace berth::runtime::oci
