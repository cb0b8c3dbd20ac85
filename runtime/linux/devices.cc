// Device rules. Version 1: what the rules come to, written to devices.allow and devices.deny. Version 2: a program of
// type CGROUP_DEVICE, loaded once per rule set in this process and attached to many groups.
#include <linux/bpf.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <map>
#include <mutex>

#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/devices.h"

namespace berth::runtime::cgroup {
namespace {

constexpr uint32_t kAllAccess = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;

bool Everything(const oci::DeviceRule& r) { return r.type.empty() || r.type == "a"; }

uint32_t AccessBits(const std::string& access) {
  if (access.empty()) return kAllAccess;
  uint32_t bits = 0;
  for (char c : access) bits |= c == 'm' ? BPF_DEVCG_ACC_MKNOD : c == 'r' ? BPF_DEVCG_ACC_READ : BPF_DEVCG_ACC_WRITE;
  return bits;
}

long Bpf(int command, bpf_attr* attr) { return syscall(SYS_bpf, command, attr, sizeof *attr); }

uint64_t PointerValue(const void* p) { return reinterpret_cast<uint64_t>(p); }

bpf_insn Insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn i{};
  i.code = code;
  i.dst_reg = dst & 15;
  i.src_reg = src & 15;
  i.off = off;
  i.imm = imm;
  return i;
}

// The kernel's verifier log is not asked for: it makes loading four times as dear, and our programs pass.
// A descriptor of the caller's own, so that clearing the cache closes nothing in use.
Result<unique_fd> LoadProgram(const std::vector<oci::DeviceRule>& rules) {
  static std::mutex mutex;
  static std::map<std::string, unique_fd> loaded;
  auto code = DeviceProgram(rules);
  std::string key(reinterpret_cast<const char*>(code.data()), code.size() * sizeof(bpf_insn));
  std::lock_guard lock(mutex);
  if (auto it = loaded.find(key); it != loaded.end()) return it->second.Duplicate();
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = PointerValue(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = PointerValue("Apache-2.0");
  strcpy(attr.prog_name, "berth_devices");
  unique_fd fd(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
  if (!fd && errno == EPERM) {
    // Before 5.11 programs count against RLIMIT_MEMLOCK, whose 64 kB are soon gone. Where it cannot be raised, the next
    // attempt says what is wrong.
    rlimit limit{};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
      rlimit more{RLIM_INFINITY, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_MEMLOCK, &more) < 0) {
        more = {limit.rlim_max, limit.rlim_max};
        (void)::setrlimit(RLIMIT_MEMLOCK, &more);
      }
      fd.reset(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
      (void)::setrlimit(RLIMIT_MEMLOCK, &limit);  // the container inherits it
    } else {
      errno = EPERM;
    }
  }
  if (!fd) return SysErr("{}.devices: load the device program", kAt);
  if (loaded.size() > 64) loaded.clear();  // groups hold their programs themselves
  unique_fd copy = TRY(fd.Duplicate());
  loaded[key] = std::move(fd);
  return copy;
}

// In a user namespace other than the first nobody may set device rules, and making device nodes is not possible either.
bool InUserNamespace() {
  auto map = ReadControl("/proc/self/uid_map");
  return map && Words(Trim(*map)) != std::vector<std::string>{"0", "0", "4294967295"};
}

bool MayNot(const Error& e) { return (e.sys == EPERM || e.sys == EACCES) && InUserNamespace(); }

}  // namespace

Result<void> CheckDeviceRules(const std::vector<oci::DeviceRule>& rules) {
  for (size_t i = 0; i < rules.size(); ++i) {
    const oci::DeviceRule& r = rules[i];
    if (!r.type.empty() && r.type != "a" && r.type != "b" && r.type != "c" && r.type != "u" && r.type != "p")
      return Err(Code::kInvalidArgument, "linux.resources.devices[{}].type: \"{}\": must be a, b or c", i, r.type);
    if (r.access.find_first_not_of("rwm") != std::string::npos)
      return Err(Code::kInvalidArgument, "linux.resources.devices[{}].access: \"{}\": must be made of r, w and m", i,
                 r.access);
    for (auto n : {r.major, r.minor})
      if (n && *n < -1) return Err(Code::kInvalidArgument, "linux.resources.devices[{}]: negative device number", i);
  }
  return {};
}

std::vector<oci::DeviceRule> WithDefaultDevices(const std::vector<oci::DeviceRule>& rules) {
  std::vector<oci::DeviceRule> all = rules;
  // A list that never denies everything starts from nothing, as runc and crun do.
  bool opens_or_closes = std::any_of(rules.begin(), rules.end(), Everything);
  if (!opens_or_closes) all.insert(all.begin(), oci::DeviceRule{false, "a", "rwm", std::nullopt, std::nullopt});
  bool allows_all = !rules.empty() && std::all_of(rules.begin(), rules.end(), [](const auto& r) { return r.allow; }) &&
                    opens_or_closes;
  if (allows_all) return all;
  for (const char* type : {"c", "b"}) all.push_back({true, type, "m", std::nullopt, std::nullopt});
  for (auto [major, minor] : {std::pair{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}})
    all.push_back({true, "c", "rwm", major, minor});
  all.push_back({true, "c", "rwm", 136, std::nullopt});
  return all;
}

namespace {

// A device program in the making. r2 type, r3 access bits not yet granted, r4 major, r5 minor. The verifier walks every path,
// so paths are few: a device that has met its type and number goes to an exit, not through the other rules.
class ProgramWriter {
 public:
  ProgramWriter() {
    out_ = {Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, 0, 0),
            Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff),
            Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_3, BPF_REG_1, 0, 0),
            Insn(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16),
            Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_1, 4, 0),
            Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_5, BPF_REG_1, 8, 0)};
  }

  using Jumps = std::vector<size_t>;
  void Jump(uint8_t condition, uint8_t reg, int64_t value, Jumps& to) {
    to.push_back(out_.size());
    out_.push_back(Insn(static_cast<uint8_t>(BPF_JMP | BPF_K | condition), reg, 0, 0, static_cast<int32_t>(value)));
  }
  void Jump(Jumps& to) {
    to.push_back(out_.size());
    out_.push_back(Insn(BPF_JMP | BPF_JA, 0, 0, 0, 0));
  }
  void Emit(bpf_insn insn) { out_.push_back(insn); }
  void Here(const Jumps& jumps) {
    for (size_t at : jumps) out_[at].off = static_cast<int16_t>(out_.size() - at - 1);
  }
  void Exit(const Jumps& jumps, int value) {
    Here(jumps);
    out_.push_back(Insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, value));
    out_.push_back(Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  }
  std::vector<bpf_insn> Finish(bool otherwise) {
    Exit(otherwise ? allow : deny, otherwise ? 1 : 0);  // falls through into this one
    Jumps& other = otherwise ? deny : allow;
    if (!other.empty()) Exit(other, otherwise ? 0 : 1);
    return std::move(out_);
  }

  Jumps allow, deny;

 private:
  std::vector<bpf_insn> out_;
};

