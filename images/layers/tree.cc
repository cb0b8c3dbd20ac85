#include "images/layers/tree.h"

#include <set>

namespace berth::images {
namespace {

constexpr int kMaxLinks = 40;       // as in the kernel's path walk
constexpr size_t kMaxDepth = 1024;  // directories nested in each other
constexpr size_t kMaxName = 255;
constexpr uint64_t kMaxSteps = 200'000'000;   // path components looked at, all entries together
constexpr size_t kMaxXattrBytes = 256 << 10;  // of one inode; EROFS counts them in 16 bits of 4 bytes
constexpr std::string_view kWhiteoutPrefix = ".wh.", kOpaqueName = ".wh..wh..opq", kReservedPrefix = ".wh..wh.";

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (!part.empty() && part != ".") parts.push_back(part);
  }
  return parts;
}

std::string Join(const std::vector<std::string_view>& parts, size_t count) {
  std::string path;
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) path += '/';
    path += parts[i];
  }
  return path;
}

bool IsWhiteoutName(std::string_view name) { return name.starts_with(kWhiteoutPrefix); }

enum class XattrFate { kKeep, kDrop, kMalformed };

// posix_acl_xattr.h: version 2, then entries of eight bytes.
bool LooksLikeAcl(std::string_view value) {
  return value.size() >= 4 && (value.size() - 4) % 8 == 0 && value.substr(0, 4) == std::string_view("\2\0\0\0", 4);
}

XattrFate Judge(const std::string& name, const std::string& value, EntryType type) {
  bool directory = type == EntryType::kDirectory;
  if (name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.")) return XattrFate::kDrop;
  if (name == "system.posix_acl_access" || name == "system.posix_acl_default") {
    if (type == EntryType::kSymlink || (name.ends_with("default") && !directory)) return XattrFate::kDrop;
    return LooksLikeAcl(value) ? XattrFate::kKeep : XattrFate::kMalformed;
  }
  for (std::string_view space : {"user.", "trusted.", "security."}) {
    if (!name.starts_with(space)) continue;
    if (name.size() == space.size()) return XattrFate::kDrop;
    // xattr(7): user attributes exist on files and directories only.
    if (space == "user." && !directory && type != EntryType::kFile) return XattrFate::kDrop;
    return XattrFate::kKeep;
  }
  return XattrFate::kDrop;
}

}  // namespace

class TreeBuilder {
 public:
  TreeBuilder(LowerView* lower, Tree& tree) : lower_(lower), tree_(tree) {
    InodeId root = NewDirectory();
    tree_.inodes_[root].nlink = 1;
    implicit_root_ = true;
  }

  void NoteWhiteout(const TarEntry& entry);
  Result<void> Add(TarEntry&& entry);
  Result<void> Finish();

 private:
  struct Parent {
    InodeId id = Tree::kRoot;
    std::string path;      // of the directory, links resolved
    bool severed = false;  // nothing of the layers below shows in it
    size_t depth = 0;
  };

  template <class... Args>
  std::unexpected<Error> Bad(std::string_view format, const Args&... args) const {
    return Err(Code::kInvalidArgument, "tar entry {} {:?}: {}", number_, std::string_view(path_).substr(0, 300),
               fmt::format(fmt::runtime(format), args...));
  }
  Inode& At(InodeId id) { return tree_.inodes_[id]; }
  InodeId NewDirectory() {
    InodeId id = static_cast<InodeId>(tree_.inodes_.size());
    Inode& inode = tree_.inodes_.emplace_back();
    inode.type = EntryType::kDirectory;
    inode.mode = 0755;
    inode.directory = std::make_unique<Directory>();
    return id;
  }
  void Depend(Tree::Dependence on) { tree_.dependence_ = std::max(tree_.dependence_, on); }
  bool Hidden(const std::string& path) const;
  Result<std::optional<LowerNode>> Below(const Parent& parent, const std::string& name);
  Result<void> TakeLower(Inode& inode, LowerNode&& node);
  Result<Parent> Resolve(const std::vector<std::string_view>& parts, size_t count, bool make);
  Result<std::vector<std::string_view>> Components(std::string_view path, std::string_view what) const;
  Result<void> KeepXattrs(Inode& inode, Xattrs&& xattrs) const;
  Result<void> AddWhiteout(const Parent& parent, std::string_view name);
  Result<void> AddHardLink(const Parent& parent, const std::string& name, const std::string& target);
  Result<InodeId> BringUp(const Parent& parent, const std::string& name);
  void Attach(InodeId directory, const std::string& name, InodeId id);
  void Unlink(InodeId id);
  void Describe(Inode& inode, TarEntry& entry) const;

