#pragma once
// What every Snapshotter over real layers must do. A test program instantiates it:
//
//   INSTANTIATE_TEST_SUITE_P(Erofs, SnapshotterContract, testing::Values(SnapshotterCase{"erofs"}));
//
// Runs with privileges in a mount namespace of its own, on an ext4 filesystem of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "images/snapshots/probe.h"
#include "images/snapshots/testing.h"

namespace berth::images {

struct SnapshotterCase {
  std::string kind;                // Options::snapshotter
  friend void PrintTo(const SnapshotterCase& c, std::ostream* out) { *out << c.kind; }
};

class SnapshotterContract : public ::testing::TestWithParam<SnapshotterCase> {
 protected:
  using Paths = std::map<std::string, std::string>;

  static void SetUpTestSuite() {
    if (EnterMountNamespace().empty()) disk_ = new LoopDisk(400);
  }
  static void TearDownTestSuite() {
    delete disk_;
    disk_ = nullptr;
  }
  void SetUp() override {
    if (disk_ == nullptr) GTEST_SKIP() << EnterMountNamespace();
    if (!disk_->error().empty()) GTEST_SKIP() << "no loop-mounted ext4: " << disk_->error();
    base_ = disk_->path() + "/test";
    ASSERT_TRUE(berth::testing::IsOk(RemoveTree(base_)));
    run_ = std::make_unique<berth::testing::TempDir>();
    Reopen();
  }
  void TearDown() override {
    snapshotter_.reset();
    db_.reset();
    if (run_ == nullptr) return;
    EXPECT_EQ(LayerMounts(), std::vector<std::string>()) << "mounts left behind";
    EXPECT_TRUE(berth::testing::IsOk(RemoveTree(base_)));
  }
  // As a new agent finds things.
  void Reopen() {
    snapshotter_.reset();
    db_.reset();
    ASSERT_TRUE(berth::testing::IsOk(MakeDirs(base_)));
    auto db = Db::OpenFile(base_ + "/berth.db");
    ASSERT_TRUE(berth::testing::IsOk(db));
    db_ = std::move(*db);
    Options options;
    options.root = base_;
    options.run = run_->path();
    options.snapshotter = GetParam().kind;
    auto opened = OpenSnapshotter(options, *db_);
    if (!opened && opened.error().code == Code::kFailedPrecondition) GTEST_SKIP() << opened.error().what;
    ASSERT_TRUE(berth::testing::IsOk(opened));
    snapshotter_ = std::move(*opened);
  }

  Digest Add(const TarMaker& tar, const std::vector<Digest>& parents = {}) { return Add(tar.Finish(), parents); }
  Digest Add(const std::string& tar, const std::vector<Digest>& parents = {}) {
    auto added = Import(*snapshotter_, tar, parents);
    EXPECT_TRUE(berth::testing::IsOk(added));
    return added ? *added : Digest();
  }
  Error Refused(const TarMaker& tar, const std::vector<Digest>& parents = {}) {
    auto before = Files();
    auto added = Import(*snapshotter_, tar.Finish(), parents);
    EXPECT_EQ(Files(), before);
    if (added) return Error{Code::kInternal, "accepted", 0, std::source_location::current()};
    return added.error();
  }
  // Imports the layers on each other and looks at the result, writable and read-only.
  Paths Merge(const std::vector<TarMaker>& layers, LookOptions options = {}) {
    std::vector<Digest> chain;
    for (const TarMaker& layer : layers) chain.push_back(Add(layer, chain));
    return LookAt(chain, options);
  }
  Paths LookAt(const std::vector<Digest>& chain, LookOptions options = {}) {
    std::string suffix = std::to_string(++owners_);
    auto writable = snapshotter_->Prepare("w" + suffix, chain, false, Deadline::Never());
    auto read_only = snapshotter_->Prepare("r" + suffix, chain, true, Deadline::Never());
    EXPECT_TRUE(berth::testing::IsOk(writable));
    EXPECT_TRUE(berth::testing::IsOk(read_only));
    Paths paths;
    if (writable && read_only) {
      paths = Look(writable->mount.get(), options);
      EXPECT_EQ(Look(read_only->mount.get(), options), paths) << "read-only and writable differ";
    }
    EXPECT_TRUE(berth::testing::IsOk(snapshotter_->Drop("w" + suffix)));
    EXPECT_TRUE(berth::testing::IsOk(snapshotter_->Drop("r" + suffix)));
    return paths;
  }
  // What lies in the directories of layers and snapshots.
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const char* directory : {"layers", "trees", "snapshots"}) {
      DIR* stream = opendir((base_ + "/" + directory).c_str());
      if (stream == nullptr) continue;
      while (dirent* entry = readdir(stream)) {
        std::string name = entry->d_name;
        if (name != "." && name != ".." && name != ".empty") names.push_back(std::string(directory) + "/" + name);
      }
      closedir(stream);
    }
    std::ranges::sort(names);
    return names;
  }
  std::vector<std::string> LayerMounts() const {
    std::vector<std::string> paths;
    std::string mounts = *ReadFile("/proc/self/mountinfo");
    std::string below = run_->path() + "/layers/";
    for (size_t at = mounts.find(below); at != std::string::npos; at = mounts.find(below, at + 1)) {
      size_t begin = at + below.size();
      paths.push_back(mounts.substr(begin, mounts.find(' ', begin) - begin));
    }
    std::ranges::sort(paths);
    return paths;
  }
  std::string Under(const std::string& owner) const { return base_ + "/snapshots/" + owner; }

  static inline LoopDisk* disk_ = nullptr;
  std::string base_;
  std::unique_ptr<berth::testing::TempDir> run_;
  std::unique_ptr<Db> db_;
  std::unique_ptr<Snapshotter> snapshotter_;
  int owners_ = 0;
};

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSubsetOf;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using berth::testing::IsErr;
using berth::testing::IsOk;

