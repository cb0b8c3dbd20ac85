#include "runtime/linux/seccomp.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/unique_fd.h"

namespace berth::runtime::seccomp {
namespace {

struct Arch {
  const char* name;  // OCI
  uint32_t token;    // libseccomp
  uint32_t audit;    // seccomp_data.arch
};
constexpr Arch kArches[] = {{"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64},
                            {"SCMP_ARCH_X86", SCMP_ARCH_X86, AUDIT_ARCH_I386},
                            {"SCMP_ARCH_X32", SCMP_ARCH_X32, AUDIT_ARCH_X86_64},
                            {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64, AUDIT_ARCH_AARCH64},
                            {"SCMP_ARCH_ARM", SCMP_ARCH_ARM, AUDIT_ARCH_ARM},
                            {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64, AUDIT_ARCH_RISCV64}};
constexpr uint32_t kWaitKillable = 1U << 5;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19
constexpr uint32_t kX32Bit = 0x40000000;

// Numbers from 424 on are the same everywhere; these are newer than Debian 12's libseccomp (2.5.4).
struct NewCall {
  std::string_view name;
  int number;
};
constexpr NewCall kNewCalls[] = {
    {"cachestat", 451},         {"fchmodat2", 452},         {"map_shadow_stack", 453}, {"futex_wake", 454},
    {"futex_wait", 455},        {"futex_requeue", 456},     {"statmount", 457},        {"listmount", 458},
    {"lsm_get_self_attr", 459}, {"lsm_set_self_attr", 460}, {"lsm_list_modules", 461}, {"mseal", 462},
    {"setxattrat", 463},        {"getxattrat", 464},        {"listxattrat", 465},      {"removexattrat", 466},
    {"open_tree_attr", 467},    {"file_getattr", 468},      {"file_setattr", 469}};

// i386 reaches the socket calls through socketcall(2), most of them also directly; the System V calls through ipc(2).
// libseccomp has no plain numbers for them.
struct Multiplexed {
  std::string_view name;
  int selector;  // first argument of the multiplexer
  int direct;    // own number on i386; -1: none
};
constexpr Multiplexed kSocketCalls[] = {
    {"socket", 1, 359},    {"bind", 2, 361},        {"connect", 3, 362},     {"listen", 4, 363},
    {"accept", 5, -1},     {"getsockname", 6, 367}, {"getpeername", 7, 368}, {"socketpair", 8, 360},
    {"send", 9, -1},       {"recv", 10, -1},        {"sendto", 11, 369},     {"recvfrom", 12, 371},
    {"shutdown", 13, 373}, {"setsockopt", 14, 366}, {"getsockopt", 15, 365}, {"sendmsg", 16, 370},
    {"recvmsg", 17, 372},  {"accept4", 18, 364},    {"recvmmsg", 19, 337},   {"sendmmsg", 20, 345}};
constexpr Multiplexed kIpcCalls[] = {{"semop", 1, -1},      {"semget", 2, 393},  {"semctl", 3, 394},
                                     {"semtimedop", 4, -1}, {"msgsnd", 11, 400}, {"msgrcv", 12, 401},
                                     {"msgget", 13, 399},   {"msgctl", 14, 402}, {"shmat", 21, 397},
                                     {"shmdt", 22, 398},    {"shmget", 23, 395}, {"shmctl", 24, 396}};

const Arch* FindArch(std::string_view name) {
  for (const Arch& a : kArches)
    if (name == a.name) return &a;
  return nullptr;
}

std::optional<int> NumberOn(const std::string& name, const Arch& arch) {
  int n = seccomp_syscall_resolve_name_arch(arch.token, name.c_str());
  if (n >= 0) return n;
  if (arch.token == SCMP_ARCH_X86)
    for (auto calls : {std::span<const Multiplexed>(kSocketCalls), std::span<const Multiplexed>(kIpcCalls)})
      for (const Multiplexed& call : calls)
        if (name == call.name) return call.direct < 0 ? std::nullopt : std::optional(call.direct);
  for (const NewCall& call : kNewCalls) {
    if (name != call.name) continue;
    return arch.token == SCMP_ARCH_X32 ? static_cast<int>(kX32Bit | static_cast<unsigned>(call.number)) : call.number;
  }
  if (name == "uretprobe" && arch.token == SCMP_ARCH_X86_64) return 335;
  return std::nullopt;
}

enum class Compare { kEq, kNe, kLt, kLe, kGt, kGe, kMasked };
struct Term {
  uint32_t index;
  Compare op;
  uint64_t value, second;
};
struct Rule {
  std::vector<Term> terms;  // all must hold; none: always
  uint32_t action;
};
using Table = std::map<uint32_t, std::vector<Rule>>;

Result<uint32_t> Action(const std::string& name, std::optional<uint32_t> errno_ret, const std::string& where) {
  bool takes_data = name == "SCMP_ACT_ERRNO" || name == "SCMP_ACT_TRACE";
  if (errno_ret && !takes_data)
    return Err(Code::kInvalidArgument, "{}: errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only", where);
  uint32_t data = errno_ret.value_or(EPERM);
  if (data > 4095) return Err(Code::kInvalidArgument, "{}: errnoRet {} is above 4095", where, data);
  if (name == "SCMP_ACT_ALLOW") return static_cast<uint32_t>(SECCOMP_RET_ALLOW);
  if (name == "SCMP_ACT_ERRNO") return SECCOMP_RET_ERRNO | data;
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return static_cast<uint32_t>(SECCOMP_RET_KILL_THREAD);
  if (name == "SCMP_ACT_KILL_PROCESS") return static_cast<uint32_t>(SECCOMP_RET_KILL_PROCESS);
  if (name == "SCMP_ACT_TRAP") return static_cast<uint32_t>(SECCOMP_RET_TRAP);
  if (name == "SCMP_ACT_TRACE") return SECCOMP_RET_TRACE | data;
  if (name == "SCMP_ACT_LOG") return static_cast<uint32_t>(SECCOMP_RET_LOG);
  if (name == "SCMP_ACT_NOTIFY") return static_cast<uint32_t>(SECCOMP_RET_USER_NOTIF);
  return Err(Code::kInvalidArgument,
             "{}: \"{}\" is not an action; known are SCMP_ACT_ALLOW, ERRNO, KILL, KILL_PROCESS, KILL_THREAD, LOG, "
             "NOTIFY, TRACE, TRAP",
             where, name);
}

Result<Compare> Operator(const std::string& name, const std::string& where) {
  static constexpr std::pair<std::string_view, Compare> kNames[] = {
      {"SCMP_CMP_EQ", Compare::kEq},           {"SCMP_CMP_NE", Compare::kNe}, {"SCMP_CMP_LT", Compare::kLt},
      {"SCMP_CMP_LE", Compare::kLe},           {"SCMP_CMP_GT", Compare::kGt}, {"SCMP_CMP_GE", Compare::kGe},
      {"SCMP_CMP_MASKED_EQ", Compare::kMasked}};
  for (auto [text, op] : kNames)
    if (text == name) return op;
  return Err(Code::kInvalidArgument, "{}.op: \"{}\": must be SCMP_CMP_EQ, NE, LT, LE, GT, GE or MASKED_EQ", where,
             name);
}

// ---- Code generation
// --------------------------------------------------------------------------------------------------

using Code_ = std::vector<sock_filter>;

sock_filter Stmt(uint16_t code, uint32_t k) { return {code, 0, 0, k}; }
sock_filter Jump(uint16_t code, uint32_t k, size_t yes, size_t no) {
  return {code, static_cast<uint8_t>(yes), static_cast<uint8_t>(no), k};
}

constexpr uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS, kRet = BPF_RET | BPF_K, kAnd = BPF_ALU | BPF_AND | BPF_K;
constexpr uint16_t kJeq = BPF_JMP | BPF_JEQ | BPF_K, kJge = BPF_JMP | BPF_JGE | BPF_K, kJgt = BPF_JMP | BPF_JGT | BPF_K,
                   kJa = BPF_JMP | BPF_JA;

// Falls through when the term holds; else jumps, to be patched: `fails` collects (instruction, true branch?).
// narrow: arguments have 32 bits on this architecture, the upper half says nothing.
void EmitTerm(const Term& t, bool narrow, Code_* out, std::vector<std::pair<size_t, bool>>* fails) {
  uint32_t low_at = 16 + 8 * t.index, high_at = low_at + 4;
  uint32_t high = static_cast<uint32_t>(t.value >> 32), low = static_cast<uint32_t>(t.value);
  auto fail = [&](bool branch) { fails->push_back({out->size() - 1, branch}); };
  if (narrow) {
    out->push_back(Stmt(kLoad, low_at));
    if (t.op == Compare::kMasked) out->push_back(Stmt(kAnd, low));
    uint16_t test = t.op == Compare::kGt || t.op == Compare::kLe   ? kJgt
                    : t.op == Compare::kGe || t.op == Compare::kLt ? kJge
                                                                   : kJeq;
    out->push_back(Jump(test, t.op == Compare::kMasked ? static_cast<uint32_t>(t.second) : low, 0, 0));
    fail(t.op == Compare::kNe || t.op == Compare::kLt || t.op == Compare::kLe);
    return;
  }
  switch (t.op) {
    case Compare::kEq:
      out->push_back(Stmt(kLoad, high_at));
      out->push_back(Jump(kJeq, high, 0, 0));
      fail(false);
      out->push_back(Stmt(kLoad, low_at));
      out->push_back(Jump(kJeq, low, 0, 0));
      fail(false);
      break;
    case Compare::kNe:
      out->push_back(Stmt(kLoad, high_at));
      out->push_back(Jump(kJeq, high, 0, 2));  // different halves: holds, past the rest
      out->push_back(Stmt(kLoad, low_at));
      out->push_back(Jump(kJeq, low, 0, 0));
      fail(true);
      break;
    case Compare::kGt:
    case Compare::kGe:
      out->push_back(Stmt(kLoad, high_at));
      out->push_back(Jump(kJgt, high, 3, 0));
      out->push_back(Jump(kJeq, high, 0, 0));
      fail(false);
      out->push_back(Stmt(kLoad, low_at));
      out->push_back(Jump(t.op == Compare::kGt ? kJgt : kJge, low, 0, 0));
      fail(false);
      break;
    case Compare::kLt:
    case Compare::kLe:
      out->push_back(Stmt(kLoad, high_at));
      out->push_back(Jump(kJgt, high, 0, 0));
      fail(true);
      out->push_back(Jump(kJeq, high, 0, 2));  // below: holds
      out->push_back(Stmt(kLoad, low_at));
      out->push_back(Jump(t.op == Compare::kLt ? kJge : kJgt, low, 0, 0));
      fail(true);
      break;
    case Compare::kMasked:
      out->push_back(Stmt(kLoad, high_at));
      out->push_back(Stmt(kAnd, high));
      out->push_back(Jump(kJeq, static_cast<uint32_t>(t.second >> 32), 0, 0));
      fail(false);
      out->push_back(Stmt(kLoad, low_at));
      out->push_back(Stmt(kAnd, low));
      out->push_back(Jump(kJeq, static_cast<uint32_t>(t.second), 0, 0));
      fail(false);
      break;
  }
}

// All rules of one system call: conditional ones in order, then the unconditional one or the default.
Code_ EmitRules(const std::vector<Rule>& rules, bool narrow, uint32_t fallback) {
  Code_ out;
  for (const Rule& r : rules)
    if (r.terms.empty()) fallback = r.action;
  for (const Rule& r : rules) {
    if (r.terms.empty()) continue;
    std::vector<std::pair<size_t, bool>> fails;
    for (const Term& t : r.terms) EmitTerm(t, narrow, &out, &fails);
    out.push_back(Stmt(kRet, r.action));
    for (auto [at, branch] : fails) {
      uint8_t distance = static_cast<uint8_t>(out.size() - at - 1);  // a rule has at most six terms: below 255
      if (branch)
        out[at].jt = distance;
      else
        out[at].jf = distance;
    }
  }
  out.push_back(Stmt(kRet, fallback));
  return out;
}

struct Range {
  uint32_t first;
  Code_ leaf;
};

bool SameCode(const Code_& a, const Code_& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](const sock_filter& x, const sock_filter& y) {
           return x.code == y.code && x.jt == y.jt && x.jf == y.jf && x.k == y.k;
         });
}

// The number is in the accumulator.
Code_ EmitSearch(const std::vector<Range>& ranges, size_t from, size_t to) {
  if (to - from == 1) return ranges[from].leaf;
  size_t middle = from + (to - from) / 2;
  Code_ below = EmitSearch(ranges, from, middle), above = EmitSearch(ranges, middle, to);
  Code_ out;
  out.reserve(below.size() + above.size() + 2);
  if (below.size() <= 255) {
    out.push_back(Jump(kJge, ranges[middle].first, below.size(), 0));
  } else {
    out.push_back(Jump(kJge, ranges[middle].first, 0, 1));
    out.push_back(Stmt(kJa, static_cast<uint32_t>(below.size())));
  }
  out.insert(out.end(), below.begin(), below.end());
  out.insert(out.end(), above.begin(), above.end());
  return out;
}

// `first`..: the numbers of one architecture; those above the last known one get `beyond`.
Code_ EmitTable(const Table& table, uint32_t first, bool narrow, uint32_t fallback, uint32_t beyond) {
  std::vector<Range> ranges;
  auto add = [&](uint32_t at, Code_ leaf) {
    if (!ranges.empty() && SameCode(ranges.back().leaf, leaf)) return;
    ranges.push_back({at, std::move(leaf)});
  };
  uint32_t next = first;
  for (const auto& [number, rules] : table) {
    if (number > next) add(next, {Stmt(kRet, fallback)});
    add(number, EmitRules(rules, narrow, fallback));
    next = number + 1;
  }
  add(next, {Stmt(kRet, beyond)});
  return EmitSearch(ranges, 0, ranges.size());
}

}  // namespace

