// update and events: a running container's limits and what it uses.
#include <poll.h>

#include "base/atomic_file.h"
#include "base/json.h"
#include "cmd/berth-oci/command.h"

namespace berth {

using namespace runtime::oci;

namespace {

// runc's and crun's single options, on top of what --resources says.
Result<void> Change(Resources* r, std::vector<std::string>* schemata, const Parsed& a) {
  auto memory = [&](const char* name, std::optional<int64_t> Memory::*member) -> Result<void> {
    const std::string* text = a.Get(name);
    if (!text) return {};
    if (!r->memory) r->memory.emplace();
    (*r->memory).*member = TRY(Bytes(*text, fmt::format("--{}", name)));
    return {};
  };
  TRY(memory("memory", &Memory::limit));
  TRY(memory("memory-reservation", &Memory::reservation));
  TRY(memory("memory-swap", &Memory::swap));
  TRY(memory("kernel-memory", &Memory::kernel));
  TRY(memory("kernel-memory-tcp", &Memory::kernelTCP));
  auto cpu = [&](const char* name, auto member) -> Result<void> {
    const std::string* text = a.Get(name);
    if (!text) return {};
    if (!r->cpu) r->cpu.emplace();
    auto& to = (*r->cpu).*member;
    using Value = typename std::remove_reference_t<decltype(to)>::value_type;
    int64_t n = TRY(Signed(*text, fmt::format("--{}", name)));
    if (std::is_unsigned_v<Value> && n < 0)
      return Err(Code::kInvalidArgument, "--{}: {}: must not be negative", name, n);
    to = static_cast<Value>(n);
    return {};
  };
  TRY(cpu("cpu-period", &Cpu::period));
  TRY(cpu("cpu-quota", &Cpu::quota));
  TRY(cpu("cpu-burst", &Cpu::burst));
  TRY(cpu("cpu-share", &Cpu::shares));
  TRY(cpu("cpu-rt-period", &Cpu::realtimePeriod));
  TRY(cpu("cpu-rt-runtime", &Cpu::realtimeRuntime));
  TRY(cpu("cpu-idle", &Cpu::idle));
  for (auto [name, member] : {std::pair{"cpuset-cpus", &Cpu::cpus}, {"cpuset-mems", &Cpu::mems}}) {
    const std::string* text = a.Get(name);
    if (!text) continue;
    if (!r->cpu) r->cpu.emplace();
    (*r->cpu).*member = *text;
  }
  if (const std::string* text = a.Get("pids-limit")) {
    if (!r->pids) r->pids.emplace();
    r->pids->limit = TRY(Signed(*text, "--pids-limit"));
  }
  if (const std::string* text = a.Get("blkio-weight")) {
    uint32_t weight = TRY(Number(*text, "--blkio-weight"));
    if (weight > 1000) return Err(Code::kInvalidArgument, "--blkio-weight: {}: must be 10 to 1000", weight);
    if (!r->blockIO) r->blockIO.emplace();
    r->blockIO->weight = static_cast<uint16_t>(weight);
  }
  for (const char* name : {"l3-cache-schema", "mem-bw-schema"})
    if (const std::string* text = a.Get(name)) schemata->push_back(*text);
  return {};
}

Result<int> DoUpdate(Call& call) {
  std::string id = TRY(call.Id());
  if (call.args.options.empty())
    return Err(Code::kInvalidArgument, "update: nothing to change; --resources FILE or single limits are required");
  Resources resources;
  if (const std::string* file = call.args.Get("resources")) {
    std::string text = TRY_CTX(ReadFile(*file == "-" ? "/dev/stdin" : *file, 1 << 20), "--resources");
    resources = TRY(json::Parse<Resources>(text, "--resources"));
  }
  std::vector<std::string> schemata;
  TRY(Change(&resources, &schemata, call.args));
  TRY(Update(call.host, id, resources));
  if (!schemata.empty()) TRY(UpdateSchemata(call.host, id, schemata));
  return 0;
}

Result<int> DoEvents(Call& call) {
  std::string id = TRY(call.Id());
  auto show = [](const json::Value& event) { Print(json::Serialize(event) + "\n"); };
  if (call.args.Flag("stats")) {
    show(TRY(StatsEvent(call.host, id)));
    return 0;
  }
  auto every = TRY(Duration(call.args.Text("interval", "5s"), "--interval"));
  if (every <= every.zero()) return Err(Code::kInvalidArgument, "--interval: must be above zero");
  TRY(Events(call.host, id, every, show));
  return 0;
}

}  // namespace

void AddUpdateCommands(std::vector<Verb>* all) {
  all->push_back({"update",
                  "update [options] ID",
                  "change its limits",
                  DoUpdate,
                  {{"resources", 'r', true, "JSON file in the form of linux.resources; - is standard input"},
                   {"memory", 'm', true, "limit in bytes (64m, 1g); -1: none"},
                   {"memory-reservation", 0, true, "soft limit"},
                   {"memory-swap", 0, true, "memory and swap together; -1: no limit of swap"},
                   {"kernel-memory", 0, true, "accepted and ignored, as kernels do"},
                   {"kernel-memory-tcp", 0, true, "accepted and ignored, as kernels do"},
                   {"cpu-period", 0, true, "microseconds"},
                   {"cpu-quota", 0, true, "microseconds in a period; -1: none"},
                   {"cpu-burst", 0, true, "microseconds"},
                   {"cpu-share", 0, true, "relative weight, 2 to 262144"},
                   {"cpu-rt-period", 0, true, "microseconds"},
                   {"cpu-rt-runtime", 0, true, "microseconds"},
                   {"cpu-idle", 0, true, "1: only when nobody else wants the CPU"},
                   {"cpuset-cpus", 0, true, "CPUs, like 0-3,7"},
                   {"cpuset-mems", 0, true, "memory nodes"},
                   {"pids-limit", 0, true, "processes and threads; -1: no limit"},
                   {"blkio-weight", 0, true, "10 to 1000"},
                   {"l3-cache-schema", 0, true, "resctrl line L3:..."},
                   {"mem-bw-schema", 0, true, "resctrl line MB:..."}}});
  all->push_back({"events",
                  "events [--stats] [--interval 5s] ID",
                  "what it uses and OOM events, as lines of JSON, until it ends",
                  DoEvents,
                  {{"stats", 0, false, "one line, then return"}, {"interval", 0, true, "between two lines (5s)"}}});
}

}  // namespace berth
