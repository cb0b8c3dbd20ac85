// Writes limits: of a new group (Apply) and of one in use (Update, which can take its writes back).
#include "base/atomic_file.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/cgroup_settings.h"

namespace berth::runtime::cgroup {
namespace {

class Writer {
 public:
  Writer(const Layout& layout, const Group& group, bool remember)
      : layout_(layout), group_(group), remember_(remember) {}

  // Settings of one controller can depend on each other (limit and limit with swap, quota and period), and which one
  // has to move first depends on what is in force and on the parent. The kernel says EINVAL to the one that is too
  // early: it is tried again after the others.
  Result<void> Write(const std::vector<Setting>& settings) {
    for (size_t begin = 0, end; begin < settings.size(); begin = end) {
      end = begin;
      while (end < settings.size() && settings[end].controller == settings[begin].controller) ++end;
      std::vector<const Setting*> todo;
      for (size_t i = begin; i < end; ++i) todo.push_back(&settings[i]);
      while (!todo.empty()) {
        std::vector<const Setting*> again;
        std::optional<Error> first;
        for (const Setting* s : todo) {
          auto done = One(*s);
          if (done) continue;
          if (done.error().sys != EINVAL) return done;
          if (!first) first = std::move(done).error();
          again.push_back(s);
        }
        if (again.size() == todo.size()) return std::unexpected(*std::move(first));
        todo = std::move(again);
      }
    }
    return {};
  }

  // Newest first; repeated as above. Nothing to say when all is as before.
  Result<void> TakeBack() {
    std::vector<Old> todo(std::make_move_iterator(old_.rbegin()), std::make_move_iterator(old_.rend()));
    old_.clear();
    while (!todo.empty()) {
      std::vector<Old> again;
      std::optional<Error> first;
      for (Old& o : todo) {
        auto done = WriteControl(o.path, o.value);
        if (done) continue;
        if (!first) first = std::move(done).error();
        again.push_back(std::move(o));
      }
      if (again.size() == todo.size()) return std::unexpected(*std::move(first));
      todo = std::move(again);
    }
    return {};
  }

 private:
  struct Old {
    std::string path, value;
  };

  std::string Dir(const Setting& s) const {
    return s.v2 ? layout_.v2 + group_.path : *V1Dir(layout_, s.controller, group_);
  }

  Result<void> One(const Setting& s) {
    const std::string dir = Dir(s);
    auto done = Put(dir + "/" + s.file, s.value, s);
    if (!done && done.error().sys == ENOENT && !s.other_file.empty())
      done = Put(dir + "/" + s.other_file, s.other_value, s);
    if (done) return done;
    const int err = done.error().sys;
    if (err == ENOENT) {
      if (!Exists(dir)) return Err(Code::kNotFound, "cgroup {}: not there", dir);
      // One that is not among those that every group gets, or a group that somebody else has made.
      if (s.v2 && layout_.V2(s.controller) && !enabled_) {
        enabled_ = true;
        auto enabled = EnableController(layout_, group_, s.controller);
        if (!enabled && !s.if_there) return Wrap(std::move(enabled).error(), "{}.{}", kAt, s.member);
        auto again = One(s);
        enabled_ = false;
        return again;
      }
      if (s.if_there) return {};
      if (s.v2 && !layout_.V2(s.controller) && s.controller != "cgroup")
        return Err(Code::kFailedPrecondition, "{}.{}: this host has no {} cgroup controller", kAt, s.member,
                   s.controller);
      return Err(Code::kFailedPrecondition, "{}.{}: this kernel's {} cgroup controller has no {}", kAt, s.member,
                 s.controller, s.file);
    }
    Error error = std::move(done).error();
    if (s.file == "memory.limit_in_bytes" && err == EBUSY)
      return std::unexpected(
          Error{Code::kConflict, fmt::format("{}.memory.limit: {} is below what the container uses now", kAt, s.value),
                err, error.at});
    if (s.file == "memory.limit_in_bytes" && err == EINVAL)
      error.what += " (above the limit of memory and swap in force? memory.swap moves with it)";
    if (s.file == "memory.memsw.limit_in_bytes" && err == EINVAL)
      error.what += " (below the memory limit in force? memory.limit moves with it)";
    return Wrap(std::move(error), "{}.{}", kAt, s.member);
  }