  LowerView* lower_;
  Tree& tree_;
  bool implicit_root_;
  std::set<std::string, std::less<>> hidden_;   // paths with a whiteout, as written
  std::set<std::string, std::less<>> emptied_;  // directories with an opaque marker, as written
  uint64_t number_ = 0;
  std::string path_;
  uint64_t steps_ = 0;
  std::string cached_parent_;  // most entries stand beside the one before
  std::optional<Parent> cached_;
};

void TreeBuilder::NoteWhiteout(const TarEntry& entry) {
  std::vector<std::string_view> parts = Split(entry.path);
  if (parts.empty()) return;
  if (entry.type == EntryType::kCharDevice && entry.major == 0 && entry.minor == 0)
    hidden_.insert(Join(parts, parts.size()));
  if (!IsWhiteoutName(parts.back())) return;
  std::string parent = Join(parts, parts.size() - 1);
  if (parts.back() == kOpaqueName) {
    emptied_.insert(std::move(parent));
  } else if (!parts.back().starts_with(kReservedPrefix)) {
    if (!parent.empty()) parent += '/';
    hidden_.insert(parent.append(parts.back().substr(kWhiteoutPrefix.size())));
  }
}

// Whether this layer says that `path` of the layers below does not exist.
bool TreeBuilder::Hidden(const std::string& path) const {
  if (hidden_.empty() && emptied_.empty()) return false;
  if (emptied_.contains("") && !path.empty()) return true;
  for (size_t slash = path.find('/');; slash = path.find('/', slash + 1)) {
    std::string_view prefix = std::string_view(path).substr(0, slash);
    if (hidden_.contains(prefix)) return true;
    if (slash == std::string::npos) return false;
    if (emptied_.contains(prefix)) return true;
  }
}

Result<std::optional<LowerNode>> TreeBuilder::Below(const Parent& parent, const std::string& name) {
  std::string path = parent.path.empty() ? name : parent.path + "/" + name;
  if (parent.severed || Hidden(path)) return std::optional<LowerNode>();
  Depend(Tree::Dependence::kChain);
  if (lower_ == nullptr) return std::optional<LowerNode>();
  return lower_->Lookup(path);
}

Result<void> TreeBuilder::TakeLower(Inode& inode, LowerNode&& node) {
  inode.type = node.type;
  inode.mode = static_cast<uint16_t>(node.mode & 07777);
  inode.uid = node.uid;
  inode.gid = node.gid;
  inode.mtime = node.mtime;
  inode.size = node.type == EntryType::kFile ? node.size : 0;
  inode.major = node.major;
  inode.minor = node.minor;
  inode.target = std::move(node.target);
  return KeepXattrs(inode, std::move(node.xattrs));
}

Result<std::vector<std::string_view>> TreeBuilder::Components(std::string_view path, std::string_view what) const {
  if (path.find('\0') != std::string_view::npos) return Bad("{} has a NUL byte", what);
  std::vector<std::string_view> parts = Split(path);
  for (std::string_view part : parts) {
    if (part == "..") return Bad("{} {:?} has a \"..\" component", what, path.substr(0, 300));
    if (part.size() > kMaxName)
      return Bad("{} has a component of {} bytes, at most 255 are possible", what, part.size());
  }
  return parts;
}

