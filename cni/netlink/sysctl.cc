#include "cni/netlink/sysctl.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"

namespace berth::cni::netlink {

std::string GetSysctl(const std::string& name) {
  unique_fd fd(open(("/proc/sys/" + name).c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[256];
  ssize_t n = fd ? read(fd.get(), buffer, sizeof buffer) : 0;
  while (n > 0 && buffer[n - 1] == '\n') --n;
  return std::string(buffer, n > 0 ? n : 0);
}

bool SetSysctl(const std::string& name, const std::string& value) {
  if (GetSysctl(name) == value) return true;
  unique_fd fd(open(("/proc/sys/" + name).c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return false;
  if (fd && write(fd.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) return true;
  log::Warn("sysctl.failed", {{"name", name}, {"value", value}, {"error", ErrnoText(errno)}});
  return false;
}

void EnableForwarding(bool ipv4, bool ipv6) {
  if (ipv4) SetSysctl("net/ipv4/ip_forward", "1");
  if (!ipv6 || GetSysctl("net/ipv6/conf/all/forwarding") != "0") return;
  std::vector<std::string> listening;
  if (DIR* d = opendir("/proc/sys/net/ipv6/conf")) {
    while (dirent* e = readdir(d)) {
      std::string name = fmt::format("net/ipv6/conf/{}/accept_ra", e->d_name);
      if (e->d_name[0] != '.' && std::string_view(e->d_name) != "all" && GetSysctl(name) == "1")
        listening.push_back(name);
    }
    closedir(d);
  }
  for (const std::string& name : listening) SetSysctl(name, "2");
  SetSysctl("net/ipv6/conf/all/forwarding", "1");
}

}  // namespace berth::cni::netlink
