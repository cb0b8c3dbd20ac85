// The OCI specification of a container. Pure: everything that had to be looked up on the host or in the image comes in
// with OciInput, so that golden files can say what a request becomes.
#include <set>

#include "pods/capabilities.h"
#include "pods/core.h"
#include "pods/default_paths.h"

namespace berth::pods {

namespace oci = runtime::oci;

namespace {

constexpr std::string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

Result<std::vector<std::string>> Args(const ContainerSpec& spec, const images::ImageConfig& image) {
  std::vector<std::string> args = spec.command.empty() ? image.entrypoint : spec.command;
  // A command without arguments drops the image's: they belong to the entrypoint that it replaces.
  const auto& rest = !spec.args.empty() || !spec.command.empty() ? spec.args : image.cmd;
  args.insert(args.end(), rest.begin(), rest.end());
  if (args.empty())
    return Err(Code::kInvalidArgument, "command: no command given, and the image has neither entrypoint nor cmd");
  if (args[0].empty()) return Err(Code::kInvalidArgument, "command: the program's name is empty");
  return args;
}

// NAME=value entries; a later one takes the place of an earlier one of its name.
class Environment {
 public:
  void Set(const std::string& entry) {
    std::string name = entry.substr(0, entry.find('='));
    auto [it, fresh] = index_.try_emplace(name, entries_.size());
    if (fresh)
      entries_.push_back(entry);
    else
      entries_[it->second] = entry;
  }
  void Default(const std::string& name, const std::string& value) {
    if (!index_.contains(name)) Set(name + "=" + value);
  }
  std::vector<std::string> Take() { return std::move(entries_); }

 private:
  std::vector<std::string> entries_;
  std::map<std::string, size_t> index_;
};

std::vector<std::string> Env(const OciInput& in) {
  Environment env;
  for (const auto& e : in.image.config.env) env.Set(e);
  env.Default("PATH", std::string(kDefaultPath));
  if (!in.hostname.empty()) env.Set("HOSTNAME=" + in.hostname);
  if (in.container.tty) env.Default("TERM", "xterm");
  for (const auto& e : in.container.env) env.Set(e);
  if (!in.home.empty()) env.Default("HOME", in.home);
  return env.Take();
}

size_t Depth(const std::string& path) {
  size_t depth = 0;
  bool inside = false;
  for (char c : path) {
    if (c == '/')
      inside = false;
    else if (!std::exchange(inside, true))
      ++depth;
  }
  return depth;
}

std::string Clean(const std::string& path) {  // "/a//b/" -> "/a/b"; ".." was refused before
  std::string out;
  size_t at = 0;
  while (at < path.size()) {
    size_t end = std::min(path.find('/', at), path.size());
    if (std::string_view part(path.data() + at, end - at); !part.empty() && part != ".") {
      out += '/';
      out += part;
    }
    at = end + 1;
  }
  return out.empty() ? "/" : out;
}

oci::Mount Bind(const Mount& m) {
  oci::Mount out{.destination = Clean(m.container_path),
                 .type = "bind",
                 .source = m.host_path,
                 .options = {"rbind"},
                 .uidMappings = {},
                 .gidMappings = {}};
  switch (m.propagation) {
    case Propagation::kPrivate:
      out.options.push_back("rprivate");
      break;
    case Propagation::kHostToContainer:
      out.options.push_back("rslave");
      break;
    case Propagation::kBidirectional:
      out.options.push_back("rshared");
      break;
  }
  if (m.recursive_read_only)
    out.options.push_back("rro");
  else
    out.options.push_back(m.read_only ? "ro" : "rw");
  return out;
}

std::vector<oci::Mount> Mounts(const OciInput& in) {
  const bool privileged = in.container.privileged;
  std::vector<oci::Mount> all;
  auto add = [&](std::string at, std::string type, std::string source, std::vector<std::string> options) {
    all.push_back({.destination = std::move(at),
                   .type = std::move(type),
                   .source = std::move(source),
                   .options = std::move(options),
                   .uidMappings = {},
                   .gidMappings = {}});
  };
  const std::string mode = privileged ? "rw" : "ro";
  add("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"});
  add("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"});
  add("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", mode});
  add("/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"});
  // The launcher puts the pod's shared memory here.
  add("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"});
  add("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"});
  add("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", mode});
  const std::string files = in.container.read_only_rootfs ? "ro" : "rw";
  for (const char* name : {"hosts", "hostname", "resolv.conf"})
    add(fmt::format("/etc/{}", name), "bind", in.pod_dir + "/" + name, {"rbind", "rprivate", files});

  // A user's mount takes the place of ours at the same path. All are then made from the root down, so that none hides
  // another that was asked for.
  std::set<std::string> taken;
  for (const Mount& m : in.container.mounts) taken.insert(Clean(m.container_path));
  std::erase_if(all, [&](const oci::Mount& m) { return taken.contains(m.destination); });
  for (const Mount& m : in.container.mounts) all.push_back(Bind(m));
  std::stable_sort(all.begin(), all.end(), [](const oci::Mount& a, const oci::Mount& b) {
    return Depth(a.destination) < Depth(b.destination);
  });
  return all;
}

