#include "runtime/shim/exit_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/init/text.h"

namespace berth::shim {

bool WriteExitRecord(int state_dir, const ExitEvent& exit) {
  init::Line<128> name, temporary;
  init::Line<kRecordLimit> record;
  const ExitDetails& d = exit.details;
  auto number = [](auto value) { return static_cast<unsigned long>(value); };
  name.text << exit.id << kRecordSuffix;
  temporary.text << name.bytes << ".tmp";
  record.text << kRecordFormat << exit.exit_code << " " << number(exit.finished_at) << "\n";
  record.text << "signal=" << d.signal << " oom_kills=" << d.oom_kills << " oom_killed=" << d.oom_killed
              << " user_ns=" << number(d.user_ns) << " system_ns=" << number(d.system_ns) << " memory_peak=" << number(d.memory_peak)
              << " log_dropped=" << number(d.log_dropped) << "\n";
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
