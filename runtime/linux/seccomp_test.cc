#include "runtime/linux/seccomp.h"

#include <gtest/gtest.h>

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>

#include "base/atomic_file.h"

namespace berth::runtime::seccomp {
namespace {

// What the kernel's filter machine would answer.
uint32_t Judge(const std::vector<sock_filter>& code, const seccomp_data& data) {
  uint32_t a = 0;
  for (size_t pc = 0; pc < code.size(); ++pc) {
    const sock_filter& i = code[pc];
    switch (i.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        memcpy(&a, reinterpret_cast<const char*>(&data) + i.k, 4);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        a &= i.k;
        break;
      case BPF_JMP | BPF_JA:
        pc += i.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        pc += a == i.k ? i.jt : i.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        pc += a >= i.k ? i.jt : i.jf;
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        pc += a > i.k ? i.jt : i.jf;
        break;
      case BPF_RET | BPF_K:
        return i.k;
      default:
        ADD_FAILURE() << "instruction " << i.code << " at " << pc;
        return 0;
    }
  }
  ADD_FAILURE() << "ran off the end";
  return 0;
}

seccomp_data Call(int nr, uint64_t a0 = 0, uint32_t arch = AUDIT_ARCH_X86_64, uint64_t a1 = 0) {
  seccomp_data d{};
  d.nr = nr;
  d.arch = arch;
  d.args[0] = a0;
  d.args[1] = a1;
  return d;
}

constexpr uint32_t kAllow = SECCOMP_RET_ALLOW, kEperm = SECCOMP_RET_ERRNO | EPERM, kEnosys = SECCOMP_RET_ERRNO | ENOSYS;

int Nr(const char* name, const char* arch = "SCMP_ARCH_X86_64") { return SyscallNumber(name, arch).value_or(-1); }

#if defined(__x86_64__)

TEST(Default, DecidesAsDockerDoes) {
  auto p = Build(DefaultFilter({caps::Default(), "amd64", 6, 1}));
  ASSERT_TRUE(p) << p.error().what;
  auto judge = [&](const seccomp_data& d) { return Judge(p->code, d); };
  for (const char* name :
       {"read", "openat2", "fchmodat2", "chroot", "futex_wake", "mseal", "ptrace", "exit_group", "execve"})
    EXPECT_EQ(judge(Call(Nr(name))), kAllow) << name;
  for (const char* name : {"mount", "bpf", "keyctl", "add_key", "unshare", "setns", "reboot", "io_uring_setup",
                           "userfaultfd", "init_module"})
    EXPECT_EQ(judge(Call(Nr(name))), kEperm) << name;
  EXPECT_EQ(judge(Call(Nr("clone"), 0x1200011)), kAllow);
  EXPECT_EQ(judge(Call(Nr("clone"), 0x10000000)), kEperm);
  EXPECT_EQ(judge(Call(Nr("clone3"))), kEnosys);
  EXPECT_EQ(judge(Call(Nr("personality"), 0xffffffff)), kAllow);
  EXPECT_EQ(judge(Call(Nr("personality"), 0x40000)), kEperm);
  EXPECT_EQ(judge(Call(Nr("socket"), AF_INET)), kAllow);
  EXPECT_EQ(judge(Call(Nr("socket"), AF_VSOCK)), kEperm);
  EXPECT_EQ(judge(Call(Nr("socket"), 38)), kEperm);
  EXPECT_EQ(judge(Call(Nr("socket"), 39)), kAllow);
  EXPECT_EQ(judge(Call(5000)), kEnosys) << "newer than the profile";
  EXPECT_EQ(judge(Call(Nr("read", "SCMP_ARCH_X86"), 0, AUDIT_ARCH_I386)), kAllow);
  EXPECT_EQ(judge(Call(Nr("mount", "SCMP_ARCH_X86"), 0, AUDIT_ARCH_I386)), kEperm);
  EXPECT_EQ(judge(Call(Nr("read", "SCMP_ARCH_X32"))), kAllow);
  EXPECT_EQ(judge(Call(Nr("mount", "SCMP_ARCH_X32"))), kEperm);
  EXPECT_EQ(judge(Call(0, 0, AUDIT_ARCH_AARCH64)), static_cast<uint32_t>(SECCOMP_RET_KILL_PROCESS));
  EXPECT_LT(p->code.size(), 1000U);
}

TEST(Default, CapabilitiesOpenDoors) {
  caps::Set all = caps::FromNames(caps::AllNames(), nullptr);
  auto p = Build(DefaultFilter({all, "amd64", 6, 1}));
  ASSERT_TRUE(p);
  for (const char* name :
       {"mount", "bpf", "unshare", "clone3", "reboot", "init_module", "syslog", "sethostname", "vhangup"})
    EXPECT_EQ(Judge(p->code, Call(Nr(name))), kAllow) << name;
  EXPECT_EQ(Judge(p->code, Call(Nr("clone"), 0x10000000)), kAllow);
  EXPECT_EQ(Judge(p->code, Call(Nr("keyctl"))), kEperm);
}

// libseccomp with the same rules. Calls that it does not know are left out of the comparison.
std::vector<sock_filter> Oracle(const oci::Seccomp& f) {
  auto action = [](const std::string& name, uint32_t err) {
    return name == "SCMP_ACT_ALLOW" ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(err);
  };
  scmp_filter_ctx c = seccomp_init(action(f.defaultAction, f.defaultErrnoRet.value_or(EPERM)));
  seccomp_arch_add(c, SCMP_ARCH_X86);
  seccomp_arch_add(c, SCMP_ARCH_X32);
  auto op = [](const std::string& s) {
    return s == "SCMP_CMP_EQ"   ? SCMP_CMP_EQ
           : s == "SCMP_CMP_NE" ? SCMP_CMP_NE
           : s == "SCMP_CMP_LT" ? SCMP_CMP_LT
           : s == "SCMP_CMP_GT" ? SCMP_CMP_GT
                                : SCMP_CMP_MASKED_EQ;
  };
  for (const oci::SeccompRule& r : f.syscalls) {
    for (const std::string& name : r.names) {
      int nr = seccomp_syscall_resolve_name(name.c_str());
      if (nr == __NR_SCMP_ERROR) continue;
      std::vector<scmp_arg_cmp> args;
      for (const oci::SeccompArg& a : r.args) args.push_back({a.index, op(a.op), a.value, a.valueTwo});
      seccomp_rule_add_array(c, action(r.action, r.errnoRet.value_or(EPERM)), nr, static_cast<unsigned>(args.size()),
                             args.data());
    }
  }
  char path[] = "/tmp/berth-seccomp-XXXXXX";
  int fd = mkstemp(path);
  unlink(path);
  EXPECT_EQ(seccomp_export_bpf(c, fd), 0);
  seccomp_release(c);
  std::vector<sock_filter> code(static_cast<size_t>(lseek(fd, 0, SEEK_END)) / sizeof(sock_filter));
  EXPECT_GT(pread(fd, code.data(), code.size() * sizeof(sock_filter), 0), 0);
  close(fd);
  return code;
}

void Compare(const oci::Seccomp& filter) {
  auto ours = Build(filter);
  ASSERT_TRUE(ours) << ours.error().what;
  auto theirs = Oracle(filter);
  size_t compared = 0, different = 0;
  auto both = [&](const seccomp_data& d, const char* what) {
    ++compared;
    uint32_t a = Judge(ours->code, d), b = Judge(theirs, d);
    if (a != b && different++ < 10)
      ADD_FAILURE() << what << " nr " << d.nr << " arg0 " << d.args[0] << ": ours " << std::hex << a << " libseccomp "
                    << b;
  };
  static constexpr uint64_t kArguments[] = {0,
                                            1,
                                            8,
                                            37,
                                            38,
                                            39,
                                            40,
                                            41,
                                            0x20000,
                                            0x20008,
                                            0x40000,
                                            0xffffffff,
                                            0x7e020000,
                                            0x10000000,
                                            0x1200011,
                                            0x100000000,
                                            0xffffffffffffffff};
  for (int nr = 0; nr <= 450; ++nr) {
    for (uint64_t argument : kArguments) {
      char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);
      if (name) both(Call(nr, argument), name);
      free(name);
      name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86, nr);
      if (name) both(Call(nr, argument, AUDIT_ARCH_I386), name);
      free(name);
      name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X32, nr | 0x40000000);
      if (name) both(Call(nr | 0x40000000, argument), name);
      free(name);
    }
  }
  EXPECT_GT(compared, 10000U);
  EXPECT_EQ(different, 0U);
}

