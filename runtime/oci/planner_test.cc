#include "runtime/oci/planner.h"

#include <gtest/gtest.h>

#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>

#include "runtime/init/executor.h"
#include "runtime/init/plan.h"
#include "runtime/linux/caps.h"
#include "runtime/oci/planner_mounts.h"
#include "runtime/oci/validate.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {
namespace {

using init::Op;
using init::OpKind;
using init::Plan;

// A plan as the executor sees it.
struct View {
  std::string bytes;
  const Plan& plan() const { return *reinterpret_cast<const Plan*>(bytes.data()); }
  std::string Text(init::Str s) const { return s ? bytes.data() + s : ""; }
  std::vector<std::string> Texts(init::Slice s) const {
    std::vector<std::string> out;
    for (uint32_t i = 0; i < s.count; ++i) out.push_back(Text(Items<init::Str>(s)[i]));
    return out;
  }
  template <class T>
  const T* Items(init::Slice s) const {
    return reinterpret_cast<const T*>(bytes.data() + s.offset);
  }
};

Spec Minimal() {
  Spec s;
  s.process.emplace();
  s.process->args = {"sh", "-c", "true"};
  s.process->env = {"PATH=/a:/b", "X=1"};
  s.linux.emplace();
  s.linux->namespaces = {{"mount", ""}, {"pid", ""}};
  return s;
}

std::string Wrong(const Spec& s) {
  auto r = ValidateSpec(s);
  return r ? "ok" : r.error().what;
}

TEST(Exec, CarriesTheProcess) {
  Process p;
  p.args = {"id", "-u"};
  p.env = {"A=b", "PATH=/x/bin:/y"};
  p.cwd = "/work";
  p.user = {7, 8, 022, {9, 10}};
  p.noNewPrivileges = true;
  p.oomScoreAdj = 500;
  p.rlimits = {{"RLIMIT_NOFILE", 100, 50}};
  p.capabilities = Capabilities{{"CAP_CHOWN", "CAP_NOPE"}, {"CAP_CHOWN"}, {}, {"CAP_CHOWN"}, {}};
  auto prepared = MakeExecPlan({.process = &p, .terminal = true, .rows = 24, .columns = 80});
  ASSERT_TRUE(prepared) << prepared.error().what;
  View v{prepared->plan};
  const Plan& plan = v.plan();
  EXPECT_EQ(plan.magic, init::kPlanMagic);
  EXPECT_EQ(plan.size, v.bytes.size());
  EXPECT_EQ(plan.kind, init::PlanKind::kExec);
  EXPECT_EQ(plan.flags, init::kPlanTerminal | init::kPlanNoNewPrivileges | init::kPlanCapabilities |
                            init::kPlanOomScore | init::kPlanUmask | init::kPlanUserChange | init::kPlanCallerTarget |
                            init::kPlanAllCpus);
  EXPECT_EQ(plan.target_flags,
            static_cast<uint32_t>(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP));
  EXPECT_EQ(v.Texts(plan.args), (std::vector<std::string>{"id", "-u"}));
  EXPECT_EQ(v.Texts(plan.env), p.env);
  EXPECT_EQ(v.Text(plan.path), "/x/bin:/y");
  EXPECT_EQ(v.Text(plan.cwd), "/work");
  EXPECT_EQ(plan.uid, 7U);
  EXPECT_EQ(plan.gid, 8U);
  EXPECT_EQ(plan.umask, 022U);
  ASSERT_EQ(plan.groups.count, 2U);
  EXPECT_EQ(v.Items<uint32_t>(plan.groups)[1], 10U);
  ASSERT_EQ(plan.rlimits.count, 1U);
  EXPECT_EQ(v.Items<init::Limit>(plan.rlimits)[0].soft, 50U);
  EXPECT_EQ(plan.capabilities.bounding, caps::OwnBounding() & 1);
  EXPECT_EQ(plan.oom_score_adj, 500);
  EXPECT_EQ(plan.rows, 24);
  EXPECT_EQ(plan.fd_count, 0U);
  ASSERT_FALSE(prepared->warnings.empty());
  EXPECT_EQ(prepared->warnings[0], "capability CAP_NOPE is not known and is ignored");
}

TEST(Exec, SeccompComesFromTheSpec) {
  Spec s = Minimal();
  s.linux->seccomp =
      Seccomp{"SCMP_ACT_ALLOW", {}, {}, {"SECCOMP_FILTER_FLAG_LOG"}, {{{"chmod"}, "SCMP_ACT_ERRNO", {}, {}}}};
  auto prepared = MakeExecPlan({.process = &*s.process, .spec = &s});
  ASSERT_TRUE(prepared);
  View v{prepared->plan};
  EXPECT_GT(v.plan().seccomp.count, 5U);
  EXPECT_EQ(v.plan().seccomp_flags, 2U);
  EXPECT_EQ(v.plan().seccomp.offset % 8, 0U);
}

TEST(Mounts, BecomeOperationsInOrder) {
  Spec s = Minimal();
  s.mounts = {{"/proc", "proc", "proc", {}, {}, {}},
              {"/dev", "tmpfs", "tmpfs", {"nosuid", "mode=755"}, {}, {}},
              {"dev/pts", "devpts", "devpts", {"newinstance"}, {}, {}},
              {"/sys", "sysfs", "sysfs", {"ro", "rnoexec"}, {}, {}},
              {"/data", "", "", {"remount", "bind", "ro"}, {}, {}}};
  s.linux->devices = {{"c", "/dev/fuse", 10, 229, 0600, 1, {}}};
  PlanWriter w;
  PlanInput in;
  in.spec = &s;
  auto done = WriteMounts(w, in, {});
  ASSERT_TRUE(done) << done.error().what;
  std::vector<unique_fd> fds;
  Plan header = w.plan;
  View v{w.Finish(&fds)};
  EXPECT_TRUE(fds.empty());
  std::vector<std::string> story;
  for (uint32_t i = 0; i < header.ops.count; ++i) {
    const Op& op = v.Items<Op>(header.ops)[i];
    story.push_back(fmt::format("{} {}", static_cast<int>(op.kind), v.Text(op.target)));
  }
  EXPECT_EQ(story, (std::vector<std::string>{"1 /proc", "1 /dev", "3 /dev/null", "3 /dev/zero", "3 /dev/full",
                                             "3 /dev/random", "3 /dev/urandom", "3 /dev/tty", "4 /dev/ptmx",
                                             "4 /dev/fd", "4 /dev/stdin", "4 /dev/stdout", "4 /dev/stderr",
                                             "4 /dev/core", "1 /dev/pts", "1 /sys", "6 /data", "3 /dev/fuse"}));
  const Op* ops = v.Items<Op>(header.ops);
  EXPECT_EQ(ops[0].flags, init::kOpNoSymlinks | init::kOpProc | init::kOpOverProc);
  EXPECT_EQ(v.Text(ops[1].data), "mode=755");
  EXPECT_EQ(ops[1].ms_flags, static_cast<uint64_t>(MS_NOSUID));
  EXPECT_EQ(ops[14].flags, init::kOpNoSymlinks | init::kOpDevpts);
  EXPECT_EQ(ops[15].attr_set, static_cast<uint64_t>(MOUNT_ATTR_NOEXEC));
  EXPECT_EQ(ops[17].mode, static_cast<uint32_t>(S_IFCHR | 0600));
  EXPECT_EQ(ops[17].uid, 1U);
}

TEST(Mounts, ErrorsNameTheMount) {
  auto wrong = [](Mount m) {
    Spec s = Minimal();
    s.mounts = {{"/proc", "proc", "proc", {}, {}, {}}, std::move(m)};
    PlanWriter w;
    PlanInput in;
    in.spec = &s;
    in.bundle = "/b";
    auto done = WriteMounts(w, in, {});
    return done ? std::string("ok") : done.error().what;
  };
  EXPECT_EQ(wrong({"/", "tmpfs", "", {}, {}, {}}), "mounts[1].destination: nothing may be mounted on /");
  EXPECT_EQ(wrong({"/x/..", "tmpfs", "", {}, {}, {}}), "mounts[1].destination: nothing may be mounted on /");
  EXPECT_EQ(wrong({"/proc", "tmpfs", "", {}, {}, {}}), "mounts[1].type: only procfs may be mounted on /proc");
  EXPECT_EQ(wrong({"/a", "proc", "", {}, {}, {}}), "mounts[1].destination: procfs belongs on /proc, not /a");
  EXPECT_EQ(wrong({"/a", "bind", "", {"ro"}, {}, {}}), "mounts[1].source: missing; a bind mount needs one");
  EXPECT_EQ(wrong({"/a", "", "", {}, {}, {}}), "mounts[1].type: missing; it is neither a bind mount nor a filesystem");
  EXPECT_EQ(wrong({"/a", "bind", "/x", {"idmap", "bind"}, {}, {}}),
            "mounts[1].source: clone the mount of /x: No such file or directory");
  EXPECT_EQ(wrong({"/a", "tmpfs", "", {"idmap"}, {}, {}}), "mounts[1].options: only bind mounts can be id-mapped");
  EXPECT_EQ(wrong({"/a", "mqueue", "", {"tmpcopyup"}, {}, {}}),
            "mounts[1].options: tmpcopyup is for mounts of type tmpfs");
}

TEST(Paths, AreCleaned) {
  EXPECT_EQ(CleanPath("/a//b/./c/../d/"), "/a/b/d");
  EXPECT_EQ(CleanPath("a/b"), "/a/b");
  EXPECT_EQ(CleanPath("/../../etc"), "/etc");
  EXPECT_EQ(CleanPath(""), "/");
}

TEST(Validate, NamesTheMember) {
  EXPECT_EQ(Wrong(Minimal()), "ok");
  Spec s = Minimal();
  s.process->args.clear();
  EXPECT_EQ(Wrong(s), "process.args: must not be empty");
  s = Minimal();
  s.process->cwd = "work";
  EXPECT_EQ(Wrong(s), "process.cwd: \"work\": must be an absolute path");
  s = Minimal();
  s.process->rlimits = {{"RLIMIT_CORE", 1, 1}, {"RLIMIT_CORE", 1, 1}};
  EXPECT_EQ(Wrong(s), "process.rlimits[1].type: RLIMIT_CORE is there twice");
  s.process->rlimits = {{"RLIMIT_CORE", 1, 2}};
  EXPECT_EQ(Wrong(s), "process.rlimits[0]: soft limit 2 is above the hard limit 1");
  s.process->rlimits = {{"CORE", 1, 1}};
  EXPECT_EQ(Wrong(s), "process.rlimits[0].type: \"CORE\" is not a resource limit");
  s = Minimal();
  s.linux->namespaces = {{"pid", ""}};
  EXPECT_EQ(Wrong(s), "ok");
  s.linux->namespaces = {{"user", ""}};
  s.linux->uidMappings = s.linux->gidMappings = {{0, 1000, 1}};
  EXPECT_EQ(Wrong(s), "linux.namespaces: a user namespace needs a mount namespace with it");
  s.linux->uidMappings.clear();
  s.linux->gidMappings.clear();
  s.linux->namespaces = {{"mount", ""}, {"pid", ""}, {"pid", ""}};
  EXPECT_EQ(Wrong(s), "linux.namespaces[2].type: pid is there twice");
  s.linux->namespaces = {{"mount", ""}, {"net", ""}};
  EXPECT_TRUE(Wrong(s).starts_with("linux.namespaces[1].type: \"net\": must be one of")) << Wrong(s);
  s = Minimal();
  s.hostname = "x";
  EXPECT_EQ(Wrong(s), "hostname: needs a uts namespace in linux.namespaces");
  s = Minimal();
  s.linux->maskedPaths = {"proc/kcore"};
  EXPECT_EQ(Wrong(s), "linux.maskedPaths[0]: \"proc/kcore\": must be an absolute path");
  s = Minimal();
  s.linux->rootfsPropagation = "open";
  EXPECT_EQ(Wrong(s), "linux.rootfsPropagation: \"open\": must be private, shared, slave or unbindable");
  s = Minimal();
  s.process->oomScoreAdj = 1001;
  EXPECT_EQ(Wrong(s), "process.oomScoreAdj: 1001: must be -1000 to 1000");
}

TEST(Validate, UserNamespaces) {
  Spec s = Minimal();
  s.linux->uidMappings = {{0, 1000, 1}};
  EXPECT_EQ(Wrong(s), "linux.uidMappings: needs a user namespace in linux.namespaces");
  s.linux->namespaces.push_back({"user", ""});
  EXPECT_EQ(Wrong(s), "linux.gidMappings: missing; the user namespace needs both mappings");
  s.linux->gidMappings = {{0, 1000, 10}};
  EXPECT_EQ(Wrong(s), "ok");
  s.process->user.uid = 1;
  EXPECT_EQ(Wrong(s), "process.user.uid: 1 is not mapped by linux.uidMappings");
  s.process->user.uid = 0;
  s.process->user.additionalGids = {9, 10};
  EXPECT_EQ(Wrong(s), "process.user.additionalGids[1]: 10 is not mapped by linux.gidMappings");
  s.process->user.additionalGids.clear();
  s.linux->uidMappings = {{0, 1000, 5}, {4, 7000, 1}};
  EXPECT_EQ(Wrong(s), "linux.uidMappings[1]: overlaps entry 0");
  s.linux->uidMappings = {{0, 1000, 0}};
  EXPECT_EQ(Wrong(s), "linux.uidMappings[0].size: must not be 0");
  s.linux->uidMappings = {{0, 4294967290, 100}};
  EXPECT_EQ(Wrong(s), "linux.uidMappings[0]: 100 ids from 4294967290 go beyond 4294967294");
  s.linux->uidMappings.assign(341, {0, 1000, 1});
  EXPECT_EQ(Wrong(s), "linux.uidMappings: 341 entries: the kernel takes 340");
  s.linux->uidMappings.clear();
  s.linux->gidMappings.clear();
  EXPECT_EQ(Wrong(s), "linux.uidMappings: missing; the user namespace needs both mappings");
  s.linux->namespaces.back().path = "/proc/1/ns/user";
  EXPECT_EQ(Wrong(s), "ok");
  s.mounts = {{"/a", "bind", "/a", {"bind", "idmap"}, {{0, 1, 1}}, {}}};
  EXPECT_EQ(Wrong(s), "mounts[0].gidMappings: missing; an id-mapped mount needs both mappings");
}

TEST(Validate, TimeOffsets) {
  Spec s = Minimal();
  s.linux->timeOffsets = {{"monotonic", {100, 0}}};
  EXPECT_EQ(Wrong(s), "linux.timeOffsets: needs a new time namespace in linux.namespaces");
  s.linux->namespaces.push_back({"time", ""});
  EXPECT_EQ(Wrong(s), "ok");
  s.linux->timeOffsets = {{"boottime", {-1, 1'000'000'000}}};
  EXPECT_EQ(Wrong(s), "linux.timeOffsets.boottime.nanosecs: 1000000000: must be below 1000000000");
  s.linux->timeOffsets = {{"realtime", {1, 0}}};
  EXPECT_EQ(Wrong(s), "linux.timeOffsets.realtime: must be monotonic or boottime");
}

TEST(Validate, NetDevices) {
  Spec s = Minimal();
  s.linux->netDevices = {{"eth1", {}}};
  EXPECT_EQ(Wrong(s), "linux.netDevices: needs a network namespace in linux.namespaces");
  s.linux->namespaces.push_back({"network", ""});
  EXPECT_EQ(Wrong(s), "ok");
  s.linux->netDevices = {{"eth1", {"lan%d"}}, {"eth2", {"lan%d"}}};
  EXPECT_EQ(Wrong(s), "ok");
  s.linux->netDevices = {{"eth1", {"lan"}}, {"eth2", {"lan"}}};
  EXPECT_EQ(Wrong(s), "linux.netDevices.eth2.name: lan is there twice");
  for (const char* bad : {"sixteen-letters-", "a b", "a/b", "a:b", ".", "lan%s", "%d%d"}) {
    s.linux->netDevices = {{"eth1", {bad}}};
    EXPECT_EQ(Wrong(s), fmt::format("linux.netDevices.eth1.name: \"{}\" is not the name of a network device", bad));
  }
}

TEST(Validate, Devices) {
  Spec s = Minimal();
  s.linux->devices = {{"c", "/dev/x", 4096, 0, {}, {}, {}}};
  EXPECT_EQ(Wrong(s), "linux.devices[0]: device number 4096:0: must be 0 to 4095, 0 to 1048575");
  s.linux->devices = {{"c", "/dev/x", 1, 0, 1 << 20, {}, {}}};
  EXPECT_EQ(Wrong(s), "linux.devices[0].fileMode: 1048576: must be 0 to 4095 (octal 7777)");
  s.linux->devices = {{"c", "//", 1, 0, {}, {}, {}}};
  EXPECT_EQ(Wrong(s), "linux.devices[0].path: \"//\" is not a file");
  s.linux->devices = {{"p", "/dev/x", -1, -1, 0600, {}, {}}};
  EXPECT_EQ(Wrong(s), "ok");
}

TEST(Validate, SysctlsMustBeNamespaced) {
  Spec s = Minimal();
  EXPECT_EQ(SysctlPath("net.ipv4.ip_forward", s).error().what,
            "linux.sysctl: net.ipv4.ip_forward needs a network namespace");
  s.linux->namespaces.push_back({"network", ""});
  s.linux->namespaces.push_back({"ipc", ""});
  EXPECT_EQ(*SysctlPath("net.ipv4.ip_forward", s), "net/ipv4/ip_forward");
  EXPECT_EQ(*SysctlPath("net/ipv4/conf/eth0.5/forwarding", s), "net/ipv4/conf/eth0.5/forwarding");
  EXPECT_EQ(*SysctlPath("net.ipv4.conf.eth0/5.forwarding", s), "net/ipv4/conf/eth0.5/forwarding");
  EXPECT_EQ(*SysctlPath("kernel.shmmax", s), "kernel/shmmax");
  EXPECT_EQ(*SysctlPath("fs.mqueue.msg_max", s), "fs/mqueue/msg_max");
  for (const char* bad : {"kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "net..x", "", "/net/x",
                          "kernel.hostname"})
    EXPECT_FALSE(SysctlPath(bad, s)) << bad;
}

TEST(Config, UnknownIsIgnoredKnownButUnsupportedIsRefused) {
  constexpr std::string_view kHead =
      R"({"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]},)";
  auto parse = [&](std::string_view tail) {
    auto s = ParseSpec(std::string(kHead) + std::string(tail) + "}", "config.json");
    return s ? std::string("ok") : s.error().what;
  };
  EXPECT_EQ(parse(R"("vendor":{"a":1},"hooks":{"prestart":[]},"solaris":{"milestone":"x"})"), "ok");
  EXPECT_EQ(parse(R"("hooks":{"poststart":[{"path":3}]})"),
            "config.json: hooks.poststart[0].path: expected string, got integer");
  EXPECT_EQ(parse(R"("mounts":"x")"), "config.json: mounts: expected array, got string");
  auto wrong = ParseSpec(R"({"ociVersion":"2.0.0"})", "config.json");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().what, "config.json: ociVersion: \"2.0.0\": must be 1.x");
  auto user = ParseSpec(R"({"ociVersion":"1.0.0","process":{"user":{"uid":-1}}})", "config.json");
  ASSERT_FALSE(user);
  EXPECT_TRUE(user.error().what.starts_with("config.json: process.user.uid:")) << user.error().what;
  EXPECT_FALSE(ParseSpec("[]", "config.json"));
  EXPECT_FALSE(ParseSpec("{", "config.json"));
}

