#pragma once
// Part of snapshotter_contract.h: what a tar means as a layer.
#include "images/snapshots/snapshotter_contract.h"

namespace berth::images {

TEST_P(SnapshotterContract, AllKindsOfEntries) {
  TarMaker tar;
  tar.Dir("./", 0711).Dir("etc").File("etc/passwd", "root", 0600).File("empty", "").Symlink("sh", "bin/sh");
  tar.Add({.type = '3', .path = "null", .mode = 0666, .major = 1, .minor = 3})
      .Add({.type = '4', .path = "disk", .mode = 0660, .major = 259, .minor = 70000});
  tar.Add({.type = '6', .path = "pipe", .mode = 0640})
      .File("su", "s", 04755)
      .Link("etc/hard", "etc/passwd")
      .Dir("tmp", 01777);
  EXPECT_THAT(Merge({tar}),
              ElementsAre(Pair(".", "d 711"), Pair("disk", "b 660 259:70000"), Pair("empty", "f 644 \"\""),
                          Pair("etc", "d 755"), Pair("etc/hard", "f 600 \"root\""),
                          Pair("etc/passwd", "f 600 \"root\""), Pair("null", "c 666 1:3"), Pair("pipe", "p 640"),
                          Pair("sh", "l bin/sh"), Pair("su", "f 4755 \"s\""), Pair("tmp", "d 1777")));
}

TEST_P(SnapshotterContract, MetadataIsExact) {
  std::string capability("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  std::string acl(
      "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\4\0\xe8\3\0\0\4\0\4\0\xff\xff\xff\xff\x10\0\4\0\xff\xff\xff\xff\x20\0\0\0"
      "\xff\xff\xff\xff",
      44);
  TarItem file{.path = "f", .data = "x", .mode = 0640};
  file.pax = {{"uid", "4000000000"},
              {"gid", "70000"},
              {"mtime", "2208988800.123456789"},
              {"SCHILY.xattr.user.k", "v"},
              {"SCHILY.xattr.trusted.t", ""},
              {"SCHILY.xattr.security.capability", capability},
              {"LIBARCHIVE.xattr.user.b64", "AAH/"},
              {"SCHILY.xattr.nonsense.x", "dropped"}};
  TarItem acls{.path = "a", .data = "x", .mode = 0640};
  acls.pax = {{"SCHILY.acl.access", "user::rw-,user:1000:r--,group::r--,mask::r--,other::---"}};
  TarItem link{.type = '2', .path = "l", .target = "f"};
  link.pax = {{"mtime", "-1.5"}, {"SCHILY.xattr.user.not_on_links", "x"}, {"SCHILY.xattr.trusted.on_links", "x"}};
  link.uid = 7;
  TarItem dir{.type = '5', .path = "d", .mode = 02750};
  dir.pax = {{"mtime", "12.000000001"}, {"SCHILY.xattr.user.dir", std::string("\0bin\xff", 5)}};
  auto paths = Merge({TarMaker().Dir("./").Add(file).Add(acls).Add(link).Add(dir)}, {.metadata = true});
  std::string x = Digest::Of("x").hex();
  EXPECT_EQ(paths["f"], fmt::format("f 640 \"{}\" 1 4000000000:70000 2208988800.123456789 n1 security.capability={:?} "
                                    "trusted.t=\"\" user.b64={:?} user.k=\"v\"",
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
  EXPECT_THAT(Merge({lower, upper}),
              ElementsAre(Pair(".", "d 755"), Pair("b", "d 755"), Pair("b/y", "f 644 \"y\""), Pair("n", "d 755")));
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
  redirect.pax = {{"SCHILY.xattr.trusted.overlay.redirect", "/secret"},
                  {"SCHILY.xattr.trusted.overlay.opaque", "x"},
                  {"SCHILY.xattr.user.overlay.redirect", "/secret"}};
  TarItem metacopy{.path = "m", .data = ""};
  metacopy.pax = {{"SCHILY.xattr.trusted.overlay.metacopy", ""}, {"SCHILY.xattr.trusted.overlay.redirect", "/plain"}};
  upper.Dir("./").Add(redirect).Add(metacopy);
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key("."), Pair("d", "d 755"), Pair("m", "f 644 \"\""), Key("plain"),
                                                 Key("secret"), Key("secret/key")));
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
  tar.Dir("./")
      .File("f", "f")
      .Link("a", "f")
      .Dir("d")
      .Link("d/b", "./f")
      .Link("f", "f")
      .Symlink("s", "nowhere")
      .Link("s2", "s");
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
  std::string text =
      fmt::format("f 604 \"{}\" 70000 3:0 77.000000000 n2 user.k=\"v\"", Digest::Of(std::string(70000, 't')).hex());
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
  lower.Dir("./")
      .Dir("usr")
      .Dir("usr/lib")
      .File("usr/lib/old", "")
      .Symlink("lib", "usr/lib")
      .Symlink("abs", "/usr")
      .Symlink("up", "../../usr/lib/..");
  upper.Dir("./").File("lib/a", "a").File("abs/b", "b").File("up/c", "c").Whiteout("lib", "old");
  EXPECT_THAT(Merge({lower, upper}), ElementsAre(Key("."), Key("abs"), Pair("lib", "l usr/lib"), Key("up"), Key("usr"),
                                                 Pair("usr/b", "f 644 \"b\""), Pair("usr/c", "f 644 \"c\""),
                                                 Key("usr/lib"), Pair("usr/lib/a", "f 644 \"a\"")));
  own.Dir("./").Dir("r").Symlink("s", "/r").File("s/f", "f").Symlink("out", "/../../..").File("out/g", "g");
  EXPECT_THAT(Merge({own}),
              ElementsAre(Key("."), Key("g"), Key("out"), Key("r"), Pair("r/f", "f 644 \"f\""), Key("s")));
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
  EXPECT_THAT(Refused(TarMaker().Symlink("a", "b").Symlink("b", "a").File("a/f", "")).what,
              HasSubstr("symbolic links"));
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
  TarItem odd{.path = "o", .data = std::string(1000, 'x') + std::string(24, 'y')};  // not at block boundaries
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
    if (random(3) == 0)
      item.pax.emplace_back("mtime", fmt::format("{}.{:09}", random(2'000'000'000), random(1'000'000'000)));
    if (random(5) == 0 && !files.empty()) {
      item.type = '1';
      item.target = files[random(files.size())];
      if (item.target.size() > 100) item.pax.emplace_back("linkpath", item.target);
      maker.Add(item);
      continue;
    }
    switch (random(12)) {
      case 0:
      case 1:
        item.type = '5';
        dirs.push_back(item.path);
        break;
      case 2:
        item.type = '2';
        item.target = std::string(1 + random(random(4) ? 90 : 3000), 't');
        if (item.target.size() > 100) item.pax.emplace_back("linkpath", item.target);
        break;
      case 3:
        item.type = "346"[random(3)];
        item.major = static_cast<uint32_t>(1 + random(4000));
        item.minor = static_cast<uint32_t>(random(1 << 20));
        break;
      default:
        item.data = std::string(random(10) ? random(5000) : random(100000), static_cast<char>('a' + random(26)));
        files.push_back(item.path);
    }
    if (item.type != '2' && random(4) == 0) {
      if (item.type == '0' || item.type == '5')
        item.pax.emplace_back("SCHILY.xattr.user.name", std::string(random(300), static_cast<char>(random(256))));
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
  ASSERT_EQ(system(fmt::format("tar -xpf '{}/oracle.tar' --numeric-owner --xattrs --xattrs-include='*' "
                               "--delay-directory-restore -C '{}' 2>/dev/null",
                               base_, oracle)
                       .c_str()),
            0);
  unique_fd oracle_fd(open(oracle.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto expected = Look(oracle_fd.get(), {.metadata = true});
  auto found = LookAt({layer}, {.metadata = true});
  EXPECT_GT(expected.size(), 5500u);
  EXPECT_EQ(found.size(), expected.size());
  int differences = 0;
  for (const auto& [path, text] : expected)
    if (found[path] != text && ++differences < 5)
      ADD_FAILURE() << path << "\n  tar:   " << text << "\n  layer: " << found[path];
  EXPECT_EQ(differences, 0);
  oracle_fd.reset();
}

}  // namespace berth::images
