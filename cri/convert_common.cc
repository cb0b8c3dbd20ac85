#include "cri/convert_common.h"

#include <charconv>

#include "cri/check.h"

namespace berth::cri {
namespace {

pods::Namespace FromWire(api::NamespaceMode mode) {
  switch (mode) {
    case api::CONTAINER:
      return pods::Namespace::kContainer;
    case api::NODE:
      return pods::Namespace::kNode;
    case api::TARGET:
      return pods::Namespace::kTarget;
    default:
      return pods::Namespace::kPod;
  }
}

api::NamespaceMode ToWire(pods::Namespace mode) {
  switch (mode) {
    case pods::Namespace::kContainer:
      return api::CONTAINER;
    case pods::Namespace::kNode:
      return api::NODE;
    case pods::Namespace::kTarget:
      return api::TARGET;
    case pods::Namespace::kPod:
      break;
  }
  return api::POD;
}

Result<void> PodOrNode(std::string_view field, api::NamespaceMode mode) {
  if (mode == api::POD || mode == api::NODE) return {};
  return Bad(field, fmt::format("must be POD (0) or NODE (2), got {}", api::NamespaceMode_Name(mode)));
}

// cpuset(7) list form: "0-3,7". The kernel's own limit of CPU numbers is far below 65536.
bool IsCpuList(std::string_view text) {
  auto number = [&](std::string_view part, long& value) {
    auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size() && !part.empty() && value >= 0 && value < 65536;
  };
  while (true) {
    size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    size_t dash = part.find('-');
    long low = 0, high = 0;
    if (dash == std::string_view::npos
            ? !number(part, low)
            : !number(part.substr(0, dash), low) || !number(part.substr(dash + 1), high) || high < low)
      return false;
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

bool IsPageSize(std::string_view text) {
  size_t digits = text.find_first_not_of("0123456789");
  if (digits == 0 || digits > 6 || digits == std::string_view::npos) return false;
  std::string_view unit = text.substr(digits);
  return unit == "KB" || unit == "MB" || unit == "GB";
}

// A file of a v2 cgroup: "memory.high". No slash, so it stays in the directory.
bool IsCgroupFile(std::string_view name) {
  size_t dot = name.find('.');
  return dot != std::string_view::npos && dot > 0 && dot + 1 < name.size() && name.size() <= 64 &&
         name.find("..") == std::string_view::npos && std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
                  c == '-';
         });
}

}  // namespace

Result<void> ReadNamespaces(std::string_view field, bool given, const api::NamespaceOption& options, bool of_pod,
                            pods::Namespaces& out) {
  if (!given) return {};
  std::string base(field);
  TRY(PodOrNode(base + ".network", options.network()));
  TRY(PodOrNode(base + ".ipc", options.ipc()));
  if (options.pid() == api::TARGET && of_pod) return Bad(base + ".pid", "TARGET is for containers only");
  if (options.pid() == api::TARGET) {
    if (options.target_id().empty()) return Bad(base + ".target_id", "must name a container when pid is TARGET");
    TRY(CheckName(base + ".target_id", options.target_id()));
  } else if (!options.target_id().empty()) {
    return Bad(base + ".target_id", "is only for pid TARGET");
  }
  if (options.has_userns_options()) {
    const auto& userns = options.userns_options();
    if (userns.mode() == api::CONTAINER || userns.mode() == api::TARGET)
      return Bad(base + ".userns_options.mode",
                 fmt::format("must be POD (0) or NODE (2), got {}", api::NamespaceMode_Name(userns.mode())));
    if (userns.mode() == api::POD)
      return NotYet(base + ".userns_options.mode",
                    "user namespaces are not there yet; NODE is, and Status does not advertise user_namespaces");
    if (userns.uids_size() + userns.gids_size() > 0)
      return Bad(base + ".userns_options.uids", "and gids must be empty with mode NODE");
  }
  out.network = FromWire(options.network());
  out.pid = FromWire(options.pid());
  out.ipc = FromWire(options.ipc());
  out.target = options.target_id();
  return {};
}

void FillNamespaces(const pods::Namespaces& namespaces, api::NamespaceOption& out) {
  out.set_network(ToWire(namespaces.network));
  out.set_pid(ToWire(namespaces.pid));
  out.set_ipc(ToWire(namespaces.ipc));
  out.set_target_id(namespaces.target);
}

Result<void> ReadLabels(std::string_view field, const google::protobuf::Map<std::string, std::string>& from,
                        pods::Labels& to) {
  for (const auto& [key, value] : from) {
    if (key.empty()) return Bad(field, "a key is empty");
    to[key] = value;
  }
  return {};
}

Result<void> ReadProfile(std::string_view field, bool given, const api::SecurityProfile& profile, bool path,
                         pods::SecurityProfile& out) {
  if (!given) return {};
  std::string ref_field = fmt::format("{}.localhost_ref", field);
  if (profile.profile_type() == api::SecurityProfile::Localhost) {
    std::string ref = profile.localhost_ref();
    if (ref.starts_with("localhost/")) ref = ref.substr(10);
    if (path)
      TRY(CheckAbsolutePath(ref_field, ref));
    else
      TRY(CheckWord(ref_field, ref, 4095));
    out = {"localhost", ref};
    return {};
  }
  if (!profile.localhost_ref().empty()) return Bad(ref_field, "is only for profile_type Localhost (2)");
  out.kind = profile.profile_type() == api::SecurityProfile::Unconfined ? "unconfined" : "default";
  return {};
}

Result<void> ReadProfileText(std::string_view field, const std::string& text, bool path, pods::SecurityProfile& out) {
  if (text.empty()) return {};
  if (text == "runtime/default" || text == "docker/default") {
    out.kind = "default";
  } else if (text == "unconfined") {
    out.kind = "unconfined";
  } else if (text.starts_with("localhost/")) {
    std::string ref = text.substr(10);
    if (path)
      TRY(CheckAbsolutePath(field, ref));
    else
      TRY(CheckWord(field, ref, 4095));
    out = {"localhost", ref};
  } else {
    return Bad(field, fmt::format("must be runtime/default, unconfined or localhost/<{}>, got {}",
                                  path ? "absolute path" : "profile name", Quote(text)));
  }
  return {};
}

Result<void> CheckSelinux(std::string_view field, const api::SELinuxOption& options, const HostFacts& host) {
  bool given =
      !options.user().empty() || !options.role().empty() || !options.type().empty() || !options.level().empty();
  // Without SELinux in the kernel the label means nothing; with it, dropping the label would confine less than asked.
  if (given && host.selinux) return NotYet(field, "SELinux labels are not there yet; leave them empty on this machine");
  return {};
}

Result<void> CheckId(std::string_view field, int64_t id) { return CheckRange(field, id, 0, 4294967294); }

Result<pods::Resources> ToResources(std::string_view field, const api::LinuxContainerResources& r) {
  std::string base(field);
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  pods::Resources out;
  if (r.cpu_period() != 0) TRY(CheckRange(base + ".cpu_period", r.cpu_period(), 1000, 1000000));
  if (r.cpu_quota() != 0 && r.cpu_quota() != -1)
    TRY(CheckRange(base + ".cpu_quota", r.cpu_quota(), 1000, kMost / 1000));
  if (r.cpu_shares() != 0) TRY(CheckRange(base + ".cpu_shares", r.cpu_shares(), 2, 262144));
  TRY(CheckRange(base + ".memory_limit_in_bytes", r.memory_limit_in_bytes(), 0, kMost));
  TRY(CheckRange(base + ".memory_swap_limit_in_bytes", r.memory_swap_limit_in_bytes(), -1, kMost));
  if (r.memory_swap_limit_in_bytes() > 0 && r.memory_swap_limit_in_bytes() < r.memory_limit_in_bytes())
    return Bad(base + ".memory_swap_limit_in_bytes",
               fmt::format("is memory and swap together, so at least memory_limit_in_bytes ({}), got {}",
                           r.memory_limit_in_bytes(), r.memory_swap_limit_in_bytes()));
  TRY(CheckRange(base + ".oom_score_adj", r.oom_score_adj(), -1000, 1000));
  for (auto [name, list] : {std::pair(".cpuset_cpus", &r.cpuset_cpus()), std::pair(".cpuset_mems", &r.cpuset_mems())})
    if (!list->empty() && !IsCpuList(*list))
      return Bad(base + name, fmt::format("must be a list such as 0-3,7, got {}", Quote(*list)));
  out.cpu_period = r.cpu_period();
  out.cpu_quota = r.cpu_quota();
  out.cpu_shares = r.cpu_shares();
  out.memory_limit = r.memory_limit_in_bytes();
  // A limit without a word on swap means no swap.
  out.memory_swap = r.memory_swap_limit_in_bytes() == 0 ? r.memory_limit_in_bytes() : r.memory_swap_limit_in_bytes();
  out.cpuset_cpus = r.cpuset_cpus();
  out.cpuset_mems = r.cpuset_mems();
  for (int i = 0; i < r.hugepage_limits_size(); ++i) {
    const auto& limit = r.hugepage_limits(i);
    std::string at = fmt::format("{}.hugepage_limits[{}].page_size", base, i);
    if (!IsPageSize(limit.page_size()))
      return Bad(at, fmt::format("must look like 2MB or 1GB, got {}", Quote(limit.page_size())));
    if (!out.hugepages.emplace(limit.page_size(), limit.limit()).second)
      return Bad(at, fmt::format("{} stands twice", Quote(limit.page_size())));
  }
  for (const auto& [key, value] : r.unified()) {
    std::string at = fmt::format("{}.unified[{}]", base, Quote(key));
    if (!IsCgroupFile(key)) return Bad(at, "the key must be a file of a v2 cgroup, such as memory.high");
    if (value.empty() || value.size() > 4095) return Bad(at, "the value must have 1 to 4095 bytes");
    out.unified[key] = value;
  }
  return out;
}

void FillResources(const pods::Resources& resources, api::LinuxContainerResources& out) {
  out.set_cpu_period(resources.cpu_period);
  out.set_cpu_quota(resources.cpu_quota);
  out.set_cpu_shares(resources.cpu_shares);
  out.set_memory_limit_in_bytes(resources.memory_limit);
  out.set_memory_swap_limit_in_bytes(resources.memory_swap);
  out.set_oom_score_adj(resources.oom_score_adj.value_or(0));
  out.set_cpuset_cpus(resources.cpuset_cpus);
  out.set_cpuset_mems(resources.cpuset_mems);
  for (const auto& [size, limit] : resources.hugepages) {
    auto& page = *out.add_hugepage_limits();
    page.set_page_size(size);
    page.set_limit(limit);
  }
  for (const auto& [key, value] : resources.unified) (*out.mutable_unified())[key] = value;
}

}  // namespace berth::cri
