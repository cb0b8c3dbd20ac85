#include "runtime/shim/query.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/init/text.h"
#include "runtime/shim/wire.h"

namespace berth::shim {
namespace {

int Complain(const char* subject, const char* what, int sys) {
  init::Line<512> line;
  line.text << "berth-shim: " << subject << ": " << what;
  if (sys != 0) line.text << ": " << strerror(sys);
  line.text << "\n";
  return write(2, line.bytes, strlen(line.bytes)) < 0 ? 1 : 1;
}

// Over the directory's descriptor, as the paths of sockets are short.
int Connect(const char* path) {
  char directory[4096];
  if (strlen(path) >= sizeof directory) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(directory, path);
  const char* slash = strrchr(path, '/');
  if (slash != nullptr) directory[slash - path + 1] = '\0';
  int dir = open(slash != nullptr ? directory : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  init::Text(address.sun_path, sizeof address.sun_path) << "/proc/self/fd/" << dir << "/" << (slash != nullptr ? slash + 1 : path);
  if (dir < 0 || fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return -1;
  timeval patience{5, 0};   // a monitor that hangs
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

void Print(const FactsEntry& e) {
  static const char* const kStates[] = {"free", "created", "running", "exited"};
  init::Line<1024> line;
  auto number = [](auto value) { return static_cast<unsigned long>(value); };
  auto state = static_cast<unsigned>(e.state);
  line.text << "id=" << e.id << " state=" << (state < 4 ? kStates[state] : "unknown") << " pid=" << e.pid << " exit_code=" << e.exit_code
            << " signal=" << e.exit.signal << " oom_kills=" << e.exit.oom_kills << " oom_killed=" << e.exit.oom_killed
            << " started_ns=" << number(e.started_at) << " finished_ns=" << number(e.finished_at) << " cpu_ns=" << number(e.cpu_ns)
            << " memory_bytes=" << number(e.memory_bytes) << " memory_peak_bytes=" << number(e.exit.memory_peak)
            << " pids=" << e.pids << " execs=" << e.execs << " attached=" << e.attaches << " log_bytes=" << number(e.log_bytes)
            << " log_dropped_bytes=" << number(e.log_dropped_bytes) << " log_errors=" << number(e.log_errors)
            << " log_rotations=" << number(e.log_rotations) << " log_errno=" << e.log_errno << "\n";
  if (write(1, line.bytes, strlen(line.bytes)) < 0) _exit(1);
}

}  // namespace

int PrintFacts(const char* path) {
  int fd = Connect(path);
  if (fd < 0) return Complain(path, "no monitor answers there", errno);
  if (!Send(fd, Type::kFacts, 0, 1, nullptr, 0)) return Complain(path, "send", errno);
  Message message;
  while (true) {
    Got got = Receive(fd, &message);
    if (got == Got::kNothing) return Complain(path, "the monitor does not answer", 0);
    if (got == Got::kClosed) return Complain(path, "the monitor closed the connection", 0);
    if (message.header.type == Type::kError) {
      auto error = message.As<ErrorReply>();
      error.what[sizeof error.what - 1] = '\0';
      return Complain(path, error.what, 0);
    }
    if (message.header.request != 1) continue;
    auto head = message.As<FactsReply>();
    size_t at = sizeof head;
    for (uint32_t i = 0; i < head.count && head.entry_size > 0 && message.size - at >= head.entry_size; ++i, at += head.entry_size) {
      FactsEntry entry;
      memset(static_cast<void*>(&entry), 0, sizeof entry);
      memcpy(static_cast<void*>(&entry), message.body + at, head.entry_size < sizeof entry ? head.entry_size : sizeof entry);
      entry.id[kIdSize - 1] = '\0';
      Print(entry);
    }
    if ((message.header.flags & kMore) == 0) return 0;
  }
}

}  // namespace berth::shim
