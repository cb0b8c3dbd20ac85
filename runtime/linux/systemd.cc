#include "runtime/linux/systemd.h"

#include <unistd.h>

#include <cstdlib>
#include <map>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/cgroup_settings.h"
#include "runtime/linux/devices.h"

namespace berth::runtime::systemd {
namespace {

using dbus::Value;

constexpr uint64_t kInfinity = UINT64_MAX;
constexpr const char* kManager = "org.freedesktop.systemd1.Manager";

bool ValidUnitName(std::string_view name) {
  return !name.empty() && name.size() < 256 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@") ==
             std::string_view::npos;
}

// Who we are outside of a user namespace that we may have entered.
uint64_t HostUser() {
  auto map = cgroup::ReadControl("/proc/self/uid_map");
  auto words = map ? cgroup::Words(cgroup::Trim(*map)) : std::vector<std::string>();  // "0 1000 1" and more lines
  const uint64_t user = ::getuid();
  if (words.size() < 2) return user;
  const uint64_t inside = cgroup::Number(words[0]).value_or(UINT64_MAX), outside = cgroup::Number(words[1]).value_or(0);
  return user >= inside ? outside + (user - inside) : user;
}

uint64_t OrInfinity(int64_t n) { return n < 0 ? kInfinity : static_cast<uint64_t>(n); }

// "0-2,7" as a bit mask, the lowest CPU in the lowest bit of the first byte.
Result<Value> Mask(const std::string& list, std::string_view member) {
  std::vector<uint8_t> bits;
  for (const std::string& range : cgroup::Words(list, ',')) {
    size_t dash = range.find('-');
    auto first = cgroup::Number(std::string_view(range).substr(0, dash));
    auto last = dash == std::string::npos ? first : cgroup::Number(std::string_view(range).substr(dash + 1));
    if (!first || !last || *last < *first || *last > 65535)
      return Err(Code::kInvalidArgument, "linux.resources.{}: \"{}\" is not a list such as 0-3,7", member, list);
    if (bits.size() <= *last / 8) bits.resize(*last / 8 + 1);
    for (uint64_t n = *first; n <= *last; ++n) bits[n / 8] = static_cast<uint8_t>(bits[n / 8] | 1 << n % 8);
  }
  std::vector<Value> bytes;
  for (uint8_t b : bits) bytes.push_back({.kind = 'y', .number = b});
  return Value::Array("y", std::move(bytes));
}

class Translator {
 public:
  Translator(const cgroup::Layout& layout, unsigned version, std::vector<Property>* out)
      : v2_(layout.unified()), layout_(layout), version_(version), out_(*out) {}

  void U64(const char* name, uint64_t n) { out_.emplace_back(name, Value::U64(n)); }

  Result<void> Memory(const oci::Memory& m) {
    auto set = [](const std::optional<int64_t>& n) { return n && *n != 0; };
    if (!v2_) {
      if (set(m.limit)) U64("MemoryLimit", OrInfinity(*m.limit));
      return {};
    }
    if (set(m.limit)) U64("MemoryMax", OrInfinity(*m.limit));
    if (set(m.reservation)) U64("MemoryLow", OrInfinity(*m.reservation));
    if (auto swap = TRY(cgroup::SwapMax(m))) U64("MemorySwapMax", OrInfinity(*swap));
    return {};
  }

  void Quota(int64_t quota, uint64_t period) {
    if (period && version_ >= 242) U64("CPUQuotaPeriodUSec", period);
    if (quota == 0) return;
    uint64_t per_second = kInfinity;
    if (quota > 0) {
      // systemd keeps whole percents: rounded up, so that its file never says less than ours.
      per_second = static_cast<uint64_t>(quota) * 1000000 / (period ? period : 100000);
      if (per_second % 10000) per_second = (per_second / 10000 + 1) * 10000;
    }
    U64("CPUQuotaPerSecUSec", per_second);
  }

  Result<void> Cpu(const oci::Cpu& c) {
    bool idle = c.idle.value_or(0) == 1;
    if (c.shares.value_or(0) && !(v2_ && idle))
      U64(v2_ ? "CPUWeight" : "CPUShares", v2_ ? cgroup::WeightFromShares(*c.shares) : *c.shares);
    if (v2_ && idle && version_ >= 252) U64("CPUWeight", 0);  // systemd's word for idle
    Quota(c.quota.value_or(0), c.period.value_or(0));
    if (v2_ && version_ >= 244) {
      if (!c.cpus.empty()) out_.emplace_back("AllowedCPUs", TRY(Mask(c.cpus, "cpu.cpus")));
      if (!c.mems.empty()) out_.emplace_back("AllowedMemoryNodes", TRY(Mask(c.mems, "cpu.mems")));
    }
    return {};
  }

