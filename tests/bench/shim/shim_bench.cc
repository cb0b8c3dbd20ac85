// What a pod, a container and a line of output cost under the native launcher.
//
//   berth_bench_shim [rounds] [pause in ms]
//   berth_bench_shim logs <static program> <megabytes>    for tests/bench/shim/logs: one container that runs it; prints
//                                                         "berth <MB/s of wall time> <MB/s of the monitor's own> <lines>"
//
// Rounds are apart by a pause, since back-to-back starts hide what the kernel makes a lone one wait for. The program that
// runs is busybox's `true` in a plain directory.
#include <sys/mman.h>

#include "runtime/shim/log_writer.h"
#include "runtime/shim_launcher_world.h"

namespace berth::runtime {
namespace {

using Clock = std::chrono::steady_clock;

class Series {
 public:
  explicit Series(std::string name) : name_(std::move(name)) {}
  template <class F>
  void Time(F&& work) {
    const auto begin = Clock::now();
    auto result = work();
    us_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    if (!result) {
      fmt::print(stderr, "{}: {}\n", name_, result.error().what);
      std::exit(1);
    }
  }
  void Add(double us) { us_.push_back(us); }
  void Print() {
    std::ranges::sort(us_);
    fmt::print("{:<28} p10 {:>8.0f}  median {:>8.0f}  p90 {:>8.0f} us\n", name_, us_[us_.size() / 10], us_[us_.size() / 2],
               us_[us_.size() * 9 / 10]);
  }