bool AnyMajor(const oci::DeviceRule& r) { return !r.major || *r.major == -1; }
bool AnyMinor(const oci::DeviceRule& r) { return !r.minor || *r.minor == -1; }
int KernelType(const oci::DeviceRule& r) { return r.type == "b" ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR; }
// Gives all that can be asked for, of one kind of device: whatever else there is, it answers.
bool Simple(const oci::DeviceRule& r) { return r.allow && !Everything(r) && AccessBits(r.access) == kAllAccess; }

}  // namespace

std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules) {
  // From the last rule to the first, since later rules win: an allowing rule takes its bits away, a denying rule that
  // meets a wanted bit ends it.
  ProgramWriter w;
  for (auto it = rules.rbegin(); it != rules.rend();) {
    const oci::DeviceRule& r = *it;
    const uint32_t bits = AccessBits(r.access);
    if (Everything(r) && AnyMajor(r) && AnyMinor(r) && bits == kAllAccess) return w.Finish(r.allow);
    ProgramWriter::Jumps past;
    if (Simple(r)) {  // and its neighbours of the same type: the type is looked at once, each major once
      w.Jump(BPF_JNE, BPF_REG_2, KernelType(r), past);
      auto end = it;
      while (end != rules.rend() && Simple(*end) && KernelType(*end) == KernelType(r)) ++end;
      while (it != end) {
        ProgramWriter::Jumps other_major;
        const oci::DeviceRule& first = *it;
        // The verifier refuses what cannot be reached: nothing may follow an answer for all that is left.
        if (AnyMajor(first) && AnyMinor(first)) {
          w.Jump(w.allow);
          it = end;
          continue;
        }
        if (AnyMajor(first)) {
          w.Jump(BPF_JEQ, BPF_REG_5, *first.minor, w.allow);
          ++it;
          continue;
        }
        w.Jump(BPF_JNE, BPF_REG_4, *first.major, other_major);
        bool whole = false;  // the major, with all its minors
        for (; it != end && !AnyMajor(*it) && *it->major == *first.major; ++it) {
          if (whole) continue;
          whole = AnyMinor(*it);
          whole ? w.Jump(w.allow) : w.Jump(BPF_JEQ, BPF_REG_5, *it->minor, w.allow);
        }
        // Unless one of the neighbours that are left can mean this major too, the device has met its last chance among them.
        const bool again = std::any_of(it, end, [&](const auto& n) { return AnyMajor(n) || *n.major == *first.major; });
        if (!whole && !again && it != end) w.Jump(past);
        w.Here(other_major);
      }
      w.Here(past);
      continue;
    }
    ++it;
    if (!Everything(r)) w.Jump(BPF_JNE, BPF_REG_2, KernelType(r), past);
    if (!AnyMajor(r)) w.Jump(BPF_JNE, BPF_REG_4, *r.major, past);
    if (!AnyMinor(r)) w.Jump(BPF_JNE, BPF_REG_5, *r.minor, past);
    if (bits == kAllAccess) {
      w.Jump(r.allow ? w.allow : w.deny);
    } else if (r.allow) {
      w.Emit(Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_3, 0, 0, static_cast<int32_t>(~bits & 0xff)));
      w.Jump(BPF_JEQ, BPF_REG_3, 0, w.allow);
    } else {
      w.Emit(Insn(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0));
      w.Emit(Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, static_cast<int32_t>(bits)));
      w.Jump(BPF_JNE, BPF_REG_1, 0, w.deny);
    }
    w.Here(past);
  }
  return w.Finish(false);
}

