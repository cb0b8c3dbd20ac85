// What a monitor knows of its containers, and their cgroups' numbers: for agents, and for tools while no agent runs.
#include <fcntl.h>
#include <string.h>

#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

// A file of the cgroup directory, with a final NUL; false: it is not there.
template <size_t N>
bool ReadText(int dir, const char* name, char (&text)[N]) {
  int fd = dir < 0 ? -1 : openat(dir, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, N - 1);
  close(fd);
  text[n < 0 ? 0 : n] = '\0';
  return n > 0;
}

uint64_t Number(const char* text) {
  uint64_t value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) value = value * 10 + static_cast<uint64_t>(*text - '0');
  return value;
}

// "key 12\n..." -> 12; 0: no such line.
uint64_t Keyed(const char* text, const char* key) {
  size_t length = strlen(key);
  for (const char* line = text; line != nullptr && *line != '\0'; line = strchr(line, '\n')) {
    if (*line == '\n') ++line;
    if (strncmp(line, key, length) == 0 && line[length] == ' ') return Number(line + length + 1);
  }
  return 0;
}

// The file of version 2, else that of version 1.
uint64_t NumberOf(int dir, const char* v2, const char* v1) {
  char text[64];
  return ReadText(dir, v2, text) || ReadText(dir, v1, text) ? Number(text) : 0;
}

uint32_t OomKills(int memory) {
  char text[1024];
  bool found = ReadText(memory, "memory.events", text) || ReadText(memory, "memory.oom_control", text);
  return found ? static_cast<uint32_t>(Keyed(text, "oom_kill")) : 0;
}

uint64_t CpuNanos(int cpu) {
  char text[1024];
  if (ReadText(cpu, "cpuacct.usage", text)) return Number(text);
  return ReadText(cpu, "cpu.stat", text) ? Keyed(text, "usage_usec") * 1000 : 0;
}

FactsEntry Describe(const Container& c) {
  FactsEntry e;
  memcpy(e.id, c.id, kIdSize);
  e.state = c.state;
  if (c.tty) e.flags |= kFactTty;
  if (c.stdin_fd >= 0) e.flags |= kFactStdin;
  if (c.log.stalled()) e.flags |= kFactStalled;
  e.pid = c.dead ? -1 : c.pid;
  e.started_at = c.started_at;
  if (c.state == State::kExited) {
    e.exit_code = c.exit_code;
    e.finished_at = c.finished_at;
    e.exit = c.details;
  }
  const LogCounters& log = c.log.counters();
  e.log_bytes = log.bytes;
  e.log_errors = log.errors;
  e.log_rotations = log.rotations;
  e.log_errno = c.log.error();
  e.log_dropped_bytes = c.gate.dropped_bytes;
  for (uint32_t i = 0; i < table.attach_end; ++i) e.attaches += table.attaches[i].id != 0 && table.attaches[i].container == table.Place(&c);
  for (uint32_t i = 0; i < table.exec_end; ++i) e.execs += table.execs[i].id != 0 && table.execs[i].container == table.Place(&c);
  if (c.dead) return e;
  e.exit.oom_kills = OomKills(c.memory);
  e.exit.memory_peak = NumberOf(c.memory, "memory.peak", "memory.max_usage_in_bytes");
  e.memory_bytes = NumberOf(c.memory, "memory.current", "memory.usage_in_bytes");
  e.cpu_ns = CpuNanos(c.cpu);
  e.pids = static_cast<uint32_t>(NumberOf(c.pids, "pids.current", "pids.current"));
  return e;
}

}  // namespace

void NoteEnd(Container* c) {
  ExitDetails& d = c->details;
  d.oom_kills = OomKills(c->memory);
  d.oom_killed = d.oom_kills > 0 && c->exit_code != 0;
  uint64_t peak = NumberOf(c->memory, "memory.peak", "memory.max_usage_in_bytes");
  if (peak != 0) d.memory_peak = peak;
  // Nothing more is asked of a dead container's cgroup, and its directories should not be held.
  if (c->cpu == c->memory) c->cpu = -1;
  if (c->pids == c->memory) c->pids = -1;
  CloseFd(&c->memory);
  CloseFd(&c->cpu);
  CloseFd(&c->pids);
}

void Facts(const Request& r) {
  auto request = r.message->As<ContainerRequest>();
  Container* one = nullptr;
  if (request.id[0] != '\0' && (one = Lookup(r, request.id)) == nullptr) return;
  constexpr size_t kPerPart = (kMaxMessage - sizeof(Header) - sizeof(FactsReply)) / sizeof(FactsEntry);
  static struct {
    FactsReply head;
    FactsEntry entries[kPerPart];
  } part;
  uint32_t i = one != nullptr ? table.Place(one) : 0;
  const uint32_t end = one != nullptr ? i + 1 : table.container_end;
  bool more = true;
  while (more && r.client->fd >= 0) {
    part.head = {sizeof(FactsEntry), 0};
    for (; i < end && part.head.count < kPerPart; ++i) {
      const Container& c = table.containers[i];
      if (c.state != State::kFree && c.stage != Stage::kCreating) part.entries[part.head.count++] = Describe(c);
    }
    more = i < end;
    if (!Send(r.client->fd, Type::kReply, more ? kMore : 0, r.id, &part, sizeof part.head + part.head.count * sizeof(FactsEntry)))
      Drop(r.client);
  }
}

}  // namespace berth::shim
