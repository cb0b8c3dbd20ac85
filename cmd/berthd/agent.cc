#include "cmd/berthd/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/db.h"
#include "base/descriptor_limit.h"
#include "base/json.h"
#include "base/log.h"
#include "base/worker_pool.h"
#include "cmd/berthd/lock_file.h"
#include "cni/native_network.h"
#include "cri/server.h"
#include "images/snapshots/probe.h"
#include "images/store.h"
#include "metrics/registry.h"
#include "pods/core.h"
#include "pods/events.h"
#include "pods/layout.h"
#include "pods/metrics.h"
#include "pods/operations.h"
#include "pods/registry.h"
#include "pods/samples.h"
#include "pods/table.h"
#include "pods/wal_sync.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_stats.h"
#include "runtime/shim_launcher.h"

namespace berth {

namespace {

using std::chrono::seconds;

// --- signals: a handler that writes one byte. A blocked mask would be inherited by every process started from here.

int g_signal_pipe = -1;

void OnSignal(int number) {
  int saved = errno;
  auto byte = static_cast<unsigned char>(number);
  (void)!::write(g_signal_pipe, &byte, 1);
  errno = saved;
}

Result<unique_fd> CatchSignals() {
  auto [read_end, write_end] = TRY(Pipe());
  if (::fcntl(write_end.get(), F_SETFL, O_NONBLOCK) < 0) return SysErr("make the signal pipe non-blocking");
  g_signal_pipe = write_end.release();  // for the life of the process: a signal may come at any time
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  for (int number : {SIGTERM, SIGINT, SIGUSR1, SIGHUP})
    if (::sigaction(number, &action, nullptr) < 0) return SysErr("catch signal {}", number);
  return std::move(read_end);
}

// What it does now, for an operator who finds it slow: kill -USR1.
void LogOperations(const pods::Operations& operations) {
  auto now = std::chrono::steady_clock::now();
  auto age = [&](auto since) { return fmt::format("{:.1f}", std::chrono::duration<double>(now - since).count()); };
  auto list = operations.List();
  log::Info("operations.list", {{"running", list.size()}});
  for (const auto& op : list)
    log::Info("operations.one", {{"op", op.verb},
                                 {"object", op.subject},
                                 {"stage", op.stage},
                                 {"doing", op.words},
                                 {"waits_for", op.blocker},
                                 {"age_s", age(op.since)},
                                 {"stage_age_s", age(op.stage_since)}});
}

void ServeSignals(int fd, const pods::Operations& operations) {
  while (true) {
    unsigned char number = 0;
    ssize_t n = ::read(fd, &number, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n != 1) return;
    if (number == SIGUSR1)
      LogOperations(operations);
    else if (number == SIGHUP)
      log::Info("agent.hangup", {{"note", "the configuration is read at start only"}});
    else
      return log::Info("agent.stopping", {{"signal", number == SIGTERM ? "SIGTERM" : "SIGINT"}});
  }
}

// --- directories

Result<void> MakeDirectory(const std::string& path, unsigned mode) {
  TRY(MakeDirs(path, mode));
  if (::chmod(path.c_str(), mode) < 0) return SysErr("set mode {:o} of {}", mode, path);
  return {};
}

Result<void> MakeDirectories(const config::Config& c, const pods::Layout& layout) {
  TRY(MakeDirectory(c.root, 0711));
  TRY(MakeDirectory(layout.Pods(), 0711));
  TRY(MakeDirectory(c.run, c.server.directory_mode));
  return MakeDirectory(layout.RunPods(), 0700);
}

std::string CgroupVersions(const runtime::cgroup::Layout& layout) {
  return layout.unified() ? "v2" : layout.v2.empty() ? "v1" : "hybrid";
}

std::string ConfigJson(const config::Config& c) {
  json::Object o;
  o["root"] = c.root;
  o["run"] = c.run;
  o["stateDir"] = c.run;  // critest looks for this name
  o["socket"] = c.server.socket;
  o["metrics"] = c.metrics.address;
  o["snapshotter"] = c.images.snapshotter;
  o["cgroupRoot"] = c.runtime.cgroup_root;
  o["networkConfigDir"] = c.cni.config_dir;
  return json::Serialize(o);
}

}  // namespace

Result<void> Serve(const config::Loaded& loaded, const std::string& version) {
  const config::Config& c = loaded.config;
  auto began = std::chrono::steady_clock::now();
  log::Configure(c.log.level, c.log.format);
  log::Info("agent.starting", {{"version", version}, {"pid", ::getpid()}, {"root", c.root}, {"run", c.run}});
  if (::geteuid() != 0)
    return Err(Code::kFailedPrecondition, "berthd must run as root: it makes namespaces, mounts and networks");
  ::umask(022);
  // About six descriptors a pod: the usual soft limit of 1024 ends at 150 pods.
  if (auto limit = RaiseDescriptorLimit(); !limit) log::Warn("agent.descriptors", {{"error", limit.error().what}});
  auto signals = TRY(CatchSignals());

  pods::Layout layout{c.root, c.run};
  TRY(MakeDirectories(c, layout));
  auto root_lock = TRY(LockFile(layout.Lock(), c.root));
  auto run_lock = TRY(LockFile(layout.run + "/agent.lock", c.run));

  auto db = TRY(Db::OpenFile(layout.Database()));
  pods::WalSync wal_sync(layout.Database());

  auto snapshotter = TRY_CTX(images::OpenSnapshotter(c.images, *db), "snapshots");
  auto store = TRY_CTX(images::OpenStore(c.images, *db, *snapshotter), "images");
  auto network = TRY_CTX(cni::OpenNetwork(c.cni, *db), "network");
  auto table = TRY(pods::Table::Open(*db));
  const auto* cgroups = TRY_CTX(runtime::cgroup::Host(), "cgroups");

  const Clock& clock = Clock::System();
  pods::Registry registry(clock);
  pods::Events events(clock);
  pods::Operations operations;
  pods::Samples samples(
      registry, clock,
      [&](const pods::ContainerState& container) -> Result<uint64_t> {
        return TRY(runtime::cgroup::ReadStats(*cgroups, {container.cgroup}, runtime::cgroup::kCpuStats)).cpu_usage_ns;
      },
      [&](const ContainerId& id) { return snapshotter->OwnerUsage(id.str()); });

  auto launcher = TRY_CTX(runtime::ShimLauncher::Make(c.runtime, Deadline::After(seconds(10))), "runtime");
  pods::Core core{.registry = registry,
                  .table = *table,
                  .events = events,
                  .samples = samples,
                  .launcher = *launcher,
                  .network = *network,
                  .images = *store,
                  .runtime_options = c.runtime,
                  .root = c.root,
                  .run = c.run,
                  .clock = clock,
                  .operations = operations,
                  .cgroups = cgroups};
  // However this ends, what runs in the background stops before the parts that it uses.
  struct Ending {
    pods::Registry& registry;
    pods::Samples& samples;
    std::unique_ptr<runtime::ShimLauncher>& launcher;
    ~Ending() {
      samples.Stop();
      registry.EndBackground();
      launcher.reset();
    }
  } ending{registry, samples, launcher};

  TRY_CTX(pods::Recover(core), "recovery");
  samples.Start();

  auto& metrics = metrics::Registry::Global();
  pods::ExportMetrics(core, metrics);
  WorkerPool pool("calls");
  cri::ServerOptions server_options;
  server_options.socket = c.server.socket;
  server_options.mode = c.server.mode;
  server_options.directory_mode = c.server.directory_mode;
  server_options.group = c.server.group;
  server_options.streaming = c.streaming;
  server_options.identity = {
      .version = version,
      .metrics_address = c.metrics.address,
      .cgroup = CgroupVersions(*cgroups),
      .facts = {{"snapshotter", std::string(snapshotter->name())}, {"root", c.root}, {"run", c.run}},
      .config = ConfigJson(c)};
  auto server = TRY_CTX(cri::Server::Start(server_options, core, *store, *network, pool, metrics), "CRI socket");
  std::unique_ptr<metrics::Server> page;
  if (!c.metrics.address.empty()) page = TRY_CTX(metrics::Server::Start(c.metrics.address, metrics), "metrics.address");

  auto took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
  log::Info("agent.ready", {{"socket", c.server.socket},
                            {"metrics", c.metrics.address},
                            {"snapshotter", snapshotter->name()},
                            {"took_ms", fmt::format("{:.0f}", took)}});
  ::sd_notify(0, "READY=1");

  ServeSignals(signals.get(), operations);

  ::sd_notify(0, "STOPPING=1");
  server->Shutdown();
  server.reset();
  page.reset();  // its collectors read the core
  log::Info("agent.stopped",
            {{"pods", registry.Pods({.id = {}, .labels = {}, .phase = pods::PodPhase::kReady}).size()}});
  return {};
}

}  // namespace berth
