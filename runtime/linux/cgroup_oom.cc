#include "runtime/linux/cgroup_oom.h"

#include <sys/eventfd.h>
#include <sys/inotify.h>

#include "runtime/linux/cgroup_files.h"

namespace berth::runtime::cgroup {
namespace {

std::unexpected<Error> Gone(const Group& group) { return Err(Code::kNotFound, "cgroup {}: not there", group.path); }

}  // namespace

OomFacts ParseOom(std::string_view text) {
  OomFacts f;
  f.kills = Keyed(text, "oom_kill").value_or(0);
  f.events = Keyed(text, "oom").value_or(0);
  f.group_kills = Keyed(text, "oom_group_kill").value_or(0);
  f.limit_hits = Keyed(text, "max").value_or(0);
  f.under_oom = Keyed(text, "under_oom").value_or(0) != 0;
  return f;
}

Result<unique_fd> OpenOom(const Layout& layout, const Group& group) {
  std::string file;
  if (auto dir = V1Dir(layout, "memory", group))
    file = *dir + "/memory.oom_control";
  else if (layout.V2("memory"))
    file = layout.v2 + group.path + "/memory.events";
  else
    return Err(Code::kFailedPrecondition, "this host has no memory cgroup controller");
  auto fd = Open(file, O_RDONLY);
  if (!fd && fd.error().sys == ENOENT) return Gone(group);
  return fd;
}

Result<OomFacts> ReadOom(const Layout& layout, const Group& group) {
  if (!layout.V1("memory") && !layout.V2("memory")) return OomFacts{};
  unique_fd fd = TRY(OpenOom(layout, group));
  char text[512];
  ssize_t n = ::pread(fd.get(), text, sizeof text, 0);
  if (n < 0 && errno == ENODEV) return Gone(group);
  if (n < 0) return SysErr("read the OOM counts of cgroup {}", group.path);
  OomFacts facts = ParseOom({text, static_cast<size_t>(n)});
  if (auto dir = V1Dir(layout, "memory", group))
    facts.limit_hits = ReadNumber(*dir + "/memory.failcnt").value_or(0) +
                       ReadNumber(*dir + "/memory.memsw.failcnt").value_or(0);  // met first when it allows no swap
  return facts;
}

Result<OomWatch> OomWatch::Open(const Layout& layout, const Group& group) {
  OomWatch watch;
  watch.counts_ = TRY(OpenOom(layout, group));
  if (auto dir = V1Dir(layout, "memory", group)) {
    watch.v1_ = true;
    watch.event_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!watch.event_) return SysErr("make an event descriptor");
    TRY(WriteControl(*dir + "/cgroup.event_control", fmt::format("{} {}", watch.event_.get(), watch.counts_.get())));
    return watch;
  }
  watch.event_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch.event_) return SysErr("make an inotify descriptor");
  const std::string dir = layout.v2 + group.path;
  if (::inotify_add_watch(watch.event_.get(), (dir + "/memory.events").c_str(), IN_MODIFY) < 0 ||
      ::inotify_add_watch(watch.event_.get(), (dir + "/cgroup.events").c_str(), IN_MODIFY) < 0)
    return SysErr("watch cgroup {}", dir);
  return watch;
}

Result<OomFacts> OomWatch::Take() {
  char event[4096];
  while (::read(event_.get(), event, v1_ ? 8 : sizeof event) > 0) {
  }
  char text[512];
  ssize_t n = ::pread(counts_.get(), text, sizeof text, 0);
  if (n < 0 && errno == ENODEV) return Err(Code::kNotFound, "the cgroup has been removed");
  if (n < 0) return SysErr("read the OOM counts of a cgroup");
  return ParseOom({text, static_cast<size_t>(n)});
}

}  // namespace berth::runtime::cgroup