oci::DeviceRule Allow(std::string type, std::optional<int64_t> major, std::optional<int64_t> minor,
                      std::string access) {
  return {.allow = true, .type = std::move(type), .access = std::move(access), .major = major, .minor = minor};
}

std::vector<oci::DeviceRule> DeviceRules(const OciInput& in) {
  if (in.container.privileged) return {Allow("a", std::nullopt, std::nullopt, "rwm")};
  std::vector<oci::DeviceRule> rules;
  rules.push_back({.allow = false, .type = "a", .access = "rwm", .major = {}, .minor = {}});
  // Nodes may be made, not opened: what tar and package managers in containers expect.
  rules.push_back(Allow("c", std::nullopt, std::nullopt, "m"));
  rules.push_back(Allow("b", std::nullopt, std::nullopt, "m"));
  for (int minor : {3, 5, 7, 8, 9}) rules.push_back(Allow("c", 1, minor, "rwm"));  // null zero full random urandom
  for (int minor : {0, 1, 2}) rules.push_back(Allow("c", 5, minor, "rwm"));        // tty console ptmx
  rules.push_back(Allow("c", 136, std::nullopt, "rwm"));                           // pts
  return rules;
}

}  // namespace

Result<void> SetLimits(const Resources& r, bool cgroup_v2, oci::Resources& out) {
  oci::Cpu cpu;
  if (r.cpu_shares > 0) cpu.shares = static_cast<uint64_t>(r.cpu_shares);
  if (r.cpu_period > 0) cpu.period = static_cast<uint64_t>(r.cpu_period);
  if (r.cpu_quota != 0) cpu.quota = r.cpu_quota;  // -1: none
  cpu.cpus = r.cpuset_cpus;
  cpu.mems = r.cpuset_mems;
  if (cpu.shares || cpu.period || cpu.quota || !cpu.cpus.empty() || !cpu.mems.empty()) out.cpu = cpu;
  if (r.memory_limit > 0) {
    oci::Memory memory;
    memory.limit = r.memory_limit;
    if (r.memory_swap != 0 && r.memory_swap != -1 && r.memory_swap < r.memory_limit)
      return Err(Code::kInvalidArgument, "resources.memory_swap: {} is below memory_limit {}; it is the sum of both",
                 r.memory_swap, r.memory_limit);
    // The sum of memory and swap, as version 1 counts. Unset with a limit: no swap.
    memory.swap = r.memory_swap == 0 ? r.memory_limit : r.memory_swap;
    out.memory = memory;
  } else if (r.memory_swap > 0) {
    return Err(Code::kInvalidArgument, "resources.memory_swap: needs memory_limit");
  }
  if (r.pids_limit != 0) out.pids = oci::Pids{r.pids_limit};
  for (const auto& [size, limit] : r.hugepages) out.hugepageLimits.push_back({size, limit});
  if (cgroup_v2) out.unified = r.unified;
  return {};
}

