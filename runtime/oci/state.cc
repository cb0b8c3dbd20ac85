#include <dirent.h>
#include <sys/stat.h>

#include "runtime/linux/cgroup.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {
namespace {

Result<StateDocument> Describe(const ContainerDir& dir) {
  StateRecord s = TRY(dir.ReadState());
  Status status = TRY(StatusOf(dir, s));
  return StateDocument{s.ociVersion,
                       s.id,
                       status == Status::kStopped ? 0 : s.pid,
                       std::string(StatusName(status)),
                       s.bundle,
                       s.rootfs,
                       s.created,
                       s.owner,
                       s.annotations};
}

// Of a container without a cgroup (rootless): whoever is in the PID namespace of its first process. When it shares ours
// that says nothing, and only the first process is known.
Result<std::vector<pid_t>> PidsOfNamespace(const StateRecord& s) {
  unique_fd alive = TRY(OpenProcess(s));
  std::vector<pid_t> found;
  struct stat own, its, other;
  if (::stat(fmt::format("/proc/{}/ns/pid", s.pid).c_str(), &its) < 0)
    return SysErr("find the container's PID namespace");
  if (::stat("/proc/self/ns/pid", &own) == 0 && own.st_ino == its.st_ino) return std::vector{static_cast<pid_t>(s.pid)};
  DIR* d = ::opendir("/proc");
  if (!d) return SysErr("open /proc");
  while (dirent* e = ::readdir(d)) {
    pid_t pid = static_cast<pid_t>(strtol(e->d_name, nullptr, 10));
    if (pid > 0 && ::stat(fmt::format("/proc/{}/ns/pid", pid).c_str(), &other) == 0 && other.st_ino == its.st_ino)
      found.push_back(pid);
  }
  ::closedir(d);
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Result<StateDocument> State(const RuntimeHost& host, const std::string& id) {
  return Describe(TRY(ContainerDir::Find(host.root, id)));
}

Result<std::vector<StateDocument>> List(const RuntimeHost& host) {
  std::vector<std::string> ids;
  if (DIR* d = ::opendir(host.root.c_str())) {
    while (dirent* e = ::readdir(d))
      if (e->d_name[0] != '.') ids.emplace_back(e->d_name);
    ::closedir(d);
  } else if (errno != ENOENT) {
    return SysErr("open {}", host.root);
  }
  std::sort(ids.begin(), ids.end());
  std::vector<StateDocument> all;
  for (const std::string& id : ids) {
    auto dir = ContainerDir::Find(host.root, id);
    if (!dir) continue;
    auto document = Describe(*dir);
    if (document)
      all.push_back(std::move(*document));
    else if (document.error().code == Code::kConflict)
      all.push_back({"", id, 0, "creating", "", "", "", "", {}});
  }
  return all;
}

Result<std::vector<pid_t>> Pids(const RuntimeHost& host, const std::string& id) {
  ContainerDir dir = TRY(ContainerDir::Find(host.root, id));
  StateRecord s = TRY(dir.ReadState());
  if (s.cgroup.empty()) return PidsOfNamespace(s);
  return cgroup::Processes(*TRY(cgroup::Host()), cgroup::Group{s.cgroup});
}

}  // namespace berth::runtime::oci