// ---- Version 1

namespace {

std::string LineFor(const DeviceSet::Exception& e) {
  auto number = [](int64_t n) { return n < 0 ? std::string("*") : fmt::format("{}", n); };
  std::string access;
  for (auto [bit, letter] :
       {std::pair{BPF_DEVCG_ACC_READ, 'r'}, {BPF_DEVCG_ACC_WRITE, 'w'}, {BPF_DEVCG_ACC_MKNOD, 'm'}})
    if (e.access & static_cast<uint32_t>(bit)) access += letter;
  return fmt::format("{} {}:{} {}", e.type, number(e.major), number(e.minor), access);
}

struct Files {
  const std::string& dir;
  unique_fd allow, deny;
  static Result<Files> Open(const std::string& dir) {
    return Files{dir, TRY(berth::Open(dir + "/devices.allow", O_WRONLY)),
                 TRY(berth::Open(dir + "/devices.deny", O_WRONLY))};
  }
  Result<void> Write(bool allowing, const std::string& line) const {
    if (::write((allowing ? allow : deny).get(), line.data(), line.size()) < 0)
      return SysErr("{}.devices: write \"{}\" to {}/devices.{}", kAt, line, dir, allowing ? "allow" : "deny");
    return {};
  }
  Result<void> All(const DeviceSet& set) const {
    TRY(Write(set.allows_all, "a"));
    for (const auto& e : set.exceptions) TRY(Write(!set.allows_all, LineFor(e)));
    return {};
  }
};

// devices.list of a group that denies what is not listed. One that allows all does not say what it excepts.
std::optional<DeviceSet> Listed(std::string_view text) {
  DeviceSet set;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    auto words = Words(line);  // "c 1:3 rwm"
    if (words.size() != 3 || words[0] == "a") return std::nullopt;
    size_t colon = words[1].find(':');
    if (colon == std::string::npos) return std::nullopt;
    auto number = [](std::string_view s) { return s == "*" ? -1 : static_cast<int64_t>(Number(s).value_or(0)); };
    set.exceptions.push_back({words[0][0], number(std::string_view(words[1]).substr(0, colon)),
                              number(std::string_view(words[1]).substr(colon + 1)), AccessBits(words[2])});
  }
  return set;
}

}  // namespace

