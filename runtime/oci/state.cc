#include <dirent.h>

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
  return cgroup::Processes(*TRY(cgroup::Host()), cgroup::Group{s.cgroup});
}

}  // namespace berth::runtime::oci
