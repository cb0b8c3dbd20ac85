#pragma once
// The two ways to make a layer mountable. LayerSnapshotter does everything else: names, records, owners, overlays.
//
// All calls for one view come one after another; those for different views may come from different threads.
#include <memory>
#include <set>
#include <string>

#include "images/layers/tree.h"
#include "images/snapshots/layout.h"
#include "images/snapshots/table.h"

namespace berth::images {

struct BuildRequest {
  const Tree& tree;
  ViewId id;
  int tar = -1;  // whole and readable, perhaps not synced yet
  uint64_t tar_size = 0;
  LowerView* lower = nullptr;
};

class ViewKind {
 public:
  virtual ~ViewKind() = default;
  virtual std::string_view name() const = 0;
  virtual int version() const = 0;            // of what Build writes
  virtual std::string directory() const = 0;  // holds the views and their temporary forms
  virtual std::string Path(const ViewId& id) const = 0;
  // Writes the view at `temporary`, in directory(). Durable when it returns: the caller renames and syncs the
  // directory.
  virtual Result<ViewRow> Build(const BuildRequest& request, const std::string& temporary) = 0;
  virtual Result<void> Remove(const std::string& path) = 0;  // missing = success
  // Cheap: there, and of the recorded size. `Verify` looks at every byte where that is affordable. Errors say what is
  // wrong.
  virtual Result<void> Check(const ViewRow& row) const = 0;
  virtual Result<void> Verify(const ViewRow& row) const = 0;

  virtual std::string LowerPath(const ViewRow& row) const = 0;  // good while attached
  virtual Result<void> Attach(const ViewRow& row, const std::string& tar) = 0;
  virtual Result<void> Detach(const ViewRow& row) = 0;
  // Prepares the mount point; returns the lower paths at which an earlier agent has left views attached, with what
  // stands behind them. Detaches by path what no record explains.
  virtual Result<std::vector<std::pair<std::string, std::string>>> Attached() = 0;
  virtual Result<void> DetachPath(const std::string& lower_path) = 0;
  virtual void LetGo() {}  // nothing is attached any more
};

std::unique_ptr<ViewKind> MakeErofsViews(const Layout& layout);
std::unique_ptr<ViewKind> MakeTreeViews(const Layout& layout);

}  // namespace berth::images