Result<DeviceSet> FlattenRules(const std::vector<oci::DeviceRule>& rules) {
  DeviceSet set;
  for (size_t i = 0; i < rules.size(); ++i) {
    const oci::DeviceRule& r = rules[i];
    const uint32_t bits = AccessBits(r.access);
    const int64_t major = r.major.value_or(-1), minor = r.minor.value_or(-1);
    if (Everything(r) && major == -1 && minor == -1 && bits == kAllAccess) {
      set = DeviceSet{r.allow, {}};
      continue;
    }
    for (char type : {'b', 'c'}) {
      if (!Everything(r) && type != (r.type == "b" ? 'b' : 'c')) continue;
      DeviceSet::Exception rule{type, major, minor, bits};
      auto within = [](const DeviceSet::Exception& a, const DeviceSet::Exception& b) {
        return (b.major == -1 || a.major == b.major) && (b.minor == -1 || a.minor == b.minor);
      };
      if (r.allow != set.allows_all) {  // one exception more
        auto same = std::find_if(set.exceptions.begin(), set.exceptions.end(),
                                 [&](const auto& e) { return e.type == type && e.major == major && e.minor == minor; });
        if (same != set.exceptions.end())
          same->access |= bits;
        else
          set.exceptions.push_back(rule);
        continue;
      }
      // Exceptions taken away. The kernel only knows whole ones: a part of a wider one would silently stay.
      for (auto& e : set.exceptions) {
        if (e.type != type || !(e.access & bits)) continue;
        if (within(e, rule))
          e.access &= ~bits;
        else if (within(rule, e) || ((rule.major == -1 || e.major == -1 || rule.major == e.major) &&
                                     (rule.minor == -1 || e.minor == -1 || rule.minor == e.minor)))
          return Err(Code::kInvalidArgument,
                     "{}.devices[{}]: takes a part of what an earlier rule ({}) {}; cgroup version 1 cannot do that",
                     kAt, i, LineFor(e), set.allows_all ? "denies" : "allows");
      }
      std::erase_if(set.exceptions, [](const auto& e) { return e.access == 0; });
    }
  }
  return set;
}

Result<void> ApplyDevicesV1(const std::string& dir, const std::vector<oci::DeviceRule>& rules) {
  TRY(CheckDeviceRules(rules));
  DeviceSet set = TRY(FlattenRules(rules));
  auto files = Files::Open(dir);
  auto done = files ? files->All(set) : Result<void>(std::unexpected(std::move(files).error()));
  if (!done && MayNot(done.error())) return {};
  return done;
}

Result<void> UpdateDevicesV1(const std::string& dir, const std::vector<oci::DeviceRule>& rules) {
  TRY(CheckDeviceRules(rules));
  DeviceSet wanted = TRY(FlattenRules(rules));
  auto files = Files::Open(dir);
  if (!files) {
    if (MayNot(files.error())) return {};
    return std::unexpected(std::move(files).error());
  }
  auto now = Listed(TRY(ReadControl(dir + "/devices.list")));
  auto run = [&]() -> Result<void> {
    if (!now || wanted.allows_all) return files->All(wanted);
    // Allowed first, then denied: what is in both sets works throughout.
    for (const auto& e : wanted.exceptions) TRY(files->Write(true, LineFor(e)));
    for (auto e : now->exceptions) {
      for (const auto& keep : wanted.exceptions)
        if (keep.type == e.type && keep.major == e.major && keep.minor == e.minor) e.access &= ~keep.access;
      if (e.access) TRY(files->Write(false, LineFor(e)));
    }
    return {};
  };
  auto done = run();
  if (!done && now) (void)files->All(*now);  // as it was
  return done;
}

