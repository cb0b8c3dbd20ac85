#include "runtime/shim/exit_facts.h"

#include <dirent.h>

#include <charconv>
#include <memory>

#include "base/atomic_file.h"
#include "base/log.h"

namespace berth::runtime {
namespace {

ExitFacts Make(const char (&id)[shim::kIdSize], int32_t exit_code, int64_t finished_at, const shim::ExitDetails& details) {
  return {.id = ContainerId(std::string(id, strnlen(id, sizeof id))),
          .exit_code = exit_code,
          .finished_at = finished_at,
          .signal = details.signal,
          .oom_killed = details.oom_killed != 0,
          .oom_kills = details.oom_kills,
          .user_ns = details.user_ns,
          .system_ns = details.system_ns,
          .memory_peak = details.memory_peak,
          .log_dropped = details.log_dropped};
}

ContainerFacts Make(const char (&id)[shim::kIdSize], shim::State state, int32_t pid, int32_t exit_code, int64_t started_at,
                    int64_t finished_at, const shim::ExitDetails& details) {
  ContainerFacts facts;
  facts.id = ContainerId(std::string(id, strnlen(id, sizeof id)));
  facts.pid = pid;
  facts.started = started_at != 0;
  facts.started_at = started_at;
  if (state == shim::State::kExited) facts.exit = Make(id, exit_code, finished_at, details);
  return facts;
}

template <class T>
bool Take(std::string_view& text, T& value, char end) {
  const auto got = std::from_chars(text.data(), text.data() + text.size(), value);
  if (got.ec != std::errc() || got.ptr == text.data() + text.size() || *got.ptr != end) return false;
  text.remove_prefix(static_cast<size_t>(got.ptr + 1 - text.data()));
  return true;
}

// protocol.h, "Exit record".
bool Parse(std::string_view text, ExitFacts& facts) {
  if (!text.starts_with(shim::kRecordFormat) || !text.ends_with('\n')) return false;
  text.remove_prefix(std::string_view(shim::kRecordFormat).size());
  if (!Take(text, facts.exit_code, ' ') || !Take(text, facts.finished_at, '\n')) return false;
  while (!text.empty()) {
    const size_t end = text.find_first_of(" \n");
    std::string_view pair = text.substr(0, end);
    text.remove_prefix(end + 1);
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) continue;
    uint64_t value = 0;
    const std::string_view number = pair.substr(equals + 1), name = pair.substr(0, equals);
    if (std::from_chars(number.data(), number.data() + number.size(), value).ec != std::errc()) continue;
    if (name == "signal") facts.signal = static_cast<int>(value);
    if (name == "oom_kills") facts.oom_kills = static_cast<uint32_t>(value);
    if (name == "oom_killed") facts.oom_killed = value != 0;
    if (name == "user_ns") facts.user_ns = static_cast<int64_t>(value);
    if (name == "system_ns") facts.system_ns = static_cast<int64_t>(value);
    if (name == "memory_peak") facts.memory_peak = value;
    if (name == "log_dropped") facts.log_dropped = value;
  }
  return true;
}

}  // namespace

ExitFacts ExitOf(const Packet& packet) {
  auto event = packet.As<shim::ExitEvent>();
  return Make(event.id, event.exit_code, event.finished_at, event.details);
}

std::vector<shim::FactsEntry> EntriesOf(const Packet& packet) {
  std::vector<shim::FactsEntry> out;
  auto head = packet.As<shim::FactsReply>();
  std::string_view rest(packet.body);
  rest.remove_prefix(std::min(rest.size(), sizeof head));
  for (uint32_t i = 0; i < head.count && head.entry_size > 0 && rest.size() >= head.entry_size; ++i) {
    shim::FactsEntry& entry = out.emplace_back();
    memset(static_cast<void*>(&entry), 0, sizeof entry);
    memcpy(static_cast<void*>(&entry), rest.data(), std::min<size_t>(head.entry_size, sizeof entry));
    rest.remove_prefix(head.entry_size);
  }
  return out;
}

std::vector<ContainerFacts> ContainersOf(const Packet& part, bool facts) {
  std::vector<ContainerFacts> out;
  if (facts) {
    for (const shim::FactsEntry& e : EntriesOf(part))
      out.push_back(Make(e.id, e.state, e.pid, e.exit_code, e.started_at, e.finished_at, e.exit));
    return out;
  }
  for (size_t at = 0; at + sizeof(shim::ContainerEntry) <= part.body.size(); at += sizeof(shim::ContainerEntry)) {
    shim::ContainerEntry e;
    memcpy(static_cast<void*>(&e), part.body.data() + at, sizeof e);
    out.push_back(Make(e.id, e.state, e.pid, e.exit_code, e.started_at, e.finished_at, {}));
  }
  return out;
}

Result<std::vector<ExitFacts>> ReadExitRecordsIn(const std::string& state_dir) {
  std::vector<ExitFacts> out;
  unique_fd dir_fd = TRY(Open(state_dir, O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(dir_fd.get()), ::closedir);
  if (!dir) return SysErr("read {}", state_dir);
  const int fd = dir_fd.release();
  constexpr std::string_view kSuffix = shim::kRecordSuffix;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view name(entry->d_name);
    if (!name.ends_with(kSuffix)) continue;
    auto text = ReadFileAt(fd, entry->d_name, shim::kRecordLimit);
    ExitFacts facts{.id = ContainerId(std::string(name.substr(0, name.size() - kSuffix.size())))};
    if (!text || !Parse(*text, facts)) {
      log::Warn("exit_record.damaged", {{"file", state_dir + "/" + entry->d_name}});
      continue;
    }
    out.push_back(std::move(facts));
  }
  std::ranges::sort(out, {}, &ExitFacts::finished_at);
  return out;
}

}  // namespace berth::runtime
