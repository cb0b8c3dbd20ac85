#include "runtime/linux/cgroup_settings.h"

#include <cmath>

#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

std::string MaxOr(int64_t n) { return n < 0 ? "max" : fmt::format("{}", n); }

bool IsPageSize(std::string_view s) {
  size_t digits = s.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos) return false;
  std::string_view unit = s.substr(digits);
  return unit == "KB" || unit == "MB" || unit == "GB" || unit == "TB";
}

class Translator {
 public:
  Translator(const Layout& layout, std::vector<Setting>* out) : layout_(layout), out_(*out) {}

  Result<void> Memory(const oci::Memory& m) {
    auto set = [](const std::optional<int64_t>& n) { return n && *n != 0; };
    bool any = set(m.limit) || set(m.reservation) || set(m.swap) || m.swappiness || m.disableOOMKiller.value_or(false);
    if (!any && !m.disableOOMKiller) return {};
    for (auto [name, value] : {std::pair{"limit", m.limit}, {"reservation", m.reservation}, {"swap", m.swap}})
      if (value && *value < -1)
        return Err(Code::kInvalidArgument, "{}.memory.{}: {}: must be -1 (no limit) or bytes", kAt, name, *value);
    if (m.swappiness && *m.swappiness > 100)
      return Err(Code::kInvalidArgument, "{}.memory.swappiness: {} is not 0 to 100", kAt, *m.swappiness);
    if (set(m.limit) && *m.limit > 0 && set(m.swap) && *m.swap > 0 && *m.swap < *m.limit)
      return Err(Code::kInvalidArgument,
                 "{}.memory.swap: {} is below memory.limit {}; it counts memory and swap together", kAt, *m.swap,
                 *m.limit);
    // "No limit" and "do not disable" need no controller.
    bool limits = (set(m.limit) && *m.limit > 0) || (set(m.reservation) && *m.reservation > 0) ||
                  (set(m.swap) && *m.swap > 0) || m.swappiness || m.disableOOMKiller.value_or(false);
    auto v2 = TRY(Version("memory",
                          FirstOf({{set(m.limit), "memory.limit"},
                                   {set(m.reservation), "memory.reservation"},
                                   {set(m.swap), "memory.swap"},
                                   {m.swappiness.has_value(), "memory.swappiness"},
                                   {true, "memory.disableOOMKiller"}}),
                          limits));
    if (!v2) return {};
    return *v2 ? Memory2(m, set) : Memory1(m, set);
  }

  Result<void> Cpu(const oci::Cpu& c) {
    auto set = [](const auto& n) { return n && *n != 0; };
    bool idle = c.idle && *c.idle == 1;
    if (c.idle && *c.idle != 0 && *c.idle != 1)
      return Err(Code::kInvalidArgument, "{}.cpu.idle: {}: must be 0 or 1", kAt, *c.idle);
    if (c.quota && *c.quota < -1)
      return Err(Code::kInvalidArgument, "{}.cpu.quota: {}: must be -1 (no limit) or microseconds", kAt, *c.quota);
    const char* first = FirstOf({{set(c.shares), "cpu.shares"},
                                 {set(c.quota), "cpu.quota"},
                                 {set(c.period), "cpu.period"},
                                 {c.burst.has_value(), "cpu.burst"},
                                 {c.idle.has_value(), "cpu.idle"},
                                 {set(c.realtimeRuntime), "cpu.realtimeRuntime"},
                                 {set(c.realtimePeriod), "cpu.realtimePeriod"}});
    if (first) {
      bool limits = set(c.shares) || (c.quota && *c.quota > 0) || set(c.period) || set(c.burst) || idle ||
                    set(c.realtimeRuntime) || set(c.realtimePeriod);
      auto v2 = TRY(Version("cpu", first, limits));
      if (v2 && *v2)
        TRY(Cpu2(c, set, idle));
      else if (v2)
        Cpu1(c, set, idle);
    }
    if (c.cpus.empty() && c.mems.empty()) return {};
    auto v2 = TRY(Version("cpuset", c.cpus.empty() ? "cpu.mems" : "cpu.cpus", true));
    if (!c.cpus.empty()) Add(*v2, "cpuset", "cpuset.cpus", c.cpus, "cpu.cpus");
    if (!c.mems.empty()) Add(*v2, "cpuset", "cpuset.mems", c.mems, "cpu.mems");
    return {};
  }

