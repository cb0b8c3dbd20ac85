// Where the time of a container's life goes, in one process: runtime_oci_bench BUNDLE [ROUNDS] [PAUSE_MS].
// Pauses between rounds matter: tight loops hide the kernel's RCU waits. Prints p10 and median of each step in
// microseconds, wall clock and CPU of this process.
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/unique_fd.h"
#include "runtime/init/executor.h"
#include "runtime/linux/mount.h"
#include "runtime/oci/planner.h"
#include "runtime/oci/validate.h"

namespace {

using namespace berth;
using namespace berth::runtime;

int64_t Now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

struct Steps {
  std::vector<std::string> names;
  std::map<std::string, std::vector<int64_t>> wall, cpu;
  int64_t wall_at = 0, cpu_at = 0;
  void Reset() {
    wall_at = Now(CLOCK_MONOTONIC);
    cpu_at = Now(CLOCK_PROCESS_CPUTIME_ID);
  }
  void Mark(const std::string& name) {
    int64_t w = Now(CLOCK_MONOTONIC), c = Now(CLOCK_PROCESS_CPUTIME_ID);
    if (!wall.contains(name)) names.push_back(name);
    wall[name].push_back(w - wall_at);
    cpu[name].push_back(c - cpu_at);
    Reset();
  }
};

int Fail(const std::string& what) {
  fprintf(stderr, "%s\n", what.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return Fail("usage: runtime_oci_bench BUNDLE [ROUNDS] [PAUSE_MS]");
  std::string bundle = argv[1];
  int rounds = argc > 2 ? atoi(argv[2]) : 50, pause = argc > 3 ? atoi(argv[3]) : 60;
  auto text = ReadFile(bundle + "/config.json");
  if (!text) return Fail(text.error().what);
  Steps steps;
  unique_fd null = *Open("/dev/null", O_RDWR);
  for (int i = 0; i < rounds; ++i) {
    usleep(static_cast<unsigned>(pause) * 1000);
    int64_t begin = Now(CLOCK_MONOTONIC);
    steps.Reset();
    auto spec = oci::ParseSpec(*text, "config.json");
    if (!spec) return Fail(spec.error().what);
    steps.Mark("parse config.json");
    oci::PlanInput in{.spec = &*spec, .id = "bench", .bundle = bundle, .cgroup_path = "/berth-bench"};
    auto plan = oci::MakePlan(in);
    if (!plan) return Fail(plan.error().what);
    steps.Mark("plan (cgroup made)");
    auto fds = plan->RawFds();
    init::Process process;
    init::Failure failure;
    if (!init::Create(plan->plan.data(), plan->plan.size(), fds.data(), fds.size(),
                      {null.get(), null.get(), null.get()}, &process, &failure))
      return Fail(failure.what);
    steps.Mark("create");
    if (!init::Start(&process, &failure)) return Fail(failure.what);
    steps.Mark("start");
    int64_t started = Now(CLOCK_MONOTONIC);
    int status;
    waitpid(process.pid, &status, __WALL);
    close(process.pidfd);
    steps.Mark("run to its end");
    plan->fds.clear();
    if (auto r = cgroup::Remove(plan->cgroup); !r) return Fail(r.error().what);
    steps.Mark("clean up");
    steps.wall["create and start, all"].push_back(started - begin);
    steps.wall["whole life"].push_back(Now(CLOCK_MONOTONIC) - begin);
  }
  for (const char* name : {"create and start, all", "whole life"}) steps.names.push_back(name);
  for (const std::string& name : steps.names) {
    auto show = [&](std::vector<int64_t> v) {
      if (v.empty()) return std::string("-");
      std::sort(v.begin(), v.end());
      return fmt::format("{:>7.0f} / {:>7.0f}", v[v.size() / 10] / 1e3, v[v.size() / 2] / 1e3);
    };
    printf("%-24s wall %s   cpu %s us\n", name.c_str(), show(steps.wall[name]).c_str(), show(steps.cpu[name]).c_str());
  }
}
