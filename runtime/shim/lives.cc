// What happens to containers by itself: exits, time.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "runtime/shim/exit_record.h"
#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kRecordEvery = 100 * kMillisecond;      // a full disk is asked again
constexpr int64_t kExitPatience = 10'000 * kMillisecond;  // a full disk delays the news of an exit at most this long

ExitEvent EventOf(const Container& c) {
  ExitEvent event;
  memcpy(event.id, c.id, kIdSize);
  event.exit_code = c.exit_code;
  event.finished_at = c.finished_at;
  event.details = c.details;
  return event;
}

void TellExit(Container* c) {
  c->state = State::kExited;
  ExitEvent event = EventOf(*c);
  for (Client& client : self.clients)
    if (client.fd >= 0 && client.events && !Send(client.fd, Type::kExit, 0, 0, &event, sizeof event)) Drop(&client);
}

// Output first, then the record, then the news. What a full disk holds up is tried again by the timer.
void FinishExit(Container* c) {
  bool late = Monotonic() >= c->give_up;
  if (!c->drained) DrainOutput(c);
  if ((c->drained || late) && !c->recorded) {
    c->details.log_dropped = c->gate.dropped_lines;
    c->recorded = WriteExitRecord(self.state_dir, EventOf(*c));
  }
  if (c->recorded || late) {
    if (c->state == State::kExited) return;
    EndAttaches(c, false);
    TellExit(c);
  } else {
    RetryAt(Monotonic() + kRecordEvery);
  }
}

void ExecDied(Exec* exec, int status) {
  int32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (write(exec->exit, &code, sizeof code) < 0 && errno == EINTR) {
  }
  CloseFd(&exec->exit);
  CloseFd(&exec->pidfd);
  CloseFd(&exec->slave);
  table.Free(exec);
}

int64_t Nanos(const timeval& t) { return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_usec * 1000; }

void Died(pid_t pid, int status, const rusage& usage) {
  if (Container* c = table.ByPid(pid)) {
    c->details.user_ns = Nanos(usage.ru_utime);
    c->details.system_ns = Nanos(usage.ru_stime);
    c->details.memory_peak = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
    if (c->stage != Stage::kSettled) ContinueCreation(c, true);
    if (c->state == State::kFree || c->pid != pid) {
      // It was not made, or that was a helper.
    } else if (c->busy) {  // the end of its start decides what that means
      c->early = true;
      c->early_status = status;
    } else {
      ContainerDied(c, status);
    }
  } else if (Exec* exec = table.ExecByPid(pid)) {
    if (exec->stage != Stage::kSettled) ContinueExec(exec, true);
    if (exec->id != 0 && exec->pid == pid) ExecDied(exec, status);
  } else if (pid == self.pod.init) {
    self.pod.init = -1;
    CloseFd(&self.pod.init_pidfd);
  }  // else an orphan that came to us, or one of these
  for (uint32_t i = 0; i < self.discarded_count; ++i)
    if (self.discarded[i] == pid) self.discarded[i--] = self.discarded[--self.discarded_count];
}

}  // namespace

void ContainerDied(Container* c, int status) {
  c->dead = true;
  c->finished_at = Unix();
  c->give_up = Monotonic() + kExitPatience;
  c->exit_code = c->start_failed      ? 128
                 : WIFEXITED(status)  ? WEXITSTATUS(status)
                                      : 128 + WTERMSIG(status);
  c->details.signal = !c->start_failed && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  NoteEnd(c);
  CloseFd(&c->pidfd);
  CloseFd(&c->sync);
  CloseStdin(c);
  for (Output& o : c->outputs) {
    int waiting = 0;
    if (o.fd >= 0 && ioctl(o.fd, FIONREAD, &waiting) == 0 && waiting > 0) o.drain = static_cast<size_t>(waiting);
    // On a terminal some may not have come through the line discipline yet: read on until it says there is no more.
    if (o.fd >= 0 && o.fd == c->terminal) o.drain = 1 << 20;
  }
  c->blocked &= kByDisk;
  FinishExit(c);
  WatchOutputs(c);
}

bool AnyAlive() {
  if (table.exec_end > 0 || self.pod.init > 0 || ForeignAtWork() || self.discarded_count > 0) return true;
  for (uint32_t i = 0; i < table.container_end; ++i)
    if (table.containers[i].state != State::kFree && !table.containers[i].dead) return true;
  return false;
}

[[noreturn]] void End() {
  if (self.ending_client >= 0) Answer(&self.clients[self.ending_client], self.ending_request, nullptr, 0);
  _exit(0);
}

void Reap() {
  signalfd_siginfo info;
  while (read(self.signals, &info, sizeof info) == sizeof info) {
  }
  while (true) {
    int status = 0;
    rusage usage{};
    pid_t pid = ForeignAtWork() ? ReapForeign(&status, &usage) : wait4(-1, &status, WNOHANG, &usage);
    if (pid <= 0) break;
    Died(pid, status, usage);
  }
  if (self.ending && !AnyAlive()) End();
}

int Timers() {
  int64_t now = Monotonic();
  if (self.next_retry != 0 && now >= self.next_retry) {
    self.next_retry = 0;
    RetryLogs(now);
    for (uint32_t i = 0; i < table.container_end; ++i) {
      Container* c = &table.containers[i];
      if (c->state != State::kFree && c->dead && (!c->recorded || !c->drained)) FinishExit(c);
    }
  }
  int64_t expiry = NextExpiry();
  if (expiry != 0 && now >= expiry) {
    ExpireSetups(now);
    expiry = NextExpiry();
  }
  if (self.dirty && now >= self.trim_at) {
    TrimOutput();
    TrimAttaches();
    self.dirty = false;
  }
  int64_t next = self.next_retry;
  if (int64_t foreign = ForeignTimer(now); foreign != 0 && (next == 0 || foreign < next)) next = foreign;
  if (self.dirty && (next == 0 || self.trim_at < next)) next = self.trim_at;
  if (expiry != 0 && (next == 0 || expiry < next)) next = expiry;
  if (next == 0) return -1;
  return next <= now ? 0 : static_cast<int>((next - now) / kMillisecond) + 1;
}

}  // namespace berth::shim
