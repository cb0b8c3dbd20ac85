#include "pods/testing/world.h"

#include <dirent.h>

namespace berth::pods::testing {

std::vector<std::string> Ground::Remains() {
  std::vector<std::string> out;
  for (const char* table : {"pods", "containers"})
    if (size_t n = Rows(table)) out.push_back(fmt::format("{} rows of {}", n, table));
  for (const auto& dir : {root + "/pods", run + "/pods"}) {
    DIR* d = ::opendir(dir.c_str());
    while (const dirent* e = d != nullptr ? ::readdir(d) : nullptr)
      if (std::string name = e->d_name; name != "." && name != "..") out.push_back(dir + "/" + name);
    if (d != nullptr) ::closedir(d);
  }
  for (const auto& owner : images.snapshotter().owners()) out.push_back("snapshot " + owner);
  for (const auto& pod : network.attached()) out.push_back("network of " + pod.str());
  if (world->pods()) out.push_back(fmt::format("{} monitors", world->pods()));
  if (world->containers()) out.push_back(fmt::format("{} containers", world->containers()));
  return out;
}

}  // namespace berth::pods::testing
