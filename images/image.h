#pragma once
// What an image is to the rest of Berth: config, layers, names.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "images/digest.h"

namespace berth::images {

struct ImageConfig {                       // OCI image-spec config.md; absent members are empty
  std::string user;                        // "uid", "uid:gid", "name", "name:group"
  std::vector<std::string> env, entrypoint, cmd;
  std::string working_dir, stop_signal;
  std::map<std::string, std::string> labels;
  std::vector<std::string> exposed_ports, volumes;
  std::string architecture, os, variant, created;
};

struct Image {
  Digest id;                               // digest of the config document
  ImageConfig config;
  std::vector<Digest> diff_ids;            // bottom first
  std::vector<std::string> repo_tags;      // canonical: docker.io/library/nginx:latest
  std::vector<std::string> repo_digests;   // docker.io/library/nginx@sha256:...
  uint64_t size = 0;                       // config + compressed layers, as the manifest says
  bool pinned = false;
  std::string raw_config;                  // the document itself
};

}  // namespace berth::images