// Walks to the directory that the first `count` components name. `make`: missing ones are made, else they are an error.
Result<TreeBuilder::Parent> TreeBuilder::Resolve(const std::vector<std::string_view>& parts, size_t count, bool make) {
  std::string key = Join(parts, count);
  if (cached_ && key == cached_parent_) return *cached_;
  std::vector<Parent> walk(1);  // from the root to where we are
  walk[0].severed = At(Tree::kRoot).directory->opaque;
  std::vector<std::string> ahead;  // components still to go, the next one last
  for (size_t i = count; i-- > 0;) ahead.emplace_back(parts[i]);
  int links = 0;
  auto follow = [&](const std::string& target) -> Result<void> {
    if (++links > kMaxLinks) return Bad("more than {} symbolic links on the way to it", kMaxLinks);
    if (target.starts_with('/')) walk.resize(1);
    std::vector<std::string_view> steps = Split(target);
    for (size_t i = steps.size(); i-- > 0;) ahead.emplace_back(steps[i]);
    return {};
  };
  while (!ahead.empty()) {
    std::string name = std::move(ahead.back());
    ahead.pop_back();
    if (++steps_ > kMaxSteps) return Bad("the archive's paths lead through too many symbolic links");
    if (name == "..") {
      if (walk.size() > 1) walk.pop_back();
      continue;
    }
    const Parent here = walk.back();
    auto& children = At(here.id).directory->children;
    auto found = children.find(name);
    InodeId next = 0;
    if (found != children.end() && !(At(found->second).whiteout)) {
      const Inode& inode = At(found->second);
      if (inode.type == EntryType::kSymlink) {
        std::string target = inode.target;  // `walk` and `ahead` change, the tree does not
        TRY(follow(target));
        continue;
      }
      if (inode.type != EntryType::kDirectory)
        return Bad("{:?} on the way to it is not a directory", here.path.empty() ? name : here.path + "/" + name);
      next = found->second;
    } else {
      if (name.size() > kMaxName)
        return Bad("a symbolic link leads to a name of {} bytes, at most 255 are possible", name.size());
      bool whiteout = found != children.end();
      std::optional<LowerNode> below;
      if (!whiteout) below = TRY(Below(here, name));
      if (below && below->type == EntryType::kSymlink) {
        TRY(follow(below->target));
        continue;
      }
      if (below && below->type != EntryType::kDirectory)
        return Bad("{:?} on the way to it is not a directory in the layers below",
                   here.path.empty() ? name : here.path + "/" + name);
      if (!below && !make)
        return Bad("{:?} on the way to it does not exist", here.path.empty() ? name : here.path + "/" + name);
      if (here.depth + 1 > kMaxDepth) return Bad("more than {} directories deep", kMaxDepth);
      next = NewDirectory();
      if (below)
        TRY(TakeLower(At(next), std::move(*below)));
      else
        At(next).directory->opaque = whiteout;
      Attach(here.id, name, next);
    }
    walk.push_back({next, here.path.empty() ? name : here.path + "/" + name, here.severed || At(next).directory->opaque,
                    here.depth + 1});
  }
  cached_parent_ = std::move(key);
  cached_ = walk.back();
  return walk.back();
}

Result<void> TreeBuilder::KeepXattrs(Inode& inode, Xattrs&& xattrs) const {
  Xattrs kept;
  size_t bytes = 0;
  for (auto& [name, value] : xattrs) {
    switch (Judge(name, value, inode.type)) {
      case XattrFate::kDrop:
        continue;
      case XattrFate::kMalformed:
        return Bad("attribute {} is not an access control list", name);
      case XattrFate::kKeep:
        break;
    }
    bytes += name.size() + value.size() + 8;
    kept.emplace_back(std::move(name), std::move(value));
  }
  if (bytes > kMaxXattrBytes)
    return Bad("its attributes have {} bytes, at most {} are possible", bytes, kMaxXattrBytes);
  inode.xattrs = std::move(kept);
  return {};
}

void TreeBuilder::Unlink(InodeId id) {
  Inode& inode = At(id);
  if (inode.nlink > 0) --inode.nlink;
  if (inode.nlink > 0 || !inode.directory) return;
  for (const auto& [name, child] : inode.directory->children) Unlink(child);  // depth is bounded by kMaxDepth
  inode.directory->children.clear();
}

void TreeBuilder::Attach(InodeId directory, const std::string& name, InodeId id) {
  ++At(id).nlink;
  auto [at, fresh] = At(directory).directory->children.try_emplace(name, id);
  if (fresh) return;
  InodeId old = at->second;
  at->second = id;
  cached_.reset();  // the old one may have been on the way to it
  Unlink(old);
}

