// berth-init: the child side of the executor as a program of its own, for callers whose executable is a file of the
// host. It is embedded in them and run from a sealed memfd, never installed.
#include "runtime/init/executor.h"

int main(int argc, char** argv) {
  int control = 0;
  if (argc != 2) return 255;
  for (const char* p = argv[1]; *p; ++p) {
    if (*p < '0' || *p > '9') return 255;
    control = control * 10 + (*p - '0');
  }
  berth::init::RunStub(control);
}