namespace {

Result<oci::Resources> Limits(const OciInput& in) {
  const Resources& r = in.container.resources;
  oci::Resources out;
  out.devices = DeviceRules(in);
  for (size_t i = 0; i < in.devices.size() && !in.container.privileged; ++i) {
    const oci::Device& d = in.devices[i];
    std::string access = "rwm";
    for (const DeviceSpec& asked : in.container.devices)  // a directory stands for all below it
      if (d.path == asked.container_path || d.path.starts_with(asked.container_path + "/")) access = asked.permissions;
    out.devices.push_back(Allow(d.type, d.major, d.minor, access));
  }
  TRY(SetLimits(r, in.cgroup_v2, out));
  return out;
}

}  // namespace

Result<oci::Spec> MakeOciSpec(const OciInput& in) {
  const ContainerSpec& c = in.container;
  oci::Spec spec;
  spec.root = oci::Root{.path = "rootfs", .readonly = c.read_only_rootfs};
  spec.mounts = Mounts(in);

  oci::Process p;
  p.terminal = c.tty;
  p.user.uid = in.user.uid;
  p.user.gid = in.user.gid;
  p.user.additionalGids = in.user.groups;
  p.args = TRY(Args(c, in.image.config));
  p.env = Env(in);
  p.cwd = !c.working_dir.empty()                 ? c.working_dir
          : !in.image.config.working_dir.empty() ? in.image.config.working_dir
                                                 : "/";
  if (p.cwd[0] != '/') p.cwd = "/" + p.cwd;
  p.capabilities = TRY(MakeCapabilities(c));
  p.noNewPrivileges = c.no_new_privileges;
  p.oomScoreAdj = c.resources.oom_score_adj;
  if (c.apparmor.kind == "localhost")
    p.apparmorProfile = c.apparmor.path;
  else if (c.apparmor.kind == "unconfined")
    p.apparmorProfile = "unconfined";
  spec.process = std::move(p);

  oci::Linux linux;
  linux.cgroupsPath = in.cgroup;
  linux.resources = TRY(Limits(in));
  linux.devices = in.devices;
  linux.namespaces.push_back({.type = "mount", .path = ""});
  if (c.namespaces.pid == Namespace::kContainer) linux.namespaces.push_back({.type = "pid", .path = ""});
  // On version 1 the host's view stays: nested agents look their own cgroup up by the host's path.
  if (in.cgroup_v2 && !c.privileged) linux.namespaces.push_back({.type = "cgroup", .path = ""});
  linux.rootfsPropagation = "rprivate";
  for (const Mount& m : c.mounts) {
    if (m.propagation == Propagation::kBidirectional)
      linux.rootfsPropagation = "rshared";
    else if (m.propagation == Propagation::kHostToContainer && linux.rootfsPropagation == "rprivate")
      linux.rootfsPropagation = "rslave";
  }
  if (!c.privileged) {
    if (c.masked_paths)
      linux.maskedPaths = *c.masked_paths;
    else
      linux.maskedPaths.assign(std::begin(kMaskedPaths), std::end(kMaskedPaths));
    if (c.readonly_paths)
      linux.readonlyPaths = *c.readonly_paths;
    else
      linux.readonlyPaths.assign(std::begin(kReadonlyPaths), std::end(kReadonlyPaths));
    linux.seccomp = in.seccomp;
  }
  spec.linux = std::move(linux);

  // Names that shims, NRI plugins and hooks read. The caller's own annotations stay out: some OCI runtimes obey them.
  auto& a = spec.annotations;
  a["io.kubernetes.cri.container-type"] = "container";
  a["io.kubernetes.cri.sandbox-id"] = in.pod.id.str();
  a["io.kubernetes.cri.sandbox-name"] = in.pod.spec.name;
  a["io.kubernetes.cri.sandbox-namespace"] = in.pod.spec.name_space;
  a["io.kubernetes.cri.sandbox-uid"] = in.pod.spec.uid;
  a["io.kubernetes.cri.container-name"] = c.name;
  a["io.kubernetes.cri.image-name"] = c.image;
  return spec;
}

}  // namespace berth::pods
