#pragma once
// What every Snapshotter over real layers must do. This file has the fixture; meaning_contract.h and life_contract.h
// have the tests. A test program includes both and instantiates them:
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
  std::string kind;  // Options::snapshotter
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

using berth::testing::IsErr;
using berth::testing::IsOk;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSubsetOf;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

}  // namespace berth::images