TEST(Config, TheTemplateIsValid) {
  auto spec = ParseSpec(SpecTemplate(), "template");
  ASSERT_TRUE(spec) << spec.error().what;
  EXPECT_EQ(Wrong(*spec), "ok");
}

TEST(Ids, AreSafeAsFileNames) {
  for (const char* good : {"a", "A-b_c.d+1", "..."}) EXPECT_TRUE(ValidateId(good)) << good;
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a\n", "ü"}) EXPECT_FALSE(ValidateId(bad)) << bad;
}

// ---- The executor's own check of what crossed a process boundary.
// ------------------------------------------------------

TEST(Damaged, PlansAreRefusedBeforeAnythingHappens) {
  Process p;
  p.args = {"x"};
  auto prepared = MakeExecPlan({.process = &p});
  ASSERT_TRUE(prepared);
  init::Process process;
  init::Failure failure;
  auto run = [&](std::string bytes, size_t fds = 0) {
    int none[1] = {-1};
    bool ok = init::Create(bytes.data(), bytes.size(), none, fds, {}, &process, &failure);
    return ok ? std::string("ran") : std::string(failure.what);
  };
  EXPECT_TRUE(run("").starts_with("start plan: damaged header"));
  EXPECT_TRUE(run(prepared->plan.substr(0, prepared->plan.size() - 8)).starts_with("start plan: damaged header"));
  EXPECT_TRUE(run(prepared->plan, 1).starts_with("start plan: inconsistent"));
  EXPECT_TRUE(run(prepared->plan).starts_with("start plan: no pidfd of the container"));
  auto poke = [&](size_t offset, uint32_t value) {
    std::string bytes = prepared->plan;
    memcpy(bytes.data() + offset, &value, sizeof value);
    return run(bytes);
  };
  EXPECT_TRUE(poke(offsetof(Plan, version), 99).starts_with("start plan: made by a later version"));
  EXPECT_TRUE(poke(offsetof(Plan, cwd), 1 << 30).starts_with("start plan: inconsistent"));
  EXPECT_TRUE(poke(offsetof(Plan, args) + 4, 1 << 30).starts_with("start plan: inconsistent"));
  EXPECT_TRUE(poke(offsetof(Plan, args) + 4, 0).starts_with("start plan: inconsistent"));
  EXPECT_TRUE(poke(offsetof(Plan, args), 4).starts_with("start plan: inconsistent") ||
              poke(offsetof(Plan, args), 4).starts_with("start plan: no pidfd"));
  EXPECT_TRUE(poke(offsetof(Plan, cgroup2), 0).starts_with("start plan: inconsistent"));
  EXPECT_TRUE(poke(offsetof(Plan, kind), 7).starts_with("start plan: inconsistent"));
}

}  // namespace
}  // namespace berth::runtime::oci
