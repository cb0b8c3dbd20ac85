#pragma once
// What a layer's tar means as a piece of a root filesystem: the entries in order, applied to an empty tree, in the form
// that overlayfs wants of one lower layer. Both writers (erofs.h, unpack.h) take their facts from here, so they cannot
// differ.
//
// Rules: OCI image-spec layer.md ("Changeset", "Whiteouts"); where it is silent, what an unpacker that stays within the
// root does.
//   - a later entry of the same path wins; a directory over a directory keeps the children and takes the new metadata
//   - `.wh.x` hides x of the layers below, `.wh..wh..opq` all of its directory's, wherever in the tar they stand; in
//   the lowest
//     layer they mean nothing. x in the same layer wins over `.wh.x`, and a directory x then starts empty
//   - parents may be symbolic links, of this layer or of one below; they are followed within the root
//   - parents that the tar does not mention take owner, mode, time and xattrs from the layers below, else 0755 0:0 at
//   1970
//   - a hard link to a file only below brings that file up into this layer, as a copy-up would
//   - `..` is refused; xattrs that steer overlayfs are dropped, and so are namespaces that no filesystem here can hold
// Any number of hostile bytes is answered with kInvalidArgument naming the entry; memory and time are bounded by the
// tar.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "images/layers/tar.h"

namespace berth::images {

// The layers below, merged. Paths are relative to the root, without symbolic links on the way; the last component is
// not followed. Asked only from the thread that builds.
struct LowerNode {
  EntryType type = EntryType::kFile;
  uint32_t mode = 0, uid = 0, gid = 0;
  Timestamp mtime;
  uint64_t size = 0;
  uint32_t major = 0, minor = 0;
  std::string target;
  Xattrs xattrs;
};
class LowerView {
 public:
  virtual ~LowerView() = default;
  virtual Result<std::optional<LowerNode>> Lookup(const std::string& path) = 0;  // "" is the root
  virtual Result<unique_fd> Open(const std::string& path) = 0;                   // a regular file, for reading
};

using InodeId = uint32_t;

struct Directory {
  std::map<std::string, InodeId> children;  // in unsigned byte order
  bool opaque = false;                      // hides what is below
  bool whiteouts = false;                   // has a whiteout among its children; set by Build
};

struct Inode {
  EntryType type = EntryType::kFile;  // never kHardLink
  bool whiteout = false;              // then a character device 0:0
  uint16_t mode = 0;                  // 07777
  uint32_t uid = 0, gid = 0;
  uint32_t nlink = 0;  // 0: replaced, no longer reachable
  Timestamp mtime;
  uint64_t size = 0;
  uint32_t major = 0, minor = 0;
  std::string target;           // symbolic link
  std::vector<Extent> extents;  // bytes in the tar
  std::string lower_path;       // or: the whole file is that one of the layers below
  Xattrs xattrs;                // of the image; without what overlayfs is told
  std::unique_ptr<Directory> directory;
};

class Tree {
 public:
  // How far the result depends on what lies below the layer: the same tar may stand on other layers in another image.
  enum class Dependence {
    kNone,
    kPosition,  // only on whether anything lies below
    kChain,     // on the very layers below
  };

  // `lower` null: the lowest layer. It must outlive the tree when a file has a lower_path.
  static Result<Tree> Build(std::vector<TarEntry> entries, LowerView* lower);

  static constexpr InodeId kRoot = 0;
  const Inode& inode(InodeId id) const { return inodes_[id]; }
  size_t size() const { return inodes_.size(); }  // ids are below it; some may be unreachable
  uint64_t reachable() const { return reachable_; }
  Dependence dependence() const { return dependence_; }
  // The inode's xattrs and those that tell overlayfs about opaque directories and whiteouts, sorted by name.
  Xattrs OnDisk(const Inode& inode) const;

 private:
  friend class TreeBuilder;
  std::vector<Inode> inodes_;
  uint64_t reachable_ = 0;
  Dependence dependence_ = Dependence::kNone;
};

}  // namespace berth::images
