// The native launcher's calls that concern a container that exists already: who is attached to it, its terminal, its limits.
#include "runtime/linux/cgroup_stats.h"
#include "runtime/shim/agent_socket.h"
#include "runtime/shim/exit_facts.h"
#include "runtime/shim/pod_link.h"
#include "runtime/shim/spawner_client.h"
#include "runtime/shim_cgroups.h"
#include "runtime/shim_launcher.h"

namespace berth::runtime {

using shim::Type;

namespace {

// What the monitor says of a container. One that it does not know is kNotFound.
Result<shim::FactsEntry> FactsOf(PodLink& link, const ContainerId& id, const Deadline& until, const std::string& what) {
  if (link.facts()) {
    auto parts = TRY(link.Call({Type::kFacts, TRY(ContainerBody(id)), {}}, until, what));
    auto entries = EntriesOf(parts.back());
    if (entries.size() == 1) return entries.front();
    return Err(Code::kNotFound, "{}: no such container", what);
  }
  auto parts = TRY(link.Call({Type::kList, {}, {}}, until, what));   // a monitor of 1.0
  for (const Packet& part : parts) {
    for (const ContainerFacts& facts : ContainersOf(part, false)) {
      if (facts.id != id) continue;
      shim::FactsEntry entry;
      entry.state = facts.exit ? shim::State::kExited : facts.started ? shim::State::kRunning : shim::State::kCreated;
      entry.pid = facts.pid;
      return entry;
    }
  }
  return Err(Code::kNotFound, "{}: no such container", what);
}

Result<std::string> NeedCgroup(const PodLink& link, const ContainerId& id, const std::string& what) {
  std::string path = CgroupOf(link, id);
  if (path.empty()) return Err(Code::kFailedPrecondition, "{}: the container has no cgroup", what);
  return path;
}

}  // namespace

Result<AttachHandle> ShimLauncher::Attach(const AttachLaunch& launch, const Deadline& until) {
  const std::string what = fmt::format("attach to container {}", launch.container.Short());
  auto link = TRY(Need(launch.pod));
  shim::AttachRequest request;
  TRY(Put(request.id, launch.container.str(), "container id"));
  request.slow = launch.slow == SlowReader::kWait     ? shim::SlowClient::kWait
                 : launch.slow == SlowReader::kDetach ? shim::SlowClient::kDetach
                                                      : shim::SlowClient::kDrop;
  auto [read_end, write_end] = TRY(Pipe());
  Outgoing message{Type::kAttach, {}, {write_end.get()}};
  const std::pair<int, shim::CreateFlags> streams[] = {{launch.in, shim::kIn}, {launch.out, shim::kOut}, {launch.err, shim::kErr}};
  for (const auto& [fd, flag] : streams) {
    if (fd < 0) continue;
    request.flags |= flag;
    message.fds.push_back(fd);
  }
  if (message.fds.size() == 1) return Err(Code::kInvalidArgument, "{}: at least one stream is needed", what);
  message.body = Bytes(request);
  auto parts = TRY(link->Call(message, until, what, [](PodLink& late, const Packet& packet) {
    late.Post({Type::kDetach, Bytes(shim::DetachRequest{packet.As<shim::AttachReply>().attach}), {}});   // nobody waits any more
  }));
  return AttachHandle{parts.back().As<shim::AttachReply>().attach, std::move(read_end)};
}

Result<void> ShimLauncher::Detach(const PodId& pod, uint64_t attach, const Deadline& until) {
  auto link = TRY(Need(pod));
  TRY(link->Call({Type::kDetach, Bytes(shim::DetachRequest{attach}), {}}, until, fmt::format("detach client {}", attach)));
  return {};
}

Result<void> ShimLauncher::CloseStdin(const PodId& pod, const ContainerId& id, const Deadline& until) {
  auto link = TRY(Need(pod));
  TRY(link->Call({Type::kCloseStdin, TRY(ContainerBody(id)), {}}, until, fmt::format("close stdin of {}", id.Short())));
  return {};
}

Result<void> ShimLauncher::Resize(const PodId& pod, const ContainerId& id, uint16_t rows, uint16_t columns, const Deadline& until) {
  auto link = TRY(Need(pod));
  shim::ResizeRequest request;
  TRY(Put(request.id, id.str(), "container id"));
  request.rows = rows;
  request.columns = columns;
  TRY(link->Call({Type::kResize, Bytes(request), {}}, until, fmt::format("resize the terminal of {}", id.Short())));
  return {};
}

Result<void> ShimLauncher::ResizeExec(const PodId& pod, uint64_t exec, uint16_t rows, uint16_t columns, const Deadline& until) {
  auto link = TRY(Need(pod));
  const shim::ResizeExecRequest request{exec, rows, columns};
  TRY(link->Call({Type::kResizeExec, Bytes(request), {}}, until, fmt::format("resize the terminal of exec {}", exec)));
  return {};
}

Result<unique_fd> ShimLauncher::Socket(const PodId& pod, int family, const Deadline& until) {
  auto link = TRY(Need(pod));
  const std::string what = fmt::format("a socket in the network of pod {}", pod.Short());
  auto parts = TRY(link->Call({Type::kSocket, Bytes(shim::SocketRequest{family, 0}), {}}, until, what));
  unique_fd fd = parts.back().TakeFd(0);
  if (!fd) return Err(Code::kInternal, "{}: the monitor sent none", what);
  return fd;
}

Result<void> ShimLauncher::Pause(const PodId& pod, const ContainerId& id, const Deadline& until) { return Freeze(pod, id, true, until); }
Result<void> ShimLauncher::Resume(const PodId& pod, const ContainerId& id, const Deadline& until) { return Freeze(pod, id, false, until); }

// From outside: the kernel keeps the state, and the monitor goes on taking output.
Result<void> ShimLauncher::Freeze(const PodId& pod, const ContainerId& id, bool frozen, const Deadline& until) {
  auto link = TRY(Need(pod));
  const std::string what = fmt::format("{} container {}", frozen ? "pause" : "resume", id.Short());
  const shim::FactsEntry facts = TRY(FactsOf(*link, id, until, what));
  if (facts.state != shim::State::kRunning || facts.pid < 0) return Err(Code::kConflict, "{}: it is not running", what);
  const std::string path = TRY(NeedCgroup(*link, id, what));
  const cgroup::Layout* layout = TRY(cgroup::Host());
  if (TRY_CTX(cgroup::IsFrozen(*layout, {path}), "{}", what) == frozen)
    return Err(Code::kNotModified, "{}: it is {}paused", what, frozen ? "" : "not ");
  if (frozen) link->SetPaused(id, true);   // no exec begins from now on
  auto done = cgroup::Freeze(*layout, {path}, frozen, until);
  if (!done) {
    if (frozen) link->SetPaused(id, false);
    return Wrap(std::move(done).error(), "{}", what);
  }
  link->SetPaused(id, frozen);
  return {};
}

Result<void> ShimLauncher::Update(const PodId& pod, const ContainerId& id, const oci::Resources& resources, const Deadline& until) {
  auto link = TRY(Need(pod));
  const std::string what = fmt::format("update container {}", id.Short());
  const shim::FactsEntry facts = TRY(FactsOf(*link, id, until, what));
  if (facts.state == shim::State::kExited || facts.pid < 0) return Err(Code::kConflict, "{}: it has ended", what);
  const std::string path = TRY(NeedCgroup(*link, id, what));
  const cgroup::Layout* layout = TRY(cgroup::Host());
  TRY_CTX(cgroup::Update(*layout, {path}, resources), "{}", what);
  return {};
}

Result<ContainerUsage> ShimLauncher::Usage(const PodId& pod, const ContainerId& id, const Deadline& until) {
  auto link = TRY(Need(pod));
  const std::string what = fmt::format("usage of container {}", id.Short());
  const shim::FactsEntry facts = TRY(FactsOf(*link, id, until, what));
  ContainerUsage usage;
  usage.log_bytes = facts.log_bytes;
  usage.log_dropped_bytes = facts.log_dropped_bytes;
  usage.log_errors = facts.log_errors;
  usage.attaches = facts.attaches;
  usage.execs = facts.execs;
  if (const std::string path = CgroupOf(*link, id); !path.empty()) {
    const cgroup::Layout* layout = TRY(cgroup::Host());
    usage.cgroup = TRY_CTX(cgroup::ReadStats(*layout, {path}), "{}", what);
  }
  return usage;
}

}  // namespace berth::runtime