// ---- what a tar means ---------------------------------------------------------------------------------------------------

TEST_P(SnapshotterContract, AllKindsOfEntries) {
  TarMaker tar;
  tar.Dir("./", 0711).Dir("etc").File("etc/passwd", "root", 0600).File("empty", "").Symlink("sh", "bin/sh");
  tar.Add({.type = '3', .path = "null", .mode = 0666, .major = 1, .minor = 3}).Add({.type = '4', .path = "disk", .mode = 0660, .major = 259, .minor = 70000});
  tar.Add({.type = '6', .path = "pipe", .mode = 0640}).File("su", "s", 04755).Link("etc/hard", "etc/passwd").Dir("tmp", 01777);
  EXPECT_THAT(Merge({tar}), ElementsAre(Pair(".", "d 711"), Pair("disk", "b 660 259:70000"), Pair("empty", "f 644 \"\""), Pair("etc", "d 755"),
                                        Pair("etc/hard", "f 600 \"root\""), Pair("etc/passwd", "f 600 \"root\""), Pair("null", "c 666 1:3"),
                                        Pair("pipe", "p 640"), Pair("sh", "l bin/sh"), Pair("su", "f 4755 \"s\""), Pair("tmp", "d 1777")));
}

TEST_P(SnapshotterContract, MetadataIsExact) {
  std::string capability("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  std::string acl("\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\4\0\xe8\3\0\0\4\0\4\0\xff\xff\xff\xff\x10\0\4\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff", 44);
  TarItem file{.path = "f", .data = "x", .mode = 0640};
  file.pax = {{"uid", "4000000000"}, {"gid", "70000"}, {"mtime", "2208988800.123456789"}, {"SCHILY.xattr.user.k", "v"}, {"SCHILY.xattr.trusted.t", ""},
              {"SCHILY.xattr.security.capability", capability}, {"LIBARCHIVE.xattr.user.b64", "AAH/"}, {"SCHILY.xattr.nonsense.x", "dropped"}};
  TarItem acls{.path = "a", .data = "x", .mode = 0640};
  acls.pax = {{"SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,mask::r--,other::---"}};
  TarItem link{.type = '2', .path = "l", .target = "f"};
  link.pax = {{"mtime", "-1.5"}, {"SCHILY.xattr.user.not_on_links", "x"}, {"SCHILY.xattr.trusted.on_links", "x"}};
  link.uid = 7;
  TarItem dir{.type = '5', .path = "d", .mode = 02750};
  dir.pax = {{"mtime", "12.000000001"}, {"SCHILY.xattr.user.dir", std::string("\0bin\xff", 5)}};
  auto paths = Merge({TarMaker().Dir("./").Add(file).Add(acls).Add(link).Add(dir)}, {.metadata = true});
  std::string x = Digest::Of("x").hex();
  EXPECT_EQ(paths["f"], fmt::format("f 640 \"{}\" 1 4000000000:70000 2208988800.123456789 n1 security.capability={:?} trusted.t=\"\" user.b64={:?} user.k=\"v\"",
                                    x, capability, std::string("\0\1\xff", 3)));
  EXPECT_EQ(paths["a"], fmt::format("f 640 \"{}\" 1 0:0 0.000000000 n1 system.posix_acl_access={:?}", x, acl));
  EXPECT_EQ(paths["l"], "l f 7:0 -2.500000000 n1 trusted.on_links=\"x\"");
  EXPECT_EQ(paths["d"], fmt::format("d 2750 0:0 12.000000001 user.dir={:?}", std::string("\0bin\xff", 5)));
}

TEST_P(SnapshotterContract, WhiteoutsHide) {
  TarMaker lower, upper;
  lower.Dir("./").File("a", "a").Dir("b").File("b/x", "x").File("b/y", "y").Dir("c").File("c/z", "z");
  upper.Dir("./").Whiteout("", "a").Dir("b").Whiteout("b", "x").Whiteout("", "c").Dir("n").Whiteout("n", "absent");
  // Also where overlayfs merges nothing ("n"), a whiteout is not listed.
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Pair(".", "d 755"), Pair("b", "d 755"), Pair("b/y", "f 644 \"y\""), Pair("n", "d 755")));
}

TEST_P(SnapshotterContract, WhiteoutsInTheLowestLayerMeanNothing) {
  TarMaker tar;
  tar.Dir("./").Dir("d").Whiteout("d", "x").Opaque("d").Whiteout("", "y").File("f", "f").Whiteout("", "f");
  EXPECT_THAT(Merge({tar}), ElementsAre(Pair(".", "d 755"), Pair("d", "d 755"), Pair("f", "f 644 \"f\"")));
}

TEST_P(SnapshotterContract, OpaqueHidesAllWhereverItStands) {
  TarMaker lower, first, last;
  lower.Dir("./").Dir("d").File("d/old", "1").Dir("d/sub").File("d/sub/old", "2");
  first.Dir("./").Dir("d").Opaque("d").File("d/new", "n");
  last.Dir("./").Dir("d").File("d/new", "n").Dir("d/sub").Opaque("d");
  EXPECT_THAT(Merge({lower, first}), ElementsAre(Key("."), Key("d"), Pair("d/new", "f 644 \"n\"")));
  EXPECT_THAT(Merge({lower, last}), ElementsAre(Key("."), Key("d"), Pair("d/new", "f 644 \"n\""), Key("d/sub")));
}

TEST_P(SnapshotterContract, OtherReservedNamesAreIgnored) {
  TarMaker tar;
  tar.Dir("./").File(".wh..wh.aufs", "").Dir(".wh..wh.plnk").File(".wh..wh.plnk/x", "").File("f", "");
  auto paths = Merge({tar});
  EXPECT_THAT(paths, Contains(Key("f")));
  EXPECT_THAT(paths, Not(Contains(Key(".wh..wh.aufs"))));
}