void TreeBuilder::Describe(Inode& inode, TarEntry& entry) const {
  inode.type = entry.type;
  inode.mode = static_cast<uint16_t>(entry.type == EntryType::kSymlink ? 0777 : entry.mode & 07777);
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  inode.mtime = entry.mtime;
  inode.size = entry.type == EntryType::kFile ? entry.size : 0;
  inode.major = entry.major;
  inode.minor = entry.minor;
  inode.target = entry.type == EntryType::kSymlink ? std::move(entry.target) : std::string();
  inode.extents = std::move(entry.extents);
}

Result<void> TreeBuilder::AddWhiteout(const Parent& parent, std::string_view hidden) {
  Depend(Tree::Dependence::kPosition);
  if (hidden == "." || hidden == ".." || hidden.empty()) return Bad("a whiteout of {:?} means nothing", hidden);
  auto& children = At(parent.id).directory->children;
  std::string name(hidden);
  if (auto found = children.find(name); found != children.end()) {
    // What this layer brings wins over its own whiteout; a directory then shows nothing of the one below.
    if (Inode& inode = At(found->second); inode.directory && lower_ != nullptr) {
      inode.directory->opaque = true;
      cached_.reset();
    }
    return {};
  }
  if (lower_ == nullptr) return {};
  InodeId id = static_cast<InodeId>(tree_.inodes_.size());
  Inode& inode = tree_.inodes_.emplace_back();
  inode.type = EntryType::kCharDevice;
  inode.whiteout = true;
  Attach(parent.id, name, id);
  return {};
}

// Copies a file of the layers below into this one, so that a hard link can point to it.
Result<InodeId> TreeBuilder::BringUp(const Parent& parent, const std::string& name) {
  auto below = TRY(Below(parent, name));
  std::string path = parent.path.empty() ? name : parent.path + "/" + name;
  if (!below) return Bad("hard link target {:?} is neither in this layer nor below", path);
  if (below->type == EntryType::kDirectory) return Bad("hard link target {:?} is a directory", path);
  InodeId id = static_cast<InodeId>(tree_.inodes_.size());
  TRY(TakeLower(tree_.inodes_.emplace_back(), std::move(*below)));
  if (At(id).type == EntryType::kFile && At(id).size > 0) At(id).lower_path = path;
  Attach(parent.id, name, id);
  return id;
}

Result<void> TreeBuilder::AddHardLink(const Parent& parent, const std::string& name, const std::string& target) {
  std::vector<std::string_view> parts = TRY(Components(target, "hard link target"));
  if (parts.empty()) return Bad("hard link target is the root directory");
  std::string last(parts.back());
  Parent home = TRY(Resolve(parts, parts.size() - 1, false));
  if (home.id == parent.id && last == name) {  // a link to itself says nothing, if the file is there
    if (At(parent.id).directory->children.contains(name)) return {};
  }
  auto& children = At(home.id).directory->children;
  auto found = children.find(last);
  InodeId id;
  if (found == children.end()) {
    id = TRY(BringUp(home, last));
    if (home.id == parent.id && last == name) return {};
  } else if (At(found->second).whiteout) {
    return Bad("hard link target {:?} is deleted by this layer", std::string_view(target).substr(0, 300));
  } else {
    id = found->second;
  }
  if (At(id).directory) return Bad("hard link target {:?} is a directory", std::string_view(target).substr(0, 300));
  auto& here = At(parent.id).directory->children;
  if (auto same = here.find(name); same != here.end() && same->second == id) return {};
  Attach(parent.id, name, id);
  return {};
}

