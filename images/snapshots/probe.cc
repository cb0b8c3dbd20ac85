#include "images/snapshots/probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/id.h"
#include "base/log.h"
#include "base/undo.h"
#include "images/layers/erofs.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/mount.h"

namespace berth::images {
namespace {

constexpr int kProbeVersion = 1;  // raise it with any change of what is asked
constexpr std::string_view kContent = "berth probes the kernel\n";
constexpr std::string_view kXattr = "trusted.berth.probe";
constexpr std::string_view kScratch = ".probe-";

// A layer of one file and one directory with a whiteout. The "tar" needs no headers: the index only names blocks in it.
Tree ProbeTree(uint64_t file_size) {
  auto directory = [](std::string path, uint64_t number) {
    TarEntry entry;
    entry.path = std::move(path);
    entry.type = EntryType::kDirectory;
    entry.mode = 0755;
    entry.number = number;
    return entry;
  };
  TarEntry file = directory("file", 3);
  file.type = EntryType::kFile;
  file.size = file_size;
  file.extents = {{0, file_size, 0}};
  file.xattrs = {{std::string(kXattr), "value"}};
  TarEntry whiteout = directory("dir/.wh.gone", 4);
  whiteout.type = EntryType::kFile;
  TarEntry opaque = directory("dir/.wh..wh..opq", 5);
  opaque.type = EntryType::kFile;
  std::vector<TarEntry> entries;
  entries.push_back(directory("./", 1));
  entries.push_back(directory("dir", 2));
  entries.push_back(std::move(file));
  entries.push_back(std::move(whiteout));
  entries.push_back(std::move(opaque));
  struct Nothing : LowerView {
    Result<std::optional<LowerNode>> Lookup(const std::string&) override { return std::optional<LowerNode>(); }
    Result<unique_fd> Open(const std::string& path) override { return Err(Code::kNotFound, "{}", path); }
  } nothing;
  auto tree = Tree::Build(std::move(entries), &nothing);
  if (!tree) abort();  // constants
  return std::move(*tree);
}

Result<void> WriteIndex(const std::string& path, uint64_t file_size, uint64_t claimed, uint8_t mark) {
  Tree tree = ProbeTree(file_size);
  ErofsRequest request{.tree = tree, .tar_size = claimed};
  request.uuid.fill(mark);
  unique_fd out = TRY(Open(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  TRY(WriteErofs(request, out.get()));
  return {};
}

// The text of what did not work, or empty.
std::string Explain(const Error& error) {
  if (error.sys == ENODEV) return "this kernel has no EROFS (CONFIG_EROFS_FS, module erofs): " + error.what;
  if (error.sys == ENOTBLK || error.sys == EINVAL)
    return "this kernel or the filesystem of the data root cannot mount EROFS from a file (Linux 6.12 or newer with "
           "CONFIG_EROFS_FS_BACKED_BY_FILE, data root not on tmpfs or overlayfs): " +
           error.what;
  return error.what;
}

// Opens dir/`name` of a mount and reads `size` bytes at `offset`.
Result<std::string> ReadAt(const unique_fd& mount, const char* name, size_t size, off_t offset) {
  unique_fd fd = TRY(OpenAt(mount.get(), name, O_RDONLY));
  std::string bytes(size, '\0');
  ssize_t n = pread(fd.get(), bytes.data(), size, offset);
  if (n < 0) return SysErr("read {}", name);
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

Result<std::string> TryErofs(const std::string& directory) {
  std::string tar = directory + "/tar", good = directory + "/good.erofs", bad = directory + "/short.erofs";
  std::string data(kContent);
  data.resize(1024, 'x');
  TRY(WriteFileAtomic(tar, data, 0600));
  TRY(WriteIndex(good, data.size(), data.size(), 0xb1));
  TRY(WriteIndex(bad, 1 << 20, 1 << 20, 0xb2));

  auto mount = MountErofs(good, tar);
  if (!mount) return Explain(mount.error());
  auto content = ReadAt(*mount, "file", 1024, 0);
  if (!content) return "reading through an index: " + content.error().what;
  if (*content != data) return "reading through an index gives other bytes than the tar has";
  unique_fd file = TRY(OpenAt(mount->get(), "file", O_RDONLY));
  char value[16];
  if (fgetxattr(file.get(), kXattr.data(), value, sizeof value) != 5)
    return "EROFS does not show extended attributes (CONFIG_EROFS_FS_XATTR)";
  struct stat st;
  if (fstatat(mount->get(), "dir/gone", &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISCHR(st.st_mode))
    return "EROFS does not show whiteouts";
  file.reset();

  auto truncated = MountErofs(bad, tar);
  if (!truncated) return Explain(truncated.error());
  auto beyond = ReadAt(*truncated, "file", 4096, 512 << 10);
  if (beyond)
    return "this kernel hands out zeros where a tar is too short, instead of an error (it lacks the repair of commit "
           "eade54040384)";
  if (beyond.error().sys != EIO) return "reading past a short tar: " + beyond.error().what;

  // What containers do: an overlay on top, with copy-up and rename.
  std::string at = directory + "/at", upper = directory + "/upper", work = directory + "/work";
  for (const std::string& path : {at, upper, work}) TRY(MakeDirs(path, 0700));
  TRY(AttachMount(*mount, at));
  auto overlay = MountOverlay({{at}, upper, work});
  (void)DetachMount(at);
  if (!overlay) return "overlayfs on EROFS: " + overlay.error().what;
  if (fstatat(overlay->get(), "dir/gone", &st, AT_SYMLINK_NOFOLLOW) == 0)
    return "overlayfs does not apply whiteouts of EROFS layers";
  if (fchmodat(overlay->get(), "file", 0600, 0) != 0) return "overlayfs cannot copy up from EROFS: " + ErrnoText(errno);
  if (renameat(overlay->get(), "file", overlay->get(), "moved") != 0)
    return "overlayfs cannot rename on EROFS: " + ErrnoText(errno);
  auto moved = ReadAt(*overlay, "moved", 1024, 0);
  if (!moved || *moved != data) return "overlayfs loses bytes when it copies up from EROFS";
  return std::string();
}

// A scratch directory in the data root, and everything mounted on it, for one probe.
template <class F>
auto InScratch(const Layout& layout, F&& f) -> decltype(f(std::string())) {
  TRY(MakeDirs(layout.root, 0711));
  std::string directory = fmt::format("{}/{}{}", layout.root, kScratch, RandomHex(16));
  if (mkdir(directory.c_str(), 0700) != 0) return SysErr("make {}", directory);
  Undo undo;
  undo.Add("remove probe directory", [&] {
    umount2((directory + "/at").c_str(), MNT_DETACH);
    return RemoveTree(directory);
  });
  return f(directory);
}

// What a probe left that was killed.
void SweepScratch(const Layout& layout) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(layout.root.c_str()), closedir);
  if (!directory) return;
  while (dirent* entry = readdir(directory.get())) {
    if (!std::string_view(entry->d_name).starts_with(kScratch)) continue;
    std::string path = fmt::format("{}/{}", layout.root, entry->d_name);
    umount2((path + "/at").c_str(), MNT_DETACH);
    if (auto removed = RemoveTree(path); !removed)
      log::Warn("probe.leftover_stays", {{"path", path}, {"error", removed.error()}});
  }
}

// Directories as the kernel will name them in its mount table.
Result<std::string> Canonical(const std::string& name, const std::string& path, unsigned mode) {
  if (path.empty() || path.front() != '/')
    return Err(Code::kInvalidArgument, "{} {:?}: want an absolute path", name, path);
  TRY(MakeDirs(path, mode));
  std::unique_ptr<char, void (*)(void*)> real(realpath(path.c_str(), nullptr), free);
  if (!real) return SysErr("resolve {}", path);
  return std::string(real.get());
}

std::string BootId() {
  auto text = ReadFile("/proc/sys/kernel/random/boot_id", 256);
  return text ? text->substr(0, text->find('\n')) : "";
}

}  // namespace

Result<ErofsProbe> ProbeErofs(const Layout& layout, bool fresh) {
  TRY(MakeDirs(layout.root, 0711));
  struct stat st;
  if (stat(layout.root.c_str(), &st) != 0) return SysErr("read metadata of {}", layout.root);
  utsname names;
  uname(&names);
  std::string key = fmt::format("{} {} {} {}:{}", kProbeVersion, kErofsWriterVersion, names.release, major(st.st_dev),
                                minor(st.st_dev));
  std::string yes = key + " works\n", no = key + " refused " + BootId() + " ";
  if (!fresh) {
    if (auto kept = ReadFile(layout.Probe(), 4096)) {
      if (*kept == yes) return ErofsProbe{true, "", true};
      if (kept->starts_with(no)) return ErofsProbe{false, kept->substr(no.size(), kept->size() - no.size() - 1), true};
    }
  }
  std::string reason = TRY(InScratch(layout, [](const std::string& directory) { return TryErofs(directory); }));
  std::string one_line = reason.substr(0, 3000);
  std::ranges::replace(one_line, '\n', ' ');
  TRY(WriteFileAtomic(layout.Probe(), reason.empty() ? yes : no + one_line + "\n", 0600));
  return ErofsProbe{reason.empty(), std::move(one_line), false};
}

Result<void> ProbeOverlay(const Layout& layout) {
  return InScratch(layout, [&](const std::string& directory) -> Result<void> {
    std::string lower = directory + "/at", upper = directory + "/upper", work = directory + "/work";
    for (const std::string& path : {lower, upper, work}) TRY(MakeDirs(path, 0700));
    TRY(WriteFileAtomic(lower + "/file", "x"));
    auto refuse = [&](const std::string& why) {
      return Err(Code::kFailedPrecondition,
                 "data root {}: overlayfs cannot write on its filesystem ({}): put it on ext4, xfs or btrfs; inside a "
                 "container, on a volume",
                 layout.root, why);
    };
    auto mount = MountOverlay({{lower}, upper, work});
    if (!mount && mount.error().sys == ENODEV)
      return Err(Code::kFailedPrecondition, "this kernel has no overlayfs (CONFIG_OVERLAY_FS, module overlay)");
    if (!mount) return refuse(mount.error().what);
    if (unlinkat(mount->get(), "file", 0) != 0) return refuse("whiteout: " + ErrnoText(errno));
    return {};
  });
}

Result<std::unique_ptr<Snapshotter>> OpenSnapshotter(const Options& options, Db& db) {
  const std::string& wanted = options.snapshotter;
  if (wanted != "auto" && wanted != "erofs" && wanted != "directory")
    return Err(Code::kInvalidArgument, "images.snapshotter: {:?}: want auto, erofs or directory", wanted);
  Layout layout{TRY(Canonical("data directory", options.root, 0711)),
                TRY(Canonical("run directory", options.run, 0711))};
  // The longest paths given to the kernel, see mount.h.
  std::string index = MakeErofsViews(layout)->Path({Digest::Of(""), std::string(32, 'x')}),
              upper = layout.Owner(std::string(128, 'x')) + "/upper";
  if (size_t longest = std::max(index.size(), upper.size()); longest > kMaxMountPath)
    return Err(Code::kInvalidArgument, "data directory {:?}: too long by {} bytes", layout.root,
               longest - kMaxMountPath);
  if (std::string mounts = layout.Mounts(); mounts.size() + 33 > kMaxMountPath)
    return Err(Code::kInvalidArgument, "run directory {:?}: too long by {} bytes", layout.run,
               mounts.size() + 33 - kMaxMountPath);
  SweepScratch(layout);
  TRY(ProbeOverlay(layout));
  ErofsProbe probe;
  if (wanted != "directory") probe = TRY(ProbeErofs(layout, wanted == "erofs"));
  if (wanted == "erofs" && !probe.works)
    return Err(Code::kFailedPrecondition,
               "images.snapshotter is erofs, but {}; \"auto\" would unpack layers to directories instead",
               probe.reason);
  std::unique_ptr<ViewKind> kind = probe.works ? MakeErofsViews(layout) : MakeTreeViews(layout);
  log::Info("snapshotter.chosen", {{"kind", kind->name()},
                                   {"configured", wanted},
                                   {"reason", wanted == "directory" ? "configured"
                                              : probe.works         ? "probe passed"
                                                                    : probe.reason},
                                   {"probe_cached", probe.cached}});
  LayerSnapshotter::Config config;
  config.layout = layout;
  return TRY(LayerSnapshotter::Open(std::move(config), db, std::move(kind)));
}

}  // namespace berth::images
