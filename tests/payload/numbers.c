// Writes numbered lines to standard output at a given rate: numbers MEGABYTES_PER_SECOND SECONDS [EXIT_CODE].
// Each line is 64 bytes, "<12 digits> xxx...\n", numbers from 0 without a gap. Ends with the exit code after the last line.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kLine = 64, kStepsPerSecond = 100 };

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  double rate = atof(argv[1]) * 1e6, seconds = atof(argv[2]);
  int code = argc > 3 ? atoi(argv[3]) : 0;
  long per_step = (long)(rate / kLine / kStepsPerSecond), steps = (long)(seconds * kStepsPerSecond), number = 0;
  if (per_step < 1) per_step = 1;
  char* buffer = malloc(per_step * kLine);
  struct timespec next;
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (long s = 0; s < steps; s++) {
    for (long i = 0; i < per_step; i++) {
      char* line = buffer + i * kLine;
      memset(line, 'x', kLine);
      int n = snprintf(line, kLine, "%012ld ", number++);
      line[n] = 'x';
      line[kLine - 1] = '\n';
    }
    for (long off = 0; off < per_step * kLine;) {
      ssize_t n = write(1, buffer + off, per_step * kLine - off);
      if (n < 0) return 3;
      off += n;
    }
    next.tv_nsec += 1000000000 / kStepsPerSecond;
    if (next.tv_nsec >= 1000000000) next.tv_sec++, next.tv_nsec -= 1000000000;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
  }
  return code;
}
