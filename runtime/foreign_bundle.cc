#include "runtime/foreign_bundle.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/atomic_file.h"
#include "base/child.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "runtime/handler_features.h"
#include "runtime/linux/mount.h"

namespace berth::runtime {
namespace {

constexpr std::string_view kSuffix = ".bundle";
constexpr std::string_view kMounts[] = {"rootfs", "shm"};
constexpr std::string_view kRecord = "handler.json";
constexpr size_t kLogLimit = 1 << 20;

struct Record {
  std::string path, root;
  std::vector<std::string> options;
};
BOOST_DESCRIBE_STRUCT(Record, (), (path, root, options))

bool Empty(const json::Value& v) {
  if (v.is_string()) return v.get_string().empty();
  if (v.is_array()) return v.get_array().empty();
  return v.is_object() && v.get_object().empty();
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

}  // namespace

// --- pure

json::Value WithoutEmpty(json::Value document) {
  if (document.is_array()) {
    for (json::Value& item : document.get_array()) item = WithoutEmpty(std::move(item));
  } else if (document.is_object()) {
    json::Object out;
    for (auto& [key, value] : document.get_object()) {
      // Their values are the caller's own texts.
      const bool opaque = key == "annotations" || key == "sysctl";
      json::Value inner = opaque ? std::move(value) : WithoutEmpty(std::move(value));
      if (!Empty(inner)) out.emplace(key, std::move(inner));
    }
    document = std::move(out);
  }
  return document;
}

oci::Spec ForeignSpec(oci::Spec spec, const ForeignPlace& place) {
  // What pods ask for is in the first version already, and older runtimes (crun 1.8) refuse a later number.
  spec.ociVersion = "1.0.2";
  if (!spec.root) spec.root.emplace();
  spec.root->path = place.bundle + "/rootfs";
  if (spec.process) spec.process->terminal = place.terminal;
  // They tell sandboxing runtimes to look for a sandbox that they were asked to make earlier; here each container is
  // one.
  for (const char* name : {"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"})
    spec.annotations.erase(name);
  if (!spec.linux) spec.linux.emplace();
  auto& namespaces = spec.linux->namespaces;
  auto join = [&](std::string_view type, pid_t owner, std::string_view file) {
    std::erase_if(namespaces, [&](const oci::Namespace& n) { return n.type == type; });
    namespaces.push_back({std::string(type), fmt::format("/proc/{}/ns/{}", owner, file)});
  };
  if (place.own_net) {
    join("network", place.monitor, "net");
    join("uts", place.monitor, "uts");
  }
  if (place.shm) join("ipc", place.monitor, "ipc");
  if (place.pid_owner > 0) join("pid", place.pid_owner, "pid");
  if (place.shm) {
    for (oci::Mount& m : spec.mounts) {
      if (m.destination != "/dev/shm" || m.type != "tmpfs") continue;
      m = {.destination = m.destination,
           .type = "bind",
           .source = place.bundle + "/shm",
           .options = {"bind", "rprivate", "nosuid", "noexec", "nodev"},
           .uidMappings = {},
           .gidMappings = {}};
    }
  }
  return spec;
}

std::string LastError(std::string_view log) {
  std::string last;
  for (size_t at = 0; at < log.size();) {
    const size_t end = std::min(log.find('\n', at), log.size());
    const std::string_view line = log.substr(at, end - at);
    at = end + 1;
    if (line.empty()) continue;
    auto tree = json::ParseTree(line, "log");
    if (!tree || !tree->is_object()) continue;
    const json::Value* level = tree->get_object().if_contains("level");
    const json::Value* text = tree->get_object().if_contains("msg");
    if (level != nullptr && level->is_string() && level->get_string() == "error" && text != nullptr &&
        text->is_string())
      last = text->get_string().c_str();
  }
  return last;
}

int WhyNotRun(std::string_view words) {
  // runc: exec: "x": executable file not found in $PATH | exec: "/x": stat /x: no such file or directory
  // crun: executable file `x` not found in $PATH | executable file `/x` not found: No such file or directory
  const std::string text = Lower(words);
  auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  if (!has("exec: \"") && !has("executable")) return 0;
  if (has("permission denied")) return EACCES;
  return has("not found") || has("no such file or directory") ? ENOENT : 0;
}

// --- the bundle

ForeignBundle::ForeignBundle(const std::string& run_dir, ContainerId id)
    : id_(std::move(id)), dir_(fmt::format("{}/{}{}", run_dir, id_, kSuffix)) {}

Result<ForeignBundle> ForeignBundle::Make(const std::string& run_dir, const ContainerId& id, const Handler& handler) {
  ForeignBundle bundle(run_dir, id);
  bundle.handler_ = handler;
  if (bundle.handler_.root.empty()) bundle.handler_.root = run_dir + "/oci";
  if (::mkdir(bundle.dir_.c_str(), 0700) < 0) {
    if (errno == EEXIST) return Err(Code::kAlreadyExists, "bundle {}: exists", bundle.dir_);
    return SysErr("make {}", bundle.dir_);
  }
  const Record record{bundle.handler_.path, bundle.handler_.root, bundle.handler_.options};
  TRY(WriteFileAtomic(bundle.Path(kRecord), json::ToText(record), 0600));
  return bundle;
}

Result<ForeignBundle> ForeignBundle::Find(const std::string& run_dir, const ContainerId& id) {
  ForeignBundle bundle(run_dir, id);
  if (!Exists(bundle.dir_)) return Err(Code::kNotFound, "bundle {}: there is none", bundle.dir_);
  auto text = ReadFile(bundle.Path(kRecord), 1 << 20);
  if (!text && text.error().code == Code::kNotFound) return bundle;
  if (!text) return std::unexpected(std::move(text).error());
  Record record = TRY(json::Parse<Record>(*text, bundle.Path(kRecord)));
  bundle.handler_ = {.path = record.path, .type = "oci", .root = record.root, .options = record.options};
  return bundle;
}

std::vector<ContainerId> ForeignBundle::List(const std::string& run_dir) {
  std::vector<ContainerId> out;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(run_dir.c_str()), ::closedir);
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    std::string_view name(entry->d_name);
    if (!name.ends_with(kSuffix)) continue;
    name.remove_suffix(kSuffix.size());
    out.emplace_back(std::string(name));
  }
  return out;
}

