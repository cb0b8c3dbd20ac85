#include <signal.h>

#include <filesystem>

#include "base/child.h"
#include "images/snapshots/failpoints.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/life_contract.h"
#include "images/snapshots/meaning_contract.h"
#include "images/snapshots/mount.h"

namespace berth::images {

INSTANTIATE_TEST_SUITE_P(Kinds, SnapshotterContract,
                         ::testing::Values(SnapshotterCase{"erofs"}, SnapshotterCase{"directory"}),
                         [](const auto& info) { return info.param.kind; });

// What only this kind can show.
class ErofsSnapshotter : public SnapshotterContract {};
INSTANTIATE_TEST_SUITE_P(Only, ErofsSnapshotter, ::testing::Values(SnapshotterCase{"erofs"}));

TEST_P(ErofsSnapshotter, OwnersShareOneMountALayer) {
  Digest layer = Add(TarMaker().Dir("./").File("f", std::string(1 << 20, 'x')));
  EXPECT_THAT(LayerMounts(), IsEmpty());  // mounted on first use
  auto a = snapshotter_->Prepare("a", {layer}, false, Deadline::Never()),
       b = snapshotter_->Prepare("b", {layer}, true, Deadline::Never());
  ASSERT_TRUE(IsOk(a));
  ASSERT_TRUE(IsOk(b));
  EXPECT_EQ(LayerMounts().size(), 1u);
  auto& home = dynamic_cast<LayerSnapshotter&>(*snapshotter_);
  ASSERT_TRUE(IsOk(snapshotter_->Drop("a")));
  home.DetachIdle(std::chrono::milliseconds(0));
  EXPECT_EQ(LayerMounts().size(), 1u);
  ASSERT_TRUE(IsOk(snapshotter_->Drop("b")));
  home.DetachIdle(std::chrono::hours(1));
  EXPECT_EQ(LayerMounts().size(), 1u);  // warm for the next one
  home.DetachIdle(std::chrono::milliseconds(0));
  EXPECT_THAT(LayerMounts(), IsEmpty());
  EXPECT_THAT(Look(b->mount.get()), Contains(Key("f")));
}

TEST_P(ErofsSnapshotter, LayerMountsStayInThisNamespace) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "x"));
  ASSERT_TRUE(IsOk(snapshotter_->Prepare("a", {layer}, false, Deadline::Never())));
  std::string mounts = *ReadFile("/proc/self/mountinfo");
  size_t at = mounts.find(" " + run_->path() + "/layers ");
  ASSERT_NE(at, std::string::npos);
  std::string line = mounts.substr(at, mounts.find('\n', at) - at);
  EXPECT_THAT(line, Not(HasSubstr("shared:")));
  EXPECT_THAT(line, Not(HasSubstr("master:")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("a")));
}

TEST_P(ErofsSnapshotter, ADamagedIndexIsMadeAnew) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "content"));
  std::string index = fmt::format("{}/layers/{}.any.erofs", base_, layer.hex());
  std::string good = *ReadFile(index);
  // A flipped bit outside what the superblock's checksum covers, which the kernel would not notice.
  std::string bad = good;
  bad[bad.size() - 1] ^= 1;
  ASSERT_EQ(chmod(index.c_str(), 0600), 0);
  ASSERT_TRUE(IsOk(WriteFileAtomic(index, bad)));
  EXPECT_THAT(LookAt({layer}), Contains(Pair("f", "f 644 \"content\"")));
  EXPECT_EQ(*ReadFile(index), good);
  // Cut short, found by Collect's look at sizes while mounted by an earlier agent.
  auto root = snapshotter_->Prepare("o", {layer}, true, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  ASSERT_TRUE(IsOk(WriteFileAtomic(index, good.substr(0, 512))));
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"o"})));
  EXPECT_THAT(LookAt({layer}), Contains(Pair("f", "f 644 \"content\"")));
  EXPECT_EQ(*ReadFile(index), good);
  EXPECT_THAT(Look(root->mount.get()), Contains(Pair("f", "f 644 \"content\"")));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
}

TEST_P(ErofsSnapshotter, CollectDetachesWhatNothingExplains) {
  Digest layer = Add(TarMaker().Dir("./").File("f", "x"));
  auto root = snapshotter_->Prepare("o", {layer}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  std::string foreign = run_->path() + "/layers/" + std::string(32, 'f');
  ASSERT_EQ(mkdir(foreign.c_str(), 0700), 0);
  ASSERT_EQ(mount("none", foreign.c_str(), "tmpfs", 0, nullptr), 0);
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"o"})));
  EXPECT_EQ(LayerMounts().size(), 1u);
  EXPECT_FALSE(Exists(foreign));
  ASSERT_TRUE(IsOk(snapshotter_->Drop("o")));
}