 private:
  std::string name_;
  std::vector<double> us_;
};

int Cycles(int rounds, std::chrono::milliseconds pause) {
  NativeWorld world;
  if (!world.Usable()) {
    fmt::print(stderr, "{}\n", world.Why());
    return 77;
  }
  auto& l = world.launcher();
  Series start_pod("StartPod"), create("CreateContainer"), start("StartContainer"), exit("start to exit told"),
      remove("DeleteContainer"), whole("container, all of it"), exec("Exec, to its exit code"), stop_pod("StopPod");
  const auto soon = [] { return NativeWorld::Soon(); };
  for (int i = 0; i < rounds; ++i) {
    std::this_thread::sleep_for(pause);
    PodLaunch pod = world.Pod();
    start_pod.Time([&] { return l.StartPod(pod, soon()); });
    ContainerLaunch c = world.Container(pod, {"busybox", "true"});
    const auto begin = Clock::now();
    create.Time([&] { return l.CreateContainer(c, soon()); });
    const auto started = Clock::now();
    start.Time([&] { return l.StartContainer(pod.id, c.id, soon()); });
    world.AwaitExit(c.id);
    exit.Add(std::chrono::duration<double, std::micro>(Clock::now() - started).count());
    remove.Time([&] { return l.DeleteContainer(pod.id, c.id, soon()); });
    whole.Add(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    ContainerLaunch host = world.Container(pod, {"sleep", "1000"});
    if (!l.CreateContainer(host, soon()) || !l.StartContainer(pod.id, host.id, soon())) return 1;
    std::this_thread::sleep_for(pause);
    ExecLaunch inside = world.Exec(host, {"busybox", "true"});
    exec.Time([&]() -> Result<void> {
      auto handle = l.Exec(inside, soon());
      if (!handle) return std::unexpected(handle.error());
      int32_t code;
      pollfd p{handle->exit.get(), POLLIN, 0};
      ::poll(&p, 1, 20000);
      if (::read(handle->exit.get(), &code, sizeof code) != sizeof code || code != 0) return Err(Code::kInternal, "exec failed");
      return {};
    });
    stop_pod.Time([&] { return l.StopPod(pod.id, soon()); });
  }
  for (Series* s : {&start_pod, &create, &start, &exit, &remove, &whole, &exec, &stop_pod}) s->Print();
  return 0;
}

int Logs() {
  {
    using namespace shim;
    std::vector<char> in(kInput + kSlop), out(kOutput);
    for (size_t i = 0; i < in.size(); ++i) in[i] = i % 100 == 99 ? '\n' : 'x';
    HoldPool pool;
    Stamp stamp;
    stamp.Set(1);
    LogStream stream;
    const auto begin = Clock::now();
    constexpr size_t kTimes = 20000;
    for (size_t i = 0; i < kTimes; ++i)
      for (size_t at = 0, used = 0; at < kInput; at += used)
        FormatRecords(stream, pool, stamp, in.data() + at, kInput - at, &used, out.data(), kOutput);
    pool.Give(stream.hold);
    pool.Trim();
    fmt::print("formatting alone, 100 B lines   {:.0f} MB/s\n",
               kTimes * kInput / std::chrono::duration<double>(Clock::now() - begin).count() / 1e6);
  }
  NativeWorld world;
  if (!world.Usable()) return 77;
  auto& l = world.launcher();
  PodLaunch pod = world.Pod();
  if (!l.StartPod(pod, NativeWorld::Soon())) return 1;
  const pid_t monitor = NativeWorld::MonitorOf(pod.id);
  auto cpu = [&] {
    auto stat = ReadFile(fmt::format("/proc/{}/stat", monitor), 4096).value_or("");
    unsigned long user = 0, system = 0;
    std::sscanf(stat.substr(stat.rfind(')')).c_str(), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  };
  const std::string line(99, 'x');
  for (const char* where : {"/dev/null", "file"}) {
    ContainerLaunch c = world.Container(pod, {"sh", "-c", "yes " + line + " | dd of=/proc/self/fd/1 bs=64k count=16384 iflag=fullblock 2>/dev/null"});
    if (std::string(where) != "file") c.log.path.clear();
    const double before = cpu();
    const auto begin = Clock::now();
    if (!l.CreateContainer(c, NativeWorld::Soon()) || !l.StartContainer(pod.id, c.id, NativeWorld::Soon())) return 1;
    auto done = world.AwaitExit(c.id);
    const double wall = std::chrono::duration<double>(Clock::now() - begin).count(), used = cpu() - before;
    fmt::print("1 GiB of 100 B lines to {:<9} {:.0f} MB/s of wall time, {:.0f} MB per CPU second of the monitor{}\n", where, 1073.7 / wall,
               1073.7 / std::max(used, 0.01), done && done->exit_code == 0 ? "" : " (failed)");
  }
  return 0;
}

int LogOf(const std::string& program, const std::string& megabytes) {
  NativeWorld world;
  if (!world.Usable()) return 77;
  {
    std::ifstream from(program, std::ios::binary);
    std::ofstream to(world.Path("rootfs/bin/producer"), std::ios::binary);
    to << from.rdbuf();
  }
  ::chmod(world.Path("rootfs/bin/producer").c_str(), 0755);
  auto& l = world.launcher();
  PodLaunch pod = world.Pod();
  if (!l.StartPod(pod, NativeWorld::Soon())) return 1;
  ContainerLaunch c = world.Container(pod, {"producer", megabytes});
  const auto begin = Clock::now();
  if (!l.CreateContainer(c, NativeWorld::Soon()) || !l.StartContainer(pod.id, c.id, NativeWorld::Soon())) return 1;
  auto done = world.AwaitExit(c.id);
  const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
  auto stat = ReadFile(fmt::format("/proc/{}/stat", NativeWorld::MonitorOf(pod.id)), 4096).value_or("");
  unsigned long user = 0, system = 0;
  std::sscanf(stat.substr(stat.rfind(')')).c_str(), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
  const double cpu = static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  std::ifstream log(c.log.path, std::ios::binary);
  const auto lines = std::count(std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>(), '\n');
  const double size = std::stod(megabytes);
  fmt::print("berth {:.0f} {:.0f} {}\n", size / wall, size / std::max(cpu, 0.01), lines);
  return done && done->exit_code == 0 ? 0 : 1;
}

}  // namespace
}  // namespace berth::runtime

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc == 4 && std::string_view(argv[1]) == "logs") return berth::runtime::LogOf(argv[2], argv[3]);
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
  const int pause = argc > 2 ? std::atoi(argv[2]) : 60;
  if (int code = berth::runtime::Cycles(rounds, std::chrono::milliseconds(pause)); code != 0) return code;
  return berth::runtime::Logs();
}