TEST_P(SnapshotterContract, WhatALayerBringsWinsOverItsOwnWhiteout) {
  TarMaker lower, before, after;
  lower.Dir("./").File("f", "old").Dir("d").File("d/old", "");
  before.Dir("./").Whiteout("", "f").File("f", "new").Whiteout("", "d").Dir("d").File("d/new", "");
  after.Dir("./").File("f", "new").Whiteout("", "f").Dir("d").File("d/new", "").Whiteout("", "d");
  for (const TarMaker& upper : {before, after})
    EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key("."), Key("d"), Key("d/new"), Pair("f", "f 644 \"new\"")));
}

TEST_P(SnapshotterContract, DeviceZeroIsAWhiteout) {
  TarMaker lower, upper;
  lower.Dir("./").File("f", "old");
  upper.Dir("./").Add({.type = '3', .path = "f"});
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key(".")));
}

TEST_P(SnapshotterContract, AnImageCannotSteerTheOverlay) {
  TarMaker lower, upper;
  lower.Dir("./").Dir("secret").File("secret/key", "k").File("plain", "p");
  TarItem redirect{.type = '5', .path = "d", .mode = 0755};
  redirect.pax = {{"SCHILY.xattr.trusted.overlay.redirect", "/secret"}, {"SCHILY.xattr.trusted.overlay.opaque", "x"}, {"SCHILY.xattr.user.overlay.redirect", "/secret"}};
  TarItem metacopy{.path = "m", .data = ""};
  metacopy.pax = {{"SCHILY.xattr.trusted.overlay.metacopy", ""}, {"SCHILY.xattr.trusted.overlay.redirect", "/plain"}};
  upper.Dir("./").Add(redirect).Add(metacopy);
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key("."), Pair("d", "d 755"), Pair("m", "f 644 \"\""), Key("plain"), Key("secret"), Key("secret/key")));
}

TEST_P(SnapshotterContract, LaterEntriesWin) {
  TarMaker tar;
  tar.Dir("./").File("f", "one").File("f", "two", 0600).Dir("d", 0700).File("d/x", "x").Dir("d", 0750);
  tar.Dir("was_dir").File("was_dir/y", "y").Link("link", "was_dir/y").File("was_dir", "now file");
  tar.File("was_file", "w").Dir("was_file").Symlink("was_link", "d").Dir("was_link");
  tar.File("target", "old content").Link("keeps", "target").File("target", "new content");
  auto paths = Merge({tar}, {.metadata = true});
  auto content = [&](const std::string& path) { return paths[path].substr(0, paths[path].find(' ', 7)); };
  EXPECT_EQ(paths.size(), 10u);
  EXPECT_EQ(content("f"), fmt::format("f 600 \"{}\"", Digest::Of("two").hex()));
  EXPECT_THAT(paths["d"], HasSubstr("d 750"));
  EXPECT_THAT(paths, Contains(Key("d/x")));
  EXPECT_EQ(content("was_dir"), fmt::format("f 644 \"{}\"", Digest::Of("now file").hex()));
  EXPECT_EQ(content("link"), fmt::format("f 644 \"{}\"", Digest::Of("y").hex()));
  EXPECT_THAT(paths["link"], HasSubstr(" n1"));
  EXPECT_THAT(paths["was_file"], HasSubstr("d 755"));
  EXPECT_THAT(paths["was_link"], HasSubstr("d 755"));
  EXPECT_EQ(content("keeps"), fmt::format("f 644 \"{}\"", Digest::Of("old content").hex()));
  EXPECT_EQ(content("target"), fmt::format("f 644 \"{}\"", Digest::Of("new content").hex()));
  EXPECT_THAT(paths["keeps"], HasSubstr(" n1"));
}

TEST_P(SnapshotterContract, HardLinks) {
  TarMaker tar;
  tar.Dir("./").File("f", "f").Link("a", "f").Dir("d").Link("d/b", "./f").Link("f", "f").Symlink("s", "nowhere").Link("s2", "s");
  auto paths = Merge({tar}, {.metadata = true});
  for (const char* path : {"f", "a", "d/b"}) EXPECT_THAT(paths[path], HasSubstr(" n3")) << path;
  EXPECT_THAT(paths["s2"], HasSubstr("l nowhere"));
  EXPECT_THAT(paths["s2"], HasSubstr(" n2"));
}

TEST_P(SnapshotterContract, HardLinkToALowerFile) {
  TarMaker lower, upper;
  TarItem item{.path = "d/target", .data = std::string(70000, 't'), .mode = 0604, .uid = 3, .mtime = 77};
  item.pax = {{"SCHILY.xattr.user.k", "v"}};
  lower.Dir("./").Dir("d", 0750).Add(item).Symlink("way", "d");
  upper.Dir("./").Link("n/link", "way/target");
  auto paths = Merge({lower, upper}, {.metadata = true});
  std::string text = fmt::format("f 604 \"{}\" 70000 3:0 77.000000000 n2 user.k=\"v\"", Digest::Of(std::string(70000, 't')).hex());
  EXPECT_EQ(paths["d/target"], text);
  EXPECT_EQ(paths["n/link"], text);
  EXPECT_THAT(paths["d"], HasSubstr("d 750"));
  EXPECT_THAT(Refused(TarMaker().Link("l", "absent"), {}).what, HasSubstr("absent"));
  EXPECT_THAT(Refused(TarMaker().Dir("d").Link("l", "d"), {}).what, HasSubstr("directory"));
}

