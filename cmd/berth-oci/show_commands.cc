// list, ps, spec, features.
#include <fcntl.h>

#include "base/atomic_file.h"
#include "base/child.h"
#include "base/json.h"
#include "cmd/berth-oci/command.h"

namespace berth {

using namespace runtime::oci;

namespace {

Result<int> DoList(Call& call) {
  auto all = TRY(List(call.host));
  std::string format = call.args.Text("format", "table");
  if (call.args.Flag("quiet")) {
    for (const StateDocument& s : all) Print(s.id + "\n");
  } else if (format == "json") {
    Print(json::Serialize(json::ToValue(all)) + "\n");
  } else if (format == "table") {
    size_t widest = 24;
    for (const StateDocument& s : all) widest = std::max(widest, s.id.size());
    auto line = [&](auto id, auto pid, auto status, auto bundle, auto created, auto owner) {
      Print(fmt::format("{:<{}} {:<10} {:<10} {:<32} {:<32} {}\n", id, widest, pid, status, bundle, created, owner));
    };
    line("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
    for (const StateDocument& s : all) line(s.id, s.pid, s.status, s.bundle, s.created, s.owner);
  } else {
    return Err(Code::kInvalidArgument, "--format: \"{}\": must be table or json", format);
  }
  return 0;
}

std::vector<std::string_view> Words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    size_t start = line.find_first_not_of(" \t");
    if (start == std::string_view::npos) break;
    size_t end = std::min(line.find_first_of(" \t", start), line.size());
    words.push_back(line.substr(start, end - start));
    line.remove_prefix(end);
  }
  return words;
}

// ps(1) of the host with the caller's options, of which the lines of the container's processes are kept.
Result<int> DoPs(Call& call) {
  auto pids = TRY(Pids(call.host, TRY(call.Id())));
  std::string format = call.args.Text("format", "table");
  if (format == "json") {
    Print(json::Serialize(json::ToValue(pids)) + "\n");
    return 0;
  }
  if (format != "table") return Err(Code::kInvalidArgument, "--format: \"{}\": must be table or json", format);
  Command ps;
  ps.argv = {"ps"};
  ps.argv.insert(ps.argv.end(), call.args.rest.begin() + 1, call.args.rest.end());
  if (ps.argv.size() == 1) ps.argv.emplace_back("-ef");
  ps.env = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"};
  CommandOutput out = TRY(berth::Run(ps, Deadline::After(std::chrono::seconds(60))));
  if (out.exit_code != 0) return Err(Code::kInvalidArgument, "ps: {}", out.err);
  size_t column = SIZE_MAX;
  for (std::string_view left = out.out; !left.empty();) {
    std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    auto words = Words(line);
    if (column == SIZE_MAX) {
      for (size_t i = 0; i < words.size(); ++i)
        if (words[i] == "PID") column = i;
      if (column == SIZE_MAX) return Err(Code::kInvalidArgument, "ps: its output has no column PID");
      Print(std::string(line) + "\n");
      continue;
    }
    if (column >= words.size()) continue;
    auto pid = Number(words[column], "ps");
    if (pid && std::find(pids.begin(), pids.end(), static_cast<pid_t>(*pid)) != pids.end())
      Print(std::string(line) + "\n");
  }
  return 0;
}

Result<int> DoSpec(Call& call) {
  std::string path = call.args.Text("bundle", ".") + "/config.json";
  unique_fd fd = TRY(Open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  TRY(WriteAll(fd.get(), SpecTemplate(call.args.Flag("rootless"))));
  return 0;
}

Result<int> DoFeatures(Call&) {
  Print(Features());
  return 0;
}

}  // namespace

void AddShowCommands(std::vector<Verb>* all) {
  all->push_back({"list",
                  "list [--format table|json] [-q]",
                  "containers of this state root",
                  DoList,
                  {{"format", 'f', true, "table or json"}, {"quiet", 'q', false, "ids only"}}});
  all->push_back({"ps",
                  "ps [--format table|json] ID [PS OPTIONS]",
                  "its processes",
                  DoPs,
                  {{"format", 'f', true, "json: process ids; table: ps(1) with its options (-ef)"}},
                  0});
  all->push_back({"spec",
                  "spec [--bundle DIR] [--rootless]",
                  "write a config.json to start from",
                  DoSpec,
                  {{"bundle", 'b', true, "where to write config.json (the current directory)"},
                   {"rootless", 0, false, "for a user without privileges: the caller's own"}}});
  all->push_back({"features", "features", "what this runtime supports, as JSON", DoFeatures, {}});
}

}  // namespace berth
