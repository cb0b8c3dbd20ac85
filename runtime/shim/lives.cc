#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "runtime/shim/exit_record.h"
#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kRetryEvery = 100 * kMillisecond;       // a full disk is asked again
constexpr int64_t kExitPatience = 10'000 * kMillisecond;  // a full disk delays the news of an exit at most this long
constexpr int64_t kTrimAfter = 1'000 * kMillisecond;      // quiet for so long: buffers go back to the kernel
constexpr size_t kPage = 4096;

// Shared by all containers: they hold nothing between two rounds of the loop.
alignas(kPage) char input[kInput + kPage];
alignas(kPage) char output[kOutput];

void TouchBuffers() {
  self.dirty = true;
  self.trim_at = Monotonic() + kTrimAfter;
}

void WaitForDisk(Container* c) {
  UnwatchOutputs(c);
  self.next_retry = Monotonic() + kRetryEvery;
}

void EndOutput(Container* c, Output* o, const Stamp& stamp) {
  if (o->watched) Unwatch(o->fd);
  o->watched = false;
  o->drain = 0;
  if (o->fd == c->terminal) c->terminal = -1;
  CloseFd(&o->fd);
  if (!c->log.Flush(o->stream, self.pool, stamp, output)) WaitForDisk(c);
}

void TellExit(Container* c) {
  c->state = State::kExited;
  ExitEvent event;
  memcpy(event.id, c->id, kIdSize);
  event.exit_code = c->exit_code;
  event.finished_at = c->finished_at;
  for (Client& client : self.clients)
    if (client.fd >= 0 && client.events && !Send(client.fd, Type::kExit, 0, 0, &event, sizeof event)) Drop(&client);
}

// Output first, then the record, then the news. What a full disk holds up is tried again by the timer.
void FinishExit(Container* c) {
  bool late = Monotonic() >= c->give_up;
  if (!c->drained) {
    for (Output& o : c->outputs) {
      while (o.drain > 0 && ReadOutput(c, &o)) {
      }
      if (c->log.stalled()) continue;
      o.drain = 0;
      ReadOutput(c, &o);  // sees the end when no descendant holds it open
      Stamp stamp;
      stamp.Set(Unix());
      if (!c->log.stalled() && !c->log.Flush(o.stream, self.pool, stamp, output)) WaitForDisk(c);
    }
    c->drained = !c->log.stalled() && c->outputs[0].drain == 0 && c->outputs[1].drain == 0;
  }
  if ((c->drained || late) && !c->recorded) c->recorded = WriteExitRecord(self.state_dir, c->id, c->exit_code, c->finished_at);
  if (c->recorded || late) {
    if (c->state != State::kExited) TellExit(c);
  } else {
    self.next_retry = Monotonic() + kRetryEvery;
  }
}

void ExecDied(Exec* exec, int status) {
  int32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (write(exec->exit, &code, sizeof code) < 0 && errno == EINTR) {
  }
  CloseFd(&exec->exit);
  CloseFd(&exec->pidfd);
  table.Free(exec);
}

// True while something waits for the disk.
bool RetryDisk() {
  bool waiting = false;
  Stamp stamp;
  stamp.Set(Unix());
  for (uint32_t i = 0; i < table.container_end; ++i) {
    Container* c = &table.containers[i];
    if (c->state == State::kFree) continue;
    if (c->log.stalled() && c->log.Retry(self.pool, stamp, output)) {
      TouchBuffers();
      for (Output& o : c->outputs)
        if (o.fd < 0 && !c->log.stalled()) c->log.Flush(o.stream, self.pool, stamp, output);
      if (!c->log.stalled()) WatchOutputs(c);
    }
    if (c->dead && (!c->recorded || !c->drained)) FinishExit(c);
    waiting = waiting || c->log.stalled() || (c->dead && !c->recorded);
  }
  return waiting;
}

