#include <cmath>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

constexpr std::string_view kAt = "linux.resources";

std::unexpected<Error> NoController(std::string_view member, std::string_view controller) {
  return Err(Code::kFailedPrecondition, "{}.{}: this host has no {} cgroup controller", kAt, member, controller);
}

std::string MaxOr(int64_t n) { return n < 0 ? "max" : fmt::format("{}", n); }

Result<void> MemoryV1(const std::string& dir, const oci::Memory& m) {
  auto limit = m.limit;
  auto swap = m.swap;
  if (swap && *swap == 0) swap.reset();
  if (limit && *limit == 0) limit.reset();
  if (limit && *limit == -1 && !swap) swap = -1;  // no limit and a swap limit would contradict each other
  if (limit && swap && *swap >= 0 && *limit >= 0 && *swap < *limit)
    return Err(Code::kInvalidArgument,
               "{}.memory.swap: {} is below memory.limit {}; it counts memory and swap together", kAt, *swap, *limit);
  bool has_swap = Exists(dir + "/memory.memsw.limit_in_bytes");
  if (swap && !has_swap) {
    if (*swap > 0 && !(limit && *swap == *limit))
      return Err(Code::kFailedPrecondition,
                 "{}.memory.swap: the kernel does not account swap (boot with swapaccount=1)", kAt);
    swap.reset();
  }
  auto write_limit = [&]() -> Result<void> {
    if (!limit) return {};
    auto r = WriteControl(dir + "/memory.limit_in_bytes", fmt::format("{}", *limit));
    if (!r && r.error().sys == EBUSY)
      return Err(Code::kConflict, "{}.memory.limit: {} is below what the container uses now", kAt, *limit);
    return r;
  };
  auto write_swap = [&]() -> Result<void> {
    if (!swap) return {};
    return WriteControl(dir + "/memory.memsw.limit_in_bytes", fmt::format("{}", *swap));
  };
  // The kernel keeps limit <= memsw at every moment: the larger one moves first when raising, last when lowering.
  bool raise = false;
  if (swap && limit) {
    auto now = ReadNumber(dir + "/memory.memsw.limit_in_bytes");
    raise = *swap < 0 || (now && static_cast<uint64_t>(*swap) > *now);
  }
  if (raise) {
    TRY(write_swap());
    TRY(write_limit());
  } else {
    TRY(write_limit());
    TRY(write_swap());
  }
  if (m.reservation) TRY(WriteControl(dir + "/memory.soft_limit_in_bytes", fmt::format("{}", *m.reservation)));
  if (m.swappiness) {
    if (*m.swappiness > 100)
      return Err(Code::kInvalidArgument, "{}.memory.swappiness: {} is not 0 to 100", kAt, *m.swappiness);
    TRY(WriteControl(dir + "/memory.swappiness", fmt::format("{}", *m.swappiness)));
  }
  return {};
}

Result<void> MemoryV2(const std::string& dir, const oci::Memory& m) {
  auto swap = TRY(SwapMax(m));
  if (m.limit && *m.limit > 0) {
    // memory.max below the usage would have the OOM killer make room at once.
    auto now = ReadNumber(dir + "/memory.current");
    if (now && *now > static_cast<uint64_t>(*m.limit))
      return Err(Code::kConflict, "{}.memory.limit: {} is below what the container uses now ({})", kAt, *m.limit, *now);
  }
  if (swap && Exists(dir + "/memory.swap.max")) TRY(WriteControl(dir + "/memory.swap.max", MaxOr(*swap)));
  if (m.limit && *m.limit != 0) TRY(WriteControl(dir + "/memory.max", MaxOr(*m.limit)));
  if (m.reservation && *m.reservation != 0) TRY(WriteControl(dir + "/memory.low", MaxOr(*m.reservation)));
  return {};
}

