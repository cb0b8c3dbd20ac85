// berth-shim: what stands between the agent and a pod's processes. Started by berthd, as `berth-shim spawner` with a socket
// on descriptor 3. By hand only `berth-shim facts RUN_DIR/shim.sock`, which asks a pod's monitor what it knows: works while no
// agent runs.
#include <string.h>
#include <unistd.h>

#include "runtime/shim/query.h"
#include "runtime/shim/spawner.h"

int main(int argc, char** argv) {
  if (argc >= 2 && strcmp(argv[1], "spawner") == 0) {
    char* end = argv[argc - 1] + strlen(argv[argc - 1]);
    berth::shim::RunSpawner(argv[0], static_cast<unsigned long>(end - argv[0]));
  }
  if (argc == 3 && strcmp(argv[1], "facts") == 0) return berth::shim::PrintFacts(argv[2]);
  static const char kUsage[] =
      "berth-shim is started by berthd: berth-shim spawner, with a socket on descriptor 3\n"
      "berth-shim facts SOCKET: what the monitor at RUN_DIR/shim.sock knows of its pod's containers\n";
  ssize_t n = write(2, kUsage, sizeof kUsage - 1);
  return n < 0 ? 3 : 2;
}
