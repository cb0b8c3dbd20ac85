#pragma once
// What containers use, sampled in the background: CPU rates need two samples, writable layers need a walk that is too
// slow for a call. One thread; it stops with the object.
//
// `Rate` answers from the newest pair of samples at least a second apart. `Writable` answers from a cache that is
// walked again every `writable_every`, one container at a time, so that the walk never takes more than a tenth of a
// core.
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "images/snapshots/snapshotter.h"
#include "pods/registry.h"

namespace berth::pods {

class Samples {
 public:
  struct Options {
    std::chrono::milliseconds cpu_every{10'000};
    std::chrono::milliseconds writable_every{20'000};
  };
  // `cpu` reads a cgroup's total CPU time in nanoseconds.
  using CpuReader = std::function<Result<uint64_t>(const ContainerState&)>;
  using WritableReader = std::function<Result<images::Usage>(const ContainerId&)>;

  Samples(Registry& registry, const Clock& clock, CpuReader cpu, WritableReader writable, Options options);
  Samples(Registry& registry, const Clock& clock, CpuReader cpu, WritableReader writable);
  ~Samples();
  void Start();  // the thread; without it nothing is sampled but by Tick
  void Stop();
  void Tick();  // one round of both

  // CPU nanoseconds a second, from `cpu_ns` read just now and the sample before; 0 while there is none.
  uint64_t Rate(const ContainerId& id, uint64_t cpu_ns);
  // From the cache; nothing while it was never walked.
  std::optional<images::Usage> Writable(const ContainerId& id) const;
  void Forget(const ContainerId& id);

 private:
  struct Entry {
    std::chrono::steady_clock::time_point at{};
    uint64_t cpu_ns = 0, nano_cores = 0;
    bool sampled = false;
    std::optional<images::Usage> writable;
    std::chrono::steady_clock::time_point walked{};
    bool after_end = false;  // walked since the container exited
  };
  void Loop();

  Registry& registry_;
  const Clock& clock_;
  CpuReader cpu_;
  WritableReader writable_;
  Options options_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace berth::pods
