#include "runtime/oci/planner.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/atomic_file.h"
#include "base/undo.h"
#include "runtime/linux/caps.h"
#include "runtime/linux/devices.h"
#include "runtime/linux/mount.h"
#include "runtime/linux/names.h"
#include "runtime/linux/namespaces.h"
#include "runtime/linux/seccomp.h"
#include "runtime/oci/plan_writer.h"
#include "runtime/oci/planner_mounts.h"
#include "runtime/oci/planner_process.h"
#include "runtime/oci/validate.h"

namespace berth::runtime::oci {
namespace {

using init::Plan;

Result<unique_fd> OpenNamespace(const Namespace& ns, const std::string& at) {
  return TRY_CTX(namespaces::OpenAt(ns.path, ns.type), "{}.path", at);
}

// The user namespace, before all others: it owns the new ones.
Result<void> WriteUserNamespace(PlanWriter& w, const PlanInput& in, Scope* scope) {
  scope->user_mode = in.nested || in.user_entered;
  unique_fd fd;
  const auto& list = in.spec->linux->namespaces;
  auto listed = std::find_if(list.begin(), list.end(), [](const Namespace& ns) { return ns.type == "user"; });
  if (in.user_namespace >= 0) {
    fd.reset(::fcntl(in.user_namespace, F_DUPFD_CLOEXEC, 3));
    if (!fd) return SysErr("duplicate the user namespace's descriptor");
  } else if (listed == list.end()) {
  } else if (in.user_entered) {
    unique_fd own = TRY(Open("/proc/self/ns/user", O_RDONLY));
    scope->user = own.get();
    w.Fd(std::move(own));
  } else if (listed->path.empty()) {
    fd = TRY_CTX(namespaces::MakeUser(in.spec->linux->uidMappings, in.spec->linux->gidMappings), "linux.uidMappings");
  } else {
    fd = TRY(OpenNamespace(*listed, fmt::format("linux.namespaces[{}]", listed - list.begin())));
    if (namespaces::IsOwn(fd.get(), "user")) fd.reset();  // cannot be entered again
  }
  if (fd) {
    scope->user_mode = true;
    scope->user = fd.get();
    w.plan.user_namespace = w.Fd(std::move(fd));
  }
  if (scope->user_mode) w.plan.flags |= init::kPlanUserNamespace;
  return {};
}

Result<Scope> WriteNamespaces(PlanWriter& w, const PlanInput& in) {
  Plan& plan = w.plan;
  Scope scope;
  scope.pid = in.pid_namespace >= 0 || in.caller_pid;
  scope.net = scope.ipc = scope.cgroup = false;
  TRY(WriteUserNamespace(w, in, &scope));
  std::vector<init::Join> joins;
  std::optional<init::Join> mount;
  const auto& list = in.spec->linux->namespaces;
  for (size_t i = 0; i < list.size(); ++i) {
    const Namespace& ns = list[i];
    std::string at = fmt::format("linux.namespaces[{}]", i);
    if (ns.type == "user" || (ns.type == "pid" && (in.pid_namespace >= 0 || in.caller_pid))) continue;
    scope.pid = scope.pid || ns.type == "pid";
    scope.net = scope.net || ns.type == "network";
    scope.ipc = scope.ipc || ns.type == "ipc";
    scope.cgroup = scope.cgroup || ns.type == "cgroup";
    auto flag = static_cast<uint32_t>(namespaces::Flag(ns.type));
    if (ns.path.empty() && ns.type != "time") {
      if (ns.type == "cgroup")
        plan.flags |= init::kPlanNewCgroupNamespace;
      else
        plan.clone_flags |= flag;
      if (ns.type == "network") plan.flags |= init::kPlanLoopbackUp;
      continue;
    }
    unique_fd fd = ns.path.empty()
                       ? TRY_CTX(namespaces::MakeTime(in.user_entered ? -1 : scope.user, in.spec->linux->timeOffsets),
                                 "linux.timeOffsets")
                       : TRY(OpenNamespace(ns, at));
    if (ns.type == "pid") {
      plan.pid_namespace = w.Fd(std::move(fd));
    } else if (ns.type == "mount") {
      if (namespaces::IsOwn(fd.get(), "mount"))
        return Err(Code::kInvalidArgument, "{}.path: {} is the runtime's own mount namespace", at, ns.path);
      mount = init::Join{w.Fd(std::move(fd)), flag};
      plan.flags |= init::kPlanJoinMount;
    } else {
      joins.push_back({w.Fd(std::move(fd)), flag});
    }
  }
  if (mount) joins.push_back(*mount);  // last: it takes the process's root with it
  if (in.caller_pid) {
    plan.flags |= init::kPlanCallerPid;
  } else if (in.pid_namespace >= 0) {
    int copy = ::fcntl(in.pid_namespace, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the PID namespace's descriptor");
    plan.pid_namespace = w.Fd(unique_fd(copy));
  }
  plan.joins = w.Array(joins);
  return scope;
}

// Where a further process goes: the container's groups, or ones below them.
Result<cgroup::Entry> OpenExecEntry(const cgroup::Layout& layout, const ExecInput& in) {
  if (in.subgroups.empty() && in.v2_path.empty()) return cgroup::OpenEntry(layout, cgroup::Group{in.cgroup_path});
  auto below = [&](const std::vector<std::string>* controllers) {
    std::string path = in.cgroup_path;
    for (const auto& [controller, sub] : in.subgroups) {
      bool ours = controller.empty() || (controllers && std::find(controllers->begin(), controllers->end(),
                                                                  controller) != controllers->end());
      if (ours) path = in.cgroup_path + (CleanPath(sub) == "/" ? "" : CleanPath(sub));
    }
    return path;
  };
  for (const auto& [controller, sub] : in.subgroups)
    if (!controller.empty() && !layout.V1(controller))
      return Err(Code::kInvalidArgument, "--cgroup: {}: not a version 1 controller of this host", controller);
  cgroup::Entry entry;
  for (const cgroup::Hierarchy& h : layout.v1)
    entry.tasks.push_back(TRY_CTX(Open(h.mount + below(&h.controllers) + "/tasks", O_WRONLY), "--cgroup"));
  if (!layout.v2.empty())
    entry.v2 =
        TRY_CTX(Open(layout.v2 + (in.v2_path.empty() ? below(nullptr) : in.v2_path), O_PATH | O_DIRECTORY), "--cgroup");
  return entry;
}

Result<void> WriteEntry(PlanWriter& w, cgroup::Entry entry, const std::vector<int>& further) {
  std::vector<init::FdIndex> tasks;
  for (unique_fd& fd : entry.tasks) tasks.push_back(w.Fd(std::move(fd)));
  for (int fd : further) {
    int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate a descriptor");
    tasks.push_back(w.Fd(unique_fd(copy)));
  }
  w.plan.cgroup1 = w.Array(tasks);
  if (entry.v2) w.plan.cgroup2 = w.Fd(std::move(entry.v2));
  return {};
}

bool HasMountNamespace(const Spec& spec) {
  const auto& list = spec.linux->namespaces;
  return std::any_of(list.begin(), list.end(), [](const Namespace& ns) { return ns.type == "mount"; });
}

Result<void> WriteRoot(PlanWriter& w, const PlanInput& in) {
  unique_fd root;
  if (in.rootfs >= 0) {
    if (!HasMountNamespace(*in.spec))
      return Err(Code::kInvalidArgument, "linux.namespaces: a mount namespace is required");
    root = TRY_CTX(mount::CloneOrTake(in.rootfs, true), "root filesystem");
  } else {
    if (!in.spec->root || in.spec->root->path.empty()) return Err(Code::kInvalidArgument, "root.path: missing");
    std::string path = in.spec->root->path;
    if (path[0] != '/') path = in.bundle + "/" + path;
    auto tree = mount::CloneTree(path + "/.", true);  // the dot: of a directory only
    if (!tree) {
      if (tree.error().sys == ENOTDIR) return Err(Code::kInvalidArgument, "root.path: {} is not a directory", path);
      errno = tree.error().sys;
      return SysErr("root.path: {}", path);
    }
    root = std::move(*tree);
    if (!HasMountNamespace(*in.spec)) {
      char real[PATH_MAX];
      if (!::realpath(path.c_str(), real)) return SysErr("root.path: {}", path);
      w.plan.host_root = w.Text(real);
      w.plan.flags |= init::kPlanHostMounts;
    }
  }
  // While it is furnished nothing may travel out of it; with a master it follows the host (shared: also, at the end).
  const std::string& p = in.spec->linux->rootfsPropagation;
  bool follows = p.ends_with("slave") || p.ends_with("shared");
  mount::Options how;
  if (follows) {
    how.propagation = MS_SLAVE;
    how.propagation_recursive = true;
  }
  TRY_CTX(mount::Configure(root.get(), how), "root filesystem");
  w.plan.rootfs = w.Fd(std::move(root));
  if (in.spec->root && in.spec->root->readonly) w.plan.flags |= init::kPlanReadonlyRoot;
  if (in.no_pivot) w.plan.flags |= init::kPlanNoPivot;
  if (!p.empty()) {
    std::string_view name = p;
    uint64_t recursive = 0;
    if (name[0] == 'r') {
      recursive = MS_REC;
      name.remove_prefix(1);
    }
    uint64_t flag = name == "shared"       ? MS_SHARED
                    : name == "slave"      ? MS_SLAVE
                    : name == "unbindable" ? MS_UNBINDABLE
                                           : MS_PRIVATE;
    w.plan.root_propagation = flag | recursive;
  }
  return {};
}

bool AppArmorEnabled() {
  static const bool enabled = [] {
    auto text = ReadFile("/sys/module/apparmor/parameters/enabled", 16);
    return text && text->starts_with("Y");
  }();
  return enabled;
}

bool SelinuxEnabled() {
  static const bool enabled = Exists("/sys/fs/selinux/enforce");
  return enabled;
}

void WriteCapabilities(PlanWriter& w, const Process& p, std::vector<std::string>* warnings) {
  init::CapabilitySets& sets = w.plan.capabilities;
  w.plan.flags |= init::kPlanCapabilities;
  if (!p.capabilities) return;  // none: the safe reading of an absent member, as runc has it
  std::vector<std::string> unknown;
  sets.bounding = caps::FromNames(p.capabilities->bounding, &unknown);
  sets.effective = caps::FromNames(p.capabilities->effective, &unknown);
  sets.inheritable = caps::FromNames(p.capabilities->inheritable, &unknown);
  sets.permitted = caps::FromNames(p.capabilities->permitted, &unknown);
  sets.ambient = caps::FromNames(p.capabilities->ambient, &unknown);
  std::sort(unknown.begin(), unknown.end());
  unknown.erase(std::unique(unknown.begin(), unknown.end()), unknown.end());
  for (const std::string& name : unknown)
    warnings->push_back(fmt::format("capability {} is not known and is ignored", name));
  // A user namespace has them all.
  caps::Set own = w.plan.flags & init::kPlanUserNamespace ? ~caps::Set{0} : caps::OwnBounding();
  caps::Set lacking = (sets.bounding | sets.effective | sets.inheritable | sets.permitted | sets.ambient) & ~own;
  for (const std::string& name : caps::ToNames(lacking))
    warnings->push_back(fmt::format("capability {} cannot be granted: this host does not have it", name));
  sets.bounding &= own;
  sets.permitted &= own;
  sets.effective &= sets.permitted;
  sets.inheritable &= own;
  sets.ambient &= sets.permitted & sets.inheritable;
}

Result<void> WriteFilter(PlanWriter& w, const Seccomp& filter, bool attended, const std::string& cache) {
  auto program = TRY(seccomp::Compile(filter, cache));
  if (program->flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) {
    if (filter.listenerPath.empty())
      return Err(Code::kInvalidArgument, "linux.seccomp.listenerPath: missing, and SCMP_ACT_NOTIFY is used");
    if (!attended)
      return Err(Code::kUnimplemented, "linux.seccomp: SCMP_ACT_NOTIFY: nobody here hands the listener over");
  }
  w.plan.seccomp = w.Array(program->code);
  w.plan.seccomp_flags = program->flags;
  return {};
}

// exec: a further process, else the container's first.
Result<void> WriteProcess(PlanWriter& w, const Process& p, const Spec* spec, bool exec, bool attended,
                          const std::string& seccomp_cache, std::vector<std::string>* warnings) {
  Plan& plan = w.plan;
  plan.args = w.Texts(p.args);
  plan.env = w.Texts(p.env);
  for (const std::string& variable : p.env)
    if (variable.starts_with("PATH=")) plan.path = w.Text(std::string_view(variable).substr(5));
  plan.cwd = w.Text(p.cwd);
  plan.flags |= init::kPlanUserChange;
  plan.uid = p.user.uid;
  plan.gid = p.user.gid;
  plan.groups = w.Array(p.user.additionalGids);
  plan.flags |= init::kPlanUmask;
  plan.umask = p.user.umask.value_or(022);
  if (p.noNewPrivileges) plan.flags |= init::kPlanNoNewPrivileges;
  if (p.oomScoreAdj) {
    plan.flags |= init::kPlanOomScore;
    plan.oom_score_adj = *p.oomScoreAdj;
  }
  std::vector<init::Limit> limits;
  for (const Rlimit& r : p.rlimits) limits.push_back({*RlimitNumber(r.type), 0, r.soft, r.hard});
  plan.rlimits = w.Array(limits);
  WriteCapabilities(w, p, warnings);
  // Without the security module on this host its labels mean nothing, and are passed over.
  if (!p.apparmorProfile.empty() && AppArmorEnabled()) plan.apparmor = w.Text(p.apparmorProfile);
  if (!p.selinuxLabel.empty() && SelinuxEnabled()) plan.selinux = w.Text(p.selinuxLabel);
  if (spec && spec->linux && spec->linux->seccomp && !spec->linux->seccomp->defaultAction.empty()) {
    TRY(WriteFilter(w, *spec->linux->seccomp, attended, seccomp_cache));
  }
  TRY(WriteAttributes(w, p, exec));
  if (spec && spec->linux) {
    TRY(WritePersonality(w, *spec->linux));
    TRY(WriteMemoryPolicy(w, *spec->linux));
  }
  return {};
}

// Host uid of the container's user when the cgroup is to be its own: only with a cgroup namespace of its own that is
// mounted writable, and never on version 1. Nothing to do when that is root already.
std::optional<uint32_t> CgroupOwner(const PlanInput& in, const cgroup::Group& group) {
  const Spec& spec = *in.spec;
  bool fresh = false, writable = false;
  for (const Namespace& ns : spec.linux->namespaces) fresh = fresh || (ns.type == "cgroup" && ns.path.empty());
  if (!fresh || group.path.empty()) return std::nullopt;
  for (const Mount& m : spec.mounts) {
    if (m.type != "cgroup" && m.type != "cgroup2") continue;
    mount::Options o = mount::ParseOptions(m.options);
    writable = writable || !((o.ms_flags & MS_RDONLY) || (o.tree_set & MOUNT_ATTR_RDONLY));
  }
  if (!writable) return std::nullopt;
  auto layout = cgroup::Host();
  if (!layout || !(*layout)->unified()) return std::nullopt;
  if (!spec.process) return std::nullopt;
  uint32_t uid = spec.process->user.uid;
  for (const IdMapping& m : spec.linux->uidMappings)
    if (!in.user_entered && uid >= m.containerID && uid - m.containerID < m.size) {
      uid = m.hostID + (uid - m.containerID);
      break;
    }
  if (uid == 0) return std::nullopt;
  return uid;
}

Resources ResourcesOf(const Spec& spec) {
  Resources r = spec.linux->resources.value_or(Resources{});
  r.devices = cgroup::WithDefaultDevices(r.devices);
  return r;
}

bool HasLimits(const Spec& spec) {
  if (!spec.linux->resources) return false;
  const Resources& r = *spec.linux->resources;
  return r.memory || r.cpu || r.pids || r.blockIO || r.network || !r.hugepageLimits.empty() || !r.rdma.empty() ||
         !r.unified.empty();
}

Result<void> MakeCgroup(PlanWriter& w, const PlanInput& in, Prepared* out, Undo* undo) {
  const cgroup::Layout* layout = TRY(cgroup::Host());
  cgroup::Group group = TRY(in.adopt_cgroup ? cgroup::Ensure(*layout, in.cgroup_path)
                                            : cgroup::Create(*layout, in.cgroup_path));
  if (!in.adopt_cgroup) undo->Add("remove cgroup", [group] { return cgroup::Remove(group); });
  Resources resources = ResourcesOf(*in.spec);
  if (in.user_entered || in.nested)
    resources.devices.clear();  // only the host's root may; there is nothing to mknod either
  TRY(cgroup::Apply(*layout, group, resources));
  TRY(WriteEntry(w, TRY(cgroup::OpenEntry(*layout, group)), in.tasks));
  out->cgroup = group;
  return {};
}

}  // namespace

Result<Prepared> MakePlan(const PlanInput& in) {
  const Spec& spec = *in.spec;
  TRY(ValidateSpec(spec));
  static const Process kNone{.args = {""}, .capabilities = Capabilities{}};
  const Process& process = spec.process ? *spec.process : kNone;
  Prepared out;
  PlanWriter w;
  if (!spec.process) w.plan.flags |= init::kPlanNoProcess;
  if (in.listen_pid) w.plan.flags |= init::kPlanListenPid;
  Undo undo;

  if (!in.cgroup_path.empty()) {
    auto made = MakeCgroup(w, in, &out, &undo);
    if (!made) {
      int sys = made.error().sys;
      if (!in.cgroup_optional || (sys != EACCES && sys != EPERM && sys != EROFS && sys != ENOENT))
        return std::unexpected(std::move(made).error());
      if (HasLimits(spec))
        out.warnings.push_back(fmt::format("linux.resources: ignored, no cgroup can be made: {}", made.error().what));
    }
  } else if (HasLimits(spec)) {
    return Err(Code::kInvalidArgument, "linux.resources: limits need a cgroup of the container's own");
  }
  w.plan.kind = init::PlanKind::kContainer;
  Scope scope = TRY(WriteNamespaces(w, in));
  TRY(WriteRoot(w, in));
  bool terminal = in.terminal || process.terminal;
  TRY(WriteMounts(w, in, out.cgroup, scope));
  out.cgroup_owner = CgroupOwner(in, out.cgroup);
  w.plan.hostname = w.TextOrNone(spec.hostname);
  w.plan.domainname = w.TextOrNone(spec.domainname);
  std::vector<init::Setting> settings;
  for (const auto& [name, value] : spec.linux->sysctl)
    settings.push_back({w.Text(TRY(SysctlPath(name, spec))), w.Text(value)});
  w.plan.sysctls = w.Array(settings);
  w.plan.masked = w.Texts(spec.linux->maskedPaths);
  w.plan.readonly_paths = w.Texts(spec.linux->readonlyPaths);
  if (in.new_keyring) w.plan.keyring = w.Text("_ses." + in.id);
  if (terminal) {
    w.plan.flags |= init::kPlanTerminal;
    if (process.consoleSize) {
      w.plan.rows = process.consoleSize->height;
      w.plan.columns = process.consoleSize->width;
    }
  }
  w.plan.preserve_fds = in.preserve_fds;
  if (in.listen >= 0) {
    int copy = ::fcntl(in.listen, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the start socket");
    w.plan.listen = w.Fd(unique_fd(copy));
  }
  TRY(WriteHooks(w, in));
  TRY(WriteProcess(w, process, &spec, false, in.attended, in.seccomp_cache, &out.warnings));
  out.notifies = w.plan.seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER;
  out.plan = w.Finish(&out.fds);
  if (out.plan.size() > init::kPlanLimit)
    return Err(Code::kInvalidArgument, "the start plan has {} bytes; args, env and mounts are too large",
               out.plan.size());
  undo.Keep();
  return out;
}

// What an exec joins: everything that may differ. With a user namespace only what is the container's own: the rest
// belongs to the host, which the process then has no right to join.
static uint32_t TargetFlags(const ExecInput& in) {
  constexpr uint32_t kUsual = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
  if (!in.spec || !in.spec->linux) return kUsual;
  uint32_t own = 0;
  for (const Namespace& ns : in.spec->linux->namespaces) {
    if (ns.type == "user" && !ns.path.empty()) {
      auto joined = namespaces::OpenAt(ns.path, "user");
      if (joined && namespaces::IsOwn(joined->get(), "user")) continue;  // one's own cannot be joined
    }
    own |= static_cast<uint32_t>(namespaces::Flag(ns.type));
  }
  if (own & CLONE_NEWUSER) return own;
  if (!(own & CLONE_NEWNS)) return (kUsual & ~static_cast<uint32_t>(CLONE_NEWNS)) | (own & static_cast<uint32_t>(namespaces::Flag("time")));
  return kUsual | (own & static_cast<uint32_t>(namespaces::Flag("time")));
}

Result<Prepared> MakeExecPlan(const ExecInput& in) {
  TRY(ValidateProcess(*in.process));
  Prepared out;
  PlanWriter w;
  w.plan.kind = init::PlanKind::kExec;
  w.plan.target_flags = TargetFlags(in);
  if (w.plan.target_flags & CLONE_NEWUSER) w.plan.flags |= init::kPlanUserNamespace;
  if (in.target >= 0) {
    int copy = ::fcntl(in.target, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the container's pidfd");
    w.plan.target = w.Fd(unique_fd(copy));
  } else {
    w.plan.flags |= init::kPlanCallerTarget;
  }
  if (in.root >= 0) {
    int copy = ::fcntl(in.root, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the container's root");
    w.plan.rootfs = w.Fd(unique_fd(copy));
  }
  if (!in.cgroup_path.empty()) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    TRY(WriteEntry(w, TRY(OpenExecEntry(*layout, in)), in.tasks));
  }
  // The container's, by its name; else the keys of the caller's session could be read inside.
  if (!in.id.empty()) w.plan.keyring = w.Text("_ses." + in.id);
  if (in.terminal || in.process->terminal) {
    w.plan.flags |= init::kPlanTerminal;
    w.plan.rows = in.rows;
    w.plan.columns = in.columns;
    if (!in.rows && in.process->consoleSize) {
      w.plan.rows = in.process->consoleSize->height;
      w.plan.columns = in.process->consoleSize->width;
    }
  }
  w.plan.preserve_fds = in.preserve_fds;
  if (in.listen_pid) w.plan.flags |= init::kPlanListenPid;
  TRY(WriteProcess(w, *in.process, in.spec, true, in.attended, in.seccomp_cache, &out.warnings));
  out.notifies = w.plan.seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER;
  out.plan = w.Finish(&out.fds);
  if (out.plan.size() > init::kPlanLimit)
    return Err(Code::kInvalidArgument, "the start plan has {} bytes; args and env are too large", out.plan.size());
  return out;
}

}  // namespace berth::runtime::oci
