#pragma once
// What a pod and a container are now. Values: a reader gets a consistent copy from the registry's memory index.
//
//   pod:        creating --> ready --> stopping --> stopped --> (gone)
//   container:  creating --> created --> running --> exited --> (gone)
//
// An object is visible to List and Status from `ready` (pod) or `created` (container) on. A creation that could not be
// undone stays listed as stopped (exited) so that Stop and Remove can finish it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/id.h"
#include "cni/network.h"
#include "pods/spec.h"

namespace berth::pods {

enum class PodPhase { kCreating, kReady, kStopping, kStopped };
enum class ContainerPhase { kCreating, kCreated, kRunning, kExited };

struct PodState {
  PodId id;
  PodSpec spec;
  PodPhase phase = PodPhase::kCreating;
  int64_t created_at = 0;     // unix nanoseconds; grows with creation even when the clock steps back
  cni::AttachResult network;  // empty with host network
  std::string netns_path;     // empty with host network
  pid_t monitor = -1;
  std::string cgroup;  // pod's own cgroup path
  std::string stuck;   // why the last stop could not finish; empty otherwise
};

struct ResolvedUser {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
};
BOOST_DESCRIBE_STRUCT(ResolvedUser, (), (uid, gid, groups))

struct ContainerState {
  ContainerId id;
  PodId pod;
  ContainerSpec spec;
  ContainerPhase phase = ContainerPhase::kCreating;
  int64_t created_at = 0, started_at = 0, finished_at = 0;
  pid_t pid = -1;
  int exit_code = 0;
  // Completed, Error, OOMKilled, StartError, Unknown. Empty before the exit, but StartError and why from creation on
  // when the program cannot be run: the start will fail with it.
  std::string reason, message;
  std::string image_id, image_name, image_ref;  // sha256:..., first tag, repo digest or id
  std::string log_path;                         // absolute, empty when output is dropped
  std::string cgroup;
  ResolvedUser user;
  int stop_signal = 15;
};

struct ContainerUsage {  // one sample; unset where the kernel does not say
  ContainerId id;
  PodId pod;
  int64_t at = 0;  // unix nanoseconds
  uint64_t cpu_ns = 0, cpu_user_ns = 0, cpu_system_ns = 0;
  uint64_t nano_cores = 0;  // from the sample before
  uint64_t memory_usage = 0, memory_working_set = 0, memory_rss = 0, memory_cache = 0,
           memory_limit = 0;  // limit 0: none
  uint64_t page_faults = 0, major_page_faults = 0, memory_failcnt = 0, oom_kills = 0;
  uint64_t swap_usage = 0;
  uint64_t pids = 0, pids_limit = 0;
  uint64_t writable_bytes = 0, writable_inodes = 0;  // from a cache refreshed in the background
};

}  // namespace berth::pods