  void Pids(int64_t limit) {
    // systemd refuses 0; the file gets it.
    U64("TasksMax", limit < 0 ? kInfinity : std::max<uint64_t>(1, static_cast<uint64_t>(limit)));
  }

  void BlockIo(const oci::BlockIO& b) {
    if (!b.weight.value_or(0)) return;
    U64(v2_ ? "IOWeight" : "BlockIOWeight", v2_ ? cgroup::IoWeight(*b.weight) : *b.weight);
  }

  Result<void> Unified(const std::map<std::string, std::string>& files) {
    static constexpr std::pair<std::string_view, const char*> kNames[] = {
        {"memory.high", "MemoryHigh"},        {"memory.low", "MemoryLow"},
        {"memory.min", "MemoryMin"},          {"memory.max", "MemoryMax"},
        {"memory.swap.max", "MemorySwapMax"}, {"pids.max", "TasksMax"},
        {"cpu.weight", "CPUWeight"},          {"io.weight", "IOWeight"}};
    for (const auto& [file, value] : files) {
      auto number = value == "max" ? std::optional<uint64_t>(kInfinity) : cgroup::Number(value);
      for (auto [name, property] : kNames)
        if (file == name && number) U64(property, *number);
      if (file == "cpuset.cpus" && version_ >= 244) out_.emplace_back("AllowedCPUs", TRY(Mask(value, "unified")));
      if (file == "cpuset.mems" && version_ >= 244)
        out_.emplace_back("AllowedMemoryNodes", TRY(Mask(value, "unified")));
      if (file == "cpu.max") {
        auto words = cgroup::Words(value);
        auto quota = words.empty() ? std::nullopt : cgroup::Number(words[0]);
        auto period = words.size() < 2 ? std::nullopt : cgroup::Number(words[1]);
        Quota(quota ? static_cast<int64_t>(*quota) : -1, period.value_or(0));
      }
    }
    return {};
  }

  void Devices(const std::vector<oci::DeviceRule>& rules) {
    auto set = cgroup::FlattenRules(rules);
    if (!set) return;  // the program on version 2 has them all; version 1 will refuse them by itself
    out_.emplace_back("DevicePolicy", Value::Text(set->allows_all ? "auto" : "strict"));
    std::vector<Value> allowed;
    for (const auto& e : set->exceptions) {
      if (set->allows_all) break;
      std::string where = e.type == 'b' ? "block" : "char", access;
      if (e.access & BPF_DEVCG_ACC_READ) access += 'r';
      if (e.access & BPF_DEVCG_ACC_WRITE) access += 'w';
      if (e.access & BPF_DEVCG_ACC_MKNOD) access += 'm';
      std::string device;
      if (e.major < 0)
        device = e.minor < 0 ? where + "-*" : "";
      else if (e.minor >= 0)
        device = fmt::format("/dev/{}/{}:{}", where, e.major, e.minor);
      else if (std::string name = DriverName(e.type, e.major); !name.empty())
        device = where + "-" + name;
      if (!device.empty()) allowed.push_back(Value::Struct({Value::Text(device), Value::Text(access)}));
    }
    out_.emplace_back("DeviceAllow", Value::Array("(ss)", std::move(allowed)));
  }

 private:
  // /proc/devices: "Character devices:\n  1 mem\n...\nBlock devices:\n..."
  static std::string DriverName(char type, int64_t major) {
    auto text = cgroup::ReadControl("/proc/devices");
    bool block = false;
    if (text)
      for (const std::string& line : cgroup::Words(*text, '\n')) {
        if (line.starts_with("Block")) block = true;
        auto words = cgroup::Words(line);
        if (block == (type == 'b') && words.size() == 2 && words[0] == fmt::format("{}", major)) return words[1];
      }
    return "";
  }

