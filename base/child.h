#pragma once
// Running another program: no shell, vfork-like start, nothing inherited but what is named (and the limits, see
// base/descriptor_limit.h). The only place that forks
// besides the runtime's spawner.
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace berth {

struct Command {
  std::vector<std::string> argv;              // argv[0] is a path, or a name looked up in PATH
  std::string path;                           // what is executed; empty: argv[0]
  std::string directory;                      // working directory; empty: ours
  std::vector<std::string> env;               // exactly this environment
  std::string input;                          // written to standard input
  std::vector<std::pair<int, int>> inherit;   // {our descriptor, its number in the child}
  size_t output_limit = 16 << 20;             // per stream; more is dropped and `truncated` set
};

struct CommandOutput {
  int exit_code = 0;                          // 128+n when ended by signal n
  std::string out, err;
  bool truncated = false;
};

// Runs to the end. When the deadline passes or the caller cancels, the child's process group is killed and the error is
// kDeadlineExceeded or kCancelled.
Result<CommandOutput> Run(const Command& command, const Deadline& until);

struct Spawned {
  pid_t pid = -1;
  unique_fd pidfd;
};
// Starts it and returns; the caller waits on pidfd (waitid P_PIDFD). Standard streams that `inherit` does not name are
// /dev/null. `die_with_parent` sets PR_SET_PDEATHSIG to SIGKILL.
Result<Spawned> Spawn(const Command& command, bool die_with_parent = false);
Result<int> WaitExit(const Spawned& child, const Deadline& until);  // exit code, 128+n by signal

}  // namespace berth
