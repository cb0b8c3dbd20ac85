#include "runtime/oci/validate.h"

#include <sched.h>
#include <sys/stat.h>

#include "base/json.h"
#include "runtime/linux/devices.h"
#include "runtime/linux/names.h"

namespace berth::runtime::oci {
namespace {

bool HasNamespace(const Spec& spec, std::string_view type) {
  if (!spec.linux) return false;
  for (const Namespace& ns : spec.linux->namespaces)
    if (ns.type == type) return true;
  return false;
}

Result<void> CheckAbsolute(const std::string& path, const std::string& at) {
  if (path.empty() || path[0] != '/')
    return Err(Code::kInvalidArgument, "{}: \"{}\": must be an absolute path", at, path);
  if (path.size() >= 4096) return Err(Code::kInvalidArgument, "{}: longer than 4095 bytes", at);
  if (path.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "{}: contains a zero byte", at);
  return {};
}

const Namespace* FindNamespace(const Spec& spec, std::string_view type) {
  for (const Namespace& ns : spec.linux->namespaces)
    if (ns.type == type) return &ns;
  return nullptr;
}

// user_namespaces(7): at most 340 lines, no overlap on either side.
Result<void> CheckMappings(const std::vector<IdMapping>& maps, const std::string& at) {
  if (maps.size() > 340) return Err(Code::kInvalidArgument, "{}: {} entries: the kernel takes 340", at, maps.size());
  for (size_t i = 0; i < maps.size(); ++i) {
    const IdMapping& m = maps[i];
    if (m.size == 0) return Err(Code::kInvalidArgument, "{}[{}].size: must not be 0", at, i);
    for (uint64_t first : {m.containerID, m.hostID})
      if (first + m.size > UINT32_MAX)
        return Err(Code::kInvalidArgument, "{}[{}]: {} ids from {} go beyond 4294967294", at, i, m.size, first);
    for (size_t j = 0; j < i; ++j) {
      auto overlap = [&](uint64_t a, uint64_t b) { return a < b + maps[j].size && b < a + m.size; };
      if (overlap(m.containerID, maps[j].containerID) || overlap(m.hostID, maps[j].hostID))
        return Err(Code::kInvalidArgument, "{}[{}]: overlaps entry {}", at, i, j);
    }
  }
  return {};
}

bool Mapped(const std::vector<IdMapping>& maps, uint32_t id) {
  for (const IdMapping& m : maps)
    if (id >= m.containerID && id - m.containerID < m.size) return true;
  return false;
}

Result<void> CheckUserNamespace(const Spec& spec) {
  const Linux& l = *spec.linux;
  TRY(CheckMappings(l.uidMappings, "linux.uidMappings"));
  TRY(CheckMappings(l.gidMappings, "linux.gidMappings"));
  const Namespace* user = FindNamespace(spec, "user");
  const char* missing = l.uidMappings.empty() ? "uidMappings" : "gidMappings";
  if (!user) {
    if (l.uidMappings.empty() && l.gidMappings.empty()) return {};
    return Err(Code::kInvalidArgument, "linux.{}: needs a user namespace in linux.namespaces",
               l.uidMappings.empty() ? "gidMappings" : "uidMappings");
  }
  if (l.uidMappings.empty() != l.gidMappings.empty() || (user->path.empty() && l.uidMappings.empty()))
    return Err(Code::kInvalidArgument, "linux.{}: missing; the user namespace needs both mappings", missing);
  if (l.uidMappings.empty() || !spec.process) return {};
  const User& who = spec.process->user;
  if (!Mapped(l.uidMappings, who.uid))
    return Err(Code::kInvalidArgument, "process.user.uid: {} is not mapped by linux.uidMappings", who.uid);
  if (!Mapped(l.gidMappings, who.gid))
    return Err(Code::kInvalidArgument, "process.user.gid: {} is not mapped by linux.gidMappings", who.gid);
  for (size_t i = 0; i < who.additionalGids.size(); ++i)
    if (!Mapped(l.gidMappings, who.additionalGids[i]))
      return Err(Code::kInvalidArgument, "process.user.additionalGids[{}]: {} is not mapped by linux.gidMappings", i,
                 who.additionalGids[i]);
  return {};
}

Result<void> CheckTimeOffsets(const Spec& spec) {
  const auto& offsets = spec.linux->timeOffsets;
  if (offsets.empty()) return {};
  const Namespace* time = FindNamespace(spec, "time");
  if (!time || !time->path.empty())
    return Err(Code::kInvalidArgument, "linux.timeOffsets: needs a new time namespace in linux.namespaces");
  for (const auto& [clock, offset] : offsets) {
    if (clock != "monotonic" && clock != "boottime")
      return Err(Code::kInvalidArgument, "linux.timeOffsets.{}: must be monotonic or boottime", clock);
    if (offset.nanosecs >= 1'000'000'000)
      return Err(Code::kInvalidArgument, "linux.timeOffsets.{}.nanosecs: {}: must be below 1000000000", clock,
                 offset.nanosecs);
  }
  return {};
}

// What the kernel takes as a name (dev_valid_name); `%d` lets it choose a number.
bool ValidDeviceName(const std::string& name) {
  if (name.empty() || name.size() > 15 || name == "." || name == "..") return false;
  for (char c : name)
    if (c == '/' || c == ':' || c == '\0' || isspace(static_cast<unsigned char>(c))) return false;
  return true;
}

Result<void> CheckNetDevices(const Spec& spec) {
  const auto& devices = spec.linux->netDevices;
  if (devices.empty()) return {};
  if (!FindNamespace(spec, "network"))
    return Err(Code::kInvalidArgument, "linux.netDevices: needs a network namespace in linux.namespaces");
  std::set<std::string> names;
  for (const auto& [host, device] : devices) {
    if (!ValidDeviceName(host))
      return Err(Code::kInvalidArgument, "linux.netDevices: \"{}\" is not the name of a network device", host);
    const std::string& name = device.name.empty() ? host : device.name;
    if (!ValidDeviceName(name) || (name.find('%') != std::string::npos && name.find("%d") != name.rfind('%')))
      return Err(Code::kInvalidArgument, "linux.netDevices.{}.name: \"{}\" is not the name of a network device", host,
                 name);
    if (name.find('%') == std::string::npos && !names.insert(name).second)
      return Err(Code::kInvalidArgument, "linux.netDevices.{}.name: {} is there twice", host, name);
  }
  return {};
}

Result<void> CheckText(const std::string& text, const std::string& at) {
  if (text.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "{}: contains a zero byte", at);
  return {};
}

}  // namespace

Result<Spec> ParseSpec(std::string_view text, std::string_view where) {
  json::Value tree = TRY(json::ParseTree(text, where));
  if (!tree.is_object()) return Err(Code::kInvalidArgument, "{}: must be a JSON object", where);
  Spec spec = TRY(json::FromValue<Spec>(tree, where));
  if (!spec.ociVersion.starts_with("1.") && spec.ociVersion != "1")
    return Err(Code::kInvalidArgument, "{}: ociVersion: \"{}\": must be 1.x", where, spec.ociVersion);
  return spec;
}

Result<Process> ParseProcess(std::string_view text, std::string_view where) {
  return json::Parse<Process>(text, where);
}

Result<void> ValidateId(const std::string& id) {
  bool ok = !id.empty() && id.size() <= 1024 && id != "." && id != "..";
  for (char c : id) ok = ok && (isalnum(static_cast<unsigned char>(c)) || strchr("_+.-", c));
  if (!ok) return Err(Code::kInvalidArgument, "container id \"{}\": must be 1 to 1024 of A-Z a-z 0-9 _ + . -", id);
  return {};
}

Result<void> ValidateProcess(const Process& p, std::string_view at) {
  if (p.args.empty()) return Err(Code::kInvalidArgument, "{}.args: must not be empty", at);
  TRY(CheckAbsolute(p.cwd, fmt::format("{}.cwd", at)));
  for (size_t i = 0; i < p.args.size(); ++i) TRY(CheckText(p.args[i], fmt::format("{}.args[{}]", at, i)));
  for (size_t i = 0; i < p.env.size(); ++i) TRY(CheckText(p.env[i], fmt::format("{}.env[{}]", at, i)));
  std::set<std::string> seen;
  for (size_t i = 0; i < p.rlimits.size(); ++i) {
    const Rlimit& r = p.rlimits[i];
    if (!RlimitNumber(r.type))
      return Err(Code::kInvalidArgument, "{}.rlimits[{}].type: \"{}\" is not a resource limit", at, i, r.type);
    if (!seen.insert(r.type).second)
      return Err(Code::kInvalidArgument, "{}.rlimits[{}].type: {} is there twice", at, i, r.type);
    if (r.soft > r.hard)
      return Err(Code::kInvalidArgument, "{}.rlimits[{}]: soft limit {} is above the hard limit {}", at, i, r.soft,
                 r.hard);
  }
  if (p.oomScoreAdj && (*p.oomScoreAdj < -1000 || *p.oomScoreAdj > 1000))
    return Err(Code::kInvalidArgument, "{}.oomScoreAdj: {}: must be -1000 to 1000", at, *p.oomScoreAdj);
  if (p.user.umask && *p.user.umask > 0777)
    return Err(Code::kInvalidArgument, "{}.user.umask: {}: must be 0 to 511 (octal 777)", at, *p.user.umask);
  if (p.user.uid == UINT32_MAX || p.user.gid == UINT32_MAX)
    return Err(Code::kInvalidArgument, "{}.user: 4294967295 is not an id", at);
  return {};
}

Result<void> ValidateSpec(const Spec& spec) {
  if (spec.process) TRY(ValidateProcess(*spec.process));  // needed by `start` only, says the specification
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const Mount& m = spec.mounts[i];
    std::string at = fmt::format("mounts[{}]", i);
    if (m.destination.empty()) return Err(Code::kInvalidArgument, "{}.destination: missing", at);
    if (m.destination.size() >= 4000) return Err(Code::kInvalidArgument, "{}.destination: longer than 4000 bytes", at);
    TRY(CheckText(m.destination, at + ".destination"));
    if (m.uidMappings.empty() != m.gidMappings.empty())
      return Err(Code::kInvalidArgument, "{}.{}: missing; an id-mapped mount needs both mappings", at,
                 m.uidMappings.empty() ? "uidMappings" : "gidMappings");
    TRY(CheckMappings(m.uidMappings, at + ".uidMappings"));
    TRY(CheckMappings(m.gidMappings, at + ".gidMappings"));
  }
  if (!spec.linux) return Err(Code::kInvalidArgument, "linux: missing (a mount namespace is required)");
  const Linux& l = *spec.linux;
  std::set<std::string> seen;
  static constexpr std::string_view kTypes[] = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"};
  for (size_t i = 0; i < l.namespaces.size(); ++i) {
    const Namespace& ns = l.namespaces[i];
    std::string at = fmt::format("linux.namespaces[{}]", i);
    if (std::find(std::begin(kTypes), std::end(kTypes), ns.type) == std::end(kTypes))
      return Err(Code::kInvalidArgument,
                 "{}.type: \"{}\": must be one of pid, network, mount, ipc, uts, user, cgroup, time", at, ns.type);
    if (!seen.insert(ns.type).second) return Err(Code::kInvalidArgument, "{}.type: {} is there twice", at, ns.type);
    if (!ns.path.empty()) TRY(CheckAbsolute(ns.path, at + ".path"));
  }
  TRY(CheckUserNamespace(spec));
  TRY(CheckTimeOffsets(spec));
  TRY(CheckNetDevices(spec));
  if (!seen.contains("mount") && seen.contains("user"))
    return Err(Code::kInvalidArgument, "linux.namespaces: a user namespace needs a mount namespace with it");
  if (!spec.hostname.empty() && !seen.contains("uts"))
    return Err(Code::kInvalidArgument, "hostname: needs a uts namespace in linux.namespaces");
  if (!spec.domainname.empty() && !seen.contains("uts"))
    return Err(Code::kInvalidArgument, "domainname: needs a uts namespace in linux.namespaces");
  if (spec.hostname.size() > 64) return Err(Code::kInvalidArgument, "hostname: longer than 64 bytes");
  for (const auto& [name, value] : l.sysctl) TRY(SysctlPath(name, spec));
  for (size_t i = 0; i < l.devices.size(); ++i) {
    const Device& d = l.devices[i];
    std::string at = fmt::format("linux.devices[{}]", i);
    if (d.type != "c" && d.type != "b" && d.type != "u" && d.type != "p")
      return Err(Code::kInvalidArgument, "{}.type: \"{}\": must be c, b, u or p", at, d.type);
    TRY(CheckAbsolute(d.path, at + ".path"));
    if (d.path.find_first_not_of("/.") == std::string::npos)
      return Err(Code::kInvalidArgument, "{}.path: \"{}\" is not a file", at, d.path);
    if (d.type != "p" && (d.major < 0 || d.major > 4095 || d.minor < 0 || d.minor > 1048575))
      return Err(Code::kInvalidArgument, "{}: device number {}:{}: must be 0 to 4095, 0 to 1048575", at, d.major,
                 d.minor);
    if (d.fileMode && (*d.fileMode & ~uint32_t{S_IFMT | 07777}))
      return Err(Code::kInvalidArgument, "{}.fileMode: {}: must be 0 to 4095 (octal 7777)", at, *d.fileMode);
  }
  for (size_t i = 0; i < l.maskedPaths.size(); ++i)
    TRY(CheckAbsolute(l.maskedPaths[i], fmt::format("linux.maskedPaths[{}]", i)));
  for (size_t i = 0; i < l.readonlyPaths.size(); ++i)
    TRY(CheckAbsolute(l.readonlyPaths[i], fmt::format("linux.readonlyPaths[{}]", i)));
  if (l.resources) TRY(cgroup::CheckDeviceRules(l.resources->devices));
  static constexpr std::string_view kPropagations[] = {"",      "private", "rprivate",   "shared",     "rshared",
                                                       "slave", "rslave",  "unbindable", "runbindable"};
  if (std::find(std::begin(kPropagations), std::end(kPropagations), l.rootfsPropagation) == std::end(kPropagations))
    return Err(Code::kInvalidArgument, "linux.rootfsPropagation: \"{}\": must be private, shared, slave or unbindable",
               l.rootfsPropagation);
  return {};
}

Result<std::string> SysctlPath(const std::string& name, const Spec& spec) {
  std::string path = name;
  size_t first = path.find_first_of("./");
  if (first != std::string::npos && path[first] == '.') {
    // Dots separate and slashes stand for dots, when the first separator is a dot (sysctl(8)).
    for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
  }
  bool clean = !path.empty() && path[0] != '/' && path.size() < 200 && path.find('\0') == std::string::npos;
  for (size_t at = 0; clean && at != std::string::npos;) {
    size_t end = path.find('/', at);
    std::string part = path.substr(at, end == std::string::npos ? end : end - at);
    clean = !part.empty() && part != "." && part != "..";
    at = end == std::string::npos ? end : end + 1;
  }
  if (!clean) return Err(Code::kInvalidArgument, "linux.sysctl: \"{}\" is not the name of a sysctl", name);
  if (path.starts_with("net/")) {
    if (!HasNamespace(spec, "network"))
      return Err(Code::kInvalidArgument, "linux.sysctl: {} needs a network namespace", name);
    return path;
  }
  static constexpr std::string_view kIpc[] = {"kernel/msgmax",      "kernel/msgmnb",          "kernel/msgmni",
                                              "kernel/sem",         "kernel/shmall",          "kernel/shmmax",
                                              "kernel/shmmni",      "kernel/shm_rmid_forced", "kernel/msg_next_id",
                                              "kernel/sem_next_id", "kernel/shm_next_id",     "kernel/auto_msgmni"};
  if (path.starts_with("fs/mqueue/") || std::find(std::begin(kIpc), std::end(kIpc), path) != std::end(kIpc)) {
    if (!HasNamespace(spec, "ipc")) return Err(Code::kInvalidArgument, "linux.sysctl: {} needs an ipc namespace", name);
    return path;
  }
  if (path == "kernel/domainname" || path == "kernel/hostname") {
    if (!HasNamespace(spec, "uts")) return Err(Code::kInvalidArgument, "linux.sysctl: {} needs a uts namespace", name);
    if (path == "kernel/hostname") return Err(Code::kInvalidArgument, "linux.sysctl: {}: use hostname instead", name);
    return path;
  }
  return Err(Code::kInvalidArgument, "linux.sysctl: {} is not namespaced, it would change the host", name);
}

}  // namespace berth::runtime::oci