Result<void> CpuV1(const std::string& dir, const oci::Cpu& c) {
  if (c.shares && *c.shares != 0) TRY(WriteControl(dir + "/cpu.shares", fmt::format("{}", *c.shares)));
  std::string period = c.period && *c.period ? fmt::format("{}", *c.period) : "";
  std::string quota = c.quota && *c.quota ? fmt::format("{}", *c.quota) : "";
  if (!period.empty()) {
    auto first = WriteControl(dir + "/cpu.cfs_period_us", period);
    if (!first) {
      // A shorter period with the old quota can exceed what the parent allows: the quota first, then again.
      if (first.error().sys != EINVAL || quota.empty()) return first;
      TRY(WriteControl(dir + "/cpu.cfs_quota_us", quota));
      return WriteControl(dir + "/cpu.cfs_period_us", period);
    }
  }
  if (!quota.empty()) TRY(WriteControl(dir + "/cpu.cfs_quota_us", quota));
  return {};
}

Result<void> CpuV2(const std::string& dir, const oci::Cpu& c) {
  if (c.shares && *c.shares != 0)
    TRY(WriteControl(dir + "/cpu.weight", fmt::format("{}", WeightFromShares(*c.shares))));
  bool has_quota = c.quota && *c.quota != 0, has_period = c.period && *c.period != 0;
  if (!has_quota && !has_period) return {};
  std::string quota = "max";
  if (has_quota) {
    quota = MaxOr(*c.quota);
  } else {  // only the period changes: the quota stays
    std::string now = TRY(ReadControl(dir + "/cpu.max"));
    size_t end = 0;
    while (end < now.size() && now[end] != ' ') ++end;
    quota.assign(now, 0, end);
  }
  return WriteControl(dir + "/cpu.max", has_period ? fmt::format("{} {}", quota, *c.period) : quota);
}

bool IsPageSize(std::string_view s) {
  size_t digits = s.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos) return false;
  std::string_view unit = s.substr(digits);
  return unit == "KB" || unit == "MB" || unit == "GB" || unit == "TB";
}

}  // namespace

uint64_t WeightFromShares(uint64_t shares) {
  if (shares == 0) return 0;
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  // A parabola through (2, 1), (1024, 100), (262144, 10000) on logarithmic axes, as runc 1.3 and crun 1.23 have it.
  double l = std::log2(static_cast<double>(shares));
  return static_cast<uint64_t>(std::ceil(std::pow(10.0, (l * l + 125 * l) / 612 - 7.0 / 34)));
}

Result<std::optional<int64_t>> SwapMax(const oci::Memory& m) {
  if (!m.swap || *m.swap == 0) {
    if (m.limit && *m.limit == -1) return std::optional<int64_t>(-1);
    return std::optional<int64_t>();
  }
  if (*m.swap == -1) return std::optional<int64_t>(-1);
  if (!m.limit || *m.limit == 0) {
    return Err(Code::kInvalidArgument, "{}.memory.swap: needs memory.limit, since it counts memory and swap together",
               kAt);
  }
  if (*m.limit == -1) return Err(Code::kInvalidArgument, "{}.memory.swap: memory.limit is unlimited", kAt);
  if (*m.swap < *m.limit)
    return Err(Code::kInvalidArgument,
               "{}.memory.swap: {} is below memory.limit {}; it counts memory and swap together", kAt, *m.swap,
               *m.limit);
  return std::optional<int64_t>(*m.swap - *m.limit);
}