TEST(Oracle, DefaultFilterIsWhatLibseccompMakesOfIt) { Compare(DefaultFilter({caps::Default(), "amd64", 6, 1})); }
TEST(Oracle, WithAllCapabilities) {
  Compare(DefaultFilter({caps::FromNames(caps::AllNames(), nullptr), "amd64", 6, 1}));
}

TEST(Oracle, DenyList) {
  oci::Seccomp f;
  f.defaultAction = "SCMP_ACT_ALLOW";
  f.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
  f.syscalls.push_back({{"chmod", "fchmod", "mkdir"}, "SCMP_ACT_ERRNO", {}, {}});
  f.syscalls.push_back(
      {{"kill"}, "SCMP_ACT_ERRNO", 38, {{1, 9, 0, "SCMP_CMP_EQ"}, {0, 0x100000001, 0, "SCMP_CMP_GT"}}});
  Compare(f);
  auto p = Build(f);
  EXPECT_EQ(Judge(p->code, Call(Nr("kill"), 0x100000002, AUDIT_ARCH_X86_64, 9)), kEnosys);
  EXPECT_EQ(Judge(p->code, Call(Nr("kill"), 0x100000002, AUDIT_ARCH_X86_64, 8)), kAllow);
  EXPECT_EQ(Judge(p->code, Call(Nr("kill"), 2, AUDIT_ARCH_X86_64, 9)), kAllow);
  EXPECT_EQ(Judge(p->code, Call(5000)), kAllow);
}