  Result<void> Put(const std::string& path, std::string value, const Setting& s) {
    std::string before;
    bool fill = !value.empty() && value[0] == ' ';  // cpu.max with a period alone: the quota in force
    if (remember_ || fill) before = TRY(ReadControl(path));
    if (fill) value = before.substr(0, before.find(' ')) + value;
    TRY(WriteControl(path, value));
    if (remember_) old_.push_back({path, Restore(before, s)});
    return {};
  }

  static std::string Restore(std::string_view before, const Setting& s) {
    if (!s.key.empty()) {
      std::string line = LineOf(before, s.key);
      return line.empty() ? s.clear : line;
    }
    if (s.file == "memory.oom_control") return fmt::format("{}", Keyed(before, "oom_kill_disable").value_or(0));
    if (std::string line = LineOf(before, "default"); !line.empty()) return line;  // io.weight
    std::string_view text = Trim(before);
    return text.empty() ? "\n" : std::string(text);
  }

  const Layout& layout_;
  const Group& group_;
  const bool remember_;
  bool enabled_ = false;
  std::vector<Old> old_;
};

std::unexpected<Error> NoDevices() {
  return Err(Code::kFailedPrecondition, "{}.devices: this host has no devices cgroup controller", kAt);
}

}  // namespace

Result<void> Apply(const Layout& layout, const Group& group, const oci::Resources& r) {
  auto settings = TRY(SettingsOf(layout, r));
  if (!r.devices.empty()) {
    if (auto dir = V1Dir(layout, "devices", group))
      TRY(ApplyDevicesV1(*dir, r.devices));
    else if (!layout.v2.empty())
      TRY(ApplyDevicesV2(layout.v2 + group.path, r.devices));
    else
      return NoDevices();
  }
  return Writer(layout, group, false).Write(settings);
}

Result<void> Update(const Layout& layout, const Group& group, const oci::Resources& given) {
  oci::Resources r = given;
  if (r.memory && !layout.V1("memory") && layout.V2("memory")) {
    const std::string dir = layout.v2 + group.path;
    if (r.memory->checkBeforeUpdate.value_or(false) && r.memory->limit.value_or(0) > 0) {
      // Version 1 refuses by itself; here the OOM killer would make room.
      auto now = ReadNumber(dir + "/memory.current");
      if (now && *now > static_cast<uint64_t>(*r.memory->limit))
        return Err(Code::kConflict, "{}.memory.limit: {} is below what the container uses now ({})", kAt,
                   *r.memory->limit, *now);
    }
    // The sum of memory and swap means something with the limit in force, too.
    if (r.memory->swap.value_or(0) > 0 && r.memory->limit.value_or(0) == 0)
      if (auto now = ReadNumber(dir + "/memory.max")) r.memory->limit = static_cast<int64_t>(*now);
  }
  auto settings = TRY(SettingsOf(layout, r));
  if (!r.devices.empty() && !layout.V1("devices") && layout.v2.empty()) return NoDevices();
  Writer writer(layout, group, true);
  auto done = writer.Write(settings);
  if (done && !r.devices.empty()) {  // last: nothing can fail after it
    if (auto dir = V1Dir(layout, "devices", group))
      done = UpdateDevicesV1(*dir, r.devices);
    else
      done = ApplyDevicesV2(layout.v2 + group.path, r.devices);
  }
  if (done) return {};
  Error error = std::move(done).error();
  if (auto back = writer.TakeBack(); !back)
    error.what += "; what was written before could not be taken back: " + back.error().what;
  return std::unexpected(std::move(error));
}

}  // namespace berth::runtime::cgroup
