#include <poll.h>

#include "base/deadline.h"
#include "runtime/linux/cgroup_oom.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/oci/stats_json.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {
namespace {

struct Watched {
  std::string id;
  cgroup::Group group;
  unique_fd process;
};

Result<Watched> Watch(const RuntimeHost& host, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord state = TRY(dir.ReadState());
  if (TRY(StatusOf(dir, state)) == Status::kStopped) return Err(Code::kConflict, "container not running");
  if (state.cgroup.empty()) return Err(Code::kFailedPrecondition, "container {} has no cgroup of its own", id);
  unique_fd process = TRY(OpenProcess(state));
  return Watched{id, cgroup::Group{state.cgroup}, std::move(process)};
}

Result<json::Value> Stats(const Watched& w) {
  cgroup::Stats stats = TRY(cgroup::ReadStats(*TRY(cgroup::Host()), w.group, cgroup::kAllStats));
  return json::Object{{"type", "stats"}, {"id", w.id}, {"data", StatsDocument(stats)}};
}

}  // namespace

Result<json::Value> StatsEvent(const RuntimeHost& host, const std::string& id) { return Stats(TRY(Watch(host, id))); }

Result<void> Events(const RuntimeHost& host, const std::string& id, std::chrono::nanoseconds every,
                    const std::function<void(const json::Value&)>& show) {
  Watched w = TRY(Watch(host, id));
  auto oom = cgroup::OomWatch::Open(*TRY(cgroup::Host()), w.group);  // none without a memory controller
  cgroup::OomFacts before;
  if (oom)
    if (auto now = cgroup::ReadOom(*TRY(cgroup::Host()), w.group)) before = *now;
  Deadline next = Deadline::After(every);
  for (;;) {
    pollfd fds[2] = {{w.process.get(), POLLIN, 0}, {oom ? oom->fd() : -1, POLLIN, 0}};
    int ready = ::poll(fds, 2, next.poll_timeout_ms());
    if (ready < 0 && errno != EINTR) return SysErr("wait for events of container {}", id);
    if (ready > 0 && fds[1].revents) {
      auto facts = oom->Take();
      if (!facts) return {};  // the group is gone
      if (facts->kills > before.kills || facts->events > before.events || facts->under_oom)
        show(json::Object{{"type", "oom"}, {"id", id}});
      before = *facts;
    }
    if (ready > 0 && fds[0].revents) return {};
    if (!next.expired()) continue;
    auto stats = Stats(w);
    if (!stats) return stats.error().code == Code::kNotFound ? Result<void>() : std::unexpected(stats.error());
    show(*stats);
    next = Deadline::After(every);
  }
}

}  // namespace berth::runtime::oci
