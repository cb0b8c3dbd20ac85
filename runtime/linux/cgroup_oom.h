#pragma once
// What the OOM killer did to a cgroup: counts, and a descriptor that says when they change.
#include <cstdint>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/linux/cgroup.h"

namespace berth::runtime::cgroup {

struct OomFacts {
  uint64_t kills = 0;        // processes killed, in the group or below
  uint64_t events = 0;       // times the limit was reached and nothing could be reclaimed (version 2 only)
  uint64_t group_kills = 0;  // times the whole group was killed (memory.oom.group)
  uint64_t limit_hits = 0;   // allocations that met the limit (failcnt, or "max" of memory.events)
  bool under_oom = false;    // version 1 with disableOOMKiller: processes wait for memory now
  bool operator==(const OomFacts&) const = default;
};

// The counts go with the group: read them before it is removed. Zeros when there is no memory controller; kNotFound
// when there is no such group.
Result<OomFacts> ReadOom(const Layout& layout, const Group& group);

// memory.events or memory.oom_control, open for reading; ParseOom understands either. A monitor without paths of the
// host gets this descriptor and reads it with pread when the container has ended. kFailedPrecondition: no memory
// controller.
Result<unique_fd> OpenOom(const Layout& layout, const Group& group);
OomFacts ParseOom(std::string_view text);

// Tells of OOM events while they happen: an eventfd registered with cgroup.event_control on version 1, inotify on
// memory.events on version 2. One thread.
class OomWatch {
 public:
  static Result<OomWatch> Open(const Layout& layout, const Group& group);
  int fd() const { return event_.get(); }  // poll for POLLIN, then Take
  // Takes the event off the descriptor and reads the counts. kNotFound: the group has been removed meanwhile; version 1
  // signals that as an event, version 2 does so by the processes' end.
  Result<OomFacts> Take();

 private:
  unique_fd event_, counts_;
  bool v1_ = false;
};

}  // namespace berth::runtime::cgroup
