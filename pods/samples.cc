#include "pods/samples.h"

#include <pthread.h>

namespace berth::pods {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

Samples::Samples(Registry& registry, const Clock& clock, CpuReader cpu, WritableReader writable, Options options)
    : registry_(registry), clock_(clock), cpu_(std::move(cpu)), writable_(std::move(writable)), options_(options) {}

Samples::Samples(Registry& registry, const Clock& clock, CpuReader cpu, WritableReader writable)
    : Samples(registry, clock, std::move(cpu), std::move(writable), Options()) {}

Samples::~Samples() { Stop(); }

void Samples::Start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "samples");
    Loop();
  });
}

void Samples::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Samples::Loop() {
  while (true) {
    Tick();
    std::unique_lock lock(mutex_);
    if (wake_.wait_for(lock, options_.cpu_every, [&] { return stop_; })) return;
  }
}

void Samples::Tick() {
  for (const auto& c : registry_.Containers()) {
    if (c->phase == ContainerPhase::kRunning && cpu_)
      if (auto cpu = cpu_(*c)) (void)Rate(c->id, *cpu);
    if (!writable_) continue;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      const Entry& e = entries_[c->id.str()];
      // What has ended writes no more: one walk after its end is enough.
      bool walked = e.writable.has_value();
      bool ended = c->phase == ContainerPhase::kExited && c->finished_at != 0;
      if (walked && clock_.Now() - e.walked < options_.writable_every) continue;
      if (walked && ended && e.after_end) continue;
    }
    auto began = clock_.Now();
    auto usage = writable_(c->id);
    auto took = clock_.Now() - began;
    std::unique_lock lock(mutex_);
    if (!registry_.Container(c->id)) {  // removed meanwhile
      entries_.erase(c->id.str());
      continue;
    }
    Entry& e = entries_[c->id.str()];
    e.walked = clock_.Now();
    e.after_end = c->phase == ContainerPhase::kExited;
    if (usage) e.writable = *usage;
    // Nine parts rest for one part of walking.
    if (thread_.joinable() && wake_.wait_for(lock, took * 9, [&] { return stop_; })) return;
  }
}

uint64_t Samples::Rate(const ContainerId& id, uint64_t cpu_ns) {
  std::lock_guard lock(mutex_);
  Entry& e = entries_[id.str()];
  auto now = clock_.Now();
  if (!e.sampled || cpu_ns < e.cpu_ns) {
    e = {.at = now,
         .cpu_ns = cpu_ns,
         .nano_cores = 0,
         .sampled = true,
         .writable = e.writable,
         .walked = e.walked,
         .after_end = e.after_end};
    return 0;
  }
  auto passed = duration_cast<nanoseconds>(now - e.at);
  if (passed >= seconds(1)) {
    e.nano_cores =
        static_cast<uint64_t>(static_cast<double>(cpu_ns - e.cpu_ns) * 1e9 / static_cast<double>(passed.count()));
    e.at = now;
    e.cpu_ns = cpu_ns;
  }
  return e.nano_cores;
}

std::optional<images::Usage> Samples::Writable(const ContainerId& id) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(id.str());
  return it == entries_.end() ? std::nullopt : it->second.writable;
}

void Samples::Forget(const ContainerId& id) {
  std::lock_guard lock(mutex_);
  entries_.erase(id.str());
}

}  // namespace berth::pods
