#include "pods/host_paths.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <set>

#include "base/atomic_file.h"

namespace berth::pods {

namespace oci = runtime::oci;

namespace {

struct MountFacts {
  bool found = false, shared = false, slave = false;
  std::string point;
};

// The line of /proc/self/mountinfo for the mount that `path` lies on (proc(5): optional fields stand before " - ").
Result<MountFacts> MountOf(const std::string& path) {
  struct statx stx;
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) < 0) return SysErr("statx {}", path);
  MountFacts facts;
  std::string text = TRY(ReadFile("/proc/self/mountinfo"));
  const std::string id = fmt::format("{} ", stx.stx_mnt_id);
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (!line.starts_with(id)) continue;
    facts.found = true;
    std::string_view head = line.substr(0, line.find(" - "));
    facts.shared = head.find(" shared:") != std::string_view::npos;
    facts.slave = head.find(" master:") != std::string_view::npos;
    for (int field = 0; field < 4; ++field) head.remove_prefix(std::min(head.size(), head.find(' ') + 1));
    facts.point = head.substr(0, head.find(' '));
    return facts;
  }
  return facts;
}

Result<std::string> RealPath(const std::string& path, std::string_view field) {
  char* real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return SysErr("{}: host_path {}", field, path);
  std::string out = real;
  ::free(real);
  return out;
}

std::optional<oci::Device> AsDevice(const struct stat& st, const std::string& path) {
  if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)) return std::nullopt;
  oci::Device d;
  d.type.assign(1, S_ISCHR(st.st_mode) ? 'c' : 'b');
  d.path = path;
  d.major = major(st.st_rdev);
  d.minor = minor(st.st_rdev);
  d.fileMode = st.st_mode & 0777;
  d.uid = st.st_uid;
  d.gid = st.st_gid;
  return d;
}

// Every device at or below `host`, as seen at `container`. What vanishes meanwhile is passed over.
void Walk(const std::string& host, const std::string& container, const std::set<std::string>& skip, int depth,
          std::vector<oci::Device>* out) {
  DIR* dir = ::opendir(host.c_str());
  if (dir == nullptr) return;
  while (const dirent* e = ::readdir(dir)) {
    std::string name = e->d_name;
    if (name == "." || name == ".." || skip.contains(name)) continue;
    struct stat st;
    std::string path = host + "/" + name;
    if (::lstat(path.c_str(), &st) < 0) continue;
    if (S_ISDIR(st.st_mode) && depth > 0)
      Walk(path, container + "/" + name, skip, depth - 1, out);
    else if (auto d = AsDevice(st, container + "/" + name))
      out->push_back(std::move(*d));
  }
  ::closedir(dir);
}

void Sort(std::vector<oci::Device>* devices) {
  std::sort(devices->begin(), devices->end(), [](const auto& a, const auto& b) { return a.path < b.path; });
}

}  // namespace

Result<std::vector<Mount>> ResolveMounts(const std::vector<Mount>& mounts) {
  std::vector<Mount> out = mounts;
  for (size_t i = 0; i < out.size(); ++i) {
    Mount& m = out[i];
    std::string field = fmt::format("mounts[{}]", i);
    struct stat st;
    if (::stat(m.host_path.c_str(), &st) < 0) {
      if (errno != ENOENT) return SysErr("{}: host_path {}", field, m.host_path);
      TRY_CTX(MakeDirs(m.host_path), "{}: host_path", field);
    }
    m.host_path = TRY(RealPath(m.host_path, field));
    if (m.propagation == Propagation::kPrivate) continue;
    MountFacts facts = TRY_CTX(MountOf(m.host_path), "{}: propagation", field);
    bool good = m.propagation == Propagation::kBidirectional ? facts.shared : facts.shared || facts.slave;
    if (!good)
      return Err(
          Code::kFailedPrecondition,
          "{}: propagation: host_path {} is on the mount {}, which is not {}; make it so with mount --make-rshared {}",
          field, m.host_path, facts.point, m.propagation == Propagation::kBidirectional ? "shared" : "shared or slave",
          facts.point);
  }
  return out;
}

Result<std::vector<oci::Device>> FindDevices(const std::vector<DeviceSpec>& devices, bool privileged) {
  std::vector<oci::Device> out;
  if (privileged) {
    // Own file systems of the container, the container's terminal, and the log socket.
    static const std::set<std::string> kSkip = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", "console", "ptmx"};
    Walk("/dev", "/dev", kSkip, 8, &out);
    static const std::set<std::string> kOwn = {"/dev/null",   "/dev/zero",    "/dev/full",
                                               "/dev/random", "/dev/urandom", "/dev/tty"};
    std::erase_if(out, [](const oci::Device& d) { return kOwn.contains(d.path); });
    Sort(&out);
    return out;
  }
  for (size_t i = 0; i < devices.size(); ++i) {
    const DeviceSpec& asked = devices[i];
    struct stat st;
    if (::stat(asked.host_path.c_str(), &st) < 0) return SysErr("devices[{}]: host_path {}", i, asked.host_path);
    if (S_ISDIR(st.st_mode)) {
      std::vector<oci::Device> below;
      Walk(asked.host_path, asked.container_path, {}, 8, &below);
      Sort(&below);
      if (below.empty())
        return Err(Code::kInvalidArgument, "devices[{}]: host_path {}: no device below it", i, asked.host_path);
      out.insert(out.end(), below.begin(), below.end());
    } else if (auto d = AsDevice(st, asked.container_path)) {
      out.push_back(std::move(*d));
    } else {
      return Err(Code::kInvalidArgument, "devices[{}]: host_path {}: neither a device nor a directory", i,
                 asked.host_path);
    }
  }
  return out;
}

}  // namespace berth::pods
