#include "images/snapshots/mount.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/id.h"

namespace berth::images {
namespace {

// What the kernel has to say about the last failure: lines of "e overlay: text".
std::string ContextLog(int context) {
  std::string text;
  char line[512];
  for (int i = 0; i < 16; ++i) {
    ssize_t n = read(context, line, sizeof line);
    if (n <= 0) break;
    std::string_view message(line, static_cast<size_t>(n));
    while (message.ends_with('\n')) message.remove_suffix(1);
    if (message.size() > 2 && message[1] == ' ') message.remove_prefix(2);
    if (!text.empty()) text += "; ";
    text += message;
  }
  return text;
}

class Context {
 public:
  static Result<Context> Open(const char* type) {
    unique_fd fd(fsopen(type, FSOPEN_CLOEXEC));
    if (!fd) return SysErr("open filesystem {}", type);
    return Context(type, std::move(fd));
  }

  Result<void> Set(const char* key, const std::string& value) {
    if (value.size() > kMaxMountPath)
      return Err(Code::kInvalidArgument, "mount {}: {} has {} bytes, at most {} are possible: {}", type_, key,
                 value.size(), kMaxMountPath, value);
    if (fsconfig(fd_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) != 0)
      return Failed(fmt::format("{}={}", key, value));
    return {};
  }
  Result<void> Flag(const char* key) {
    if (fsconfig(fd_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) != 0) return Failed(key);
    return {};
  }
  Result<unique_fd> Mount(unsigned attributes, const std::string& what) {
    if (fsconfig(fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return Failed(what);
    unique_fd mount(fsmount(fd_.get(), FSMOUNT_CLOEXEC, attributes));
    if (!mount) return Failed(what);
    return mount;
  }

 private:
  Context(const char* type, unique_fd fd) : type_(type), fd_(std::move(fd)) {}
  std::unexpected<Error> Failed(const std::string& what) {
    auto error = SysErr("mount {}: {}", type_, what);
    if (std::string log = ContextLog(fd_.get()); !log.empty()) error.error().what += " (" + log + ")";
    return error;
  }
  const char* type_;
  unique_fd fd_;
};

// Whether lowers can be given one by one (Linux 6.5). Before, overlay takes its options as one text that it reads at
// the mount only, so that any key is accepted here: a yes counts where a key that cannot exist is refused.
bool TakesLowersOneByOne() {
  static const bool takes = [] {
    auto accepts = [](const char* key) {
      unique_fd context(fsopen("overlay", FSOPEN_CLOEXEC));
      return context && fsconfig(context.get(), FSCONFIG_SET_STRING, key, "/", 0) == 0;
    };
    return accepts("lowerdir+") && !accepts("no-such-key-of-overlay");
  }();
  return takes;
}

std::string Unescape(std::string_view field) {  // mountinfo writes blank, tab, newline and backslash as \ooo
  std::string out;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      out += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

}  // namespace

Result<unique_fd> MountErofs(const std::string& image, const std::string& device) {
  Context context = TRY(Context::Open("erofs"));
  TRY(context.Set("source", image));
  TRY(context.Set("device", device));
  TRY(context.Flag("ro"));
  return context.Mount(MOUNT_ATTR_RDONLY, image);
}

Result<unique_fd> MountOverlay(const OverlayRequest& request) {
  if (request.lowers.size() > kMaxLowers)
    return Err(Code::kInvalidArgument, "mount overlay: {} layers, at most {} are possible", request.lowers.size(),
               kMaxLowers);
  if (!TakesLowersOneByOne()) return MountOverlayByString(request);
  Context context = TRY(Context::Open("overlay"));
  TRY(context.Set("source", "berth"));
  for (auto it = request.lowers.rbegin(); it != request.lowers.rend(); ++it) TRY(context.Set("lowerdir+", *it));
  if (!request.upper.empty()) {
    TRY(context.Set("upperdir", request.upper));
    TRY(context.Set("workdir", request.work));
  }
  TRY(context.Set("index", "off"));
  TRY(context.Set("metacopy", "off"));
  TRY(context.Set("redirect_dir", "nofollow"));
  TRY(context.Set("xino", "auto"));
  bool read_only = request.upper.empty();
  if (read_only) TRY(context.Flag("ro"));
  return context.Mount(read_only ? MOUNT_ATTR_RDONLY : 0, read_only ? request.lowers.back() : request.upper);
}

Result<unique_fd> MountOverlayByString(const OverlayRequest& request) {
  auto escape = [](const std::string& path) {
    std::string out;
    for (char c : path) {
      if (c == ':' || c == ',' || c == '\\') out += '\\';
      out += c;
    }
    return out;
  };
  auto text = [&](const std::vector<std::string>& lowers) {
    std::string options = "index=off,metacopy=off,redirect_dir=nofollow,xino=auto,lowerdir=";
    for (auto it = lowers.rbegin(); it != lowers.rend(); ++it) {
      if (it != lowers.rbegin()) options += ':';
      options += escape(*it);
    }
    if (!request.upper.empty()) options += ",upperdir=" + escape(request.upper) + ",workdir=" + escape(request.work);
    return options;
  };
  constexpr size_t kPage = 4095;  // what mount(2) takes
  std::string options = text(request.lowers);
  std::vector<unique_fd> held;
  if (options.size() > kPage) {  // a layer by its descriptor has a short name
    std::vector<std::string> short_names;
    for (const std::string& lower : request.lowers) {
      held.push_back(TRY(Open(lower, O_PATH | O_DIRECTORY)));
      short_names.push_back("/proc/self/fd/" + std::to_string(held.back().get()));
    }
    options = text(short_names);
  }
  if (options.size() > kPage)
    return Err(
        Code::kFailedPrecondition,
        "mount overlay: {} layers do not fit the mount options of this kernel; Linux 6.5 or newer has no such limit",
        request.lowers.size());
  std::string at = request.lowers.front();
  at = at.substr(0, at.rfind('/')) + "/" + std::string(kOverlayPoint) + RandomHex(16);
  if (mkdir(at.c_str(), 0700) != 0) return SysErr("make {}", at);
  Result<unique_fd> mount = Err(Code::kInternal, "not mounted");
  if (::mount("overlay", at.c_str(), "overlay", request.upper.empty() ? MS_RDONLY : 0, options.c_str()) != 0) {
    mount = SysErr("mount overlay: {}", options);
  } else {
    mount = CloneMount(at, request.upper.empty());
    umount2(at.c_str(), MNT_DETACH);
  }
  rmdir(at.c_str());
  return mount;
}

Result<unique_fd> CloneMount(const std::string& path, bool read_only) {
  unique_fd mount(open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!mount) return SysErr("clone the mount at {}", path);
  if (read_only) {
    mount_attr attr{};
    attr.attr_set = MOUNT_ATTR_RDONLY;
    if (mount_setattr(mount.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
      return SysErr("make the mount of {} read-only", path);
  }
  return mount;
}

Result<void> AttachMount(const unique_fd& mount, const std::string& path) {
  if (move_mount(mount.get(), "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return SysErr("attach mount at {}", path);
  return {};
}

Result<void> DetachMount(const std::string& path) {
  if (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT)
    return SysErr("unmount {}", path);
  return {};
}

Result<void> MakePrivateMountPoint(const std::string& path) {
  for (const MountLine& line : TRY(MountsAt(path)))
    if (line.path == path) return {};
  if (mount(path.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) return SysErr("bind {} to itself", path);
  if (mount(nullptr, path.c_str(), nullptr, MS_PRIVATE, nullptr) != 0) {
    auto error = SysErr("make mount {} private", path);
    umount2(path.c_str(), MNT_DETACH);
    return error;
  }
  return {};
}

Result<std::vector<MountLine>> MountsAt(const std::string& directory) {
  std::string text = TRY(ReadFile("/proc/self/mountinfo"));
  std::vector<MountLine> lines;
  for (std::string_view rest = text; !rest.empty();) {
    size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    // proc(5): id parent major:minor root mountpoint options [tags ...] - type source options
    std::vector<std::string_view> fields;
    while (!line.empty()) {
      size_t blank = line.find(' ');
      fields.push_back(line.substr(0, blank));
      line = blank == std::string_view::npos ? std::string_view() : line.substr(blank + 1);
    }
    auto dash = std::ranges::find(fields, "-");
    if (fields.size() < 5 || fields.end() - dash < 3) continue;
    std::string path = Unescape(fields[4]);
    if (path != directory && !path.starts_with(directory + "/")) continue;
    lines.push_back({std::move(path), std::string(dash[1]), Unescape(dash[2])});
  }
  return lines;
}

}  // namespace berth::images
