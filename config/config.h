#pragma once
// The configuration: TOML into each folder's options.h. One table of keys (keys.cc) decides what may be written, what it
// means when it is not, how it is checked and how it is shown.
//
// Later wins: defaults, then the file, then --set. Nothing is read at any other time; a change takes a restart.
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cni/options.h"
#include "cri/streaming/options.h"
#include "images/options.h"
#include "runtime/options.h"

namespace berth::config {

inline constexpr std::string_view kDefaultFile = "/etc/berth/config.toml";

struct ServerOptions {
  std::string socket = "/run/berth/berth.sock";  // CRI; below `run` unless named
  unsigned mode = 0660;
  std::string group;                             // its group, a name or number; empty: that of the daemon
  unsigned directory_mode = 0710;                // of the directory the socket lies in
};

struct MetricsOptions {
  std::string address = "127.0.0.1:9464";        // empty: no metrics are served
};

struct LogOptions {
  log::Level level = log::Level::kInfo;
  log::Format format = log::Format::kLogfmt;
};

struct Config {
  std::string root = "/var/lib/berth";           // also in images.root
  std::string run = "/run/berth";                // also in images.run
  ServerOptions server;
  cri::streaming::Options streaming;
  MetricsOptions metrics;
  LogOptions log;
  images::Options images;
  cni::Options cni;
  runtime::Options runtime;
};

struct Loaded {
  Config config;
  // Where each key that is not at its default was set: "images.snapshotter" -> "/etc/berth/config.toml:12" or "--set".
  std::map<std::string, std::string> origins;
};

using Overrides = std::vector<std::pair<std::string, std::string>>;  // {"log.level", "debug"}

// `file` absent: kDefaultFile, and its absence is fine; a named file must be there. Override values are TOML; strings may
// go without quotes and lists as a,b. Every error of the file and of the overrides is in the answer, a line each:
// "/etc/berth/config.toml:7: images.snapshoter: unknown key; did you mean images.snapshotter?".
Result<Loaded> Load(const std::optional<std::string>& file, const Overrides& overrides);
// The same for text at hand; `name` is what errors and origins call it.
Result<Loaded> Parse(std::string_view text, const std::string& name, const Overrides& overrides);

// The effective configuration as TOML, each key with where it came from: `log.level = "debug"  # --set`.
std::string Print(const Loaded& loaded);
// All keys at their defaults, each with what it means. `commented`: the keys are comments too (packaging/config.toml).
std::string PrintDefaults(bool commented = false);

}  // namespace berth::config
