#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "images/layers/unpack.h"
#include "images/snapshots/view_kind.h"

namespace berth::images {
namespace {

constexpr int kTreeVersion = 1;  // raise it with any change of what Unpack makes

// The tar stays beside the tree. It costs the layer's size once more, and gives what pushing and saving need (the very
// bytes of the diffID), a tree that can be made anew when damaged, and a store that a machine takes along when it moves
// to a kernel with EROFS.
class TreeViews : public ViewKind {
 public:
  explicit TreeViews(const Layout& layout) : layout_(layout) {}

  std::string_view name() const override { return "directory"; }
  int version() const override { return kTreeVersion; }
  std::string directory() const override { return layout_.Trees(); }
  std::string Path(const ViewId& id) const override {
    return fmt::format("{}/{}.{}", layout_.Trees(), id.diff_id.hex(), id.key);
  }

  Result<ViewRow> Build(const BuildRequest& request, const std::string& temporary) override {
    UnpackResult made = TRY(Unpack(request.tree, request.tar, request.lower, temporary));
    // One sync of the filesystem instead of one a file.
    unique_fd fd = TRY(Open(temporary, O_RDONLY | O_DIRECTORY));
    if (syncfs(fd.get()) != 0) return SysErr("sync the filesystem of {}", temporary);
    return ViewRow{.id = request.id, .version = version(), .bytes = made.bytes, .inodes = made.inodes};
  }

  Result<void> Remove(const std::string& path) override { return RemoveTree(path); }

  Result<void> Check(const ViewRow& row) const override {
    struct stat st;
    std::string path = Path(row.id);
    if (lstat(path.c_str(), &st) != 0) return SysErr("{}", path);
    if (!S_ISDIR(st.st_mode)) return Err(Code::kDataLoss, "{}: not a directory", path);
    return {};
  }
  Result<void> Verify(const ViewRow& row) const override { return Check(row); }

  std::string LowerPath(const ViewRow& row) const override { return Path(row.id); }
  Result<void> Attach(const ViewRow&, const std::string&) override { return {}; }
  Result<void> Detach(const ViewRow&) override { return {}; }
  Result<std::vector<std::pair<std::string, std::string>>> Attached() override {
    return std::vector<std::pair<std::string, std::string>>();
  }
  Result<void> DetachPath(const std::string&) override { return {}; }

 private:
  Layout layout_;
};

}  // namespace

std::unique_ptr<ViewKind> MakeTreeViews(const Layout& layout) { return std::make_unique<TreeViews>(layout); }

}  // namespace berth::images
