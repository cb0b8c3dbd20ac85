#include "runtime/linux/resctrl.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::resctrl {
namespace {

using cgroup::ReadControl;
using cgroup::Trim;
using cgroup::WriteControl;

// "L3:0=0ff;1=f" to its resource and its values by domain, without leading zeros and in lower case.
struct Line {
  std::string resource;
  std::map<std::string, std::string> values;
};

Line ParseLine(std::string_view text) {
  Line line;
  text = Trim(text);
  size_t colon = text.find(':');
  line.resource = std::string(Trim(text.substr(0, colon)));
  text.remove_prefix(colon == std::string_view::npos ? text.size() : colon + 1);
  while (!text.empty()) {
    std::string_view part = text.substr(0, text.find(';'));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    size_t equals = part.find('=');
    if (equals == std::string_view::npos) continue;
    std::string value(Trim(part.substr(equals + 1)));
    for (char& c : value) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
    while (value.size() > 1 && value[0] == '0') value.erase(0, 1);
    line.values[std::string(Trim(part.substr(0, equals)))] = value;
  }
  return line;
}

std::vector<std::string> Lines(const oci::IntelRdt& want) {
  std::vector<std::string> lines;
  if (!want.l3CacheSchema.empty()) lines.push_back(want.l3CacheSchema);
  if (!want.memBwSchema.empty()) lines.push_back(want.memBwSchema);
  lines.insert(lines.end(), want.schemata.begin(), want.schemata.end());  // last, says the specification
  return lines;
}

Result<void> Check(const oci::IntelRdt& want, const std::string& id) {
  std::string_view name = want.closID;
  if (name != "/" && (name.find('/') != name.npos || name == "." || name == ".." || name == "info" ||
                      name == "mon_groups" || name == "mon_data"))
    return Err(Code::kInvalidArgument, "linux.intelRdt.closID: \"{}\": must be a file name, or /", name);
  if (!want.memBwSchema.empty() && !want.memBwSchema.starts_with("MB:"))
    return Err(Code::kInvalidArgument, "linux.intelRdt.memBwSchema: \"{}\": must begin with MB:", want.memBwSchema);
  for (const std::string& line : Lines(want))
    if (line.find('\n') != std::string::npos)
      return Err(Code::kInvalidArgument, "linux.intelRdt: \"{}\": a schema has one line", line);
  if (name.empty() && id.empty()) return Err(Code::kInvalidArgument, "linux.intelRdt: needs a container id");
  return {};
}

Result<void> Compare(const std::string& dir, const std::vector<std::string>& lines) {
  std::map<std::string, Line> have;
  std::string text = TRY(ReadControl(dir + "/schemata"));
  for (std::string_view left = text; !left.empty();) {
    std::string_view one = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), one.size() + 1));
    Line line = ParseLine(one);
    if (!line.resource.empty()) have[line.resource] = std::move(line);
  }
  for (const std::string& wanted : lines) {
    Line line = ParseLine(wanted);
    const Line& there = have[line.resource];
    for (const auto& [domain, value] : line.values) {
      auto it = there.values.find(domain);
      if (it == there.values.end() || it->second != value)
        return Err(Code::kConflict, "linux.intelRdt: class {} exists with other schemata than {}", dir, wanted);
    }
  }
  return {};
}

}  // namespace

Result<std::string> Mount() {
  std::string text = TRY(ReadControl("/proc/self/mountinfo", 16 << 20));
  for (std::string_view left = text; !left.empty();) {
    std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    size_t dash = line.find(" - resctrl ");
    if (dash == std::string_view::npos) continue;
    for (int field = 0; field < 4; ++field) line.remove_prefix(std::min(line.size(), line.find(' ') + 1));
    return std::string(line.substr(0, line.find(' ')));
  }
  return Err(Code::kFailedPrecondition, "linux.intelRdt: no resctrl filesystem is mounted on this host");
}

Result<void> WriteSchemata(const std::string& mount, const std::string& dir, const std::vector<std::string>& lines) {
  for (const std::string& line : lines) {
    if (auto written = WriteControl(dir + "/schemata", line + "\n"); !written) {
      auto said = ReadControl(mount + "/info/last_cmd_status");
      return Wrap(std::move(written).error(), "linux.intelRdt{}{}", said ? ": " : "",
                  said ? Trim(*said) : std::string_view());
    }
  }
  return {};
}

Result<Group> Prepare(const std::string& mount, const oci::IntelRdt& want, const std::string& id) {
  TRY(Check(want, id));
  std::vector<std::string> lines = Lines(want);
  Group group;
  group.dir = want.closID == "/" ? mount : mount + "/" + (want.closID.empty() ? id : want.closID);
  bool fresh = false;
  auto prepare = [&]() -> Result<void> {
    if (want.closID.empty()) {
      if (::mkdir(group.dir.c_str(), 0755) < 0) return SysErr("linux.intelRdt: make class {}", group.dir);
      fresh = group.made = true;
    } else if (!Exists(group.dir)) {
      if (lines.empty())
        return Err(Code::kFailedPrecondition, "linux.intelRdt.closID: there is no class {}", group.dir);
      if (::mkdir(group.dir.c_str(), 0755) < 0) return SysErr("linux.intelRdt: make class {}", group.dir);
      fresh = true;  // but not this container's alone: it stays
    } else if (!lines.empty()) {
      TRY(Compare(group.dir, lines));
    }
    if (fresh) TRY(WriteSchemata(mount, group.dir, lines));
    if (want.enableMonitoring) {
      std::string monitoring = group.dir + "/mon_groups/" + id;
      if (::mkdir(monitoring.c_str(), 0755) < 0)
        return SysErr("linux.intelRdt.enableMonitoring: make group {}", monitoring);
      group.monitoring = std::move(monitoring);
    }
    return {};
  };
  auto done = prepare();
  if (done) return group;
  if (!group.monitoring.empty()) ::rmdir(group.monitoring.c_str());
  if (fresh) ::rmdir(group.dir.c_str());
  return std::unexpected(std::move(done).error());
}

Result<std::vector<unique_fd>> OpenTasks(const Group& group) {
  std::vector<unique_fd> tasks;
  if (!group.dir.empty()) tasks.push_back(TRY(Open(group.dir + "/tasks", O_WRONLY)));
  if (!group.monitoring.empty()) tasks.push_back(TRY(Open(group.monitoring + "/tasks", O_WRONLY)));
  return tasks;
}

Result<void> Remove(const Group& group) {
  if (!group.monitoring.empty() && ::rmdir(group.monitoring.c_str()) < 0 && errno != ENOENT)
    return SysErr("remove {}", group.monitoring);
  if (group.made && ::rmdir(group.dir.c_str()) < 0 && errno != ENOENT) return SysErr("remove {}", group.dir);
  return {};
}

}  // namespace berth::runtime::resctrl
