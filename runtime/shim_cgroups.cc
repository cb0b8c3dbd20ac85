#include "runtime/shim_cgroups.h"

#include <dirent.h>
#include <unistd.h>

#include <memory>

#include "base/atomic_file.h"
#include "runtime/linux/cgroup.h"
#include "runtime/shim/pod_link.h"

namespace berth::runtime {
namespace {

constexpr std::string_view kCgroupSuffix = ".cgroup";

}  // namespace

std::string CgroupLink(const PodLink& link, const ContainerId& id) {
  return fmt::format("{}/{}{}", link.run_dir, id, kCgroupSuffix);
}

std::string CgroupOf(const PodLink& link, const ContainerId& id) {  // empty: none was made
  char path[4096];
  const ssize_t n = ::readlink(CgroupLink(link, id).c_str(), path, sizeof path);
  return n < 0 ? std::string() : std::string(path, static_cast<size_t>(n));
}

std::vector<ContainerId> WithCgroup(const PodLink& link) {
  std::vector<ContainerId> out;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(link.run_dir.c_str()), ::closedir);
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    std::string_view name(entry->d_name);
    if (!name.ends_with(kCgroupSuffix)) continue;
    name.remove_suffix(kCgroupSuffix.size());
    out.emplace_back(std::string(name));
  }
  return out;
}

// Kills what is left in the container's cgroup and takes it and its link away.
Result<void> RemoveCgroup(const PodLink& link, const ContainerId& id, const Deadline& until) {
  const std::string path = CgroupOf(link, id);
  if (path.empty()) return {};
  const cgroup::Layout* layout = TRY(cgroup::Host());
  const cgroup::Group group{path};
  if (!TRY(cgroup::Processes(*layout, group)).empty()) {
    TRY(cgroup::KillAll(*layout, group));
    TRY(cgroup::WaitEmpty(*layout, group, until));
  }
  TRY(cgroup::Remove(*layout, group, until));
  if (::unlink(CgroupLink(link, id).c_str()) < 0 && errno != ENOENT) return SysErr("remove {}", CgroupLink(link, id));
  return {};
}

FactDirs OpenFactDirs(const std::string& path) {
  FactDirs out;
  auto host = cgroup::Host();
  if (path.empty() || !host) return out;
  const cgroup::Layout& layout = **host;
  auto open = [&](const std::string& dir, uint32_t which) {
    if (auto fd = Open(dir, O_PATH | O_DIRECTORY)) {
      out.which |= which;
      out.fds.push_back(std::move(*fd));
    }
  };
  if (layout.unified()) {
    open(layout.v2 + path, shim::kFactUnified);
    return out;
  }
  const std::pair<std::string_view, uint32_t> wanted[] = {
      {"memory", shim::kFactMemory}, {"cpuacct", shim::kFactCpu}, {"pids", shim::kFactPids}};
  for (const auto& [controller, which] : wanted) {
    if (const cgroup::Hierarchy* v1 = layout.V1(controller)) {
      open(v1->mount + path, which);
    } else if (layout.V2(controller) || (controller == "cpuacct" && !layout.v2.empty())) {
      open(layout.v2 + path, which);
    }
  }
  return out;
}

}  // namespace berth::runtime