  Result<void> Pids(const oci::Pids& p) {
    if (!p.limit) return {};
    auto v2 = TRY(Version("pids", "pids.limit", *p.limit >= 0));
    if (v2) Add(*v2, "pids", "pids.max", MaxOr(*p.limit), "pids.limit");
    return {};
  }

  Result<void> BlockIo(const oci::BlockIO& b) {
    auto check = [](const std::string& member, const std::optional<uint16_t>& weight) -> Result<void> {
      if (weight && *weight != 0 && (*weight < 10 || *weight > 1000))
        return Err(Code::kInvalidArgument, "{}.{}: {} is not 10 to 1000", kAt, member, *weight);
      return {};
    };
    TRY(check("blockIO.weight", b.weight));
    TRY(check("blockIO.leafWeight", b.leafWeight));
    bool weight = b.weight && *b.weight != 0, leaf = b.leafWeight && *b.leafWeight != 0;
    const char* first = FirstOf({{weight, "blockIO.weight"},
                                 {leaf, "blockIO.leafWeight"},
                                 {!b.weightDevice.empty(), "blockIO.weightDevice"},
                                 {!b.throttleReadBpsDevice.empty(), "blockIO.throttleReadBpsDevice"},
                                 {!b.throttleWriteBpsDevice.empty(), "blockIO.throttleWriteBpsDevice"},
                                 {!b.throttleReadIOPSDevice.empty(), "blockIO.throttleReadIOPSDevice"},
                                 {!b.throttleWriteIOPSDevice.empty(), "blockIO.throttleWriteIOPSDevice"}});
    if (!first) return {};
    bool v1 = layout_.V1("blkio") != nullptr;
    if (!v1 && !layout_.V2("io")) return NoController(first, "io");
    if (leaf) {
      if (!v1)
        return Err(Code::kFailedPrecondition, "{}.blockIO.leafWeight: cgroup version 2 has no leaf weights", kAt);
      Add(false, "blkio", "blkio.leaf_weight", fmt::format("{}", *b.leafWeight), "blockIO.leafWeight");
    }
    if (weight) {
      std::string text = fmt::format("{}", *b.weight);
      if (v1)
        Add(false, "blkio", "blkio.weight", text, "blockIO.weight").Or("blkio.bfq.weight", text);
      else
        Add(true, "io", "io.bfq.weight", text, "blockIO.weight")
            .Or("io.weight", fmt::format("{}", IoWeight(*b.weight)));
    }
    for (size_t i = 0; i < b.weightDevice.size(); ++i) {
      const oci::WeightDevice& d = b.weightDevice[i];
      std::string member = fmt::format("blockIO.weightDevice[{}]", i), device = fmt::format("{}:{}", d.major, d.minor);
      TRY(check(member + ".weight", d.weight));
      TRY(check(member + ".leafWeight", d.leafWeight));
      if (d.leafWeight && *d.leafWeight != 0) {
        if (!v1)
          return Err(Code::kFailedPrecondition, "{}.{}.leafWeight: cgroup version 2 has no leaf weights", kAt, member);
        Add(false, "blkio", "blkio.leaf_weight_device", fmt::format("{} {}", device, *d.leafWeight), member)
            .Line(device, device + " 0");
      }
      if (!d.weight || *d.weight == 0) continue;
      std::string text = fmt::format("{} {}", device, *d.weight);
      if (v1)
        Add(false, "blkio", "blkio.weight_device", text, member)
            .Or("blkio.bfq.weight_device", text)
            .Line(device, device + " 0");
      else
        Add(true, "io", "io.bfq.weight", text, member)
            .Or("io.weight", fmt::format("{} {}", device, IoWeight(*d.weight)))
            .Line(device, device + " default");
    }
    struct Kind {
      const std::vector<oci::ThrottleDevice>& devices;
      const char *member, *v1_file, *v2_key;
    };
    const Kind kinds[] = {
        {b.throttleReadBpsDevice, "throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"},
        {b.throttleWriteBpsDevice, "throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"},
        {b.throttleReadIOPSDevice, "throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"},
        {b.throttleWriteIOPSDevice, "throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"}};
    for (const Kind& kind : kinds) {
      for (size_t i = 0; i < kind.devices.size(); ++i) {
        const oci::ThrottleDevice& d = kind.devices[i];
        std::string member = fmt::format("blockIO.{}[{}]", kind.member, i);
        std::string device = fmt::format("{}:{}", d.major, d.minor);
        if (v1) {
          Add(false, "blkio", kind.v1_file, fmt::format("{} {}", device, d.rate), member).Line(device, device + " 0");
          continue;
        }
        // One line a device: what names it already gets another key.
        std::string pair = fmt::format("{}={}", kind.v2_key, d.rate ? fmt::format("{}", d.rate) : "max");
        bool joined = false;
        for (Setting& s : out_)
          if (s.file == "io.max" && s.key == device &&
              s.value.find(kind.v2_key + std::string("=")) == std::string::npos) {
            s.value += " " + pair;
            joined = true;
            break;
          }
        if (!joined)
          Add(true, "io", "io.max", device + " " + pair, member)
              .Line(device, device + " rbps=max wbps=max riops=max wiops=max");
      }
    }
    return {};
  }

