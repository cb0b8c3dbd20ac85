#include "runtime/oci/container_dir.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/atomic_file.h"
#include "base/json.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/cgroup_files.h"
#include "runtime/oci/validate.h"

namespace berth::runtime::oci {
namespace {

// A socket address has 108 bytes: the directory goes by descriptor, whatever its length.
Result<std::pair<unique_fd, sockaddr_un>> SocketAddress(const std::string& dir) {
  unique_fd at = TRY(Open(dir, O_PATH | O_DIRECTORY));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/start.sock", at.get());
  return std::pair(std::move(at), address);
}

}  // namespace

std::string_view StatusName(Status status) {
  static constexpr std::string_view kNames[] = {"creating", "created", "running", "paused", "stopped"};
  return kNames[static_cast<int>(status)];
}

Result<ContainerDir> ContainerDir::Claim(const std::string& root, const std::string& id) {
  TRY(ValidateId(id));
  ContainerDir dir;
  dir.path_ = root + "/" + id;
  dir.id_ = id;
  if (::mkdir(dir.path_.c_str(), 0700) == 0) return dir;
  if (errno == ENOENT) {
    TRY(MakeDirs(root, 0700));
    if (::mkdir(dir.path_.c_str(), 0700) == 0) return dir;
  }
  if (errno == EEXIST) return Err(Code::kAlreadyExists, "container with id exists: {}", id);
  return SysErr("make {}", dir.path_);
}

Result<ContainerDir> ContainerDir::Find(const std::string& root, const std::string& id) {
  TRY(ValidateId(id));
  ContainerDir dir;
  dir.path_ = root + "/" + id;
  dir.id_ = id;
  struct stat st;
  if (::stat(dir.path_.c_str(), &st) < 0 || !S_ISDIR(st.st_mode))
    return Err(Code::kNotFound, "container \"{}\" does not exist", id);
  return dir;
}

Result<void> ReplaceFile(const std::string& path, std::string_view text, unsigned mode) {
  std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  unique_fd fd = TRY(Open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  auto written = WriteAll(fd.get(), text);
  if (written && ::rename(temporary.c_str(), path.c_str()) == 0) return {};
  auto failed = written ? Result<void>(SysErr("write {}", path)) : written;
  ::unlink(temporary.c_str());
  return failed;
}

Result<void> ContainerDir::WriteConfig(std::string_view text) const {
  unique_fd fd = TRY(Open(path_ + "/config.json", O_WRONLY | O_CREAT | O_EXCL, 0600));
  return WriteAll(fd.get(), text);
}

Result<Spec> ContainerDir::ReadConfig() const {
  std::string text = TRY(ReadFile(path_ + "/config.json"));
  return ParseSpec(text, path_ + "/config.json");
}

Result<void> ContainerDir::WriteState(const StateRecord& state) const {
  return ReplaceFile(path_ + "/state.json", json::ToText(state, json::Omit::kEmpty), 0600);
}

Result<StateRecord> ContainerDir::ReadState() const {
  auto text = ReadFile(path_ + "/state.json", 4 << 20);
  if (!text) {
    if (text.error().sys == ENOENT)
      return Err(Code::kConflict, "container \"{}\" is still being created, or its creation was interrupted", id_);
    return std::unexpected(std::move(text).error());
  }
  return json::Parse<StateRecord>(*text, path_ + "/state.json");
}

Result<unique_fd> ContainerDir::Listen() const {
  unique_fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return SysErr("make the start socket");
  auto [at, address] = TRY(SocketAddress(path_));
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 || ::listen(fd.get(), 4) < 0)
    return SysErr("listen on {}/start.sock", path_);
  return fd;
}

Result<unique_fd> ContainerDir::Connect() const {
  unique_fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return SysErr("make a socket");
  auto [at, address] = TRY(SocketAddress(path_));
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    if (errno == ENOENT || errno == ECONNREFUSED)
      return Err(Code::kConflict, "cannot start a container that is not in state created");
    return SysErr("connect to {}/start.sock", path_);
  }
  return fd;
}

void ContainerDir::RemoveSocket() const { ::unlink((path_ + "/start.sock").c_str()); }

Result<void> ContainerDir::Remove() const {
  // The usual content first; RemoveTree has to look for more.
  for (const char* name : {"/state.json", "/config.json", "/start.sock"}) ::unlink((path_ + name).c_str());
  if (::rmdir(path_.c_str()) == 0 || errno == ENOENT) return {};
  return RemoveTree(path_);
}

uint64_t ProcessStartTime(int64_t pid) {
  if (pid <= 0) return 0;
  auto text = cgroup::ReadControl(fmt::format("/proc/{}/stat", pid));
  if (!text) return 0;
  // The name in parentheses may hold anything; state is field 3, the start time field 22.
  size_t at = text->rfind(')');
  if (at == std::string::npos || at + 2 >= text->size()) return 0;
  char state = (*text)[at + 2];
  if (state == 'Z' || state == 'X') return 0;
  const char* p = text->c_str() + at + 2;
  for (int field = 3; field < 22 && *p; ++p)
    if (*p == ' ') ++field;
  return strtoull(p, nullptr, 10);
}

Result<unique_fd> OpenProcess(const StateRecord& state) {
  unique_fd fd(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(state.pid), 0)));
  // The descriptor holds one process; the start time says whether it is ours.
  if (!fd || ProcessStartTime(state.pid) != state.startTime) return Err(Code::kConflict, "container not running");
  return fd;
}

Result<Status> StatusOf(const ContainerDir& dir, const StateRecord& state) {
  uint64_t start = ProcessStartTime(state.pid);
  if (start == 0 || start != state.startTime) return Status::kStopped;
  if (Exists(dir.path() + "/start.sock")) return Status::kCreated;
  if (!state.cgroup.empty()) {
    auto frozen = cgroup::IsFrozen(*TRY(cgroup::Host()), cgroup::Group{state.cgroup});
    if (frozen && *frozen) return Status::kPaused;
  }
  return Status::kRunning;
}

}  // namespace berth::runtime::oci