TEST_P(ErofsSnapshotter, TheProbeIsKept) {
  Layout layout{base_, run_->path()};
  auto first = ProbeErofs(layout, false);
  ASSERT_TRUE(IsOk(first));
  EXPECT_TRUE(first->works) << first->reason;
  EXPECT_TRUE(first->cached);
  EXPECT_FALSE((*ProbeErofs(layout, true)).cached);
  ASSERT_TRUE(IsOk(WriteFileAtomic(layout.Probe(), "of another kernel\n")));
  EXPECT_FALSE((*ProbeErofs(layout, false)).cached);
}

TEST_P(ErofsSnapshotter, TmpfsIsRefusedWithTheReason) {
  berth::testing::TempDir directory;
  ASSERT_EQ(mount("none", directory.path().c_str(), "tmpfs", 0, nullptr), 0);
  Options options;
  options.root = directory / "root";
  options.run = directory / "run";
  options.snapshotter = "erofs";
  auto db = Db::OpenMemory();
  EXPECT_TRUE(IsErr(OpenSnapshotter(options, **db), Code::kFailedPrecondition, "tmpfs"));
  options.snapshotter = "auto";
  auto opened = OpenSnapshotter(options, **db);
  ASSERT_TRUE(IsOk(opened));
  EXPECT_EQ((*opened)->name(), "directory");
  opened->reset();
  options.snapshotter = "zfs";
  EXPECT_TRUE(IsErr(OpenSnapshotter(options, **db), Code::kInvalidArgument, "images.snapshotter"));
  umount2(directory.path().c_str(), MNT_DETACH);
}