  Result<void> Hugepages(const std::vector<oci::HugepageLimit>& limits) {
    for (const oci::HugepageLimit& h : limits) {
      if (!IsPageSize(h.pageSize))
        return Err(Code::kInvalidArgument, "{}.hugepageLimits.pageSize: \"{}\": must be a size like 2MB or 1GB", kAt,
                   h.pageSize);
      // Without the controller there is nothing to be had, which is what 0 asks for.
      auto v2 = TRY(Version("hugetlb", "hugepageLimits", h.limit > 0));
      if (!v2) continue;
      std::string base = "hugetlb." + h.pageSize, end = *v2 ? ".max" : ".limit_in_bytes";
      std::string value = fmt::format("{}", h.limit), member = fmt::format("hugepageLimits[{}]", h.pageSize);
      // Reservations first: with them limited, mmap fails; with use alone limited, touching the page is SIGBUS.
      Add(*v2, "hugetlb", base + ".rsvd" + end, value, member).if_there = true;
      Add(*v2, "hugetlb", base + end, value, member);
    }
    return {};
  }

  Result<void> Network(const oci::NetworkResources& n) {
    if (n.classID && *n.classID != 0) {
      if (!layout_.V1("net_cls")) return NoController("network.classID", "net_cls (version 1)");
      Add(false, "net_cls", "net_cls.classid", fmt::format("{}", *n.classID), "network.classID");
    }
    for (size_t i = 0; i < n.priorities.size(); ++i) {
      const oci::InterfacePriority& p = n.priorities[i];
      std::string member = fmt::format("network.priorities[{}]", i);
      if (p.name.empty() || p.name.find_first_of(" \n/") != std::string::npos)
        return Err(Code::kInvalidArgument, "{}.{}.name: \"{}\" is not the name of an interface", kAt, member, p.name);
      if (!layout_.V1("net_prio")) return NoController(member, "net_prio (version 1)");
      Add(false, "net_prio", "net_prio.ifpriomap", fmt::format("{} {}", p.name, p.priority), member)
          .Line(p.name, p.name + " 0");
    }
    return {};
  }

  Result<void> Rdma(const std::map<std::string, oci::Rdma>& devices) {
    for (const auto& [name, r] : devices) {
      if (!r.hcaHandles && !r.hcaObjects) continue;
      std::string member = fmt::format("rdma[\"{}\"]", name);
      if (name.empty() || name.find_first_of(" \n/") != std::string::npos)
        return Err(Code::kInvalidArgument, "{}.{}: is not the name of a device", kAt, member);
      auto v2 = TRY(Version("rdma", member, true));
      std::string value = name;
      if (r.hcaHandles) value += fmt::format(" hca_handle={}", *r.hcaHandles);
      if (r.hcaObjects) value += fmt::format(" hca_object={}", *r.hcaObjects);
      Add(*v2, "rdma", "rdma.max", value, member).Line(name, name + " hca_handle=max hca_object=max");
    }
    return {};
  }

