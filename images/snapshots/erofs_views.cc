#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "images/layers/erofs.h"
#include "images/snapshots/mount.h"
#include "images/snapshots/view_kind.h"

namespace berth::images {
namespace {

// Names the index everywhere: as its uuid, which overlayfs wants distinct, and as its mount point. 128 bits of a hash,
// since who makes images must not be able to make two layers that meet here.
std::string IndexId(const ViewId& id, int version) {
  return Digest::Of(fmt::format("berth erofs index {}\n{}\n{}\n", version, id.diff_id, id.key)).hex().substr(0, 32);
}

std::array<uint8_t, 16> ToUuid(const std::string& hex) {
  std::array<uint8_t, 16> uuid{};
  for (size_t i = 0; i < uuid.size(); ++i)
    uuid[i] = static_cast<uint8_t>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
  return uuid;
}

class ErofsViews : public ViewKind {
 public:
  explicit ErofsViews(const Layout& layout) : layout_(layout) {}

  std::string_view name() const override { return "erofs"; }
  int version() const override { return kErofsWriterVersion; }
  std::string directory() const override { return layout_.Layers(); }
  std::string Path(const ViewId& id) const override {
    return fmt::format("{}/{}.{}.erofs", layout_.Layers(), id.diff_id.hex(), id.key);
  }

  Result<ViewRow> Build(const BuildRequest& request, const std::string& temporary) override {
    unique_fd out = TRY(Open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0400));
    ErofsRequest erofs{.tree = request.tree, .tar = request.tar, .tar_size = request.tar_size, .lower = request.lower};
    erofs.uuid = ToUuid(IndexId(request.id, version()));
    erofs.tag = request.id.diff_id.hex();
    ErofsResult written = TRY_CTX(WriteErofs(erofs, out.get()), "{}", temporary);
    if (fsync(out.get()) != 0) return SysErr("sync {}", temporary);
    return ViewRow{
        .id = request.id, .version = version(), .bytes = written.bytes, .inodes = 1, .sha256 = written.sha256.str()};
  }

  Result<void> Remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return SysErr("remove {}", path);
    return {};
  }

  Result<void> Check(const ViewRow& row) const override {
    std::string path = Path(row.id);
    struct stat st;
    if (lstat(path.c_str(), &st) != 0) return SysErr("{}", path);
    if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != row.bytes)
      return Err(Code::kDataLoss, "{}: has {} bytes, the record says {}", path, st.st_size, row.bytes);
    return {};
  }

  Result<void> Verify(const ViewRow& row) const override {
    TRY(Check(row));
    std::string path = Path(row.id);
    unique_fd fd = TRY(Open(path, O_RDONLY | O_NOFOLLOW));
    Hasher hasher;
    std::string buffer(256 << 10, '\0');
    for (;;) {
      ssize_t n = read(fd.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("read {}", path);
      if (n == 0) break;
      hasher.Update(buffer.data(), static_cast<size_t>(n));
    }
    if (Digest found = hasher.Finish(); found.str() != row.sha256)
      return Err(Code::kDataLoss, "{}: hashes to {}, the record says {}", path, found, row.sha256);
    return {};
  }

  std::string LowerPath(const ViewRow& row) const override {
    return fmt::format("{}/{}", layout_.Mounts(), IndexId(row.id, row.version));
  }

  Result<void> Attach(const ViewRow& row, const std::string& tar) override {
    unique_fd mount = TRY(MountErofs(Path(row.id), tar));
    std::string at = LowerPath(row);
    if (mkdir(at.c_str(), 0755) != 0 && errno != EEXIST) return SysErr("make {}", at);
    auto attached = AttachMount(mount, at);
    if (!attached) rmdir(at.c_str());
    return attached;
  }

  Result<void> Detach(const ViewRow& row) override { return DetachPath(LowerPath(row)); }

  Result<std::vector<std::pair<std::string, std::string>>> Attached() override {
    TRY(MakeDirs(layout_.Mounts(), 0700));
    TRY(MakePrivateMountPoint(layout_.Mounts()));
    std::vector<std::pair<std::string, std::string>> found;
    for (const MountLine& line : TRY(MountsAt(layout_.Mounts())))
      if (line.path != layout_.Mounts()) found.emplace_back(line.path, line.type == "erofs" ? line.source : "");
    return found;
  }

  Result<void> DetachPath(const std::string& path) override {
    TRY(DetachMount(path));
    if (rmdir(path.c_str()) != 0 && errno != ENOENT) return SysErr("remove mount point {}", path);
    return {};
  }

  void LetGo() override {
    umount2(layout_.Mounts().c_str(), UMOUNT_NOFOLLOW);  // refused while something is mounted below, as it should
  }

 private:
  Layout layout_;
};

}  // namespace

std::unique_ptr<ViewKind> MakeErofsViews(const Layout& layout) { return std::make_unique<ErofsViews>(layout); }

}  // namespace berth::images