TEST_P(SnapshotterContract, MissingParents) {
  TarMaker base, upper;
  base.File("a/b/f", "x");
  auto paths = Merge({base}, {.metadata = true});
  EXPECT_EQ(paths["."], "d 755 0:0 0.000000000");
  EXPECT_EQ(paths["a"], "d 755 0:0 0.000000000");
  EXPECT_EQ(paths["a/b"], "d 755 0:0 0.000000000");
  TarMaker lower;
  TarItem root{.type = '5', .path = "./", .mode = 0711, .uid = 9, .mtime = 99};
  TarItem dir{.type = '5', .path = "d", .mode = 01777, .uid = 5, .gid = 6, .mtime = 42};
  dir.pax = {{"SCHILY.xattr.user.k", "v"}};
  lower.Add(root).Add(dir);
  upper.File("d/f", "x").File("new/g", "y");
  paths = Merge({lower, upper}, {.metadata = true});
  EXPECT_EQ(paths["."], "d 711 9:0 99.000000000");
  EXPECT_EQ(paths["d"], "d 1777 5:6 42.000000000 user.k=\"v\"");
  EXPECT_EQ(paths["new"], "d 755 0:0 0.000000000");
}

TEST_P(SnapshotterContract, ParentsMayBeLinks) {
  TarMaker lower, upper, own;
  lower.Dir("./").Dir("usr").Dir("usr/lib").File("usr/lib/old", "").Symlink("lib", "usr/lib").Symlink("abs", "/usr").Symlink("up", "../../usr/lib/..");
  upper.Dir("./").File("lib/a", "a").File("abs/b", "b").File("up/c", "c").Whiteout("lib", "old");
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key("."), Key("abs"), Pair("lib", "l usr/lib"), Key("up"), Key("usr"), Pair("usr/b", "f 644 \"b\""),
                                                 Pair("usr/c", "f 644 \"c\""), Key("usr/lib"), Pair("usr/lib/a", "f 644 \"a\"")));
  own.Dir("./").Dir("r").Symlink("s", "/r").File("s/f", "f").Symlink("out", "/../../..").File("out/g", "g");
  EXPECT_THAT(Merge({own}), ElementsAre(Key("."), Key("g"), Key("out"), Key("r"), Pair("r/f", "f 644 \"f\""), Key("s")));
  // A lower link that this layer removes is no way any more.
  TarMaker removed;
  removed.Dir("./").Whiteout("", "lib").File("lib/a", "a");
  auto paths = Merge({lower, removed});
  EXPECT_EQ(paths["lib"], "d 755");
  EXPECT_EQ(paths["lib/a"], "f 644 \"a\"");
  EXPECT_THAT(paths, Not(Contains(Key("usr/lib/a"))));
}

TEST_P(SnapshotterContract, EscapesAreRefusedAndNamed) {
  for (const char* path : {"../x", "a/../../x", "a/..", "/../x"}) {
    Error e = Refused(TarMaker().File(path, ""));
    EXPECT_EQ(e.code, Code::kInvalidArgument) << path;
    EXPECT_THAT(e.what, HasSubstr("..")) << path;
  }
  EXPECT_THAT(Refused(TarMaker().Link("l", "../../etc/passwd")).what, HasSubstr(".."));
  EXPECT_THAT(Refused(TarMaker().File("f", "").File("f/g", "")).what, HasSubstr("not a directory"));
  EXPECT_THAT(Refused(TarMaker().Symlink("a", "b").Symlink("b", "a").File("a/f", "")).what, HasSubstr("symbolic links"));
  EXPECT_THAT(Refused(TarMaker().File(".", "")).what, HasSubstr("root"));
  TarItem longer{.path = "x"};
  longer.pax = {{"path", std::string(256, 'n')}};
  EXPECT_THAT(Refused(TarMaker().Add(longer)).what, HasSubstr("256 bytes"));
  EXPECT_THAT(Merge({TarMaker().File("/abs//./f", "x")}), Contains(Pair("abs/f", "f 644 \"x\"")));
}