Result<void> TreeBuilder::Add(TarEntry&& entry) {
  number_ = entry.number;
  path_ = entry.path;
  std::vector<std::string_view> parts = TRY(Components(path_, "path"));
  if (parts.empty()) {
    if (entry.type != EntryType::kDirectory) return Bad("the root can only be a directory");
    Inode& root = At(Tree::kRoot);
    Describe(root, entry);
    implicit_root_ = false;
    return KeepXattrs(root, std::move(entry.xattrs));
  }
  std::string name(parts.back());
  if (name.starts_with(kReservedPrefix) && name != kOpaqueName) return {};  // aufs bookkeeping
  Parent parent = TRY(Resolve(parts, parts.size() - 1, true));
  if (name == kOpaqueName) {
    Depend(Tree::Dependence::kPosition);
    if (lower_ != nullptr) At(parent.id).directory->opaque = true;
    cached_.reset();
    return {};
  }
  if (IsWhiteoutName(name)) return AddWhiteout(parent, std::string_view(name).substr(kWhiteoutPrefix.size()));
  if (entry.type == EntryType::kHardLink) return AddHardLink(parent, name, entry.target);
  // overlayfs takes a character device 0:0 for a whiteout, whoever made it.
  if (entry.type == EntryType::kCharDevice && entry.major == 0 && entry.minor == 0) {
    auto& children = At(parent.id).directory->children;
    if (auto found = children.find(name); found != children.end()) {
      InodeId old = found->second;
      children.erase(found);
      cached_.reset();
      Unlink(old);
    }
    return AddWhiteout(parent, name);
  }

  auto& children = At(parent.id).directory->children;
  auto found = children.find(name);
  if (entry.type == EntryType::kDirectory) {
    if (parent.depth + 1 > kMaxDepth) return Bad("more than {} directories deep", kMaxDepth);
    InodeId id;
    if (found != children.end() && At(found->second).directory) {
      id = found->second;
    } else {
      bool replaces = found != children.end();  // of this layer, or its whiteout: what is below is gone too
      id = NewDirectory();
      At(id).directory->opaque = replaces && lower_ != nullptr;
      if (replaces) Depend(Tree::Dependence::kPosition);
      Attach(parent.id, name, id);
    }
    Describe(At(id), entry);
    return KeepXattrs(At(id), std::move(entry.xattrs));
  }
  InodeId id = static_cast<InodeId>(tree_.inodes_.size());
  Inode& inode = tree_.inodes_.emplace_back();
  Describe(inode, entry);
  TRY(KeepXattrs(inode, std::move(entry.xattrs)));
  Attach(parent.id, name, id);
  return {};
}

Result<void> TreeBuilder::Finish() {
  if (implicit_root_) {
    Depend(Tree::Dependence::kChain);
    std::optional<LowerNode> below;
    if (lower_ != nullptr) below = TRY(lower_->Lookup(""));
    number_ = 0;
    path_ = "";
    if (below) TRY(TakeLower(At(Tree::kRoot), std::move(*below)));
  }
  // nlink of a directory is 2 and one for each directory in it; the tree has counted only its name so far.
  std::vector<InodeId> todo{Tree::kRoot};
  std::vector<bool> seen(tree_.inodes_.size());
  while (!todo.empty()) {
    InodeId id = todo.back();
    todo.pop_back();
    ++tree_.reachable_;
    Directory& directory = *At(id).directory;
    uint32_t subdirectories = 0;
    for (const auto& [name, child] : directory.children) {
      Inode& inode = At(child);
      if (inode.directory) {
        ++subdirectories;
        todo.push_back(child);
      } else if (!seen[child]) {
        seen[child] = true;
        ++tree_.reachable_;
      }
      directory.whiteouts |= inode.whiteout;
    }
    At(id).nlink = 2 + subdirectories;
  }
  return {};
}

Result<Tree> Tree::Build(std::vector<TarEntry> entries, LowerView* lower) {
  Tree tree;
  tree.inodes_.reserve(entries.size() + 16);
  TreeBuilder builder(lower, tree);
  for (const TarEntry& entry : entries) builder.NoteWhiteout(entry);
  for (TarEntry& entry : entries) {
    TRY(builder.Add(std::move(entry)));
    entry = TarEntry();
  }
  TRY(builder.Finish());
  return tree;
}

Xattrs Tree::OnDisk(const Inode& inode) const {
  Xattrs all = inode.xattrs;
  if (inode.directory && inode.directory->opaque) all.emplace_back("trusted.overlay.opaque", "y");
  // Without it a whiteout is listed by readdir wherever overlayfs does not merge its directory.
  if (inode.directory && inode.directory->whiteouts) all.emplace_back("trusted.overlay.origin", "");
  std::ranges::sort(all);
  return all;
}

}  // namespace berth::images
