#include <cstring>

#include <linux/filter.h>

#include "runtime/init/child.h"
#include "runtime/init/text.h"

namespace berth::init {

void Describe(Failure* failure, int sys, const char* a, const char* b, const char* c) {
  failure->sys = sys;
  Text text(failure->what, sizeof failure->what);
  text << a << b << c;
  if (sys) text << ": " << strerror(sys);
}

namespace {

struct Checker {
  const char* base;
  size_t size;
  const Plan& plan;
  size_t fd_count;

  bool Text(Str s) const { return s < size && (s == 0 || memchr(base + s, 0, size - s)); }
  bool Fd(FdIndex i) const { return i >= -1 && i < static_cast<FdIndex>(fd_count); }
  template <class T>
  bool Array(Slice s) const {
    return s.count == 0 || (s.offset % alignof(T) == 0 && s.offset <= size && s.count <= (size - s.offset) / sizeof(T));
  }
  bool Texts(Slice s) const {
    if (!Array<Str>(s)) return false;
    const Str* p = reinterpret_cast<const Str*>(base + s.offset);
    for (uint32_t i = 0; i < s.count; ++i)
      if (!Text(p[i])) return false;
    return true;
  }
  bool Hooks(Slice s) const {
    if (!Array<Hook>(s)) return false;
    const Hook* hooks = reinterpret_cast<const Hook*>(base + s.offset);
    for (uint32_t i = 0; i < s.count; ++i)
      if (!hooks[i].path || !Text(hooks[i].path) || !Texts(hooks[i].args) || !Texts(hooks[i].env)) return false;
    return true;
  }
  bool Ok() const {
    const Plan& p = plan;
    if (!Text(p.host_root) || !Text(p.state_head) || !Text(p.state_tail) || !Text(p.hook_dir) ||
        !Hooks(p.create_container) || !Hooks(p.start_container))
      return false;
    if (!p.host_root && (p.create_container.count || (p.flags & kPlanEnvironment))) return false;
    if ((p.create_container.count || p.start_container.count) && (!p.state_head || !p.state_tail)) return false;
    if (!Array<Scheduler>(p.scheduler) || p.scheduler.count > 1 || !Array<uint64_t>(p.initial_cpus) ||
        !Array<uint64_t>(p.final_cpus) || !Array<uint64_t>(p.memory_nodes))
      return false;
    if (!Text(p.hostname) || !Text(p.domainname) || !Text(p.path) || !Text(p.cwd) || !Text(p.keyring) ||
        !Text(p.apparmor) || !Text(p.selinux) || !p.cwd)
      return false;
    if (!Fd(p.user_namespace) || !Fd(p.pid_namespace) || !Fd(p.target) || !Fd(p.cgroup2) || !Fd(p.rootfs) ||
        !Fd(p.null_tree) || !Fd(p.listen))
      return false;
    if (p.kind == PlanKind::kContainer && p.rootfs < 0) return false;
    if (!Texts(p.masked) || !Texts(p.readonly_paths) || !Texts(p.args) || !Texts(p.env) || p.args.count == 0)
      return false;
    if (!Array<uint32_t>(p.groups) || !Array<Limit>(p.rlimits) || !Array<sock_filter>(p.seccomp) ||
        p.seccomp.count > 65535)
      return false;
    if (!Array<FdIndex>(p.cgroup1) || !Array<Join>(p.joins) || !Array<Op>(p.ops) || !Array<Setting>(p.sysctls))
      return false;
    const FdIndex* tasks = reinterpret_cast<const FdIndex*>(base + p.cgroup1.offset);
    for (uint32_t i = 0; i < p.cgroup1.count; ++i)
      if (!Fd(tasks[i])) return false;
    const Join* joins = reinterpret_cast<const Join*>(base + p.joins.offset);
    for (uint32_t i = 0; i < p.joins.count; ++i)
      if (!Fd(joins[i].fd)) return false;
    const Setting* settings = reinterpret_cast<const Setting*>(base + p.sysctls.offset);
    for (uint32_t i = 0; i < p.sysctls.count; ++i)
      if (!Text(settings[i].name) || !Text(settings[i].value)) return false;
    const Op* ops = reinterpret_cast<const Op*>(base + p.ops.offset);
    for (uint32_t i = 0; i < p.ops.count; ++i) {
      const Op& op = ops[i];
      if (!Fd(op.fd) || !Text(op.target) || !Text(op.source) || !Text(op.type) || !Text(op.data)) return false;
      if (!op.target || base[op.target] != '/' || base[op.target + 1] == 0) return false;
      if (op.kind == OpKind::kTree && op.fd < 0) return false;
    }
    return true;
  }
};

}  // namespace

const Plan* CheckPlan(const void* bytes, size_t size, size_t fd_count, Plan* room, Failure* failure) {
  const Plan* plan = static_cast<const Plan*>(bytes);
  if (size < kPlanSize1 || size > kPlanLimit || plan->magic != kPlanMagic || plan->size != size) {
    Describe(failure, 0, "start plan: damaged header");
    return nullptr;
  }
  if (plan->version == 0 || plan->version > kPlanVersion) {
    Describe(failure, 0, "start plan: made by a later version");
    return nullptr;
  }
  if (plan->version < kPlanVersion) {  // what it does not have yet is absent
    *room = Plan{};
    memcpy(static_cast<void*>(room), bytes, kPlanSize1);
    plan = room;
  } else if (size < sizeof(Plan)) {
    Describe(failure, 0, "start plan: damaged header");
    return nullptr;
  }
  Checker checker{static_cast<const char*>(bytes), size, *plan, fd_count};
  if (plan->fd_count != fd_count || (plan->kind != PlanKind::kContainer && plan->kind != PlanKind::kExec) ||
      !checker.Ok()) {
    Describe(failure, 0, "start plan: inconsistent");
    return nullptr;
  }
  return plan;
}

}  // namespace berth::init