TEST_P(SnapshotterContract, SparseFiles) {
  std::string data = std::string(512, 'a') + std::string(4096, 'b') + "end";
  TarItem sparse{.path = "s", .data = data};
  sparse.pax = {{"GNU.sparse.map", "1024,512,1048576,4096,3000000,3"}, {"GNU.sparse.size", "3000003"}};
  TarItem odd{.path = "o", .data = std::string(1000, 'x') + std::string(24, 'y')};     // not at block boundaries
  odd.pax = {{"GNU.sparse.map", "100,1000,70001,24"}, {"GNU.sparse.size", "80000"}};
  TarItem hole{.path = "h"};
  hole.pax = {{"GNU.sparse.map", ""}, {"GNU.sparse.size", "1000000000000"}};
  auto tar = TarMaker().Dir("./").Add(sparse).Add(odd).Add(hole).Finish();
  Digest layer = Add(tar);
  auto root = snapshotter_->Prepare("o", {layer}, true, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  auto read = [&](const char* name) { return *ReadFileAt(root->mount.get(), name); };
  std::string expected(3000003, '\0');
  expected.replace(1024, 512, 512, 'a');
  expected.replace(1048576, 4096, 4096, 'b');
  expected.replace(3000000, 3, "end");
  EXPECT_EQ(Digest::Of(read("s")), Digest::Of(expected));
  expected.assign(80000, '\0');
  expected.replace(100, 1000, 1000, 'x');
  expected.replace(70001, 24, 24, 'y');
  EXPECT_EQ(Digest::Of(read("o")), Digest::Of(expected));
  struct stat st;
  ASSERT_EQ(fstatat(root->mount.get(), "h", &st, 0), 0);
  EXPECT_EQ(st.st_size, 1000000000000);
  unique_fd fd(openat(root->mount.get(), "h", O_RDONLY | O_CLOEXEC));
  char byte = 'x';
  EXPECT_EQ(pread(fd.get(), &byte, 1, 999999999999), 1);
  EXPECT_EQ(byte, 0);
  EXPECT_TRUE(IsOk(snapshotter_->Drop("o")));
}

// Thousands of entries of all kinds, against GNU tar's own extraction.
TEST_P(SnapshotterContract, EqualsWhatTarExtracts) {
  TarMaker maker;
  maker.Dir("./");
  uint64_t seed = 12345;
  auto random = [&](uint64_t below) { 
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
  };
  std::vector<std::string> dirs{"."}, files;
  for (int i = 0; i < 3000; ++i) {
    std::string parent = dirs[random(dirs.size())];
    TarItem item;
    item.path = parent + "/" + fmt::format("{}{}", std::string("!-~aZ\xff\xc3")[random(7)], i);
    if (random(40) == 0) item.path += std::string(240, 'n').substr(0, 200 + random(40));
    item.uid = static_cast<uint32_t>(random(3) ? random(2000) : 3'000'000'000u);
    item.gid = static_cast<uint32_t>(random(2000));
    item.mtime = static_cast<int64_t>(random(2'000'000'000)) - 300'000'000;
    item.mode = static_cast<int>(random(010000));
    if (item.path.size() > 100) item.pax.emplace_back("path", item.path);
    if (random(3) == 0) item.pax.emplace_back("mtime", fmt::format("{}.{:09}", random(2'000'000'000), random(1'000'000'000)));
    if (random(5) == 0 && !files.empty()) {
      item.type = '1';
      item.target = files[random(files.size())];
      if (item.target.size() > 100) item.pax.emplace_back("linkpath", item.target);
      maker.Add(item);
      continue;
    }
    switch (random(12)) {
      case 0: case 1:
        item.type = '5';
        dirs.push_back(item.path);
        break;
      case 2:
        item.type = '2';
        item.target = std::string(1 + random(random(4) ? 90 : 3000), 't');
        if (item.target.size() > 100) item.pax.emplace_back("linkpath", item.target);
        break;
      case 3: item.type = "346"[random(3)]; item.major = static_cast<uint32_t>(1 + random(4000)); item.minor = static_cast<uint32_t>(random(1 << 20)); break;
      default:
        item.data = std::string(random(10) ? random(5000) : random(100000), static_cast<char>('a' + random(26)));
        files.push_back(item.path);
    }
    if (item.type != '2' && random(4) == 0) {
      if (item.type == '0' || item.type == '5') item.pax.emplace_back("SCHILY.xattr.user.name", std::string(random(300), static_cast<char>(random(256))));
      item.pax.emplace_back("SCHILY.xattr.trusted.name", std::string(1 + random(40), static_cast<char>(random(256))));
    }
    maker.Add(item);
  }
  TarItem many{.type = '5', .path = "many", .mode = 0755};
  maker.Add(many);
  for (int i = 0; i < 3000; ++i) maker.File(fmt::format("many/entry-{}", i * 7919 % 3000), fmt::format("{}", i));
  std::string tar = maker.Finish();
  Digest layer = Add(tar);
  std::string oracle = base_ + "/oracle";
  mkdir(oracle.c_str(), 0755);
  ASSERT_TRUE(IsOk(WriteFileAtomic(base_ + "/oracle.tar", tar)));
  ASSERT_EQ(system(fmt::format("tar -xpf '{}/oracle.tar' --numeric-owner --xattrs --xattrs-include='*' --delay-directory-restore -C '{}' 2>/dev/null", base_, oracle).c_str()), 0);
  unique_fd oracle_fd(open(oracle.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto expected = Look(oracle_fd.get(), {.metadata = true});
  auto found = LookAt({layer}, {.metadata = true});
  EXPECT_GT(expected.size(), 5500u);
  EXPECT_EQ(found.size(), expected.size());
  int differences = 0;
  for (const auto& [path, text] : expected)
    if (found[path] != text && ++differences < 5) ADD_FAILURE() << path << "\n  tar:   " << text << "\n  layer: " << found[path];
  EXPECT_EQ(differences, 0);
  oracle_fd.reset();
}

// ---- the life of layers -------------------------------------------------------------------------------------------------

TEST_P(SnapshotterContract, FindAndOpenTarGiveTheLayerBack) {
  std::string tar = TarMaker().File("f", std::string(300000, 'q')).Finish() + "anything may follow";
  EXPECT_FALSE((*snapshotter_->Find(Digest::Of(tar))).has_value());
  EXPECT_TRUE(IsErr(snapshotter_->OpenTar(Digest::Of(tar)), Code::kNotFound));
  Digest layer = Add(tar);
  EXPECT_EQ((*snapshotter_->Find(layer))->bytes, tar.size());
  auto fd = snapshotter_->OpenTar(layer);
  ASSERT_TRUE(IsOk(fd));
  std::string bytes(tar.size() + 1, '\0');
  ASSERT_EQ(pread(fd->get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(tar.size()));
  EXPECT_EQ(bytes.substr(0, tar.size()), tar);
  EXPECT_GE((*snapshotter_->LayersUsage()).bytes, tar.size());
}

TEST_P(SnapshotterContract, WrongDigestIsDataLossAndLeavesNothing) {
  auto before = Files();
  for (const std::string& tar : {TarMaker().File("f", std::string(2'000'000, 'x')).Finish(), std::string(), std::string("not a tar")}) {
    auto writer = snapshotter_->Begin({});
    ASSERT_TRUE(IsOk(writer));
    (void)(*writer)->Write(tar);
    auto committed = (*writer)->Commit(Digest::Of("something else"), Deadline::Never());
    EXPECT_FALSE(committed.has_value());
    bool tar_like = tar != "not a tar";
    EXPECT_TRUE(IsErr(committed, tar_like ? Code::kDataLoss : committed.error().code, tar_like ? Digest::Of(tar).str() : ""));
    EXPECT_EQ(Files(), before);
  }
}

TEST_P(SnapshotterContract, MalformedTarIsRefused) {
  std::string tar = TarMaker().File("fine", "x").File("cut off", std::string(5000, 'x')).Unfinished();
  tar.resize(tar.size() - 1000);
  auto before = Files();
  auto added = Import(*snapshotter_, tar);
  EXPECT_TRUE(IsErr(added, Code::kInvalidArgument, "cut off"));
  EXPECT_TRUE(IsErr(Import(*snapshotter_, std::string(100'000, 'z')), Code::kInvalidArgument, "not a tar"));
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, ADroppedWriterLeavesNothing) {
  auto before = Files();
  {
    auto writer = snapshotter_->Begin({});
    ASSERT_TRUE(IsOk(writer));
    ASSERT_TRUE(IsOk((*writer)->Write(TarMaker().File("f", std::string(3'000'000, 'x')).Finish())));
    EXPECT_NE(Files(), before);
  }
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, AnExpiredDeadlineLeavesNothing) {
  auto before = Files();
  auto writer = snapshotter_->Begin({});
  ASSERT_TRUE(IsOk(writer));
  std::string tar = TarMaker().File("f", "x").Finish();
  ASSERT_TRUE(IsOk((*writer)->Write(tar)));
  EXPECT_TRUE(IsErr((*writer)->Commit(Digest::Of(tar), Deadline::After(std::chrono::seconds(0))), Code::kDeadlineExceeded));
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, CommittingTwiceIsSuccess) {
  std::string tar = TarMaker().File("f", "x").Finish();
  Digest layer = Add(tar);
  auto before = Files();
  EXPECT_EQ(Add(tar), layer);
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, ParentsMustBeThere) {
  auto before = Files();
  EXPECT_TRUE(IsErr(Import(*snapshotter_, TarMaker().File("f", "x").Finish(), {Digest::Of("nothing")}), Code::kNotFound));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("o", {Digest::Of("nothing")}, false, Deadline::Never()), Code::kNotFound));
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, OneTarOnDifferentLayers) {
  Digest first = Add(TarMaker().Dir("./", 0711).Dir("d", 0700)), second = Add(TarMaker().Dir("./", 0755).Symlink("d", "elsewhere").Dir("elsewhere", 0750));
  std::string tar = TarMaker().File("d/f", "x").Whiteout("", "gone").Finish();
  Digest top = Add(tar, {first});
  EXPECT_THAT(LookAt({first, top}), ElementsAre(Pair(".", "d 711"), Pair("d", "d 700"), Key("d/f")));
  EXPECT_THAT(LookAt({second, top}), ElementsAre(Pair(".", "d 755"), Key("d"), Pair("elsewhere", "d 750"), Key("elsewhere/f")));
  EXPECT_THAT(LookAt({top}), ElementsAre(Pair(".", "d 755"), Pair("d", "d 755"), Key("d/f")));
  EXPECT_TRUE(IsOk(snapshotter_->RemoveLayer(top)));
  EXPECT_TRUE(IsOk(snapshotter_->RemoveLayer(first)));
  EXPECT_TRUE(IsOk(snapshotter_->RemoveLayer(second)));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_P(SnapshotterContract, EmptyAndRepeatedLayers) {
  Digest empty = Add(std::string(1024, '\0'));
  Digest a = Add(TarMaker().Dir("./").File("a", "1").File("both", "a"), {empty});
  Digest b = Add(TarMaker().Dir("./").File("b", "2").File("both", "b").Whiteout("", "a"), {empty, a, empty});
  EXPECT_THAT(LookAt({empty, a, empty}), ElementsAre(Key("."), Key("a"), Key("both")));
  EXPECT_THAT(LookAt({empty, a, empty, b}), ElementsAre(Key("."), Key("b"), Pair("both", "f 644 \"b\"")));
  EXPECT_THAT(LookAt({empty, a, b, a, empty}), ElementsAre(Key("."), Key("a"), Key("b"), Pair("both", "f 644 \"a\"")));
  EXPECT_THAT(LookAt({empty}), ElementsAre(Pair(".", "d 755")));
  EXPECT_THAT(LookAt({}), ElementsAre(Pair(".", "d 755")));
}

TEST_P(SnapshotterContract, ManyLayers) {
  std::vector<Digest> chain;
  for (int i = 0; i < 130; ++i) chain.push_back(Add(TarMaker().Dir("./").File(fmt::format("f{}", i), fmt::format("{}", i)).File("last", fmt::format("{}", i)), chain));
  auto paths = LookAt(chain);
  EXPECT_EQ(paths.size(), 132u);
  EXPECT_EQ(paths["last"], "f 644 \"129\"");
  auto root = snapshotter_->Prepare("o", chain, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  struct stat top, bottom;
  ASSERT_EQ(fstatat(root->mount.get(), ".", &top, 0), 0);
  ASSERT_EQ(fstatat(root->mount.get(), "f0", &bottom, 0), 0);
  EXPECT_EQ(top.st_dev, bottom.st_dev);    // one filesystem to those who look
  ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("o", std::vector<Digest>(501, chain[0]), false, Deadline::Never()), Code::kInvalidArgument, "501"));
}

TEST_P(SnapshotterContract, RemoveLayer) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "x"));
  EXPECT_FALSE(Files().empty());
  ASSERT_TRUE(IsOk(snapshotter_->Prepare("user", {layer}, false, Deadline::Never())));
  EXPECT_TRUE(IsErr(snapshotter_->RemoveLayer(layer), Code::kConflict, "user"));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("user")));
  ASSERT_TRUE(IsOk(snapshotter_->RemoveLayer(layer)));
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_THAT(LayerMounts(), IsEmpty());
  EXPECT_FALSE((*snapshotter_->Find(layer)).has_value());
  EXPECT_TRUE(IsOk(snapshotter_->RemoveLayer(layer)));
  EXPECT_EQ((*snapshotter_->LayersUsage()).bytes, 0u);
  Add(TarMaker().Dir("./").File("f", "x"));
}

TEST_P(SnapshotterContract, AFullDiskLeavesTheStoreAsItWas) {
  LoopDisk small(24);
  ASSERT_EQ(small.error(), "");
  auto db = Db::OpenFile(base_ + "/small.db");
  ASSERT_TRUE(IsOk(db));
  Options options;
  options.root = small.path() + "/root";
  options.run = run_->path() + "/small";
  options.snapshotter = GetParam().kind;
  auto opened = OpenSnapshotter(options, **db);
  ASSERT_TRUE(IsOk(opened));
  Snapshotter& snapshotter = **opened;
  std::string kept = TarMaker().Dir("./").File("kept", std::string(100'000, 'k')).Finish();
  ASSERT_TRUE(IsOk(Import(snapshotter, kept)));
  auto listing = [&] {
    unique_fd fd(open(options.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto paths = Look(fd.get());
    std::erase_if(paths, [](const auto& p) { return p.first.starts_with("berth.db"); });
    return paths;
  };
  auto before = listing();
  // Too large for the tar itself; then small enough for the tar, but not for what is made of it.
  TarMaker large;
  large.Dir("./").File("large", std::string(60 << 20, 'x'));
  auto full = Import(snapshotter, large.Finish());
  EXPECT_TRUE(IsErr(full, Code::kResourceExhausted, options.root));
  EXPECT_EQ(listing(), before);
  if (GetParam().kind == "directory") {
    TarMaker tree;
    tree.Dir("./").File("half", std::string(12 << 20, 'x'));
    EXPECT_TRUE(IsErr(Import(snapshotter, tree.Finish()), Code::kResourceExhausted, options.root));
    EXPECT_EQ(listing(), before);
  }
  // A sparse file whose pieces lie at no block boundary is copied into the index.
  TarItem odd{.path = "odd", .data = std::string(9 << 20, 'x')};
  odd.pax = {{"GNU.sparse.map", fmt::format("1,{}", 9 << 20)}, {"GNU.sparse.size", fmt::format("{}", (9 << 20) + 1)}};
  auto copied = Import(snapshotter, TarMaker().Dir("./").Add(odd).File("more", std::string(4 << 20, 'y')).Finish());
  EXPECT_TRUE(IsErr(copied, Code::kResourceExhausted, options.root));
  EXPECT_EQ(listing(), before);
  EXPECT_TRUE(IsOk(Import(snapshotter, TarMaker().Dir("./").File("fits", "x").Finish())));
  opened->reset();
}

// ---- root filesystems ---------------------------------------------------------------------------------------------------

TEST_P(SnapshotterContract, AnOwnerWritesForItselfOnly) {
  Digest layer = Add(TarMaker().Dir("./", 0711).File("f", "original").File("g", "g"));
  auto a = snapshotter_->Prepare("a", {layer}, false, Deadline::Never()), b = snapshotter_->Prepare("b", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(a));
  ASSERT_TRUE(IsOk(b));
  unique_fd fd(openat(a->mount.get(), "f", O_WRONLY | O_TRUNC | O_CLOEXEC));
  ASSERT_EQ(write(fd.get(), "changed", 7), 7);
  fd.reset();
  ASSERT_EQ(unlinkat(a->mount.get(), "g", 0), 0);
  ASSERT_EQ(renameat(a->mount.get(), "f", a->mount.get(), "h"), 0);
  EXPECT_THAT(Look(a->mount.get()), ElementsAre(Pair(".", "d 711"), Pair("h", "f 644 \"changed\"")));
  EXPECT_THAT(Look(b->mount.get()), ElementsAre(Pair(".", "d 711"), Pair("f", "f 644 \"original\""), Key("g")));
  // The same writable directory again, after the mount is gone.
  a->mount.reset();
  a = snapshotter_->Prepare("a", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(a));
  EXPECT_THAT(Look(a->mount.get()), ElementsAre(Pair(".", "d 711"), Pair("h", "f 644 \"changed\"")));
  auto usage = snapshotter_->OwnerUsage("a");
  ASSERT_TRUE(IsOk(usage));
  EXPECT_GE(usage->bytes, 4096u);
  EXPECT_EQ(usage->inodes, 4u);            // itself, h and the whiteouts of f and g
  EXPECT_TRUE(IsErr(snapshotter_->OwnerUsage("nobody"), Code::kNotFound));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("a", {}, false, Deadline::Never()), Code::kConflict, "a"));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("a", {layer}, true, Deadline::Never()), Code::kConflict, "a"));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("a")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("a")));
  EXPECT_FALSE(Exists(Under("a")));
  auto fresh = snapshotter_->Prepare("a", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(fresh));
  EXPECT_THAT(Look(fresh->mount.get()), Contains(Pair("f", "f 644 \"original\"")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("a")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("b")));
}

TEST_P(SnapshotterContract, ReadOnlyIsReadOnly) {
  Digest lower = Add(TarMaker().Dir("./").File("f", "x")), upper = Add(TarMaker().Dir("./").File("g", "y"), {lower});
  for (const std::vector<Digest>& chain : {std::vector<Digest>{}, {lower}, {lower, upper}}) {
    auto root = snapshotter_->Prepare("o", chain, true, Deadline::Never());
    ASSERT_TRUE(IsOk(root));
    EXPECT_LT(openat(root->mount.get(), "new", O_CREAT | O_WRONLY | O_CLOEXEC, 0644), 0);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ((*snapshotter_->OwnerUsage("o")).bytes, 0u);
    ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
  }
}

TEST_P(SnapshotterContract, OwnerNamesAreChecked) {
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string(".hidden"), std::string(129, 'x'), std::string("a\0b", 3)}) {
    EXPECT_TRUE(IsErr(snapshotter_->Prepare(name, {}, false, Deadline::Never()), Code::kInvalidArgument, "owner")) << name;
    EXPECT_TRUE(IsErr(snapshotter_->Drop(name), Code::kInvalidArgument));
  }
}