void Trim() {
  // What is unfinished stays; the big buffers hold nothing between two rounds of the loop.
  madvise(input, sizeof input, MADV_DONTNEED);
  madvise(output, sizeof output, MADV_DONTNEED);
  self.pool.Trim();
  self.dirty = false;
}

}  // namespace

void ContainerDied(Container* c, int status) {
  c->dead = true;
  c->finished_at = Unix();
  c->give_up = Monotonic() + kExitPatience;
  c->exit_code = c->start_failed      ? 128
                 : WIFEXITED(status)  ? WEXITSTATUS(status)
                                      : 128 + WTERMSIG(status);
  CloseFd(&c->pidfd);
  CloseFd(&c->sync);
  CloseFd(&c->stdin_fd);
  for (Output& o : c->outputs) {
    int waiting = 0;
    if (o.fd >= 0 && ioctl(o.fd, FIONREAD, &waiting) == 0 && waiting > 0) o.drain = static_cast<size_t>(waiting);
    // On a terminal some may not have come through the line discipline yet: read on until it says there is no more.
    if (o.fd >= 0 && o.fd == c->terminal) o.drain = 1 << 20;
  }
  FinishExit(c);
}

void WatchOutputs(Container* c) {
  uint32_t index = static_cast<uint32_t>(c - table.containers) * 2;
  for (uint32_t s = 0; s < 2; ++s) {
    Output& o = c->outputs[s];
    if (o.fd >= 0 && !o.watched) o.watched = Watch(o.fd, Source::kOutput, index + s);
  }
}

void UnwatchOutputs(Container* c) {
  for (Output& o : c->outputs) {
    if (o.watched) Unwatch(o.fd);
    o.watched = false;
  }
}

// One read. False: nothing more for now (empty, ended, or the log takes no more).
bool ReadOutput(Container* c, Output* o) {
  if (o->fd < 0 || c->log.stalled()) return false;
  ssize_t n;
  do n = read(o->fd, input, kInput);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return false;
  TouchBuffers();
  Stamp stamp;
  stamp.Set(Unix());
  if (n <= 0) {  // a pty master says EIO once no process has its terminal open
    EndOutput(c, o, stamp);
    return false;
  }
  size_t size = static_cast<size_t>(n);
  o->drain = o->drain > size ? o->drain - size : 0;
  if (c->log.Write(o->stream, self.pool, stamp, input, size, output)) return true;
  WaitForDisk(c);
  return false;
}

bool AnyAlive() {
  if (table.exec_end > 0 || self.pod.init > 0 || ForeignAtWork()) return true;
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
    pid_t pid = ForeignAtWork() ? ReapForeign(&status) : waitpid(-1, &status, WNOHANG);
    if (pid <= 0) break;
    if (Container* c = table.ByPid(pid)) {
      if (c->busy) {  // the end of its start decides what that means
        c->early = true;
        c->early_status = status;
      } else {
        ContainerDied(c, status);
      }
    } else if (Exec* exec = table.ExecByPid(pid)) {
      ExecDied(exec, status);
    } else if (pid == self.pod.init) {
      self.pod.init = -1;
      CloseFd(&self.pod.init_pidfd);
    }  // else an orphan that came to us
  }
  if (self.ending && !AnyAlive()) End();
}

int Timers() {
  int64_t now = Monotonic();
  if (self.next_retry != 0 && now >= self.next_retry) {
    self.next_retry = 0;
    if (RetryDisk()) self.next_retry = now + kRetryEvery;
  }
  if (self.dirty && now >= self.trim_at) Trim();
  int64_t next = self.next_retry;
  if (int64_t foreign = ForeignTimer(now); foreign != 0 && (next == 0 || foreign < next)) next = foreign;
  if (self.dirty && (next == 0 || self.trim_at < next)) next = self.trim_at;
  if (next == 0) return -1;
  return next <= now ? 0 : static_cast<int>((next - now) / kMillisecond) + 1;
}

}  // namespace berth::shim
