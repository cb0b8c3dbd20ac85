#pragma once
// CNI configuration lists (specification 1.1.0, section 1; versions 0.3.0 to 1.1.0 are read): parsing, the directory
// they live in, and the built-in list for a machine without one.
//
// Each plugin of a list is either run in-process (loopback, bridge with host-local, portmap behind such a bridge, when
// all their keys are ones we honour) or executed as a program by the specification.
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "cni/network.h"
#include "cni/options.h"
#include "cni/plugins/bridge.h"

namespace berth::cni {

struct PluginStep {
  enum class Kind { kLoopback, kBridge, kPortmap, kProgram };
  Kind kind = Kind::kProgram;
  std::string type;
  json::Object config;  // as written
  std::set<std::string> capabilities;
  std::optional<BridgeConfig> bridge;
  std::string why_program;  // for a plugin we know: the key because of which it runs as a program
};

struct NetworkList {
  std::string name, version;  // version: the newest of cniVersion and cniVersions that we speak
  std::string file;           // "" for the built-in list
  std::vector<PluginStep> plugins;
  const BridgeConfig* bridge() const;  // of the in-process bridge, or null
  bool native() const;                 // no program is run
  bool publishes_ports() const;        // some plugin takes portMappings
  std::string text;                    // the list as JSON, kept with each attachment that needs it for DEL
};

// `where` (the file's name) begins every error, which also names the key. A file of a single plugin is a list of one.
Result<NetworkList> ParseConflist(std::string_view text, const std::string& where);
// The built-in default: loopback, bridge, portmap over options.bridge and options.subnets.
std::string DefaultConflist(const Options& options);

// The directory of lists, watched. The first usable file in lexical order is the network; a file that is broken is
// passed over and named in the status. Thread-safe. Changes are taken up by the next call, without a thread: every call
// first reads what inotify has to say. A directory that does not exist yet is waited for at its nearest existing
// parent.
class ConfigDir {
 public:
  struct Loaded {
    std::shared_ptr<const NetworkList> list;            // null: none usable
    std::vector<std::pair<std::string, Error>> broken;  // file name and what is wrong
    std::string message;                                // why there is none, or which files are broken; else empty
  };
  explicit ConfigDir(const Options& options);
  Loaded Current();
  void Reload();

 private:
  void Watch();
  bool Changed();
  void Read();
  const Options options_;
  std::mutex mutex_;
  unique_fd inotify_;
  std::string watched_;
  bool stale_ = true;
  Loaded loaded_;
};

}  // namespace berth::cni