TEST_P(ErofsSnapshotter, LayersServeBothKinds) {
  Digest lower = Add(TarMaker().Dir("./").File("f", "x")),
         upper = Add(TarMaker().Dir("./").Whiteout("", "f").File("g", "y"), {lower});
  auto expected = LookAt({lower, upper}, {.metadata = true});
  snapshotter_.reset();
  Options options;
  options.root = base_;
  options.run = run_->path();
  options.snapshotter = "directory";
  auto opened = OpenSnapshotter(options, *db_);
  ASSERT_TRUE(IsOk(opened));
  snapshotter_ = std::move(*opened);
  ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
  EXPECT_EQ(LookAt({lower, upper}, {.metadata = true}), expected);
  ASSERT_TRUE(IsOk(snapshotter_->RemoveLayer(lower)));
  ASSERT_TRUE(IsOk(snapshotter_->RemoveLayer(upper)));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_P(ErofsSnapshotter, OverlaysAsBeforeLowersWereGivenOneByOne) {
  std::vector<std::string> lowers;
  for (std::string name : {"a,b", "c:d", "e\\f"}) {
    lowers.push_back(base_ + "/lowers/" + name);
    ASSERT_TRUE(IsOk(MakeDirs(lowers.back())));
    ASSERT_TRUE(IsOk(WriteFileAtomic(lowers.back() + "/file" + std::to_string(lowers.size()), name)));
    ASSERT_TRUE(IsOk(WriteFileAtomic(lowers.back() + "/top", name)));
  }
  for (const char* name : {"/up", "/work"}) ASSERT_TRUE(IsOk(MakeDirs(base_ + name)));
  for (bool by_string : {true, false}) {
    OverlayRequest request{lowers, base_ + "/up", base_ + "/work"};
    auto mount = by_string ? MountOverlayByString(request) : MountOverlay(request);
    ASSERT_TRUE(IsOk(mount));
    EXPECT_THAT(Look(mount->get()),
                ElementsAre(Key("."), Key("file1"), Key("file2"), Key("file3"), Pair("top", "f 644 \"e\\\\f\"")));
  }
  std::vector<std::string> many;  // too long for a page by their names, short enough by descriptors
  for (int i = 0; i < 100; ++i) {
    many.push_back(base_ + "/lowers/" + std::string(40, 'x') + std::to_string(i));
    ASSERT_TRUE(IsOk(MakeDirs(many.back())));
    ASSERT_TRUE(IsOk(WriteFileAtomic(many.back() + "/file", std::to_string(i))));
  }
  auto mount = MountOverlayByString({many, {}, {}});
  ASSERT_TRUE(IsOk(mount));
  EXPECT_THAT(Look(mount->get()), ElementsAre(Key("."), Pair("file", "f 644 \"99\"")));
  while (many.size() < 400) many.push_back(many[many.size() - 100]);
  EXPECT_TRUE(IsErr(MountOverlayByString({many, {}, {}}), Code::kFailedPrecondition, "6.5"));
  EXPECT_TRUE(IsOk(MountsAt(base_)));
  EXPECT_THAT(*MountsAt(base_ + "/lowers"), IsEmpty());
}

TEST_P(ErofsSnapshotter, ALayerWhoseTarIsDamagedIsReplacedByItsNextImport) {
  TarMaker tar;
  tar.Dir("./").File("f", "content");
  Digest layer = Add(tar);
  EXPECT_THAT(LookAt({layer}), Contains(Key("f")));
  ASSERT_EQ(truncate(fmt::format("{}/layers/{}.tar", base_, layer.hex()).c_str(), 512), 0);
  EXPECT_TRUE(IsErr(snapshotter_->OpenTar(layer), Code::kDataLoss, "record says"));
  EXPECT_EQ(Add(tar), layer);
  EXPECT_THAT(LookAt({layer}), Contains(Pair("f", "f 644 \"content\"")));
}

TEST_P(ErofsSnapshotter, DirectoriesBehindLinks) {
  std::string link = base_ + "-link";
  unlink(link.c_str());
  ASSERT_EQ(symlink(run_->path().c_str(), link.c_str()), 0);
  Options options;
  options.root = base_;
  options.run = link;
  options.snapshotter = "erofs";
  snapshotter_.reset();
  auto first = OpenSnapshotter(options, *db_);
  ASSERT_TRUE(IsOk(first));
  auto layer = Import(**first, TarMaker().Dir("./").File("f", "x").Finish());
  ASSERT_TRUE(IsOk(layer));
  auto root = (*first)->Prepare("o", {*layer}, true, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  auto mounts = LayerMounts();
  EXPECT_EQ(mounts.size(), 1u);
  first->reset();
  auto second = OpenSnapshotter(options, *db_);
  ASSERT_TRUE(IsOk(second));
  ASSERT_TRUE(IsOk((*second)->Collect({"o"})));
  EXPECT_EQ(LayerMounts(), mounts);
  EXPECT_EQ(MountsAt(run_->path())->size(), 2u);  // the mount point and the layer, once each
  ASSERT_TRUE(IsOk((*second)->Drop("o")));
  second->reset();
  unlink(link.c_str());
  options.run = "run";
  EXPECT_TRUE(IsErr(OpenSnapshotter(options, *db_), Code::kInvalidArgument, "run directory"));
  options.run = base_ + "/" + std::string(200, 'r');
  EXPECT_TRUE(IsErr(OpenSnapshotter(options, *db_), Code::kInvalidArgument, "too long"));
}

// ---- death at each step
// -------------------------------------------------------------------------------------------------

// What the crash tests start as a process of its own, which dies at the failpoint in its environment.
TEST(CrashVictim, DISABLED_DoesEverything) {
  const char* root = getenv("BERTH_TEST_ROOT");
  ASSERT_NE(root, nullptr) << "runs for the crash tests only";
  auto db = Db::OpenFile(std::string(root) + "/berth.db");
  ASSERT_TRUE(IsOk(db));
  Options options;
  options.root = root;
  options.run = getenv("BERTH_TEST_RUN");
  options.snapshotter = getenv("BERTH_TEST_KIND");
  auto opened = OpenSnapshotter(options, **db);
  ASSERT_TRUE(IsOk(opened));
  Snapshotter& snapshotter = **opened;
  ASSERT_TRUE(IsOk(snapshotter.Collect({})));
  auto lower = Import(snapshotter, TarMaker().Dir("./").File("f", std::string(1 << 20, 'x')).Finish());
  ASSERT_TRUE(IsOk(lower));
  auto upper = Import(snapshotter, TarMaker().File("d/g", "y").Finish(), {*lower});
  ASSERT_TRUE(IsOk(upper));
  ASSERT_TRUE(IsOk(snapshotter.Prepare("owner", {*lower, *upper}, false, Deadline::Never())));
  ASSERT_TRUE(IsOk(snapshotter.Drop("owner")));
  ASSERT_TRUE(IsOk(snapshotter.RemoveLayer(*upper)));
}

class SnapshotterCrash : public SnapshotterContract {};
INSTANTIATE_TEST_SUITE_P(Kinds, SnapshotterCrash,
                         ::testing::Values(SnapshotterCase{"erofs"}, SnapshotterCase{"directory"}),
                         [](const auto& info) { return info.param.kind; });

TEST_P(SnapshotterCrash, NothingIsLeftThatNoRecordOwns) {
  snapshotter_.reset();
  db_.reset();
  for (std::string_view failpoint : kSnapshotFailpoints) {
    SCOPED_TRACE(std::string(failpoint));
    ASSERT_TRUE(IsOk(RemoveTree(base_)));
    ASSERT_TRUE(IsOk(MakeDirs(base_)));
    Command victim;
    victim.argv = {std::filesystem::read_symlink("/proc/self/exe").string(), "--gtest_filter=CrashVictim.*",
                   "--gtest_also_run_disabled_tests"};
    victim.env = {fmt::format("BERTH_FAILPOINT={}", failpoint), "BERTH_TEST_ROOT=" + base_,
                  "BERTH_TEST_RUN=" + run_->path(), "BERTH_TEST_KIND=" + GetParam().kind,
                  "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    auto died = berth::Run(victim, Deadline::After(std::chrono::seconds(60)));
    ASSERT_TRUE(IsOk(died));
    ASSERT_EQ(died->exit_code, 128 + SIGKILL) << died->out;
    Reopen();
    ASSERT_TRUE(IsOk(snapshotter_->Collect({})));
    EXPECT_THAT(LayerMounts(), IsEmpty());
    // What is there is whole: each layer the records know has its tar and view, and works; no file is anybody else's.
    size_t known = 0;
    std::string lower_tar = TarMaker().Dir("./").File("f", std::string(1 << 20, 'x')).Finish();
    for (const std::string& tar : {lower_tar, TarMaker().File("d/g", "y").Finish()}) {
      auto found = snapshotter_->Find(Digest::Of(tar));
      ASSERT_TRUE(IsOk(found));
      if (!*found) continue;
      ++known;
      EXPECT_GE(LookAt({Digest::Of(tar)}).size(), 2u);
      ASSERT_TRUE(IsOk(snapshotter_->RemoveLayer(Digest::Of(tar))));
    }
    EXPECT_THAT(Files(), IsEmpty()) << known << " layers were known";
    Digest lower = Add(lower_tar);
    EXPECT_THAT(LookAt({lower}), Contains(Key("f")));
    snapshotter_.reset();
    db_.reset();
  }
}

// With nobody to collect: what a killed agent leaves mounted is used by the next one while its owner lives.
TEST_P(SnapshotterCrash, AnOwnerSurvivesTheAgent) {
  snapshotter_.reset();
  db_.reset();
  Command victim;
  victim.argv = {std::filesystem::read_symlink("/proc/self/exe").string(), "--gtest_filter=CrashVictim.*",
                 "--gtest_also_run_disabled_tests"};
  victim.env = {"BERTH_FAILPOINT=prepare.mounted", "BERTH_TEST_ROOT=" + base_, "BERTH_TEST_RUN=" + run_->path(),
                "BERTH_TEST_KIND=" + GetParam().kind, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  auto died = berth::Run(victim, Deadline::After(std::chrono::seconds(60)));
  ASSERT_TRUE(IsOk(died));
  auto mounts = LayerMounts();
  EXPECT_EQ(mounts.size(), GetParam().kind == "erofs" ? 2u : 0u);
  Reopen();
  ASSERT_TRUE(IsOk(snapshotter_->Collect({"owner"})));
  EXPECT_EQ(LayerMounts(), mounts);
  Digest lower = Digest::Of(TarMaker().Dir("./").File("f", std::string(1 << 20, 'x')).Finish()),
         upper = Digest::Of(TarMaker().File("d/g", "y").Finish());
  EXPECT_TRUE(IsErr(snapshotter_->RemoveLayer(lower), Code::kConflict, "owner"));
  auto root = snapshotter_->Prepare("owner", {lower, upper}, false, Deadline::Never());
  ASSERT_TRUE(IsOk(root));
  EXPECT_THAT(Look(root->mount.get()), Contains(Key("d/g")));
  EXPECT_EQ(LayerMounts(), mounts);
  ASSERT_TRUE(IsOk(snapshotter_->Drop("owner")));
}

}  // namespace berth::images
