#include "runtime/shim/exit_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/init/text.h"
#include "runtime/shim/protocol.h"

namespace berth::shim {

bool WriteExitRecord(int state_dir, const char* id, int exit_code, int64_t finished_at) {
  init::Line<128> name, temporary, record;
  name.text << id << kRecordSuffix;
  temporary.text << name.bytes << ".tmp";
  record.text << kRecordFormat << exit_code << " " << static_cast<unsigned long>(finished_at) << "\n";
  int fd = openat(state_dir, temporary.bytes, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  size_t size = strlen(record.bytes);
  errno = 0;
  bool good = write(fd, record.bytes, size) == static_cast<ssize_t>(size) && fsync(fd) == 0;
  if (!good && errno == 0) errno = ENOSPC;  // a short write
  int error = errno;
  close(fd);
  if (!good || renameat(state_dir, temporary.bytes, state_dir, name.bytes) < 0) {
    if (good) error = errno;
    unlinkat(state_dir, temporary.bytes, 0);
    errno = error;
    return false;
  }
  return fsync(state_dir) == 0;
}

void RemoveExitRecord(int state_dir, const char* id) {
  init::Line<128> name;
  name.text << id << kRecordSuffix;
  unlinkat(state_dir, name.bytes, 0);
}

}  // namespace berth::shim
