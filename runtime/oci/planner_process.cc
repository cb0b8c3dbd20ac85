#include "runtime/oci/planner_process.h"

#include <limits.h>
#include <linux/mempolicy.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <sys/personality.h>

#include <charconv>

#include "runtime/oci/hooks.h"

namespace berth::runtime::oci {
namespace {

struct Word {
  std::string_view name;
  uint32_t value;
};

std::optional<uint32_t> Find(std::span<const Word> words, std::string_view name) {
  for (const Word& w : words)
    if (w.name == name) return w.value;
  return std::nullopt;
}

std::string Names(std::span<const Word> words) {
  std::string all;
  for (const Word& w : words) all += fmt::format("{}{}", all.empty() ? "" : ", ", w.name);
  return all;
}

std::unexpected<Error> Unknown(std::string_view at, std::string_view name, std::span<const Word> words) {
  return Err(Code::kInvalidArgument, "{}: \"{}\": must be one of {}", at, name, Names(words));
}

constexpr Word kPolicies[] = {{"SCHED_OTHER", 0}, {"SCHED_FIFO", 1}, {"SCHED_RR", 2},      {"SCHED_BATCH", 3},
                              {"SCHED_ISO", 4},   {"SCHED_IDLE", 5}, {"SCHED_DEADLINE", 6}};
constexpr Word kSchedFlags[] = {{"SCHED_FLAG_RESET_ON_FORK", 0x01}, {"SCHED_FLAG_RECLAIM", 0x02},
                                {"SCHED_FLAG_DL_OVERRUN", 0x04},    {"SCHED_FLAG_KEEP_POLICY", 0x08},
                                {"SCHED_FLAG_KEEP_PARAMS", 0x10},   {"SCHED_FLAG_UTIL_CLAMP_MIN", 0x20},
                                {"SCHED_FLAG_UTIL_CLAMP_MAX", 0x40}};
constexpr Word kIoClasses[] = {{"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3}};
constexpr Word kDomains[] = {{"LINUX", PER_LINUX}, {"LINUX32", PER_LINUX32}};
constexpr Word kModes[] = {
    {"MPOL_DEFAULT", MPOL_DEFAULT},  {"MPOL_BIND", MPOL_BIND},           {"MPOL_INTERLEAVE", MPOL_INTERLEAVE},
    {"MPOL_WEIGHTED_INTERLEAVE", 6}, {"MPOL_PREFERRED", MPOL_PREFERRED}, {"MPOL_PREFERRED_MANY", 5},
    {"MPOL_LOCAL", MPOL_LOCAL}};
constexpr Word kModeFlags[] = {
    {"MPOL_F_NUMA_BALANCING", 1 << 13}, {"MPOL_F_RELATIVE_NODES", 1 << 14}, {"MPOL_F_STATIC_NODES", 1 << 15}};

init::Slice Write(PlanWriter& w, const std::vector<Hook>& hooks) {
  std::vector<init::Hook> out;
  for (const Hook& h : hooks) {
    init::Hook hook;
    hook.path = w.Text(h.path);
    hook.timeout = static_cast<uint32_t>(h.timeout.value_or(0));
    hook.args = w.Texts(h.args);
    hook.env = w.Texts(h.env);
    out.push_back(hook);
  }
  return w.Array(out);
}

}  // namespace

Result<std::vector<uint64_t>> ParseList(std::string_view text, std::string_view at) {
  std::vector<uint64_t> mask;
  auto bad = [&] {
    return Err(Code::kInvalidArgument, "{}: \"{}\": must be a list like 0-3,7 of numbers below 8192", at, text);
  };
  auto number = [](std::string_view s) -> std::optional<unsigned> {
    unsigned n = 0;
    auto [end, err] = std::from_chars(s.data(), s.data() + s.size(), n);
    if (err != std::errc() || end != s.data() + s.size() || n >= 8192) return std::nullopt;
    return n;
  };
  std::string_view left = text;
  while (!left.empty()) {
    std::string_view part = left.substr(0, left.find(','));
    left.remove_prefix(part.size());
    if (!left.empty()) {
      left.remove_prefix(1);
      if (left.empty()) return bad();
    }
    size_t dash = part.find('-');
    auto first = number(part.substr(0, dash));
    auto last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (!first || !last || *last < *first) return bad();
    if (mask.size() <= *last / 64) mask.resize(*last / 64 + 1);
    for (unsigned n = *first; n <= *last; ++n) mask[n / 64] |= uint64_t{1} << n % 64;
  }
  return mask;
}

Result<void> WriteAttributes(PlanWriter& w, const Process& p, bool exec, std::string_view at) {
  init::Plan& plan = w.plan;
  if (p.scheduler) {
    const Scheduler& s = *p.scheduler;
    init::Scheduler out;
    auto policy = Find(kPolicies, s.policy);
    if (!policy) return Unknown(fmt::format("{}.scheduler.policy", at), s.policy, kPolicies);
    out.policy = *policy;
    for (size_t i = 0; i < s.flags.size(); ++i) {
      auto flag = Find(kSchedFlags, s.flags[i]);
      if (!flag) return Unknown(fmt::format("{}.scheduler.flags[{}]", at, i), s.flags[i], kSchedFlags);
      out.flags |= *flag;
    }
    if (s.nice < -20 || s.nice > 19)
      return Err(Code::kInvalidArgument, "{}.scheduler.nice: {}: must be -20 to 19", at, s.nice);
    bool real_time = *policy == 1 || *policy == 2;
    if (s.priority != 0 && !real_time)
      return Err(Code::kInvalidArgument, "{}.scheduler.priority: only SCHED_FIFO and SCHED_RR have one", at);
    bool keeps = out.flags & 0x18;  // KEEP_POLICY, KEEP_PARAMS
    if (real_time && !keeps && (s.priority < 1 || s.priority > 99))
      return Err(Code::kInvalidArgument, "{}.scheduler.priority: {}: must be 1 to 99 for {}", at, s.priority, s.policy);
    if (*policy != 6 && (s.runtime || s.deadline || s.period))
      return Err(Code::kInvalidArgument, "{}.scheduler: runtime, deadline and period need SCHED_DEADLINE", at);
    out.nice = s.nice;
    out.priority = static_cast<uint32_t>(s.priority);
    out.runtime = s.runtime;
    out.deadline = s.deadline;
    out.period = s.period;
    plan.scheduler = w.Array(std::vector{out});
  }
  if (p.ioPriority) {
    auto kind = Find(kIoClasses, p.ioPriority->class_);
    if (!kind) return Unknown(fmt::format("{}.ioPriority.class", at), p.ioPriority->class_, kIoClasses);
    if (p.ioPriority->priority < 0 || p.ioPriority->priority > 7)
      return Err(Code::kInvalidArgument, "{}.ioPriority.priority: {}: must be 0 to 7", at, p.ioPriority->priority);
    plan.flags |= init::kPlanIoPriority;
    plan.io_priority = *kind << 13 | static_cast<uint32_t>(p.ioPriority->priority);
  }
  plan.flags |= init::kPlanAllCpus;
  if (exec && p.execCPUAffinity) {
    auto initial = TRY(ParseList(p.execCPUAffinity->initial, fmt::format("{}.execCPUAffinity.initial", at)));
    auto final_cpus = TRY(ParseList(p.execCPUAffinity->final, fmt::format("{}.execCPUAffinity.final", at)));
    plan.initial_cpus = w.Array(initial);
    plan.final_cpus = w.Array(final_cpus);
    if (!initial.empty() || !final_cpus.empty()) plan.flags &= ~static_cast<uint32_t>(init::kPlanAllCpus);
  }
  return {};
}

Result<void> WritePersonality(PlanWriter& w, const Linux& linux) {
  if (!linux.personality) return {};
  auto domain = Find(kDomains, linux.personality->domain);
  if (!domain) return Unknown("linux.personality.domain", linux.personality->domain, kDomains);
  if (!linux.personality->flags.empty())
    return Err(Code::kInvalidArgument, "linux.personality.flags: the specification has none so far");
  w.plan.flags |= init::kPlanPersonality;
  w.plan.personality = *domain;
  return {};
}

Result<void> WriteMemoryPolicy(PlanWriter& w, const Linux& linux) {
  if (!linux.memoryPolicy) return {};
  const MemoryPolicy& p = *linux.memoryPolicy;
  auto mode = Find(kModes, p.mode);
  if (!mode) return Unknown("linux.memoryPolicy.mode", p.mode, kModes);
  uint32_t value = *mode;
  for (size_t i = 0; i < p.flags.size(); ++i) {
    auto flag = Find(kModeFlags, p.flags[i]);
    if (!flag) return Unknown(fmt::format("linux.memoryPolicy.flags[{}]", i), p.flags[i], kModeFlags);
    value |= *flag;
  }
  auto nodes = TRY(ParseList(p.nodes, "linux.memoryPolicy.nodes"));
  if (nodes.empty() && p.mode != "MPOL_DEFAULT" && p.mode != "MPOL_LOCAL" && p.mode != "MPOL_PREFERRED")
    return Err(Code::kInvalidArgument, "linux.memoryPolicy.nodes: {} needs at least one", p.mode);
  if (!nodes.empty() && (p.mode == "MPOL_DEFAULT" || p.mode == "MPOL_LOCAL"))
    return Err(Code::kInvalidArgument, "linux.memoryPolicy.nodes: {} takes none", p.mode);
  w.plan.flags |= init::kPlanMemoryPolicy;
  w.plan.memory_mode = value;
  w.plan.memory_nodes = w.Array(nodes);
  return {};
}

Result<void> WriteHooks(PlanWriter& w, const PlanInput& in) {
  if (!in.spec->hooks) return {};
  const Hooks& hooks = *in.spec->hooks;
  TRY(CheckHooks(hooks));
  bool ours = !hooks.prestart.empty() || !hooks.createRuntime.empty();
  if (!ours && hooks.createContainer.empty() && hooks.startContainer.empty()) return {};
  if (ours || !hooks.createContainer.empty()) {
    if (!in.attended || in.rootfs >= 0)
      return Err(Code::kUnimplemented, "hooks: prestart, createRuntime and createContainer need a caller with files");
    std::string path = in.spec->root->path;
    if (path[0] != '/') path = in.bundle + "/" + path;
    char real[PATH_MAX];
    if (!::realpath(path.c_str(), real)) return SysErr("root.path: {}", path);
    w.plan.host_root = w.Text(real);
  }
  if (ours) w.plan.flags |= init::kPlanEnvironment;
  HookState state(in.spec->ociVersion, in.id, in.bundle, in.spec->annotations);
  w.plan.state_head = w.Text(state.head);
  w.plan.state_tail = w.Text(state.tail);
  w.plan.hook_dir = w.Text(in.bundle);
  w.plan.create_container = Write(w, hooks.createContainer);
  w.plan.start_container = Write(w, hooks.startContainer);
  return {};
}

}  // namespace berth::runtime::oci
