// Writes lines of a given length to stdout as fast as it can, in writes of 64 KiB. Usage: producer megabytes [line length]
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  static char block[65536];
  long left = (argc > 1 ? atol(argv[1]) : 1024) * 1000000L;
  long line = argc > 2 ? atol(argv[2]) : 100;
  memset(block, 'x', sizeof block);
  long size = (long)sizeof block / line * line;
  for (long i = line - 1; i < size; i += line) block[i] = '\n';
  while (left > 0) {
    long at = 0;
    while (at < size) {
      ssize_t n = write(1, block + at, (size_t)(size - at));
      if (n <= 0) return 1;
      at += n;
    }
    left -= size;
  }
  return 0;
}