TEST(Reference, ContainersCommonsProfileGivesTheSameAnswers) {
  auto text = ReadFile("/usr/share/containers/seccomp.json");
  if (!text) GTEST_SKIP() << "package golang-github-containers-common is not installed";
  Conditions conditions{caps::Default(), "amd64", 6, 1};
  auto filter = ParseProfile(*text, "seccomp.json", conditions);
  ASSERT_TRUE(filter) << filter.error().what;
  auto theirs = Build(*filter), ours = Build(DefaultFilter(conditions));
  ASSERT_TRUE(theirs && ours);
  // Where Docker and Podman differ on purpose, as of the installed version (0.50).
  std::set<std::string> known = {"io_uring_enter",  "io_uring_register",
                                 "io_uring_setup",  // taken back by Docker in 2023
                                 "mount_setattr",   "pidfd_getfd",
                                 "quotactl_fd",     "clone3",
                                 "keyctl",          "socket",
                                 "add_key",         "request_key",
                                 "unshare",         "setns",
                                 "mount",           "umount",
                                 "umount2",         "fsconfig",
                                 "fsmount",         "fsopen",
                                 "fspick",          "move_mount",
                                 "open_tree",       "reboot",
                                 "sethostname",     "setdomainname",
                                 "pivot_root",      "open_by_handle_at",
                                 "process_madvise", "kcmp",
                                 "syslog",          "vmsplice",
                                 "io_pgetevents",   "futex_waitv",
                                 "get_mempolicy",   "mbind",
                                 "set_mempolicy"};
  for (int nr = 0; nr <= 450; ++nr) {
    char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);
    if (!name) continue;
    bool a = Judge(ours->code, Call(nr)) == kAllow, b = Judge(theirs->code, Call(nr)) == kAllow;
    EXPECT_TRUE(a == b || known.contains(name)) << name << ": ours " << a << ", containers-common " << b;
    free(name);
  }
}

#endif  // __x86_64__

