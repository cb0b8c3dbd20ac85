#pragma once
// For tests that run real containers: a bundle with busybox in a temporary directory, and what must be gone afterwards.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/child.h"
#include "base/json.h"
#include "runtime/linux/caps.h"
#include "runtime/linux/cgroup.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

inline std::string WhyNot() {  // empty when containers can be run here
  if (geteuid() != 0) return "needs root";
  if (!(caps::OwnBounding() >> 21 & 1)) return "needs CAP_SYS_ADMIN";
  if (!Exists("/bin/busybox")) return "needs /bin/busybox (package busybox-static)";
  if (!cgroup::Host()) return "no cgroup filesystem is mounted";
  return "";
}

inline size_t HostMounts() {
  std::string text = ReadFile("/proc/self/mountinfo").value_or("");
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

class Bundle {
 public:
  Bundle() {
    char name[] = "/tmp/berth-oci-test-XXXXXX";
    dir_ = mkdtemp(name);
    prefix_ = dir_.substr(dir_.rfind('-') + 1);
    for (const char* d : {"/rootfs", "/rootfs/bin", "/rootfs/proc", "/rootfs/sys", "/rootfs/dev", "/rootfs/etc",
                          "/rootfs/tmp", "/state"})
      mkdir((dir_ + d).c_str(), 0755);
    std::string busybox = ReadFile("/bin/busybox").value_or("");
    Put("/rootfs/bin/busybox", busybox, 0755);
    for (const char* applet :
         {"sh",   "ls",       "cat", "true", "false", "mount", "id",    "touch",    "sleep", "ps",
          "stat", "hostname", "env", "kill", "grep",  "mkdir", "mknod", "readlink", "pwd",   "head",
          "tty",  "wc",       "ln",  "rm",   "test",  "sed",   "tr",    "tail"})
      EXPECT_EQ(symlink("busybox", (dir_ + "/rootfs/bin/" + applet).c_str()), 0);
    spec = Default();
  }
  ~Bundle() { EXPECT_TRUE(RemoveTree(dir_)); }

  static Spec Default() {
    Spec s;
    s.root = Root{"rootfs", false};
    Process p;
    p.env = {"PATH=/bin:/usr/bin", "HOME=/"};
    auto caps = caps::ToNames(caps::Default());
    p.capabilities = Capabilities{caps, caps, {}, caps, {}};
    s.process = p;
    s.hostname = "inside";
    s.mounts = {{"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}, {}, {}},
                {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
                {"/dev/pts",
                 "devpts",
                 "devpts",
                 {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
                 {},
                 {}},
                {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}, {}, {}},
                {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}, {}, {}},
                {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}, {}, {}},
                {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}, {}, {}}};
    Linux l;
    l.namespaces = {{"pid", ""}, {"network", ""}, {"ipc", ""}, {"uts", ""}, {"mount", ""}, {"cgroup", ""}};
    s.linux = l;
    return s;
  }

  const std::string& dir() const { return dir_; }
  std::string rootfs() const { return dir_ + "/rootfs"; }
  std::string state() const { return dir_ + "/state"; }
  std::string Id(const std::string& name) const { return prefix_ + name; }
  void Put(const std::string& path, std::string_view text, unsigned mode = 0644) const {
    EXPECT_TRUE(WriteFileAtomic(dir_ + path, text, mode));
  }
  void Sh(const std::string& script) { spec.process->args = {"sh", "-c", script}; }
  void Write() const { Put("/config.json", json::ToText(spec, json::Omit::kEmpty)); }

  // The cgroups that containers of this bundle have left, in any hierarchy.
  std::vector<std::string> Cgroups() const {
    std::vector<std::string> found;
    const cgroup::Layout* layout = *cgroup::Host();
    auto look = [&](const std::string& mount) {
      DIR* d = opendir(mount.c_str());
      while (dirent* e = d ? readdir(d) : nullptr)
        if (std::string_view(e->d_name).find(prefix_) != std::string_view::npos)
          found.push_back(mount + "/" + e->d_name);
      if (d) closedir(d);
    };
    for (const cgroup::Hierarchy& h : layout->v1) look(h.mount);
    if (!layout->v2.empty()) look(layout->v2);
    return found;
  }
  std::vector<std::string> States() const {
    std::vector<std::string> found;
    DIR* d = opendir(state().c_str());
    while (dirent* e = d ? readdir(d) : nullptr)
      if (e->d_name[0] != '.') found.emplace_back(e->d_name);
    if (d) closedir(d);
    return found;
  }

  Spec spec;

 private:
  std::string dir_, prefix_;
};

}  // namespace berth::runtime::oci
