#include "images/layers/tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/testing.h"
#include "images/layers/testing.h"

namespace berth::images {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using ::testing::HasSubstr;

// Layers below, as a table.
class FakeLower : public LowerView {
 public:
  FakeLower& Dir(const std::string& path, uint32_t mode = 0755) {
    LowerNode node;
    node.type = EntryType::kDirectory;
    node.mode = mode;
    nodes_[path] = node;
    return *this;
  }
  FakeLower& File(const std::string& path, uint64_t size) {
    LowerNode node;
    node.mode = 0640;
    node.size = size;
    node.uid = 5;
    nodes_[path] = node;
    return *this;
  }
  FakeLower& Symlink(const std::string& path, const std::string& target) {
    LowerNode node;
    node.type = EntryType::kSymlink;
    node.target = target;
    nodes_[path] = node;
    return *this;
  }
  Result<std::optional<LowerNode>> Lookup(const std::string& path) override {
    asked.push_back(path);
    auto it = nodes_.find(path);
    return it == nodes_.end() ? std::optional<LowerNode>() : std::optional(it->second);
  }
  Result<unique_fd> Open(const std::string& path) override { return Err(Code::kNotFound, "{}", path); }
  std::vector<std::string> asked;

 private:
  std::map<std::string, LowerNode> nodes_;
};

void ShowDirectory(const Tree& tree, InodeId id, const std::string& prefix, std::string& out) {
  for (const auto& [name, child] : tree.inode(id).directory->children) {
    const Inode& inode = tree.inode(child);
    out += prefix + name;
    if (inode.whiteout)
      out += " whiteout";
    else if (inode.directory)
      out += inode.directory->opaque ? "/ opaque" : "/";
    else if (inode.type == EntryType::kSymlink)
      out += " -> " + inode.target;
    else
      out += fmt::format(" {}{}", inode.size, inode.lower_path.empty() ? "" : " from " + inode.lower_path);
    if (inode.nlink > 1 && !inode.directory) out += fmt::format(" n{}", inode.nlink);
    out += "\n";
    if (inode.directory) ShowDirectory(tree, child, prefix + name + "/", out);
  }
}

struct Built {
  std::string text;
  Tree::Dependence dependence = Tree::Dependence::kNone;
};

Built Build(const TarMaker& maker, LowerView* lower = nullptr) {
  auto entries = Scan(maker.Finish());
  if (!entries) return {"scan: " + entries.error().what};
  auto tree = Tree::Build(std::move(*entries), lower);
  if (!tree) {
    EXPECT_EQ(tree.error().code, Code::kInvalidArgument);
    return {"error: " + tree.error().what};
  }
  Built built;
  ShowDirectory(*tree, Tree::kRoot, "", built.text);
  built.dependence = tree->dependence();
  return built;
}

TEST(Tree, DependsOnNothingWhenTheTarSaysAll) {
  FakeLower lower;
  Built built = Build(TarMaker().Dir("./").Dir("a").File("a/f", "xy").Symlink("s", "a").Link("h", "a/f"), &lower);
  EXPECT_EQ(built.text, "a/\na/f 2 n2\nh 2 n2\ns -> a\n");
  EXPECT_EQ(built.dependence, Tree::Dependence::kNone);
  EXPECT_TRUE(lower.asked.empty());
}

TEST(Tree, DependsOnPositionThroughWhiteouts) {
  FakeLower lower;
  TarMaker maker;
  maker.Dir("./").Dir("d").Whiteout("d", "x").Dir("e").Opaque("e");
  EXPECT_EQ(Build(maker, &lower).text, "d/\nd/x whiteout\ne/ opaque\n");
  EXPECT_EQ(Build(maker, &lower).dependence, Tree::Dependence::kPosition);
  EXPECT_EQ(Build(maker).text, "d/\ne/\n");
  EXPECT_EQ(Build(maker).dependence, Tree::Dependence::kPosition);
}

TEST(Tree, DependsOnTheChainThroughMissingParents) {
  EXPECT_EQ(Build(TarMaker().Dir("./").File("a/f", "")).dependence, Tree::Dependence::kChain);
  EXPECT_EQ(Build(TarMaker().File("f", "")).dependence, Tree::Dependence::kChain);  // the root itself
}

TEST(Tree, ParentsThroughLinksOfBothKinds) {
  FakeLower lower;
  lower.Dir("")
      .Dir("usr")
      .Dir("usr/lib", 0711)
      .Symlink("lib", "usr/lib")
      .Symlink("loop", "loop")
      .Symlink("up", "/../../usr");
  EXPECT_EQ(Build(TarMaker().Dir("./").File("lib/f", "x"), &lower).text, "usr/\nusr/lib/\nusr/lib/f 1\n");
  EXPECT_EQ(Build(TarMaker().Dir("./").File("up/f", "x"), &lower).text, "usr/\nusr/f 1\n");
  EXPECT_THAT(Build(TarMaker().Dir("./").File("loop/f", "x"), &lower).text, HasSubstr("40 symbolic links"));
  // A link of this layer to a directory below.
  EXPECT_EQ(Build(TarMaker().Dir("./").Symlink("l", "usr/lib/").File("l/f", "x"), &lower).text,
            "l -> usr/lib/\nusr/\nusr/lib/\nusr/lib/f 1\n");
  // Replaced in between: the second file lands elsewhere.
  EXPECT_EQ(
      Build(TarMaker().Dir("./").Dir("a").Dir("b").Symlink("l", "a").File("l/1", "").Symlink("l", "b").File("l/2", ""))
          .text,
      "a/\na/1 0\nb/\nb/2 0\nl -> b\n");
}

TEST(Tree, WhatThisLayerHidesIsNotLookedUp) {
  FakeLower lower;
  lower.Dir("").Symlink("lib", "usr/lib").Dir("usr").Dir("usr/lib").Dir("d", 0700).Dir("d/e", 0700);
  for (bool late : {false, true}) {
    TarMaker removed, emptied;
    removed.Dir("./");
    if (!late) removed.Whiteout("", "lib");
    removed.File("lib/f", "x");
    if (late) removed.Whiteout("", "lib");
    EXPECT_EQ(Build(removed, &lower).text, "lib/ opaque\nlib/f 1\n");
    emptied.Dir("./");
    if (!late) emptied.Opaque("d");
    emptied.File("d/e/f", "x");
    if (late) emptied.Opaque("d");
    lower.asked.clear();
    EXPECT_EQ(Build(emptied, &lower).text, "d/ opaque\nd/e/\nd/e/f 1\n");
    EXPECT_EQ(lower.asked, std::vector<std::string>{"d"});
  }
}

TEST(Tree, ParentsThatAreFiles) {
  FakeLower lower;
  lower.Dir("").File("file", 3);
  EXPECT_THAT(Build(TarMaker().Dir("./").File("file/f", ""), &lower).text,
              HasSubstr("not a directory in the layers below"));
  EXPECT_THAT(Build(TarMaker().Dir("./").File("a", "").File("a/f", "")).text, HasSubstr("not a directory"));
}

TEST(Tree, HardLinksToTheLayersBelow) {
  FakeLower lower;
  lower.Dir("").Dir("d").File("d/t", 9).Symlink("way", "d").Dir("dir");
  EXPECT_EQ(Build(TarMaker().Dir("./").Link("l", "way/t").Link("m", "d/t"), &lower).text,
            "d/\nd/t 9 from d/t n3\nl 9 from d/t n3\nm 9 from d/t n3\n");
  EXPECT_THAT(Build(TarMaker().Dir("./").Link("l", "dir"), &lower).text, HasSubstr("is a directory"));
  EXPECT_THAT(Build(TarMaker().Dir("./").Link("l", "none"), &lower).text, HasSubstr("neither"));
  EXPECT_THAT(Build(TarMaker().Dir("./").Whiteout("d", "t").Link("l", "d/t"), &lower).text,
              HasSubstr("deleted by this layer"));
  EXPECT_THAT(Build(TarMaker().Dir("./").Link("l", "d/t").Whiteout("d", "t"), &lower).text, HasSubstr("neither"));
}

TEST(Tree, ReplacedSubtreesLoseTheirLinks) {
  Built built = Build(
      TarMaker().Dir("./").Dir("d").Dir("d/e").File("d/e/f", "abc").Link("h", "d/e/f").Link("d/g", "h").File("d", "x"));
  EXPECT_EQ(built.text, "d 1\nh 3\n");
}

TEST(Tree, DirectoryInPlaceOfAFileShowsNothingFromBelow) {
  FakeLower lower;
  EXPECT_EQ(Build(TarMaker().Dir("./").File("d", "").Dir("d"), &lower).text, "d/ opaque\n");
}

TEST(Tree, DepthIsBounded) {
  std::string deep;
  for (int i = 0; i < 1100; ++i) deep += "d/";
  TarItem item{.path = "x"};
  item.pax = {{"path", deep + "f"}};
  EXPECT_THAT(Build(TarMaker().Add(item)).text, HasSubstr("1024 directories deep"));
  item.pax = {{"path", deep.substr(0, 2000) + "f"}};
  EXPECT_THAT(Build(TarMaker().Add(item)).text, HasSubstr("f 0"));
}

TEST(Tree, LongDetoursAreBounded) {
  TarMaker maker;
  std::string detour;
  for (int i = 0; i < 2000; ++i) detour += "a/";
  TarItem link{.type = '2', .path = "l", .target = "x"};
  link.pax = {{"linkpath", detour.substr(0, 4000) + "a"}};
  maker.Add(link).File("l/f", "");
  EXPECT_THAT(Build(maker).text, HasSubstr("deep"));
}

TEST(Tree, WhiteoutNames) {
  FakeLower lower;
  EXPECT_THAT(Build(TarMaker().Dir("./").File(".wh..", ""), &lower).text, HasSubstr("means nothing"));
  EXPECT_THAT(Build(TarMaker().Dir("./").File(".wh...", ""), &lower).text, HasSubstr("means nothing"));
  EXPECT_THAT(Build(TarMaker().Dir("./").File(".wh.", ""), &lower).text, HasSubstr("means nothing"));
  EXPECT_EQ(Build(TarMaker().Dir("./").File(".wh..hidden", ""), &lower).text, ".hidden whiteout\n");
}

TEST(Tree, Xattrs) {
  TarItem file{.path = "f"};
  file.pax = {{"SCHILY.xattr.user.b", "2"},
              {"SCHILY.xattr.user.a", "1"},
              {"SCHILY.xattr.trusted.overlay.redirect", "/x"},
              {"SCHILY.xattr.system.nfs4_acl", "x"},
              {"SCHILY.xattr.user.", "x"},
              {"SCHILY.xattr.plain", "x"}};
  auto entries = Scan(TarMaker().Dir("./").Add(file).Dir("d").Whiteout("d", "x").Finish());
  FakeLower lower;
  auto tree = Tree::Build(std::move(*entries), &lower);
  ASSERT_TRUE(IsOk(tree));
  auto at = [&](const std::string& name) -> const Inode& {
    return tree->inode(tree->inode(Tree::kRoot).directory->children.at(name));
  };
  EXPECT_EQ(tree->OnDisk(at("f")), (Xattrs{{"user.a", "1"}, {"user.b", "2"}}));
  EXPECT_EQ(tree->OnDisk(at("d")), (Xattrs{{"trusted.overlay.origin", ""}}));
  TarItem acl{.path = "f"};
  acl.pax = {{"SCHILY.xattr.system.posix_acl_access", "nonsense"}};
  EXPECT_THAT(Build(TarMaker().Dir("./").Add(acl)).text, HasSubstr("access control list"));
  TarItem many{.path = "f"};
  for (int i = 0; i < 5; ++i) many.pax.emplace_back(fmt::format("SCHILY.xattr.user.{}", i), std::string(60000, 'x'));
  EXPECT_THAT(Build(TarMaker().Dir("./").Add(many)).text, HasSubstr("attributes"));
}

TEST(Tree, LinkCountsOfDirectories) {
  auto entries = Scan(TarMaker().Dir("./").Dir("a").Dir("a/b").Dir("a/c").File("a/f", "").Finish());
  auto tree = Tree::Build(std::move(*entries), nullptr);
  ASSERT_TRUE(IsOk(tree));
  EXPECT_EQ(tree->inode(Tree::kRoot).nlink, 3u);
  EXPECT_EQ(tree->inode(tree->inode(Tree::kRoot).directory->children.at("a")).nlink, 4u);
  EXPECT_EQ(tree->reachable(), 5u);
}

}  // namespace
}  // namespace berth::images