TEST_P(SnapshotterContract, TheMountOutlivesItsSnapshotter) {
  Digest lower = Add(TarMaker().Dir("./").File("f", "lower")), upper = Add(TarMaker().Dir("./").File("g", "upper"), {lower});
  auto root = snapshotter_->Prepare("o", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  auto mounts = LayerMounts();
  Reopen();
  EXPECT_THAT(Look(root->mount.get()), ElementsAre(Key("."), Pair("f", "f 644 \"lower\""), Pair("g", "f 644 \"upper\"")));
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"o"})));
  EXPECT_EQ(LayerMounts(), mounts);        // in use, found again
  EXPECT_TRUE(IsErr(snapshotter_->RemoveLayer(lower), Code::kConflict, "o"));
  auto again = snapshotter_->Prepare("o", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(again));
  auto second = snapshotter_->Prepare("p", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(second));
  EXPECT_EQ(LayerMounts(), mounts);        // one mount a layer, whoever made it
  ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("p")));
}

TEST_P(SnapshotterContract, Concurrency) {
  std::string base = TarMaker().Dir("./").File("f", std::string(400'000, 'x')).Finish();
  std::string top = TarMaker().File("d/g", "y").Finish();
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 8; ++round) {
        auto lower = Import(*snapshotter_, base);
        if (!lower) return;
        auto upper = Import(*snapshotter_, top, {*lower});
        if (!upper) return;
        std::string owner = fmt::format("o{}-{}", i, round);
        auto root = snapshotter_->Prepare(owner, {*lower, *upper}, round % 2, Deadline::Never());
        if (!root || faccessat(root->mount.get(), "d/g", F_OK, 0) != 0 || faccessat(root->mount.get(), "f", F_OK, 0) != 0) return;
        if (!snapshotter_->Drop(owner)) return;
        (void)snapshotter_->LayersUsage();
        ++good;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 32);
  EXPECT_EQ(Files().size(), 4u);           // two layers, tar and view each
}

// ---- what an earlier agent left -----------------------------------------------------------------------------------------

TEST_P(SnapshotterContract, CollectDropsOwnersNobodyKnows) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "x"));
  ASSERT_TRUE(IsOk(snapshotter_->Prepare("live", {layer}, false, Deadline::Never())));
  ASSERT_TRUE(IsOk(snapshotter_->Prepare("dead", {layer}, false, Deadline::Never())));
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"live", "unheard-of"})));
  EXPECT_TRUE(Exists(Under("live")));
  EXPECT_FALSE(Exists(Under("dead")));
  EXPECT_TRUE(IsErr(snapshotter_->RemoveLayer(layer), Code::kConflict, "live"));
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_FALSE(Exists(Under("live")));
  EXPECT_THAT(LayerMounts(), IsEmpty());
  EXPECT_TRUE(IsOk(snapshotter_->RemoveLayer(layer)));
}

