#pragma once
// What the configuration decides about images. Filled by config/.
#include <map>
#include <string>
#include <vector>

namespace berth::images {

struct RegistryOptions {                   // one per registry host, [images.registries."registry.k8s.io"]
  std::vector<std::string> mirrors;        // tried in order before the host itself: "http://127.0.0.1:5000", "https://..."
  bool plain_http = false;                 // talk HTTP to the host itself (loopback hosts always may)
  bool skip_verify = false;                // accept any certificate
  std::string ca_file;                     // PEM, in addition to the system's
};

struct Options {
  std::string root = "/var/lib/berth";     // layers, blobs and writable directories live below it
  std::string run = "/run/berth";          // layer mounts live below it
  std::string snapshotter = "auto";        // auto: probe EROFS at start; or erofs, directory
  int parallel_downloads = 3;
  std::vector<std::string> pinned;         // references or ids that clients' garbage collection is told to leave alone
  std::map<std::string, RegistryOptions> registries;
};

}  // namespace berth::images
