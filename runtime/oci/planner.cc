#include "runtime/oci/planner.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/atomic_file.h"
#include "base/undo.h"
#include "runtime/linux/caps.h"
#include "runtime/linux/devices.h"
#include "runtime/linux/mount.h"
#include "runtime/linux/names.h"
#include "runtime/linux/seccomp.h"
#include "runtime/oci/plan_writer.h"
#include "runtime/oci/planner_mounts.h"
#include "runtime/oci/planner_process.h"
#include "runtime/oci/validate.h"

namespace berth::runtime::oci {
namespace {

using init::Plan;

uint64_t NamespaceFlag(std::string_view type) {
  if (type == "pid") return CLONE_NEWPID;
  if (type == "network") return CLONE_NEWNET;
  if (type == "mount") return CLONE_NEWNS;
  if (type == "ipc") return CLONE_NEWIPC;
  if (type == "uts") return CLONE_NEWUTS;
  return CLONE_NEWCGROUP;
}

Result<unique_fd> OpenNamespace(const Namespace& ns, const std::string& at) {
  unique_fd fd = TRY_CTX(Open(ns.path, O_RDONLY), "{}.path", at);
  int type = ::ioctl(fd.get(), NS_GET_NSTYPE);
  if (type < 0 || static_cast<uint64_t>(type) != NamespaceFlag(ns.type))
    return Err(Code::kInvalidArgument, "{}.path: {} is not a {} namespace", at, ns.path, ns.type);
  return fd;
}

Result<void> WriteNamespaces(PlanWriter& w, const PlanInput& in) {
  Plan& plan = w.plan;
  std::vector<init::Join> joins;
  const auto& list = in.spec->linux->namespaces;
  for (size_t i = 0; i < list.size(); ++i) {
    const Namespace& ns = list[i];
    std::string at = fmt::format("linux.namespaces[{}]", i);
    if (ns.type == "pid" && (in.pid_namespace >= 0 || in.caller_pid)) continue;
    if (ns.path.empty()) {
      if (ns.type == "cgroup")
        plan.flags |= init::kPlanNewCgroupNamespace;
      else
        plan.clone_flags |= NamespaceFlag(ns.type);
      if (ns.type == "network") plan.flags |= init::kPlanLoopbackUp;
      continue;
    }
    unique_fd fd = TRY(OpenNamespace(ns, at));
    if (ns.type == "pid")
      plan.pid_namespace = w.Fd(std::move(fd));
    else
      joins.push_back({w.Fd(std::move(fd)), static_cast<uint32_t>(NamespaceFlag(ns.type))});
  }
  if (in.caller_pid) {
    plan.flags |= init::kPlanCallerPid;
  } else if (in.pid_namespace >= 0) {
    int copy = ::fcntl(in.pid_namespace, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the PID namespace's descriptor");
    plan.pid_namespace = w.Fd(unique_fd(copy));
  }
  plan.joins = w.Array(joins);
  return {};
}

Result<void> WriteEntry(PlanWriter& w, const cgroup::Group& group) {
  cgroup::Entry entry = TRY(cgroup::OpenEntry(*TRY(cgroup::Host()), group));
  std::vector<init::FdIndex> tasks;
  for (unique_fd& fd : entry.tasks) tasks.push_back(w.Fd(std::move(fd)));
  w.plan.cgroup1 = w.Array(tasks);
  if (entry.v2) w.plan.cgroup2 = w.Fd(std::move(entry.v2));
  return {};
}

Result<void> WriteRoot(PlanWriter& w, const PlanInput& in) {
  unique_fd root;
  if (in.rootfs >= 0) {
    root = TRY_CTX(mount::CloneOrTake(in.rootfs, true), "root filesystem");
  } else {
    if (!in.spec->root || in.spec->root->path.empty()) return Err(Code::kInvalidArgument, "root.path: missing");
    std::string path = in.spec->root->path;
    if (path[0] != '/') path = in.bundle + "/" + path;
    struct stat st;
    if (::stat(path.c_str(), &st) < 0) return SysErr("root.path: {}", path);
    if (!S_ISDIR(st.st_mode)) return Err(Code::kInvalidArgument, "root.path: {} is not a directory", path);
    root = TRY_CTX(mount::CloneTree(path, true), "root.path");
  }
  TRY_CTX(mount::Configure(root.get(), {}), "root filesystem");
  w.plan.rootfs = w.Fd(std::move(root));
  if (in.spec->root && in.spec->root->readonly) w.plan.flags |= init::kPlanReadonlyRoot;
  if (in.no_pivot) w.plan.flags |= init::kPlanNoPivot;
  const std::string& p = in.spec->linux->rootfsPropagation;
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
  caps::Set own = caps::OwnBounding();
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

}  // namespace

Result<Prepared> MakePlan(const PlanInput& in) {
  const Spec& spec = *in.spec;
  TRY(ValidateSpec(spec));
  const Process& process = *spec.process;
  Prepared out;
  PlanWriter w;
  Undo undo;

  if (!in.cgroup_path.empty()) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    out.cgroup = TRY(cgroup::Create(*layout, in.cgroup_path));
    undo.Add("remove cgroup", [group = out.cgroup] { return cgroup::Remove(group); });
    TRY(cgroup::Apply(*layout, out.cgroup, ResourcesOf(spec)));
    TRY(WriteEntry(w, out.cgroup));
  } else if (HasLimits(spec)) {
    return Err(Code::kInvalidArgument, "linux.resources: limits need a cgroup of the container's own");
  }
  w.plan.kind = init::PlanKind::kContainer;
  TRY(WriteNamespaces(w, in));
  TRY(WriteRoot(w, in));
  bool terminal = in.terminal || process.terminal;
  TRY(WriteMounts(w, in, out.cgroup));
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

Result<Prepared> MakeExecPlan(const ExecInput& in) {
  TRY(ValidateProcess(*in.process));
  Prepared out;
  PlanWriter w;
  w.plan.kind = init::PlanKind::kExec;
  w.plan.target_flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
  if (in.target >= 0) {
    int copy = ::fcntl(in.target, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the container's pidfd");
    w.plan.target = w.Fd(unique_fd(copy));
  } else {
    w.plan.flags |= init::kPlanCallerTarget;
  }
  if (!in.cgroup_path.empty()) TRY(WriteEntry(w, cgroup::Group{in.cgroup_path}));
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
  TRY(WriteProcess(w, *in.process, in.spec, true, in.attended, in.seccomp_cache, &out.warnings));
  out.notifies = w.plan.seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER;
  out.plan = w.Finish(&out.fds);
  if (out.plan.size() > init::kPlanLimit)
    return Err(Code::kInvalidArgument, "the start plan has {} bytes; args and env are too large", out.plan.size());
  return out;
}

}  // namespace berth::runtime::oci