TEST_P(SnapshotterContract, CollectRemovesWhatNoRecordNames) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "x"));
  auto before = Files();
  std::string hex(64, 'a');
  for (const char* path : {"/layers/.tmp-0123.tar", "/layers/.tmp-0123.view", "/layers/rubbish"})
    ASSERT_TRUE(IsOk(WriteFileAtomic(base_ + path, "x")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(base_ + "/layers/" + hex + ".tar", "x")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(base_ + "/layers/" + hex + ".any.erofs", "x")));
  for (const char* path : {"/trees/.tmp-5/a/b", "/trees/.tmp-5.links", "/snapshots/.new-1/upper", "/snapshots/.gone-1/upper"})
    ASSERT_TRUE(IsOk(MakeDirs(base_ + path)));
  ASSERT_TRUE(IsOk(MakeDirs(base_ + "/trees/" + hex + ".any/x")));
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_EQ(Files(), before);
  EXPECT_THAT(LookAt({layer}), Contains(Key("f")));
}

TEST_P(SnapshotterContract, CollectRemovesLayersWithoutTheirBytes) {
  Digest gone = Add(TarMaker().Dir("./").File("f", "1")), cut = Add(TarMaker().Dir("./").File("f", "2")), fine = Add(TarMaker().Dir("./").File("f", "3"));
  ASSERT_EQ(unlink(fmt::format("{}/layers/{}.tar", base_, gone.hex()).c_str()), 0);
  ASSERT_EQ(truncate(fmt::format("{}/layers/{}.tar", base_, cut.hex()).c_str(), 512), 0);
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("o", {cut}, false, Deadline::Never()), Code::kDataLoss, cut.str()));
  EXPECT_TRUE(IsErr(snapshotter_->OpenTar(gone), Code::kDataLoss, gone.str()));
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_FALSE((*snapshotter_->Find(gone)).has_value());
  EXPECT_FALSE((*snapshotter_->Find(cut)).has_value());
  EXPECT_TRUE((*snapshotter_->Find(fine)).has_value());
  EXPECT_EQ(Files().size(), 2u);
  EXPECT_EQ(Add(TarMaker().Dir("./").File("f", "2")), cut);
  EXPECT_THAT(LookAt({cut}), Contains(Pair("f", "f 644 \"2\"")));
}

TEST_P(SnapshotterContract, AMissingViewIsMadeAnew) {
  Digest lower = Add(TarMaker().Dir("./").Dir("d", 0700)), upper = Add(TarMaker().File("d/f", "x"), {lower});
  auto before = Files();
  auto expected = LookAt({lower, upper}, {.metadata = true});
  snapshotter_.reset();
  for (const std::string& name : Files())
    if (!name.ends_with(".tar")) {
      ASSERT_TRUE(IsOk(RemoveTree(base_ + "/" + name)));
    }
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_EQ(LookAt({lower, upper}, {.metadata = true}), expected);
  EXPECT_EQ(Files(), before);
}

}  // namespace berth::images