std::string NativeArch() {
  uint32_t native = seccomp_arch_native();
  for (const Arch& a : kArches)
    if (a.token == native) return a.name;
  return "SCMP_ARCH_UNKNOWN";
}

std::string NativeGoArch() {
#if defined(__x86_64__)
  return "amd64";
#elif defined(__aarch64__)
  return "arm64";
#elif defined(__riscv)
  return "riscv64";
#else
#error "name this architecture as Go does"
#endif
}

std::optional<int> SyscallNumber(std::string_view name, std::string_view arch) {
  const Arch* a = FindArch(arch);
  return a ? NumberOn(std::string(name), *a) : std::nullopt;
}

namespace {

// Whether this kernel has the x32 ABI (CONFIG_X86_X32_ABI, and on Debian syscall.x32=y). Without it every x32 call ends
// in ENOSYS, whatever a filter says, and a third of the usual filter can be left out.
bool KernelRunsX32() {
#if defined(__x86_64__)
  static const bool runs = syscall(static_cast<long>(kX32Bit) | __NR_getpid) > 0;
  return runs;
#else
  return false;
#endif
}

Result<Program> BuildFor(const oci::Seccomp& filter, bool with_x32) {
  Program program;
  static constexpr std::pair<std::string_view, uint32_t> kFlags[] = {
      {"SECCOMP_FILTER_FLAG_TSYNC", 0},  // the loading process has one thread
      {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
      {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
      {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", kWaitKillable}};
  for (size_t i = 0; i < filter.flags.size(); ++i) {
    bool found = false;
    for (auto [name, flag] : kFlags) {
      if (filter.flags[i] != name) continue;
      program.flags |= flag;
      found = true;
    }
    if (!found) return Err(Code::kInvalidArgument, "linux.seccomp.flags[{}]: \"{}\" is not known", i, filter.flags[i]);
  }
  uint32_t fallback = TRY(Action(filter.defaultAction, filter.defaultErrnoRet, "linux.seccomp.defaultAction"));
  std::vector<const Arch*> arches;
  auto want = [&](const Arch* a) {
    if (std::find(arches.begin(), arches.end(), a) == arches.end()) arches.push_back(a);
  };
  if (const Arch* native = FindArch(NativeArch())) want(native);
  for (size_t i = 0; i < filter.architectures.size(); ++i) {
    const Arch* a = FindArch(filter.architectures[i]);
    if (a)
      want(a);
    else if (!filter.architectures[i].starts_with("SCMP_ARCH_"))
      return Err(Code::kInvalidArgument, "linux.seccomp.architectures[{}]: \"{}\" is not known", i,
                 filter.architectures[i]);
    // An architecture this machine cannot run needs no rules: its numbers never reach the filter.
  }

  std::map<const Arch*, Table> tables;
  for (const Arch* a : arches) tables[a];
  for (size_t i = 0; i < filter.syscalls.size(); ++i) {
    const oci::SeccompRule& rule = filter.syscalls[i];
    std::string where = fmt::format("linux.seccomp.syscalls[{}]", i);
    if (rule.names.empty()) return Err(Code::kInvalidArgument, "{}.names: must name at least one system call", where);
    Rule compiled{{}, TRY(Action(rule.action, rule.errnoRet, where + ".action"))};
    if (rule.args.size() > 6) return Err(Code::kInvalidArgument, "{}.args: at most six", where);
    for (size_t j = 0; j < rule.args.size(); ++j) {
      const oci::SeccompArg& arg = rule.args[j];
      std::string at = fmt::format("{}.args[{}]", where, j);
      if (arg.index > 5) return Err(Code::kInvalidArgument, "{}.index: {}: must be 0 to 5", at, arg.index);
      compiled.terms.push_back({arg.index, TRY(Operator(arg.op, at)), arg.value, arg.valueTwo});
    }
    for (const std::string& name : rule.names) {
      bool known = false;
      for (const Arch* a : arches) {
        if (auto n = NumberOn(name, *a)) {
          known = true;
          tables[a][static_cast<uint32_t>(*n)].push_back(compiled);
        }
        if (a->token != SCMP_ARCH_X86 || !compiled.terms.empty()) continue;  // arguments are behind a pointer there
        for (auto [calls, gate] : {std::pair{std::span<const Multiplexed>(kSocketCalls), "socketcall"},
                                   {std::span<const Multiplexed>(kIpcCalls), "ipc"}})
          for (const Multiplexed& call : calls)
            if (name == call.name)
              tables[a][static_cast<uint32_t>(*NumberOn(gate, *a))].push_back(
                  Rule{{Term{0, Compare::kEq, static_cast<uint64_t>(call.selector), 0}}, compiled.action});
      }
      if (!known && std::find(program.unknown.begin(), program.unknown.end(), name) == program.unknown.end())
        program.unknown.push_back(name);
    }
  }

  bool notifies = fallback == SECCOMP_RET_USER_NOTIF;
  for (const auto& [arch, table] : tables)
    for (const auto& [number, rules] : table)
      for (const Rule& rule : rules) notifies = notifies || rule.action == SECCOMP_RET_USER_NOTIF;
  if (notifies)
    program.flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
  else
    program.flags &= ~kWaitKillable;  // says how a listener waits, and there is none

  // A call newer than everything the profile knows is "not there", not "forbidden": programs fall back on ENOSYS, and
  // break on EPERM. As runc does since 1.0.
  uint32_t kind = fallback & SECCOMP_RET_ACTION_FULL;
  bool lenient = kind == SECCOMP_RET_ALLOW || kind == SECCOMP_RET_LOG || kind == SECCOMP_RET_TRACE;
  uint32_t beyond = lenient ? fallback : SECCOMP_RET_ERRNO | ENOSYS;

  std::map<uint32_t, Code_> blocks;  // by audit arch
  for (const Arch* a : arches) {
    if (a->token == SCMP_ARCH_X32) continue;
    Code_ block{Stmt(kLoad, 0)};
    Code_ own = EmitTable(tables[a], 0, a->token == SCMP_ARCH_X86 || a->token == SCMP_ARCH_ARM, fallback, beyond);
    if (a->token == SCMP_ARCH_X86_64) {
      const Arch* x32 = FindArch("SCMP_ARCH_X32");
      bool has_x32 = tables.contains(x32);
      // Numbers with bit 30 are the x32 ABI under the same audit architecture.
      Code_ other = !has_x32   ? Code_{Stmt(kRet, SECCOMP_RET_KILL_PROCESS)}
                    : with_x32 ? EmitTable(tables[x32], kX32Bit, true, fallback, beyond)
                               : Code_{Stmt(kRet, SECCOMP_RET_ERRNO | ENOSYS)};
      block.push_back(Jump(kJge, kX32Bit, 0, 1));
      block.push_back(Stmt(kJa, static_cast<uint32_t>(own.size())));
      block.insert(block.end(), own.begin(), own.end());
      block.insert(block.end(), other.begin(), other.end());
    } else {
      block.insert(block.end(), own.begin(), own.end());
    }
    blocks[a->audit] = std::move(block);
  }
  program.code.push_back(Stmt(kLoad, 4));
  for (auto& [audit, block] : blocks) {
    program.code.push_back(Jump(kJeq, audit, 1, 0));
    program.code.push_back(Stmt(kJa, static_cast<uint32_t>(block.size())));
    program.code.insert(program.code.end(), block.begin(), block.end());
  }
  program.code.push_back(Stmt(kRet, SECCOMP_RET_KILL_PROCESS));
  if (program.code.size() > BPF_MAXINSNS)
    return Err(Code::kInvalidArgument, "linux.seccomp: the filter has {} instructions, the kernel takes {}",
               program.code.size(), BPF_MAXINSNS);
  return program;
}

}  // namespace

Result<Program> Build(const oci::Seccomp& filter) { return BuildFor(filter, true); }

// ---- Cache
// ------------------------------------------------------------------------------------------------------------

namespace {

std::string KeyOf(const oci::Seccomp& f) {
  std::string key;
  key.reserve(8192);
  auto text = [&](const std::string& s) {
    key += s;
    key += '\0';
  };
  auto number = [&](uint64_t n) { key.append(reinterpret_cast<const char*>(&n), sizeof n); };
  text("berth seccomp 3");
  number(KernelRunsX32());
  text(f.defaultAction);
  number(f.defaultErrnoRet ? *f.defaultErrnoRet + 1ULL : 0);
  for (const auto* list : {&f.architectures, &f.flags}) {
    number(list->size());
    for (const std::string& s : *list) text(s);
  }
  for (const oci::SeccompRule& r : f.syscalls) {
    number(r.names.size());
    for (const std::string& s : r.names) text(s);
    text(r.action);
    number(r.errnoRet ? *r.errnoRet + 1ULL : 0);
    number(r.args.size());
    for (const oci::SeccompArg& a : r.args) {
      number(a.index);
      number(a.value);
      number(a.valueTwo);
      text(a.op);
    }
  }
  return key;
}

uint64_t Fnv(std::string_view s, uint64_t seed) {
  uint64_t h = 14695981039346656037ULL ^ seed;
  for (unsigned char c : s) h = (h ^ c) * 1099511628211ULL;
  return h;
}

// File: 8 bytes length of the key, the key (compared whole: the name is only a hash), 4 bytes flags, instructions.
std::optional<Program> Load(const std::string& path, const std::string& key) {
  auto text = ReadFile(path, 1 << 20);
  if (!text) return std::nullopt;
  uint64_t length;
  uint32_t flags;
  if (text->size() < sizeof length + key.size() + sizeof flags) return std::nullopt;
  memcpy(&length, text->data(), sizeof length);
  if (length != key.size() || memcmp(text->data() + sizeof length, key.data(), key.size()) != 0) return std::nullopt;
  std::string_view rest = std::string_view(*text).substr(sizeof length + key.size());
  memcpy(&flags, rest.data(), sizeof flags);
  rest.remove_prefix(sizeof flags);
  if (rest.empty() || rest.size() % sizeof(sock_filter)) return std::nullopt;
  Program program;
  program.flags = flags;
  program.code.resize(rest.size() / sizeof(sock_filter));
  memcpy(program.code.data(), rest.data(), rest.size());
  return program;
}

void Store(const std::string& dir, const std::string& path, const std::string& key, const Program& program) {
  // A cache: when it cannot be written the next start compiles again. No fsync, the key is compared when it is read.
  if (!MakeDirs(dir, 0700)) return;
  std::string bytes;
  uint64_t length = key.size();
  bytes.append(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += key;
  bytes.append(reinterpret_cast<const char*>(&program.flags), sizeof program.flags);
  bytes.append(reinterpret_cast<const char*>(program.code.data()), program.code.size() * sizeof(sock_filter));
  std::string temporary = fmt::format("{}.{}", path, ::getpid());
  auto fd = Open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!fd) return;
  if (!WriteAll(fd->get(), bytes) || ::rename(temporary.c_str(), path.c_str()) != 0) ::unlink(temporary.c_str());
}

}  // namespace

Result<std::shared_ptr<const Program>> Compile(const oci::Seccomp& filter, const std::string& cache_dir) {
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<const Program>> memory;
  std::string key = KeyOf(filter);
  {
    std::lock_guard lock(mutex);
    if (auto it = memory.find(key); it != memory.end()) return it->second;
  }
  std::string path;
  std::shared_ptr<const Program> program;
  if (!cache_dir.empty()) {
    path = fmt::format("{}/{:016x}{:016x}", cache_dir, Fnv(key, 0), Fnv(key, 0x9e3779b97f4a7c15ULL));
    if (auto loaded = Load(path, key)) program = std::make_shared<const Program>(std::move(*loaded));
  }
  if (!program) {
    program = std::make_shared<const Program>(TRY(BuildFor(filter, KernelRunsX32())));
    if (!path.empty()) Store(cache_dir, path, key, *program);
  }
  std::lock_guard lock(mutex);
  if (memory.size() > 256) memory.clear();  // profiles are few; a flood of distinct ones must not grow us
  return memory.emplace(std::move(key), program).first->second;
}

}  // namespace berth::runtime::seccomp