Result<void> ForeignBundle::Attach(int tree, std::string_view name) const {
  const std::string at = Path(name);
  if (::mkdir(at.c_str(), 0755) < 0) return SysErr("make {}", at);
  unique_fd own = TRY(mount::CloneOrTake(tree, true));
  constexpr unsigned kFromFd = 4;  // MOVE_MOUNT_F_EMPTY_PATH
  if (::syscall(SYS_move_mount, own.get(), "", AT_FDCWD, at.c_str(), kFromFd) < 0) return SysErr("mount {}", at);
  return {};
}

Result<void> ForeignBundle::WriteConfig(const oci::Spec& spec) const {
  // Gone with the bundle at the next boot: nothing to sync. Secrets may be in the environment.
  unique_fd file = TRY(Open(Path("config.json"), O_WRONLY | O_CREAT | O_EXCL, 0600));
  return WriteAll(file.get(), json::Serialize(WithoutEmpty(json::ToValue(spec))));
}

Result<void> ForeignBundle::Remove() const {
  for (std::string_view name : kMounts) {
    const std::string at = Path(name);
    // As often as something is there: others may have mounted over it.
    while (::umount2(at.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
    if (errno != EINVAL && errno != ENOENT) return SysErr("unmount {}", at);
  }
  return RemoveTree(dir_);
}

// --- commands

std::vector<std::string> ForeignBundle::Words(std::string_view call, std::vector<std::string> command) const {
  std::vector<std::string> words = {handler_.path};
  words.insert(words.end(), handler_.options.begin(), handler_.options.end());
  const std::string log = Path(fmt::format("{}.log", call));
  words.insert(words.end(), {"--root", handler_.root, "--log", log, "--log-format", "json"});
  std::ranges::move(command, std::back_inserter(words));
  return words;
}

Error ForeignBundle::Failure(std::string_view call, std::string_view what, std::string_view otherwise) const {
  std::string words;
  // What the monitor could not even run comes first.
  for (const std::string& name : {std::string("monitor.log"), fmt::format("{}.log", call)})
    if (auto text = ReadFile(Path(name), kLogLimit); text && words.empty()) words = LastError(*text);
  const std::string program = handler_.path.substr(handler_.path.rfind('/') + 1);
  if (words.empty()) return {Code::kInternal, fmt::format("{}: {}: {}", what, program, otherwise)};
  switch (const int sys = WhyNotRun(words)) {
    case ENOENT:
      return {Code::kInvalidArgument, fmt::format("{}: executable file not found: {}: {}", what, program, words), sys};
    case EACCES:
      return {Code::kInvalidArgument, fmt::format("{}: permission denied: {}: {}", what, program, words), sys};
    default:
      return {Code::kInternal, fmt::format("{}: {}: {}", what, program, words)};
  }
}

Result<void> ForeignBundle::Run(std::string_view call, std::vector<std::string> command, const Deadline& until) const {
  const std::string what = fmt::format("{} {}", command.empty() ? "run" : command[0], id_.Short());
  Command full;
  full.argv = Words(call, std::move(command));
  full.env = HandlerEnvironment();
  auto done = TRY_CTX(berth::Run(full, until), "{}", what);
  const std::string log = Path(fmt::format("{}.log", call));
  if (done.exit_code == 0) {
    ::unlink(log.c_str());
    return {};
  }
  std::string said = done.err.substr(0, 512);
  while (said.ends_with('\n')) said.pop_back();
  Error error = Failure(call, what, said.empty() ? fmt::format("exit {}", done.exit_code) : said);
  ::unlink(log.c_str());
  return std::unexpected(std::move(error));
}

}  // namespace berth::runtime
