// How the kernel is to run the process: scheduler, I/O priority, CPUs, memory nodes, personality.
#include <cstring>

#include "runtime/init/child.h"
#include "runtime/init/kernel.h"

namespace berth::init {
namespace {

// The kernel's struct sched_attr, 48 bytes (SCHED_ATTR_SIZE_VER0), and with the utilisation clamps 56.
struct SchedAttr {
  uint32_t size = 0, policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
  uint32_t util_min = 0, util_max = 1024;
};
constexpr uint64_t kUtilClamp = 0x60;  // SCHED_FLAG_UTIL_CLAMP_MIN | _MAX

}  // namespace

long SetCpus(const Child& child, Slice cpus) {
  return syscall(SYS_sched_setaffinity, 0, cpus.count * sizeof(uint64_t), child.Array<uint64_t>(cpus));
}

void JoinedCgroups(Child& child) {
  const Plan& plan = *child.plan;
  if (plan.final_cpus.count) {
    if (SetCpus(child, plan.final_cpus) < 0) Fail(child, errno, "process.execCPUAffinity.final: set CPU affinity");
  } else if (plan.flags & kPlanAllCpus) {
    // More bits than any kernel has CPUs; those that the cpuset forbids are taken out by the kernel.
    uint64_t all[128];
    memset(all, 0xff, sizeof all);
    // Not being allowed (a caller without CAP_SYS_NICE over another user) leaves what there was: no reason to fail.
    syscall(SYS_sched_setaffinity, 0, sizeof all, all);
  }
}

void ApplyAttributes(Child& child) {
  const Plan& plan = *child.plan;
  if (plan.flags & kPlanIoPriority) {
    // The process is the first of its group, and what it forks inherits.
    if (syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, plan.io_priority) < 0)
      Fail(child, errno, "process.ioPriority: set I/O priority");
  }
  if (plan.flags & kPlanPersonality && syscall(SYS_personality, plan.personality) < 0)
    Fail(child, errno, "linux.personality: set execution domain");
  if (plan.flags & kPlanMemoryPolicy) {
    Slice nodes = plan.memory_nodes;
    // One bit more than the mask has: the kernel takes the last one off again (set_mempolicy(2), notes).
    if (syscall(SYS_set_mempolicy, plan.memory_mode, nodes.count ? child.Array<uint64_t>(nodes) : nullptr,
                nodes.count ? nodes.count * 64UL + 1 : 0UL) < 0)
      Fail(child, errno, "linux.memoryPolicy: set memory policy");
  }
  if (plan.scheduler.count) {
    const Scheduler& s = *child.Array<Scheduler>(plan.scheduler);
    SchedAttr attr;
    attr.size = s.flags & kUtilClamp ? sizeof(SchedAttr) : 48;
    attr.policy = s.policy;
    attr.flags = s.flags;
    attr.nice = s.nice;
    attr.priority = s.priority;
    attr.runtime = s.runtime;
    attr.deadline = s.deadline;
    attr.period = s.period;
    if (syscall(SYS_sched_setattr, 0, &attr, 0) < 0) Fail(child, errno, "process.scheduler: set scheduler attributes");
  }
}

}  // namespace berth::init
