#pragma once
// Part of snapshotter_contract.h: layers and root filesystems from their beginning to their end, and what an earlier
// agent left.
#include "images/snapshots/snapshotter_contract.h"

namespace berth::images {

// ---- the life of layers
// -------------------------------------------------------------------------------------------------

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
  for (const std::string& tar :
       {TarMaker().File("f", std::string(2'000'000, 'x')).Finish(), std::string(), std::string("not a tar")}) {
    auto writer = snapshotter_->Begin({});
    ASSERT_TRUE(IsOk(writer));
    (void)(*writer)->Write(tar);
    auto committed = (*writer)->Commit(Digest::Of("something else"), Deadline::Never());
    EXPECT_FALSE(committed.has_value());
    bool tar_like = tar != "not a tar";
    EXPECT_TRUE(
        IsErr(committed, tar_like ? Code::kDataLoss : committed.error().code, tar_like ? Digest::Of(tar).str() : ""));
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
  EXPECT_TRUE(
      IsErr((*writer)->Commit(Digest::Of(tar), Deadline::After(std::chrono::seconds(0))), Code::kDeadlineExceeded));
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
  EXPECT_TRUE(
      IsErr(Import(*snapshotter_, TarMaker().File("f", "x").Finish(), {Digest::Of("nothing")}), Code::kNotFound));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("o", {Digest::Of("nothing")}, false, Deadline::Never()), Code::kNotFound));
  EXPECT_EQ(Files(), before);
}

TEST_P(SnapshotterContract, OneTarOnDifferentLayers) {
  Digest first = Add(TarMaker().Dir("./", 0711).Dir("d", 0700)),
         second = Add(TarMaker().Dir("./", 0755).Symlink("d", "elsewhere").Dir("elsewhere", 0750));
  std::string tar = TarMaker().File("d/f", "x").Whiteout("", "gone").Finish();
  Digest top = Add(tar, {first});
  EXPECT_THAT(LookAt({first, top}), ElementsAre(Pair(".", "d 711"), Pair("d", "d 700"), Key("d/f")));
  EXPECT_THAT(LookAt({second, top}),
              ElementsAre(Pair(".", "d 755"), Key("d"), Pair("elsewhere", "d 750"), Key("elsewhere/f")));
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
  for (int i = 0; i < 130; ++i)
    chain.push_back(
        Add(TarMaker().Dir("./").File(fmt::format("f{}", i), fmt::format("{}", i)).File("last", fmt::format("{}", i)),
            chain));
  auto paths = LookAt(chain);
  EXPECT_EQ(paths.size(), 132u);
  EXPECT_EQ(paths["last"], "f 644 \"129\"");
  auto root = snapshotter_->Prepare("o", chain, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  struct stat top, bottom;
  ASSERT_EQ(fstatat(root->mount.get(), ".", &top, 0), 0);
  ASSERT_EQ(fstatat(root->mount.get(), "f0", &bottom, 0), 0);
  EXPECT_EQ(top.st_dev, bottom.st_dev);  // one filesystem to those who look
  ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
  EXPECT_TRUE(IsErr(snapshotter_->Prepare("o", std::vector<Digest>(501, chain[0]), false, Deadline::Never()),
                    Code::kInvalidArgument, "501"));
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

// ---- root filesystems
// ---------------------------------------------------------------------------------------------------

TEST_P(SnapshotterContract, AnOwnerWritesForItselfOnly) {
  Digest layer = Add(TarMaker().Dir("./", 0711).File("f", "original").File("g", "g"));
  auto a = snapshotter_->Prepare("a", {layer}, false, Deadline::Never()),
       b = snapshotter_->Prepare("b", {layer}, false, Deadline::Never());
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
  EXPECT_EQ(usage->inodes, 4u);  // itself, h and the whiteouts of f and g
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
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                  std::string(".hidden"), std::string(129, 'x'), std::string("a\0b", 3)}) {
    EXPECT_TRUE(IsErr(snapshotter_->Prepare(name, {}, false, Deadline::Never()), Code::kInvalidArgument, "owner"))
        << name;
    EXPECT_TRUE(IsErr(snapshotter_->Drop(name), Code::kInvalidArgument));
  }
}

TEST_P(SnapshotterContract, TheMountOutlivesItsSnapshotter) {
  Digest lower = Add(TarMaker().Dir("./").File("f", "lower")),
         upper = Add(TarMaker().Dir("./").File("g", "upper"), {lower});
  auto root = snapshotter_->Prepare("o", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  auto mounts = LayerMounts();
  Reopen();
  EXPECT_THAT(Look(root->mount.get()),
              ElementsAre(Key("."), Pair("f", "f 644 \"lower\""), Pair("g", "f 644 \"upper\"")));
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"o"})));
  EXPECT_EQ(LayerMounts(), mounts);  // in use, found again
  EXPECT_TRUE(IsErr(snapshotter_->RemoveLayer(lower), Code::kConflict, "o"));
  auto again = snapshotter_->Prepare("o", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(again));
  auto second = snapshotter_->Prepare("p", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(second));
  EXPECT_EQ(LayerMounts(), mounts);  // one mount a layer, whoever made it
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
        if (!root || faccessat(root->mount.get(), "d/g", F_OK, 0) != 0 ||
            faccessat(root->mount.get(), "f", F_OK, 0) != 0)
          return;
        if (!snapshotter_->Drop(owner)) return;
        (void)snapshotter_->LayersUsage();
        ++good;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 32);
  EXPECT_EQ(Files().size(), 4u);  // two layers, tar and view each
}

// ---- what an earlier agent left
// -----------------------------------------------------------------------------------------

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
  for (const char* path :
       {"/trees/.tmp-5/a/b", "/trees/.tmp-5.links", "/snapshots/.new-1/upper", "/snapshots/.gone-1/upper"})
    ASSERT_TRUE(IsOk(MakeDirs(base_ + path)));
  ASSERT_TRUE(IsOk(MakeDirs(base_ + "/trees/" + hex + ".any/x")));
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_EQ(Files(), before);
  EXPECT_THAT(LookAt({layer}), Contains(Key("f")));
}

TEST_P(SnapshotterContract, CollectRemovesLayersWithoutTheirBytes) {
  Digest gone = Add(TarMaker().Dir("./").File("f", "1")), cut = Add(TarMaker().Dir("./").File("f", "2")),
         fine = Add(TarMaker().Dir("./").File("f", "3"));
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
