// Device rules. Version 1: written in order to devices.allow and devices.deny. Version 2: a program of type
// CGROUP_DEVICE, loaded once per rule set in this process and attached to many groups.
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <map>
#include <mutex>

#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/devices.h"

namespace berth::runtime::cgroup {
namespace {

bool Everything(const oci::DeviceRule& r) { return r.type.empty() || r.type == "a"; }

uint32_t AccessBits(const std::string& access) {
  if (access.empty()) return BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;
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

Result<int> LoadProgram(const std::vector<oci::DeviceRule>& rules) {
  static std::mutex mutex;
  static std::map<std::string, unique_fd> loaded;
  auto code = DeviceProgram(rules);
  std::string key(reinterpret_cast<const char*>(code.data()), code.size() * sizeof(bpf_insn));
  std::lock_guard lock(mutex);
  if (auto it = loaded.find(key); it != loaded.end()) return it->second.get();
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = PointerValue(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = PointerValue("Apache-2.0");
  strcpy(attr.prog_name, "berth_devices");
  int fd = static_cast<int>(Bpf(BPF_PROG_LOAD, &attr));
  if (fd < 0) return SysErr("load the device program");
  if (loaded.size() > 64) loaded.clear();  // groups hold their programs themselves
  loaded[key] = unique_fd(fd);
  return fd;
}

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

std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules) {
  // r2 type, r3 access bits not yet granted, r4 major, r5 minor. From the last rule to the first, since later rules
  // win: an allowing rule takes its bits away, a denying rule that meets a wanted bit ends it.
  std::vector<bpf_insn> out = {Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, 0, 0),
                               Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff),
                               Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_3, BPF_REG_1, 0, 0),
                               Insn(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16),
                               Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_1, 4, 0),
                               Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_5, BPF_REG_1, 8, 0)};
  constexpr uint32_t kAll = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;
  auto answer = [&](int value) {
    out.push_back(Insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, value));
    out.push_back(Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  };
  for (auto it = rules.rbegin(); it != rules.rend(); ++it) {
    const oci::DeviceRule& r = *it;
    uint32_t bits = AccessBits(r.access);
    bool any_major = !r.major || *r.major == -1, any_minor = !r.minor || *r.minor == -1;
    if (Everything(r) && any_major && any_minor && bits == kAll) {
      answer(r.allow ? 1 : 0);
      return out;
    }
    std::vector<size_t> skips;  // jumps past this rule
    auto unless = [&](uint8_t reg, int64_t value) {
      skips.push_back(out.size());
      out.push_back(Insn(BPF_JMP | BPF_JNE | BPF_K, reg, 0, 0, static_cast<int32_t>(value)));
    };
    if (!Everything(r)) unless(BPF_REG_2, r.type == "b" ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
    if (!any_major) unless(BPF_REG_4, *r.major);
    if (!any_minor) unless(BPF_REG_5, *r.minor);
    if (r.allow) {
      out.push_back(Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_3, 0, 0, static_cast<int32_t>(~bits & 0xff)));
      unless(BPF_REG_3, 0);
      answer(1);
    } else {
      out.push_back(Insn(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0));
      out.push_back(Insn(BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, static_cast<int32_t>(bits)));
      skips.push_back(out.size());
      out.push_back(Insn(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_1, 0, 0, 0));
      answer(0);
    }
    for (size_t at : skips) out[at].off = static_cast<int16_t>(out.size() - at - 1);
  }
  answer(0);
  return out;
}

Result<void> ApplyDevicesV1(const std::string& dir, const std::vector<oci::DeviceRule>& rules) {
  TRY(CheckDeviceRules(rules));
  unique_fd allow = TRY(Open(dir + "/devices.allow", O_WRONLY));
  unique_fd deny = TRY(Open(dir + "/devices.deny", O_WRONLY));
  for (const oci::DeviceRule& r : rules) {
    bool any_major = !r.major || *r.major == -1, any_minor = !r.minor || *r.minor == -1;
    std::string line =
        Everything(r)
            ? "a"
            : fmt::format("{} {}:{} {}", r.type == "b" ? 'b' : 'c', any_major ? "*" : fmt::format("{}", *r.major),
                          any_minor ? "*" : fmt::format("{}", *r.minor), r.access.empty() ? "rwm" : r.access);
    if (::write((r.allow ? allow : deny).get(), line.data(), line.size()) < 0)
      return SysErr("write \"{}\" to {}/devices.{}", line, dir, r.allow ? "allow" : "deny");
  }
  return {};
}

Result<void> ApplyDevicesV2(const std::string& dir, const std::vector<oci::DeviceRule>& rules) {
  TRY(CheckDeviceRules(rules));
  int program = TRY(LoadProgram(rules));
  unique_fd group = TRY(Open(dir, O_RDONLY | O_DIRECTORY));
  uint32_t ids[64] = {};
  bpf_attr query{};
  query.query.target_fd = static_cast<uint32_t>(group.get());
  query.query.attach_type = BPF_CGROUP_DEVICE;
  query.query.prog_ids = PointerValue(ids);
  query.query.prog_cnt = std::size(ids);
  uint32_t old_count = Bpf(BPF_PROG_QUERY, &query) < 0 ? 0 : query.query.prog_cnt;
  bpf_attr attach{};
  attach.target_fd = static_cast<uint32_t>(group.get());
  attach.attach_bpf_fd = static_cast<uint32_t>(program);
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  if (Bpf(BPF_PROG_ATTACH, &attach) < 0 && errno != EINVAL) return SysErr("attach the device program to {}", dir);
  // The new one is in force (all attached ones must agree); what was there before goes.
  bpf_attr info{};
  bpf_prog_info mine{};
  info.info.bpf_fd = static_cast<uint32_t>(program);
  info.info.info = PointerValue(&mine);
  info.info.info_len = sizeof mine;
  if (Bpf(BPF_OBJ_GET_INFO_BY_FD, &info) < 0) return SysErr("identify the device program");
  for (uint32_t i = 0; i < old_count && i < std::size(ids); ++i) {
    if (ids[i] == mine.id) continue;
    bpf_attr get{};
    get.prog_id = ids[i];
    unique_fd old(static_cast<int>(Bpf(BPF_PROG_GET_FD_BY_ID, &get)));
    if (!old) continue;
    bpf_attr detach{};
    detach.target_fd = static_cast<uint32_t>(group.get());
    detach.attach_bpf_fd = static_cast<uint32_t>(old.get());
    detach.attach_type = BPF_CGROUP_DEVICE;
    if (Bpf(BPF_PROG_DETACH, &detach) < 0) return SysErr("detach the former device program from {}", dir);
  }
  return {};
}

}  // namespace berth::runtime::cgroup