TEST(Profiles, DockersFormIsJudgedByItsConditions) {
  constexpr std::string_view kText =
      R"({"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
    {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
    "syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW"},{"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
    {"names":["c"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},{"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"5.8"}},
    {"names":["e"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},{"name":"f","action":"SCMP_ACT_ALLOW"}]})";
  auto names = [&](Conditions c) {
    auto f = ParseProfile(kText, "p", c);
    EXPECT_TRUE(f);
    std::string all;
    for (const auto& r : f->syscalls) all += r.names[0];
    return all;
  };
  EXPECT_EQ(names({0, "amd64", 5, 10}), "acdf");
  EXPECT_EQ(names({1ULL << 21, "arm64", 4, 19}), "abef");
  EXPECT_EQ(ParseProfile(kText, "p", {0, "arm64", 6, 1})->architectures,
            (std::vector<std::string>{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"}));
}

TEST(Errors, NameTheMember) {
  auto error = [](oci::Seccomp f) {
    auto p = Build(f);
    return p ? std::string("ok") : p.error().what;
  };
  oci::Seccomp f;
  f.defaultAction = "ALLOW";
  EXPECT_TRUE(error(f).starts_with("linux.seccomp.defaultAction: \"ALLOW\" is not an action")) << error(f);
  f.defaultAction = "SCMP_ACT_ALLOW";
  f.syscalls = {{{"read"}, "SCMP_ACT_ALLOW", 5, {}}};
  EXPECT_TRUE(error(f).starts_with("linux.seccomp.syscalls[0].action: errnoRet")) << error(f);
  f.syscalls = {{{"read"}, "SCMP_ACT_ERRNO", {}, {{6, 0, 0, "SCMP_CMP_EQ"}}}};
  EXPECT_EQ(error(f), "linux.seccomp.syscalls[0].args[0].index: 6: must be 0 to 5");
  f.syscalls = {{{"read"}, "SCMP_ACT_ERRNO", {}, {{0, 0, 0, "=="}}}};
  EXPECT_TRUE(error(f).starts_with("linux.seccomp.syscalls[0].args[0].op")) << error(f);
  f.syscalls = {{{}, "SCMP_ACT_ERRNO", {}, {}}};
  EXPECT_EQ(error(f), "linux.seccomp.syscalls[0].names: must name at least one system call");
  f.syscalls = {{{"read", "no_such_call"}, "SCMP_ACT_ERRNO", {}, {}}};
  EXPECT_EQ(Build(f)->unknown, std::vector<std::string>{"no_such_call"});
  f.flags = {"SECCOMP_FILTER_FLAG_FAST"};
  EXPECT_EQ(error(f), "linux.seccomp.flags[0]: \"SECCOMP_FILTER_FLAG_FAST\" is not known");
}

TEST(Cache, ComesBackFromMemoryAndDisk) {
  char dir[] = "/tmp/berth-seccomp-XXXXXX";
  ASSERT_TRUE(mkdtemp(dir));
  std::string cache = std::string(dir) + "/cache";
  oci::Seccomp f;
  f.defaultAction = "SCMP_ACT_ALLOW";
  f.syscalls = {{{"getpid"}, "SCMP_ACT_ERRNO", 77, {}}};
  auto a = Compile(f, cache), b = Compile(f, cache);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->get(), b->get());
  // 300 others push it out of memory; the file must give the same program.
  for (uint32_t i = 100; i < 400; ++i) {
    f.syscalls[0].errnoRet = i;
    ASSERT_TRUE(Compile(f));
  }
  f.syscalls[0].errnoRet = 77;
  auto c = Compile(f, cache);
  ASSERT_TRUE(c);
  ASSERT_EQ((*c)->code.size(), (*a)->code.size());
  EXPECT_EQ(memcmp((*c)->code.data(), (*a)->code.data(), (*a)->code.size() * sizeof(sock_filter)), 0);
  EXPECT_TRUE(RemoveTree(dir));
}

}  // namespace
}  // namespace berth::runtime::seccomp
