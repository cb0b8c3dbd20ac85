// From a container's pipes, or its terminal, to its log and to attached clients.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/shim/monitor_state.h"

namespace berth::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kRetryEvery = 100 * kMillisecond;   // a full disk is asked again
constexpr int64_t kNoticeAfter = 1'000 * kMillisecond;
constexpr int64_t kTrimAfter = 1'000 * kMillisecond;  // quiet for so long: buffers go back to the kernel
constexpr size_t kPage = 4096;

// Shared by all containers: they hold nothing between two rounds of the loop.
alignas(kPage) char input[kInput + kPage];
alignas(kPage) char output[kOutput];

void UnwatchOutputs(Container* c) {
  for (Output& o : c->outputs) {
    if (o.watched) Unwatch(o.fd);
    o.watched = false;
  }
}

// The log took less than it was given.
void Stuck(Container* c) {
  RetryAt(Monotonic() + kRetryEvery);
  if (!c->gate.drops()) Block(c, kByDisk);
}

void Account(Container* c) {
  for (Output& o : c->outputs)
    if (o.stream.dropped_lines != 0 || o.stream.cut_off) RetryAt(Monotonic() + kNoticeAfter);
}

// Ends the line that was cut off, says what is missing. False: the log took less than that.
bool Resume(Container* c, Output* o, const Stamp& stamp) {
  bool good = true;
  if (o->stream.cut_off) {
    o->stream.cut_off = o->stream.open_line = false;
    input[kInput] = '\n';   // behind what was read
    good = c->log.Write(o->stream, self.pool, stamp, input + kInput, 1, output);
  }
  if (good && o->stream.dropped_lines != 0) good = c->log.Notice(o->stream, stamp, output);
  if (!good) Stuck(c);
  return good;
}

// With a rate or the right to drop: piece by piece.
void Gated(Container* c, Output* o, const Stamp& stamp, const char* in, size_t size) {
  int64_t now = Monotonic();
  if (!c->gate.drops()) {   // no more was read than is allowed
    c->gate.Spend(size);
    if (!c->log.Write(o->stream, self.pool, stamp, in, size, output)) Stuck(c);
    return;
  }
  while (size > 0) {
    if (!c->log.stalled() && c->gate.Resumes(o->stream, now)) Resume(c, o, stamp);
    LogGate::Piece piece = c->gate.Cut(o->stream, in, size, c->log.stalled(), now);
    if (piece.keep && !c->log.Write(o->stream, self.pool, stamp, in, piece.size, output)) Stuck(c);
    in += piece.size;
    size -= piece.size;
  }
  Account(c);
}

void EndOutput(Container* c, Output* o, const Stamp& stamp) {
  if (o->watched) Unwatch(o->fd);
  o->watched = false;
  o->drain = 0;
  if (o->fd == c->terminal) {
    c->terminal = -1;
    CloseStdin(c);
  }
  CloseFd(&o->fd);
  LogGate::End(o->stream);
  if (!c->log.stalled() && !c->log.Flush(o->stream, self.pool, stamp, output)) Stuck(c);
  Account(c);
}

}  // namespace

void TouchBuffers() {
  self.dirty = true;
  self.trim_at = Monotonic() + kTrimAfter;
}

void RetryAt(int64_t when) {
  if (self.next_retry == 0 || when < self.next_retry) self.next_retry = when;
}

void Block(Container* c, Blocked reason) {
  c->blocked |= reason;
  UnwatchOutputs(c);
}

void Unblock(Container* c, Blocked reason) {
  c->blocked &= static_cast<uint8_t>(~reason);
  WatchOutputs(c);
}

void WatchOutputs(Container* c) {
  if (c->blocked != 0) return;
  uint32_t index = table.Place(c) * 2;
  for (uint32_t s = 0; s < 2; ++s) {
    Output& o = c->outputs[s];
    if (o.fd >= 0 && !o.watched) o.watched = Watch(o.fd, Source::kOutput, index + s);
  }
}

bool ReadOutput(Container* c, Output* o) {
  // What a dead container has left behind waits for nobody but the disk.
  if (o->fd < 0 || (c->blocked & (c->dead ? static_cast<unsigned>(kByDisk) : ~0U)) != 0) return false;
  if (c->log.stalled() && !c->gate.drops()) return false;
  size_t most = kInput;
  if (c->gate.limited() && !c->gate.drops() && !c->dead) {
    int64_t now = Monotonic();
    most = c->gate.Allowance(now);
    if (most == 0) {
      Block(c, kByRate);
      RetryAt(c->gate.NextAt(now));
      return false;
    }
  }
  ssize_t n;
  do n = read(o->fd, input, most);
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
  if (c->gate.open()) {
    if (!c->log.Write(o->stream, self.pool, stamp, input, size, output)) Stuck(c);
  } else {
    Gated(c, o, stamp, input, size);
  }
  if (table.attach_end > 0) Deliver(c, static_cast<size_t>(o - c->outputs), input, size);
  return c->blocked == 0 || c->dead;
}

void DrainOutput(Container* c) {
  bool drops = c->gate.drops();
  for (Output& o : c->outputs) {
    while (o.drain > 0 && ReadOutput(c, &o)) {
    }
    if (c->log.stalled() && !drops) continue;
    o.drain = 0;
    ReadOutput(c, &o);  // sees the end when no descendant holds it open
    Stamp stamp;
    stamp.Set(Unix());
    LogGate::End(o.stream);
    if (!c->log.stalled() && (o.stream.cut_off || (o.stream.dropped_lines != 0 && !o.stream.open_line))) Resume(c, &o, stamp);
    if (!c->log.stalled() && !c->log.Flush(o.stream, self.pool, stamp, output)) Stuck(c);
  }
  c->drained = !c->log.stalled() && c->outputs[0].drain == 0 && c->outputs[1].drain == 0;
}

bool RetryLogs(int64_t now) {
  bool waiting = false;
  Stamp stamp;
  stamp.Set(Unix());
  for (uint32_t i = 0; i < table.container_end; ++i) {
    Container* c = &table.containers[i];
    if (c->state == State::kFree) continue;
    if (c->log.stalled()) {
      TouchBuffers();
      if (c->log.Retry(self.pool, stamp, output)) {
        for (Output& o : c->outputs)
          if (o.fd < 0 && !c->log.stalled() && !c->log.Flush(o.stream, self.pool, stamp, output)) Stuck(c);
      }
      if (!c->log.stalled() && (c->blocked & kByDisk)) Unblock(c, kByDisk);
    }
    if (c->blocked & kByRate) {
      if (c->gate.Allowance(now) > 0 && c->gate.NextAt(now) <= now) {
        Unblock(c, kByRate);
      } else {
        RetryAt(c->gate.NextAt(now));
      }
    }
    for (Output& o : c->outputs) {
      if (o.stream.cut_off || o.stream.dropped_lines != 0) {
        TouchBuffers();
        if (!c->log.stalled() && c->gate.Resumes(o.stream, now)) Resume(c, &o, stamp);
        if (o.stream.cut_off || o.stream.dropped_lines != 0) RetryAt(now + kNoticeAfter);
      }
    }
    waiting = waiting || c->log.stalled();
  }
  if (waiting) RetryAt(now + kRetryEvery);
  return waiting;
}

void TrimOutput() {
  // What is unfinished stays; the big buffers hold nothing between two rounds of the loop.
  madvise(input, sizeof input, MADV_DONTNEED);
  madvise(output, sizeof output, MADV_DONTNEED);
  self.pool.Trim();
}

}  // namespace berth::shim