Result<void> Apply(const Layout& layout, const Group& group, const oci::Resources& r) {
  const std::string v2 = layout.v2.empty() ? std::string() : layout.v2 + group.path;
  if (!r.devices.empty()) {
    if (auto dir = V1Dir(layout, "devices", group))
      TRY(ApplyDevicesV1(*dir, r.devices));
    else if (!v2.empty())
      TRY(ApplyDevicesV2(v2, r.devices));
    else
      return NoController("devices", "devices");
  }
  if (r.memory && (r.memory->limit || r.memory->reservation || r.memory->swap || r.memory->swappiness)) {
    if (auto dir = V1Dir(layout, "memory", group))
      TRY(MemoryV1(*dir, *r.memory));
    else if (layout.V2("memory"))
      TRY(MemoryV2(v2, *r.memory));
    else if (r.memory->limit.value_or(0) > 0 || r.memory->reservation.value_or(0) > 0)
      return NoController("memory", "memory");
  }
  if (r.cpu) {
    const oci::Cpu& c = *r.cpu;
    if (c.shares || c.quota || c.period) {
      if (auto dir = V1Dir(layout, "cpu", group))
        TRY(CpuV1(*dir, c));
      else if (layout.V2("cpu"))
        TRY(CpuV2(v2, c));
      else if (c.shares.value_or(0) || c.quota.value_or(0) > 0)
        return NoController("cpu", "cpu");
    }
    if (!c.cpus.empty() || !c.mems.empty()) {
      std::string dir;
      if (auto v1 = V1Dir(layout, "cpuset", group))
        dir = *v1;
      else if (layout.V2("cpuset"))
        dir = v2;
      else
        return NoController("cpu.cpus", "cpuset");
      if (!c.cpus.empty()) TRY_CTX(WriteControl(dir + "/cpuset.cpus", c.cpus), "{}.cpu.cpus", kAt);
      if (!c.mems.empty()) TRY_CTX(WriteControl(dir + "/cpuset.mems", c.mems), "{}.cpu.mems", kAt);
    }
  }
  if (r.pids && r.pids->limit != 0) {  // 0 from older writers means "not set"
    std::string dir;
    if (auto v1 = V1Dir(layout, "pids", group))
      dir = *v1;
    else if (layout.V2("pids"))
      dir = v2;
    if (!dir.empty())
      TRY(WriteControl(dir + "/pids.max", MaxOr(r.pids->limit)));
    else if (r.pids->limit > 0)
      return NoController("pids", "pids");
  }
  for (const oci::HugepageLimit& h : r.hugepageLimits) {
    if (!IsPageSize(h.pageSize))
      return Err(Code::kInvalidArgument, "{}.hugepageLimits.pageSize: \"{}\": must be a size like 2MB or 1GB", kAt,
                 h.pageSize);
    bool v1 = layout.V1("hugetlb") != nullptr;
    if (!v1 && !layout.V2("hugetlb")) {
      if (h.limit == 0) continue;  // nothing to be had, and nothing asked for
      return NoController("hugepageLimits", "hugetlb");
    }
    std::string base = (v1 ? *V1Dir(layout, "hugetlb", group) : v2) + "/hugetlb." + h.pageSize;
    std::string file = v1 ? ".limit_in_bytes" : ".max";
    if (!Exists(base + file))
      return Err(Code::kInvalidArgument, "{}.hugepageLimits.pageSize: this host has no {} pages", kAt, h.pageSize);
    TRY(WriteControl(base + file, fmt::format("{}", h.limit)));
    if (Exists(base + ".rsvd" + file)) TRY(WriteControl(base + ".rsvd" + file, fmt::format("{}", h.limit)));
  }
  for (const auto& [name, value] : r.unified) {
    if (name.empty() || name.find('/') != std::string::npos || name.find('.') == std::string::npos)
      return Err(Code::kInvalidArgument, "{}.unified: \"{}\" is not the name of a control file", kAt, name);
    std::string controller = name.substr(0, name.find('.'));
    if (v2.empty() || layout.V1(controller))
      return Err(Code::kFailedPrecondition, "{}.unified: {} needs cgroup version 2, this host has {} in version 1", kAt,
                 name, controller);
    TRY_CTX(WriteControl(v2 + "/" + name, value), "{}.unified", kAt);
  }
  return {};
}

}  // namespace berth::runtime::cgroup