  Result<void> Unified(const std::map<std::string, std::string>& files) {
    for (const auto& [name, value] : files) {
      size_t dot = name.find('.');
      if (dot == 0 || dot == std::string::npos || name.find('/') != std::string::npos ||
          name.find('\0') != std::string::npos)
        return Err(Code::kInvalidArgument, "{}.unified: \"{}\" is not the name of a control file", kAt, name);
      if (name == "cgroup.procs" || name == "cgroup.threads")  // would bring foreign processes into the container
        return Err(Code::kInvalidArgument, "{}.unified: {} is not a limit", kAt, name);
      std::string controller = name.substr(0, dot);
      if (layout_.v2.empty() || layout_.V1(controller))
        return Err(Code::kFailedPrecondition, "{}.unified: {} needs cgroup version 2, this host has {} in version 1",
                   kAt, name, layout_.V1(controller) ? controller : "all");
      Setting& s = Add(true, controller, name, value, fmt::format("unified[\"{}\"]", name));
      // A line for each device when the value begins with a device's number.
      size_t space = value.find(' ');
      std::string_view word = std::string_view(value).substr(0, space);
      if (controller == "io" && word.find(':') != std::string_view::npos) {
        s.key = word;
        s.clear = s.key + (name == "io.max" ? " rbps=max wbps=max riops=max wiops=max" : " default");
      } else if (name == "rdma.max" || name == "misc.max") {
        s.key = word;
        s.clear = s.key + (name == "rdma.max" ? " hca_handle=max hca_object=max" : " max");
      }
    }
    return {};
  }

 private:
  // The first member that is given, for errors.
  static const char* FirstOf(std::initializer_list<std::pair<bool, const char*>> members) {
    for (auto [given, name] : members)
      if (given) return name;
    return nullptr;
  }

  std::unexpected<Error> NoController(std::string_view member, std::string_view controller) {
    return Err(Code::kFailedPrecondition, "{}.{}: this host has no {} cgroup controller", kAt, member, controller);
  }

  // True: version 2. Nothing: there is no such controller and none is needed.
  Result<std::optional<bool>> Version(std::string_view controller, std::string_view member, bool needed) {
    if (layout_.V1(controller)) return std::optional<bool>(false);
    if (layout_.V2(controller)) return std::optional<bool>(true);
    if (needed) return NoController(member, controller);
    return std::optional<bool>();
  }

  Setting& Add(bool v2, std::string controller, std::string file, std::string value, std::string member) {
    Setting& s = out_.emplace_back();
    s.v2 = v2;
    s.controller = std::move(controller);
    s.file = std::move(file);
    s.value = std::move(value);
    s.member = std::move(member);
    return s;
  }

  Result<void> Memory1(const oci::Memory& m, bool (*set)(const std::optional<int64_t>&)) {
    int64_t swap = m.swap.value_or(0);
    if (m.limit.value_or(0) == -1 && swap == 0)
      swap = -1;  // no limit and a limit of the sum would contradict each other
    if (set(m.limit)) Add(false, "memory", "memory.limit_in_bytes", fmt::format("{}", *m.limit), "memory.limit");
    // Without swap accounting the sum cannot be limited, which only matters where swap is allowed and limited.
    if (swap != 0)
      Add(false, "memory", "memory.memsw.limit_in_bytes", fmt::format("{}", swap), "memory.swap").if_there =
          swap < 0 || swap == m.limit.value_or(0);
    if (set(m.reservation))
      Add(false, "memory", "memory.soft_limit_in_bytes", fmt::format("{}", *m.reservation), "memory.reservation");
    if (m.swappiness) Add(false, "memory", "memory.swappiness", fmt::format("{}", *m.swappiness), "memory.swappiness");
    if (m.disableOOMKiller)
      Add(false, "memory", "memory.oom_control", *m.disableOOMKiller ? "1" : "0", "memory.disableOOMKiller");
    return {};
  }

  Result<void> Memory2(const oci::Memory& m, bool (*set)(const std::optional<int64_t>&)) {
    if (m.swappiness)
      return Err(Code::kFailedPrecondition, "{}.memory.swappiness: cgroup version 2 has no swappiness of a group", kAt);
    if (m.disableOOMKiller.value_or(false))
      return Err(Code::kFailedPrecondition,
                 "{}.memory.disableOOMKiller: cgroup version 2 cannot disable the OOM killer", kAt);
    auto swap = TRY(SwapMax(m));
    if (swap) Add(true, "memory", "memory.swap.max", MaxOr(*swap), "memory.swap").if_there = *swap <= 0;
    if (set(m.limit)) Add(true, "memory", "memory.max", MaxOr(*m.limit), "memory.limit");
    if (set(m.reservation)) Add(true, "memory", "memory.low", MaxOr(*m.reservation), "memory.reservation");
    return {};
  }

