#include "cni/conflist.h"

#include <dirent.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <charconv>

#include "base/log.h"
#include "cni/ip.h"
#include "cni/plugins/keys.h"

namespace berth::cni {
namespace {

bool ValidName(std::string_view name) {
  if (name.empty() || !isalnum(static_cast<unsigned char>(name[0]))) return false;
  return std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

std::array<int, 3> VersionNumber(std::string_view v) {
  std::array<int, 3> out{};
  const char* at = v.data();
  for (int& n : out) {
    auto [end, ec] = std::from_chars(at, v.data() + v.size(), n);
    if (ec != std::errc() || end == v.data() + v.size()) break;
    at = end + 1;
  }
  return out;
}

// The newest version of the list that we speak (a list may name several in cniVersions).
Result<std::string> ChooseVersion(Keys& keys) {
  std::vector<std::string> all = keys.Texts("cniVersions");
  if (std::string one = keys.Text("cniVersion"); !one.empty()) all.push_back(one);
  if (keys.error()) return std::unexpected(*keys.error());
  if (all.empty()) return Err(Code::kInvalidArgument, "{}: missing; \"1.1.0\" is the newest", keys.Where("cniVersion"));
  std::string best;
  for (const std::string& v : all)
    if (KnownVersion(v) && (best.empty() || VersionNumber(best) < VersionNumber(v))) best = v;
  if (best.empty())
    return Err(Code::kInvalidArgument, "{}: '{}' is not supported; 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are",
               keys.Where("cniVersion"), all.back());
  return best;
}

Result<PluginStep> ParsePlugin(const json::Object& object, const std::string& where, bool after_native_bridge) {
  PluginStep step;
  step.config = object;
  Keys keys(object, where);
  step.type = keys.Text("type");
  if (const json::Object* caps = keys.Object("capabilities")) {
    Keys k(*caps, keys.Where("capabilities"));
    for (const auto& [name, value] : *caps)
      if (k.Bool(name)) step.capabilities.insert(std::string(name));
    if (k.error()) return std::unexpected(*k.error());
  }
  if (keys.error()) return std::unexpected(*keys.error());
  if (step.type.empty()) return Err(Code::kInvalidArgument, "{}: missing", keys.Where("type"));
  if (step.type.find('/') != std::string::npos || step.type == "." || step.type == "..")
    return Err(Code::kInvalidArgument, "{}: '{}' must be a program's name without a path", keys.Where("type"),
               step.type);
  for (const char* reserved : {"runtimeConfig", "prevResult"})
    if (object.contains(reserved))
      return Err(Code::kInvalidArgument, "{}: reserved for the runtime", keys.Where(reserved));

  if (step.type == "loopback") {
    step.kind = PluginStep::Kind::kLoopback;
  } else if (step.type == "bridge") {
    auto parsed = TRY(ParseBridge(object, where));
    if (auto* native = std::get_if<BridgeConfig>(&parsed)) {
      step.kind = PluginStep::Kind::kBridge;
      step.bridge = std::move(*native);
    } else {
      step.why_program = std::get<NotNative>(parsed).why;
    }
  } else if (step.type == "portmap") {
    auto not_native = TRY(ParsePortmap(object, where));
    if (not_native)
      step.why_program = not_native->why;
    else if (!after_native_bridge)
      step.why_program = "the bridge before it is a program";
    else
      step.kind = PluginStep::Kind::kPortmap;
  }
  return step;
}

Result<std::string> ReadSmallFile(const std::string& path) {
  unique_fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return SysErr("open");
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return SysErr("stat");
  if (!S_ISREG(st.st_mode)) return Err(Code::kInvalidArgument, "not a regular file");
  if (st.st_size > 1 << 20) return Err(Code::kInvalidArgument, "larger than 1 MiB");
  std::string text;
  char buffer[8192];
  for (ssize_t n; (n = read(fd.get(), buffer, sizeof buffer)) != 0;) {
    if (n < 0) return SysErr("read");
    text.append(buffer, n);
    if (text.size() > 1 << 20) return Err(Code::kInvalidArgument, "larger than 1 MiB");
  }
  return text;
}

bool HaveIpv6() { return unique_fd(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0)).valid(); }

bool HasExtension(std::string_view name) {
  return name.ends_with(".conf") || name.ends_with(".conflist") || name.ends_with(".json");
}

// Sorted; empty when the directory is missing.
std::vector<std::string> ConfigFiles(const std::string& dir) {
  std::vector<std::string> names;
  if (DIR* d = opendir(dir.c_str())) {
    while (dirent* e = readdir(d))
      if (HasExtension(e->d_name) && e->d_name[0] != '.') names.emplace_back(e->d_name);
    closedir(d);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

const BridgeConfig* NetworkList::bridge() const {
  for (const PluginStep& p : plugins)
    if (p.bridge) return &*p.bridge;
  return nullptr;
}

bool NetworkList::native() const {
  return std::none_of(plugins.begin(), plugins.end(), [](auto& p) { return p.kind == PluginStep::Kind::kProgram; });
}

bool NetworkList::publishes_ports() const {
  return std::any_of(plugins.begin(), plugins.end(), [](auto& p) {
    return p.kind == PluginStep::Kind::kPortmap || p.capabilities.contains("portMappings");
  });
}

Result<NetworkList> ParseConflist(std::string_view text, const std::string& where) {
  json::Value tree = TRY(json::ParseTree(text, where, 1 << 20));
  if (!tree.is_object()) return Err(Code::kInvalidArgument, "{}: expected an object", where);
  const json::Object& object = tree.get_object();
  NetworkList list;
  list.file = where;
  list.text = text;
  const std::string root = where + ": ";
  Keys keys(object, root);
  list.name = keys.Text("name");
  list.version = TRY(ChooseVersion(keys));
  const json::Array* plugins = keys.Array("plugins");
  if (keys.error()) return std::unexpected(*keys.error());
  if (list.name.empty()) return Err(Code::kInvalidArgument, "{}name: missing", root);
  if (!ValidName(list.name))
    return Err(Code::kInvalidArgument,
               "{}name: '{}' must begin with a letter or digit and go on with those, '_', '.' or '-'", root, list.name);
  if (plugins) {
    if (plugins->empty()) return Err(Code::kInvalidArgument, "{}plugins: at least one is needed", root);
    bool native_bridge = false;
    for (size_t i = 0; i < plugins->size(); ++i) {
      std::string at = fmt::format("{}plugins[{}]", root, i);
      if (!(*plugins)[i].is_object()) return Err(Code::kInvalidArgument, "{}: expected object", at);
      PluginStep step = TRY(ParsePlugin((*plugins)[i].get_object(), at, native_bridge));
      if (step.bridge && native_bridge) return Err(Code::kInvalidArgument, "{}: a second bridge for one interface", at);
      native_bridge |= step.bridge.has_value();
      list.plugins.push_back(std::move(step));
    }
  } else if (object.contains("type")) {
    // The older form: one plugin, name and version beside its own keys.
    list.plugins.push_back(TRY(ParsePlugin(object, root, false)));
  } else {
    return Err(Code::kInvalidArgument, "{}plugins: missing", root);
  }
  return list;
}

std::string DefaultConflist(const Options& options) {
  json::Array ranges;
  for (const std::string& subnet : options.subnets) ranges.push_back(json::Array{json::Object{{"subnet", subnet}}});
  json::Object bridge{{"type", "bridge"},
                      {"bridge", options.bridge},
                      {"isGateway", true},
                      {"isDefaultGateway", true},
                      {"ipMasq", true},
                      {"isolate", true},
                      {"ipam", json::Object{{"type", "host-local"}, {"ranges", std::move(ranges)}}}};
  json::Object portmap{{"type", "portmap"}, {"capabilities", json::Object{{"portMappings", true}}}};
  json::Object list{
      {"cniVersion", "1.1.0"},
      {"name", "berth"},
      {"plugins", json::Array{json::Object{{"type", "loopback"}}, std::move(bridge), std::move(portmap)}}};
  return json::Serialize(list);
}

ConfigDir::ConfigDir(const Options& options) : options_(options) {
  inotify_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify_) log::Warn("cni.watch_failed", {{"error", ErrnoText(errno)}});
}

void ConfigDir::Watch() {
  if (!inotify_) return;
  std::string path = options_.config_dir;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  for (;;) {
    uint32_t mask = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF |
                    IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR;
    int watch = inotify_add_watch(inotify_.get(), path.c_str(), mask);
    if (watch >= 0) {
      if (path != watched_ && !watched_.empty()) {
        // Only the new one counts: begin again with a fresh descriptor rather than keep the number of the old.
        inotify_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        if (inotify_ && inotify_add_watch(inotify_.get(), path.c_str(), mask) < 0) inotify_.reset();
      }
      watched_ = path;
      return;
    }
    size_t slash = path.rfind('/');
    if (path == "/" || slash == std::string::npos) return;
    path = slash == 0 ? "/" : path.substr(0, slash);
  }
}

bool ConfigDir::Changed() {
  if (!inotify_) return true;
  bool changed = std::exchange(stale_, false);
  alignas(inotify_event) char buffer[4096];
  while (read(inotify_.get(), buffer, sizeof buffer) > 0) changed = true;
  return changed;
}

void ConfigDir::Read() {
  Loaded next;
  std::vector<std::string> files = ConfigFiles(options_.config_dir);
  for (const std::string& name : files) {
    auto text = ReadSmallFile(options_.config_dir + "/" + name);
    auto list = text ? ParseConflist(*text, name) : Result<NetworkList>(Wrap(text.error(), "{}", name));
    if (!list) {
      next.broken.emplace_back(name, list.error());
    } else if (!next.list) {
      next.list = std::make_shared<const NetworkList>(std::move(*list));
    }
  }
  if (!next.list && files.empty() && options_.built_in_default) {
    Options possible = options_;
    if (!HaveIpv6())
      std::erase_if(possible.subnets, [](const std::string& s) { return s.find(':') != std::string::npos; });
    auto list = ParseConflist(DefaultConflist(possible), "built-in network");
    if (list) {
      list->file.clear();
      next.list = std::make_shared<const NetworkList>(std::move(*list));
    } else {
      next.broken.emplace_back("built-in network", list.error());
    }
  }
  std::string wrong;
  for (const auto& [name, error] : next.broken) wrong += (wrong.empty() ? "" : "; ") + error.what;
  if (!next.list) {
    next.message =
        "cni plugin not initialized: " +
        (wrong.empty() ? fmt::format("no network configuration in {}; put a .conflist file there", options_.config_dir)
                       : wrong);
  } else if (!wrong.empty()) {
    next.message = "network configuration passed over: " + wrong;
  }
  bool news = next.message != loaded_.message || !next.list != !loaded_.list ||
              (next.list && loaded_.list && next.list->text != loaded_.list->text);
  loaded_ = std::move(next);
  if (!news) return;
  if (!loaded_.message.empty()) log::Warn("cni.config", {{"message", loaded_.message}});
  if (loaded_.list) {
    log::Info("cni.network", {{"name", loaded_.list->name},
                              {"file", loaded_.list->file.empty() ? "built-in" : loaded_.list->file},
                              {"version", loaded_.list->version}});
    for (const PluginStep& p : loaded_.list->plugins)
      if (!p.why_program.empty()) log::Info("cni.plugin_as_program", {{"type", p.type}, {"because", p.why_program}});
  }
}

ConfigDir::Loaded ConfigDir::Current() {
  std::lock_guard lock(mutex_);
  // The watch is set before the directory is read, so that nothing falls between.
  if (Changed()) {
    Watch();
    Read();
  }
  return loaded_;
}

void ConfigDir::Reload() {
  std::lock_guard lock(mutex_);
  stale_ = true;
}

}  // namespace berth::cni