// ---- Version 2

namespace {

struct Attached {
  uint32_t ids[64] = {}, count = 0, flags = 0;
};

Result<Attached> Query(int group) {
  Attached a;
  bpf_attr query{};
  query.query.target_fd = static_cast<uint32_t>(group);
  query.query.attach_type = BPF_CGROUP_DEVICE;
  query.query.prog_ids = PointerValue(a.ids);
  query.query.prog_cnt = std::size(a.ids);
  if (Bpf(BPF_PROG_QUERY, &query) < 0) return SysErr("{}.devices: list the device programs", kAt);
  a.count = std::min<uint32_t>(query.query.prog_cnt, std::size(a.ids));
  a.flags = query.query.attach_flags;
  return a;
}

// The program that stands for the rules in force, when there is exactly one: with several, others than we have a say.
unique_fd Replaceable(const Attached& a) {
  if (a.count != 1 || !(a.flags & BPF_F_ALLOW_MULTI)) return {};
  bpf_attr get{};
  get.prog_id = a.ids[0];
  return unique_fd(static_cast<int>(Bpf(BPF_PROG_GET_FD_BY_ID, &get)));
}

}  // namespace

Result<void> ApplyDevicesV2(const std::string& dir, const std::vector<oci::DeviceRule>& rules) {
  TRY(CheckDeviceRules(rules));
  auto loaded = LoadProgram(rules);
  if (!loaded) {
    if (MayNot(loaded.error())) return {};
    return std::unexpected(std::move(loaded).error());
  }
  unique_fd program = std::move(*loaded);
  unique_fd group = TRY(Open(dir, O_RDONLY | O_DIRECTORY));
  bpf_attr attach{};
  attach.target_fd = static_cast<uint32_t>(group.get());
  attach.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  Attached before = TRY(Query(group.get()));
  // In one step where the kernel can (5.6): no moment without rules, none with both.
  if (unique_fd old = Replaceable(before)) {
    bpf_attr replace = attach;
    replace.attach_flags |= BPF_F_REPLACE;
    replace.replace_bpf_fd = static_cast<uint32_t>(old.get());
    if (Bpf(BPF_PROG_ATTACH, &replace) == 0) return {};
    if (errno != EINVAL) return SysErr("{}.devices: replace the device program of {}", kAt, dir);
  }
  if (Bpf(BPF_PROG_ATTACH, &attach) < 0 && errno != EINVAL)  // EINVAL: this very program is attached
    return SysErr("{}.devices: attach the device program to {}", kAt, dir);
  // The new one is in force (all attached ones must agree); what was there before goes.
  if (before.count == 0) return {};
  bpf_attr info{};
  bpf_prog_info mine{};
  info.info.bpf_fd = static_cast<uint32_t>(program.get());
  info.info.info = PointerValue(&mine);
  info.info.info_len = sizeof mine;
  if (Bpf(BPF_OBJ_GET_INFO_BY_FD, &info) < 0) return SysErr("{}.devices: identify the device program", kAt);
  for (uint32_t i = 0; i < before.count; ++i) {
    if (before.ids[i] == mine.id) continue;
    bpf_attr get{};
    get.prog_id = before.ids[i];
    unique_fd old(static_cast<int>(Bpf(BPF_PROG_GET_FD_BY_ID, &get)));
    if (!old) continue;
    bpf_attr detach{};
    detach.target_fd = static_cast<uint32_t>(group.get());
    detach.attach_bpf_fd = static_cast<uint32_t>(old.get());
    detach.attach_type = BPF_CGROUP_DEVICE;
    if (Bpf(BPF_PROG_DETACH, &detach) < 0)
      return SysErr("{}.devices: detach the former device program from {}", kAt, dir);
  }
  return {};
}

}  // namespace berth::runtime::cgroup