  template <class Set>
  void Cpu1(const oci::Cpu& c, Set set, bool idle) {
    auto add = [&](const char* file, auto value, const char* member) -> Setting& {
      return Add(false, "cpu", file, fmt::format("{}", value), member);
    };
    if (c.idle) add("cpu.idle", *c.idle, "cpu.idle").if_there = *c.idle == 0;
    if (set(c.shares) && !idle) add("cpu.shares", *c.shares, "cpu.shares");
    if (set(c.period)) add("cpu.cfs_period_us", *c.period, "cpu.period");
    if (set(c.quota)) add("cpu.cfs_quota_us", *c.quota, "cpu.quota");
    if (c.burst) add("cpu.cfs_burst_us", *c.burst, "cpu.burst").if_there = *c.burst == 0;
    if (set(c.realtimePeriod)) add("cpu.rt_period_us", *c.realtimePeriod, "cpu.realtimePeriod");
    if (set(c.realtimeRuntime)) add("cpu.rt_runtime_us", *c.realtimeRuntime, "cpu.realtimeRuntime");
  }

  template <class Set>
  Result<void> Cpu2(const oci::Cpu& c, Set set, bool idle) {
    if (set(c.realtimeRuntime) || set(c.realtimePeriod))
      return Err(Code::kFailedPrecondition, "{}.cpu.{}: cgroup version 2 has no realtime limits", kAt,
                 set(c.realtimeRuntime) ? "realtimeRuntime" : "realtimePeriod");
    // An idle group has no weight: the kernel refuses one.
    if (c.idle) Add(true, "cpu", "cpu.idle", fmt::format("{}", *c.idle), "cpu.idle").if_there = *c.idle == 0;
    if (set(c.shares) && !idle)
      Add(true, "cpu", "cpu.weight", fmt::format("{}", WeightFromShares(*c.shares)), "cpu.shares");
    if (set(c.quota) || set(c.period)) {
      // "quota period"; an empty quota stands for the one in force, which the writer fills in.
      std::string quota = set(c.quota) ? MaxOr(*c.quota) : "";
      Add(true, "cpu", "cpu.max", set(c.period) ? fmt::format("{} {}", quota, *c.period) : quota,
          set(c.quota) ? "cpu.quota" : "cpu.period");
    }
    if (c.burst) Add(true, "cpu", "cpu.max.burst", fmt::format("{}", *c.burst), "cpu.burst").if_there = *c.burst == 0;
    return {};
  }

  const Layout& layout_;
  std::vector<Setting>& out_;
};

}  // namespace

uint64_t WeightFromShares(uint64_t shares) {
  if (shares == 0) return 0;
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  // A parabola through (2, 1), (1024, 100), (262144, 10000) on logarithmic axes, as runc 1.3 and crun 1.23 have it.
  double l = std::log2(static_cast<double>(shares));
  return static_cast<uint64_t>(std::ceil(std::pow(10.0, (l * l + 125 * l) / 612 - 7.0 / 34)));
}

uint64_t IoWeight(uint64_t weight) {
  if (weight == 0) return 0;
  weight = std::clamp<uint64_t>(weight, 10, 1000);
  return 1 + (weight - 10) * 9999 / 990;
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

std::string LineOf(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ' ') return std::string(Trim(line));
  }
  return {};
}

Result<std::vector<Setting>> SettingsOf(const Layout& layout, const oci::Resources& r) {
  std::vector<Setting> out;
  Translator t(layout, &out);
  if (r.memory) TRY(t.Memory(*r.memory));
  if (r.cpu) TRY(t.Cpu(*r.cpu));
  if (r.pids) TRY(t.Pids(*r.pids));
  if (r.blockIO) TRY(t.BlockIo(*r.blockIO));
  TRY(t.Hugepages(r.hugepageLimits));
  if (r.network) TRY(t.Network(*r.network));
  TRY(t.Rdma(r.rdma));
  TRY(t.Unified(r.unified));
  return out;
}

}  // namespace berth::runtime::cgroup
