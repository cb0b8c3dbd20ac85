#include "runtime/oci/validate.h"

#include <sched.h>

#include "base/json.h"
#include "runtime/linux/devices.h"
#include "runtime/linux/names.h"

namespace berth::runtime::oci {
namespace {

bool Asks(const json::Value* v) {  // present and not empty
  if (!v || v->is_null()) return false;
  if (auto* o = v->if_object()) {
    for (const auto& member : *o)
      if (Asks(&member.value())) return true;
    return false;
  }
  if (auto* a = v->if_array()) return !a->empty();
  if (auto* s = v->if_string()) return !s->empty();
  if (auto* b = v->if_bool()) return *b;
  return true;
}

const json::Value* At(const json::Value& root, std::string_view path) {
  const json::Value* v = &root;
  while (!path.empty()) {
    std::string_view name = path.substr(0, path.find('.'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    auto* o = v->if_object();
    if (!o || !(v = o->if_contains(name))) return nullptr;
  }
  return v;
}

constexpr std::string_view kRefused[] = {"linux.timeOffsets",
                                         "linux.netDevices",
                                         "linux.uidMappings",
                                         "linux.gidMappings",
                                         "linux.resources.blockIO",
                                         "linux.resources.network",
                                         "linux.resources.rdma",
                                         "linux.resources.memory.checkBeforeUpdate",
                                         "linux.resources.memory.disableOOMKiller",
                                         "linux.resources.cpu.burst",
                                         "linux.resources.cpu.idle",
                                         "linux.resources.cpu.realtimeRuntime",
                                         "linux.resources.cpu.realtimePeriod"};

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

Result<void> CheckText(const std::string& text, const std::string& at) {
  if (text.find('\0') != std::string::npos) return Err(Code::kInvalidArgument, "{}: contains a zero byte", at);
  return {};
}

}  // namespace

Result<Spec> ParseSpec(std::string_view text, std::string_view where) {
  json::Value tree = TRY(json::ParseTree(text, where));
  if (!tree.is_object()) return Err(Code::kInvalidArgument, "{}: must be a JSON object", where);
  for (std::string_view path : kRefused)
    if (Asks(At(tree, path))) return Err(Code::kUnimplemented, "{}: {}: not supported by this runtime", where, path);
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
  if (!spec.process) return Err(Code::kInvalidArgument, "process: missing");
  TRY(ValidateProcess(*spec.process));
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const Mount& m = spec.mounts[i];
    std::string at = fmt::format("mounts[{}]", i);
    if (m.destination.empty()) return Err(Code::kInvalidArgument, "{}.destination: missing", at);
    if (m.destination.size() >= 4000) return Err(Code::kInvalidArgument, "{}.destination: longer than 4000 bytes", at);
    TRY(CheckText(m.destination, at + ".destination"));
    if (!m.uidMappings.empty() || !m.gidMappings.empty())
      return Err(Code::kUnimplemented, "{}.uidMappings: id-mapped mounts are not supported", at);
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
    if (ns.type == "user" || ns.type == "time")
      return Err(Code::kUnimplemented, "{}: {} namespaces are not supported", at, ns.type);
    if (ns.type == "mount" && !ns.path.empty())
      return Err(Code::kUnimplemented, "{}.path: joining a mount namespace is not supported", at);
  }
  if (!seen.contains("mount")) return Err(Code::kInvalidArgument, "linux.namespaces: a mount namespace is required");
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
    if (d.type != "p" && (d.major < 0 || d.minor < 0))
      return Err(Code::kInvalidArgument, "{}: negative device number", at);
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