  const bool v2_;
  const cgroup::Layout& layout_;
  const unsigned version_;
  std::vector<Property>& out_;
};

Value Properties(std::vector<Property> properties) {
  std::vector<Value> items;
  for (auto& [name, value] : properties)
    items.push_back(Value::Struct({Value::Text(name), Value::Variant(std::move(value))}));
  return Value::Array("(sv)", std::move(items));
}

}  // namespace

bool UserManager() { return ::geteuid() != 0 || HostUser() != 0; }

Result<Scope> ScopeOf(const std::string& path, const std::string& id, bool user) {
  const char* slice = user ? "user.slice" : "system.slice";
  if (path.empty()) return Scope{slice, "berth-oci-" + id + ".scope"};
  std::vector<std::string> parts(1);
  for (char c : path) {
    if (c == ':')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  if (parts.size() != 3 || parts[2].empty())
    return Err(Code::kInvalidArgument, "linux.cgroupsPath: \"{}\": must be slice:prefix:name with --systemd-cgroup",
               path);
  Scope scope{parts[0].empty() ? slice : parts[0],
              (parts[1].empty() ? parts[2] : parts[1] + "-" + parts[2]) + ".scope"};
  std::string_view stem = scope.slice;
  bool good = ValidUnitName(stem) && stem.ends_with(".slice");
  if (good) stem.remove_suffix(6);
  if (good && stem != "-" &&
      (stem.empty() || stem.front() == '-' || stem.back() == '-' || stem.find("--") != std::string_view::npos))
    good = false;
  if (!good) return Err(Code::kInvalidArgument, "linux.cgroupsPath: \"{}\" is not a slice", scope.slice);
  if (!ValidUnitName(scope.unit))
    return Err(Code::kInvalidArgument, "linux.cgroupsPath: \"{}\" is not the name of a unit", scope.unit);
  return scope;
}

std::string PathOf(const Scope& scope) {
  std::string out, stem(scope.slice, 0, scope.slice.size() - 6);
  if (stem != "-")  // a-b-c.slice lies in a-b.slice lies in a.slice
    for (size_t dash = stem.find('-');; dash = stem.find('-', dash + 1)) {
      out += '/';
      out.append(stem, 0, dash);
      out += ".slice";
      if (dash == std::string::npos) break;
    }
  return out + "/" + scope.unit;
}

Result<std::vector<Property>> LimitProperties(const cgroup::Layout& layout, const oci::Resources& r, unsigned version) {
  std::vector<Property> out;
  Translator t(layout, version, &out);
  if (r.memory) TRY(t.Memory(*r.memory));
  if (r.cpu) TRY(t.Cpu(*r.cpu));
  if (r.pids && r.pids->limit) t.Pids(*r.pids->limit);
  if (r.blockIO) t.BlockIo(*r.blockIO);
  if (layout.unified()) TRY(t.Unified(r.unified));
  if (!r.devices.empty()) t.Devices(r.devices);
  return out;
}

Result<std::vector<Property>> AnnotatedProperties(const std::map<std::string, std::string>& annotations) {
  constexpr std::string_view kPrefix = "org.systemd.property.";
  std::vector<Property> out;
  for (const auto& [key, text] : annotations) {
    if (!key.starts_with(kPrefix)) continue;
    std::string name = key.substr(kPrefix.size());
    if (name.size() < 3 || !std::all_of(name.begin(), name.end(), [](unsigned char c) { return isalnum(c); }))
      return Err(Code::kInvalidArgument, "annotations[\"{}\"]: \"{}\" is not the name of a property", key, name);
    Value value = TRY_CTX(dbus::ParseVariantText(text), "annotations[\"{}\"]", key);
    if (name.ends_with("Sec") && !name.ends_with("USec")) {
      if (!strchr("ynqiuxtd", value.kind))
        return Err(Code::kInvalidArgument, "annotations[\"{}\"]: \"{}\" is not a number of seconds", key, text);
      double seconds = value.kind == 'd' ? value.real : static_cast<double>(static_cast<int64_t>(value.number));
      if (seconds < 0) return Err(Code::kInvalidArgument, "annotations[\"{}\"]: {} is negative", key, text);
      name.replace(name.size() - 3, 3, "USec");
      value = Value::U64(static_cast<uint64_t>(seconds * 1e6));
    }
    out.emplace_back(std::move(name), std::move(value));
  }
  return out;
}

Result<Manager> Manager::Connect(const Deadline& until) {
  struct Address {
    std::string path;
    bool bus;
  };
  std::vector<Address> addresses;
  auto from_environment = [&](const char* variable) {
    const char* text = ::getenv(variable);
    if (text && std::string_view(text).starts_with("unix:path=")) {
      std::string_view path = std::string_view(text).substr(10);
      addresses.push_back({std::string(path.substr(0, path.find_first_of(",;"))), true});
    }
  };
  if (UserManager()) {
    const char* run = ::getenv("XDG_RUNTIME_DIR");
    std::string base = run && *run ? run : fmt::format("/run/user/{}", HostUser());
    addresses.push_back({base + "/systemd/private", false});
    from_environment("DBUS_SESSION_BUS_ADDRESS");
    addresses.push_back({base + "/bus", true});
  } else {
    addresses.push_back({"/run/systemd/private", false});
    from_environment("DBUS_SYSTEM_BUS_ADDRESS");
    addresses.push_back({"/run/dbus/system_bus_socket", true});
  }
  std::string why;
  for (const Address& a : addresses) {
    auto connection = dbus::Connection::Open(a.path, a.bus, until);
    if (!connection) {
      if (connection.error().code == Code::kDeadlineExceeded || connection.error().code == Code::kCancelled)
        return std::unexpected(std::move(connection).error());
      why += (why.empty() ? "" : "; ") + connection.error().what;
      continue;
    }
    Manager m;
    m.connection_ = std::move(*connection);
    if (a.bus) {  // a peer gets every signal unasked
      TRY(m.connection_.Call(
          {.path = "/org/freedesktop/DBus",
           .interface = "org.freedesktop.DBus",
           .member = "AddMatch",
           .destination = "org.freedesktop.DBus",
           .body = {Value::Text(fmt::format(
               "type='signal',interface='{}',member='JobRemoved',path='/org/freedesktop/systemd1'", kManager))}},
          until));
      TRY(m.Call("Subscribe", {}, until));
    }
    auto got = TRY(m.connection_.Call({.path = "/org/freedesktop/systemd1",
                                       .interface = "org.freedesktop.DBus.Properties",
                                       .member = "Get",
                                       .destination = a.bus ? "org.freedesktop.systemd1" : "",
                                       .body = {Value::Text(kManager), Value::Text("Version")}},
                                      until));
    if (!got.empty() && got[0].kind == 'v')  // "252.39-1~deb12u2", "v257"
      for (char c : got[0].items[0].text) {
        if (c == 'v' && m.version_ == 0) continue;
        if (c < '0' || c > '9') break;
        m.version_ = m.version_ * 10 + static_cast<unsigned>(c - '0');
      }
    return m;
  }
  return Err(Code::kFailedPrecondition, "--systemd-cgroup: systemd does not answer here ({})", why);
}

Result<std::vector<Value>> Manager::Call(const char* member, std::vector<Value> body, const Deadline& until) {
  return connection_.Call({.path = "/org/freedesktop/systemd1",
                           .interface = kManager,
                           .member = member,
                           .destination = connection_.is_bus() ? "org.freedesktop.systemd1" : "",
                           .body = std::move(body)},
                          until);
}

Result<void> Manager::WaitForJob(const std::string& job, const std::string& unit, const Deadline& until) {
  for (;;) {
    dbus::Message m = TRY_CTX(connection_.NextSignal(until), "unit {}", unit);
    // JobRemoved(u id, o job, s unit, s result)
    if (m.member != "JobRemoved" || m.body.size() != 4 || m.body[1].text != job) continue;
    if (m.body[3].text == "done") return {};
    return Err(Code::kFailedPrecondition, "systemd: unit {}: its job ended as \"{}\"", unit, m.body[3].text);
  }
}

Result<void> Manager::StartScope(const Scope& scope, const std::string& description, pid_t pid,
                                 std::vector<Property> more, const Deadline& until) {
  std::vector<Property> all = {{"Description", Value::Text(description)},
                               {"Slice", Value::Text(scope.slice)},
                               {"PIDs", Value::Array("u", {Value::U32(static_cast<uint32_t>(pid))})},
                               {"Delegate", Value::Bool(true)},
                               {"DefaultDependencies", Value::Bool(false)},
                               {"CPUAccounting", Value::Bool(true)},
                               {"MemoryAccounting", Value::Bool(true)},
                               {"TasksAccounting", Value::Bool(true)}};
  if (version_ >= 236) all.emplace_back("CollectMode", Value::Text("inactive-or-failed"));
  // The caller's word counts: what it names takes the place of ours.
  for (Property& p : more) {
    std::erase_if(all, [&](const Property& old) { return old.first == p.first; });
    all.push_back(std::move(p));
  }
  for (bool cleared = false;; cleared = true) {
    auto started =
        Call("StartTransientUnit",
             {Value::Text(scope.unit), Value::Text("fail"), Properties(all), Value::Array("(sa(sv))", {})}, until);
    if (started) {
      if (started->empty() || started->front().kind != 'o')
        return Err(Code::kUnavailable, "systemd: StartTransientUnit: no job in its answer");
      return WaitForJob(started->front().text, scope.unit, until);
    }
    if (started.error().code != Code::kAlreadyExists || cleared) return std::unexpected(std::move(started).error());
    (void)Call("ResetFailedUnit", {Value::Text(scope.unit)}, until);
  }
}

Result<void> Manager::Stop(const std::string& unit, const Deadline& until) {
  auto stopped = Call("StopUnit", {Value::Text(unit), Value::Text("replace")}, until);
  if (!stopped) {
    if (stopped.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(stopped).error());
  }
  if (!stopped->empty() && stopped->front().kind == 'o') TRY(WaitForJob(stopped->front().text, unit, until));
  (void)Call("ResetFailedUnit", {Value::Text(unit)}, until);
  return {};
}

Result<void> Manager::SetProperties(const std::string& unit, std::vector<Property> properties, const Deadline& until) {
  if (properties.empty()) return {};
  TRY(Call("SetUnitProperties", {Value::Text(unit), Value::Bool(true), Properties(std::move(properties))}, until));
  return {};
}

}  // namespace berth::runtime::systemd
