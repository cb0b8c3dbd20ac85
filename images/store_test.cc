#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "images/snapshots/fake_snapshotter.h"
#include "images/store_impl.h"
#include "images/store_testing.h"

namespace berth::images {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options.root = dir.path();
    db = Db::OpenMemory().value();
    Reopen();
  }
  void TearDown() override { store.reset(); }
  // As a restart of the agent; the registries are as they were.
  void Reopen() {
    store.reset();
    auto transport = std::make_unique<Forward>(registry);
    auto opened = OpenStoreWith(options, *db, snapshotter, std::move(transport));
    ASSERT_TRUE(opened.has_value()) << opened.error().what;
    store = std::move(*opened);
    store->registry().first_pause = std::chrono::milliseconds(0);
  }
  struct Forward : Transport {
    explicit Forward(FakeRegistry& to) : registry(to) {}
    Result<std::unique_ptr<HttpResponse>> Send(const HttpRequest& r, const Deadline& u) override {
      return registry.Send(r, u);
    }
    Result<bool> SpeaksTls(const Url& url, const Deadline& u) override { return registry.SpeaksTls(url, u); }
    FakeRegistry& registry;
  };
  Result<ImagePtr> Pull(const std::string& reference, const Deadline& until = Deadline::Never(),
                        const std::string& platform = "linux/amd64") {
    return store->Pull({.reference = reference, .platform = platform}, until);
  }
  std::vector<std::string> Files(const std::string& below) const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path() + "/" + below))
      out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }
  std::vector<HeldRow> Held() { return StoreTable(*db).LoadHeld().value(); }
  void ExpectEmpty() {
    EXPECT_THAT(snapshotter.layers(), IsEmpty());
    EXPECT_EQ(snapshotter.open_writers(), 0);
    EXPECT_THAT(Files("ingest"), IsEmpty());
    EXPECT_THAT(Files("blobs/sha256"), IsEmpty());
    EXPECT_THAT(Held(), IsEmpty());
    EXPECT_THAT(store->List(), IsEmpty());
  }

  TempDir dir;
  Options options;
  FakeRegistry registry;
  FakeSnapshotter snapshotter;
  std::unique_ptr<Db> db;
  std::unique_ptr<StoreImpl> store;
  const std::string base = "https://quay.io/v2/app";
  const TestImage two = TestImage::Make(
      {TarMaker().File("a", Noise(300'000, 1)).Finish(), TarMaker().File("b", Noise(300'000, 2)).Finish()});
};

TEST_F(StoreTest, PullThenFindByEverything) {
  two.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_EQ((*image)->id, two.id);
  EXPECT_EQ((*image)->raw_config, two.config);
  EXPECT_EQ((*image)->diff_ids, (std::vector<Digest>{Digest::Of(two.tars[0]), Digest::Of(two.tars[1])}));
  EXPECT_THAT((*image)->repo_tags, ElementsAre("quay.io/app:1"));
  EXPECT_THAT((*image)->repo_digests, ElementsAre("quay.io/app@" + two.digest.str()));
  EXPECT_EQ((*image)->size, two.config.size() + two.blobs[0].size() + two.blobs[1].size());
  EXPECT_EQ((*image)->config.cmd, std::vector<std::string>{"sh"});
  for (const std::string& text : {two.id.str(), two.id.hex(), two.id.hex().substr(0, 12), two.id.hex().substr(0, 4),
                                  "sha256:" + two.id.hex().substr(0, 7), std::string("quay.io/app:1"),
                                  "quay.io/app@" + two.digest.str(), "quay.io/app:9@" + two.digest.str()}) {
    auto found = store->Find(text);
    ASSERT_TRUE(found.has_value()) << text << ": " << found.error().what;
    EXPECT_EQ(*found, *image) << text;
  }
  EXPECT_EQ(store->List().size(), 1u);
  EXPECT_EQ(store->Find("quay.io/app").error().code, Code::kNotFound);
  EXPECT_EQ(store->Find("sha256:" + std::string(64, '0')).error().code, Code::kNotFound);
  EXPECT_EQ(store->Find("App").error().code, Code::kInvalidArgument);
  EXPECT_EQ(store->Find("").error().code, Code::kInvalidArgument);
  EXPECT_EQ(store->Find(two.id.hex().substr(0, 3)).error().code, Code::kNotFound);
  EXPECT_THAT(snapshotter.layers(), UnorderedElementsAre(Digest::Of(two.tars[0]), Digest::Of(two.tars[1])));
  EXPECT_THAT(Files("ingest"), IsEmpty());
}

TEST_F(StoreTest, ZstdAndPlainLayers) {
  TestImage::Make({TarMaker().File("z", Noise(700'000, 3)).Finish()}, "amd64", "", Zstd)
      .PutInto(registry, base, "zstd");
  TestImage::Make({TarMaker().File("p", Noise(9'000, 4)).Finish()}, "amd64", "", [](const std::string& s) {
    return s;
  }).PutInto(registry, base, "plain");
  EXPECT_TRUE(Pull("quay.io/app:zstd").has_value());
  EXPECT_TRUE(Pull("quay.io/app:plain").has_value());
}

TEST_F(StoreTest, AmbiguousPrefixIsAConflict) {
  // Two ids with the same first digits have to be searched for.
  std::map<std::string, std::string> seen;
  for (int i = 0;; ++i) {
    TestImage image = TestImage::Make({TarMaker().File("x", "y").Finish()}, "amd64", std::to_string(i));
    auto [it, fresh] = seen.try_emplace(image.id.hex().substr(0, 4), std::to_string(i));
    if (fresh) continue;
    image.PutInto(registry, base, "a");
    TestImage::Make({TarMaker().File("x", "y").Finish()}, "amd64", it->second).PutInto(registry, base, "b");
    ASSERT_TRUE(Pull("quay.io/app:a").has_value());
    ASSERT_TRUE(Pull("quay.io/app:b").has_value());
    EXPECT_EQ(store->Find(it->first).error().code, Code::kConflict);
    EXPECT_TRUE(store->Find(image.id.hex().substr(0, 20)).has_value());
    return;
  }
}

TEST_F(StoreTest, UnchangedTagCostsOneQuestion) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  registry.Forget();
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  ASSERT_EQ(registry.seen().size(), 1u);
  EXPECT_EQ(registry.seen()[0].method, "HEAD");
  // Under another tag it is the same image.
  registry.PutManifest(base, "same", two.manifest);
  auto image = Pull("quay.io/app:same");
  EXPECT_THAT((*image)->repo_tags, ElementsAre("quay.io/app:1", "quay.io/app:same"));
  EXPECT_EQ(store->List().size(), 1u);
}

TEST_F(StoreTest, MovedTagLeavesTheOldImageItsDigest) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  TestImage next = TestImage::Small("next");
  next.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  auto old = store->Find(two.id.str()).value();
  EXPECT_THAT(old->repo_tags, IsEmpty());
  EXPECT_THAT(old->repo_digests, ElementsAre("quay.io/app@" + two.digest.str()));
  EXPECT_EQ(store->Find("quay.io/app:1").value()->id, next.id);
  Reopen();
  EXPECT_THAT(store->Find(two.id.str()).value()->repo_tags, IsEmpty());
  EXPECT_EQ(store->Find("quay.io/app:1").value()->id, next.id);
}

TEST_F(StoreTest, PullByDigestGivesNoTag) {
  two.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:whatever@" + two.digest.str());
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_THAT((*image)->repo_tags, IsEmpty());
  EXPECT_THAT((*image)->repo_digests, ElementsAre("quay.io/app@" + two.digest.str()));
}

TEST_F(StoreTest, IndexGivesTheMachinesImage) {
  TestImage arm = TestImage::Small("arm", "arm64"), amd = TestImage::Small("amd");
  arm.PutInto(registry, base, "");
  amd.PutInto(registry, base, "");
  Digest index = registry.PutManifest(
      base, "1", IndexText({arm.Descriptor("linux/arm64"), amd.Descriptor("linux/amd64")}), media::kOciIndex);
  EXPECT_EQ(Pull("quay.io/app:1").value()->id, amd.id);
  EXPECT_THAT(store->Find(amd.id.str()).value()->repo_digests, ElementsAre("quay.io/app@" + index.str()));
  EXPECT_EQ(Pull("quay.io/app:1", Deadline::Never(), "linux/arm64/v8").value()->id, arm.id);
  auto none = Pull("quay.io/app:1", Deadline::Never(), "linux/s390x");
  EXPECT_EQ(none.error().code, Code::kNotFound);
  EXPECT_THAT(none.error().what, HasSubstr("no image for linux/s390x; available: linux/arm64, linux/amd64"));
}

TEST_F(StoreTest, SingleImageOfAnotherMachineIsRefusedUnlessAskedFor) {
  TestImage::Small("x", "riscv64").PutInto(registry, base, "1");
  auto refused = Pull("quay.io/app:1", Deadline::Never(), "");
  EXPECT_EQ(refused.error().code, Code::kNotFound);
  EXPECT_THAT(refused.error().what, HasSubstr("available: linux/riscv64"));
  ExpectEmpty();
  EXPECT_TRUE(Pull("quay.io/app:1", Deadline::Never(), "linux/riscv64").has_value());
}

TEST_F(StoreTest, BottomlessIndexEnds) {
  std::string text = IndexText({});
  for (int i = 0; i < 8; ++i) {
    Digest digest = registry.PutManifest(base, "1", text, media::kOciIndex);
    text = IndexText({fmt::format(
        R"({{"mediaType":"{}","digest":"{}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}})",
        media::kOciIndex, digest)});
  }
  EXPECT_THAT(Pull("quay.io/app:1").error().what, HasSubstr("nested more than"));
}

TEST_F(StoreTest, PullsOfTheSameJoin) {
  two.PutInto(registry, base, "1");
  const std::string key = "quay.io/app:1 linux/amd64 ";
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.find(Digest::Of(two.blobs[0]).str()) == std::string::npos) return std::nullopt;
    while (store->flights().waiting(key) < 2) std::this_thread::yield();
    return std::nullopt;
  });
  std::vector<Result<ImagePtr>> results(3);
  std::vector<int> events(3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&, i] {
      results[i] = store->Pull({.reference = "quay.io/app:1",
                                .platform = "linux/amd64",
                                .progress = [&, i](const PullProgress&) { ++events[i]; }},
                               Deadline::Never());
    });
  for (auto& t : threads) t.join();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(results[i].has_value()) << results[i].error().what;
    EXPECT_EQ((*results[i])->id, two.id);
    EXPECT_GT(events[i], 0);
  }
  for (const std::string& blob : two.blobs) EXPECT_EQ(registry.Count("GET", Digest::Of(blob).str()), 1u);
}

TEST_F(StoreTest, WhenTheWorkingCallerGivesUpAnotherGoesOn) {
  two.PutInto(registry, base, "1");
  const std::string key = "quay.io/app:1 linux/amd64 ";
  auto token = std::make_shared<CancelToken>();
  std::atomic<bool> first = true;
  std::atomic<bool> begun = false;
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.find("/blobs/") == std::string::npos || s.url.find(two.id.str()) != std::string::npos)
      return std::nullopt;
    if (!first.exchange(false)) return std::nullopt;
    begun = true;
    while (store->flights().waiting(key) < 1) std::this_thread::yield();
    token->Cancel();
    return std::nullopt;
  });
  Result<ImagePtr> given_up, gone_on;
  std::thread a([&] { given_up = Pull("quay.io/app:1", Deadline::Never(token)); });
  while (!begun) std::this_thread::yield();
  std::thread b([&] { gone_on = Pull("quay.io/app:1"); });
  a.join();
  b.join();
  EXPECT_EQ(given_up.error().code, Code::kCancelled);
  ASSERT_TRUE(gone_on.has_value()) << gone_on.error().what;
}

TEST_F(StoreTest, OneBlobInTwoImagesAtOnceIsDownloadedOnce) {
  // The same two layers in both orders: whoever waits for whom, nobody waits for ever.
  TestImage turned = TestImage::Make({two.tars[1], two.tars[0]});
  for (int round = 0; round < 10; ++round) {
    two.PutInto(registry, base, "1");
    turned.PutInto(registry, base, "2");
    Result<ImagePtr> one, other;
    std::thread a([&] { one = Pull("quay.io/app:1"); });
    std::thread b([&] { other = Pull("quay.io/app:2"); });
    a.join();
    b.join();
    ASSERT_TRUE(one.has_value()) << one.error().what;
    ASSERT_TRUE(other.has_value()) << other.error().what;
    ASSERT_TRUE(store->Remove(two.id.str()).has_value());
    ASSERT_TRUE(store->Remove(turned.id.str()).has_value());
    ExpectEmpty();
  }
}

TEST_F(StoreTest, BlobWithOtherBytesIsNeverUsed) {
  two.PutInto(registry, base, "1");
  std::string damaged = two.blobs[1];
  damaged[damaged.size() / 2] ^= 1;
  registry.Put(fmt::format("{}/blobs/{}", base, Digest::Of(two.blobs[1])), {200, {}, damaged});
  auto image = Pull("quay.io/app:1");
  EXPECT_EQ(image.error().code, Code::kDataLoss);
  EXPECT_THAT(image.error().what, HasSubstr("layer 2 of 2 (" + Digest::Of(two.blobs[1]).str() + ")"));
  ExpectEmpty();
}

TEST_F(StoreTest, MirrorWithOtherBytesIsPassedOver) {
  options.registries["quay.io"].mirrors = {"https://mirror.example"};
  Reopen();
  two.PutInto(registry, base, "1");
  const std::string mirror = "https://mirror.example/v2/app";
  two.PutInto(registry, mirror, "1");
  for (const std::string* bytes : {&two.blobs[1], &two.config}) {
    std::string damaged = *bytes;
    damaged[damaged.size() / 2] ^= 1;
    registry.Put(fmt::format("{}/blobs/{}", mirror, Digest::Of(*bytes)), {200, {}, damaged});
    auto image = Pull("quay.io/app:1");
    ASSERT_TRUE(image.has_value()) << image.error().what;
    ASSERT_TRUE(store->Remove(two.id.str()).has_value());
    two.PutInto(registry, mirror, "1");
  }
  ExpectEmpty();
}

TEST_F(StoreTest, BlobOfZerosIsDataLossNotBadGzip) {
  two.PutInto(registry, base, "1");
  registry.Put(fmt::format("{}/blobs/{}", base, Digest::Of(two.blobs[0])),
               {200, {}, std::string("\x1f\x8b") + std::string(two.blobs[0].size() - 2, 'x')});
  EXPECT_EQ(Pull("quay.io/app:1").error().code, Code::kDataLoss);
  ExpectEmpty();
}

TEST_F(StoreTest, ContentThatIsNotTheDiffIdIsNeverUsed) {
  TestImage lying = two;
  std::string other = TarMaker().File("b", "other").Finish();
  lying.config.replace(lying.config.find(Digest::Of(two.tars[1]).str()), 71, Digest::Of(other).str());
  lying.manifest.replace(lying.manifest.find(two.id.str()), 71, Digest::Of(lying.config).str());
  lying.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:1");
  EXPECT_EQ(image.error().code, Code::kDataLoss) << image.error().what;
  ExpectEmpty();
}

TEST_F(StoreTest, MalformedCompressionIsTheImagesFault) {
  TestImage broken = TestImage::Make({two.tars[0]}, "amd64", "", [](const std::string& s) {
    std::string z = Gzip(s);
    z[z.size() / 2] ^= 1;
    return z;
  });
  broken.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:1");
  EXPECT_EQ(image.error().code, Code::kInvalidArgument);
  EXPECT_THAT(image.error().what, HasSubstr("gzip"));
  ExpectEmpty();
  TestImage::Make({two.tars[0]}, "amd64", "", [](const std::string& s) {
    return Gzip(s).substr(0, 1000);
  }).PutInto(registry, base, "2");
  EXPECT_THAT(Pull("quay.io/app:2").error().what, HasSubstr("ends in the middle"));
  TestImage::Make({two.tars[0]}, "amd64", "", [](const std::string& s) {
    return "BZh91AY" + s;
  }).PutInto(registry, base, "3");
  EXPECT_EQ(Pull("quay.io/app:3").error().code, Code::kUnimplemented);
  ExpectEmpty();
}

TEST_F(StoreTest, LayerCountsMustAgree) {
  TestImage odd = two;
  std::string diff = fmt::format(",\"{}\"", Digest::Of(two.tars[1]));
  odd.config.erase(odd.config.find(diff), diff.size());
  std::string old = fmt::format("\"{}\",\"size\":{}", two.id, two.config.size());
  odd.manifest.replace(odd.manifest.find(old), old.size(),
                       fmt::format("\"{}\",\"size\":{}", Digest::Of(odd.config), odd.config.size()));
  odd.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:1");
  EXPECT_EQ(image.error().code, Code::kInvalidArgument);
  EXPECT_THAT(image.error().what, HasSubstr("rootfs.diff_ids names 1 layers, the manifest has 2"));
}

TEST_F(StoreTest, InterruptedPullGoesOnWhereItWasAlsoAfterARestart) {
  two.PutInto(registry, base, "1");
  store->registry().attempts = 1;
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.find(Digest::Of(two.blobs[1]).str()) == std::string::npos) return std::nullopt;
    return FakeAnswer{200, {}, two.blobs[1], 100'000};
  });
  EXPECT_EQ(Pull("quay.io/app:1").error().code, Code::kUnavailable);
  EXPECT_THAT(snapshotter.layers(), ElementsAre(Digest::Of(two.tars[0])));
  EXPECT_THAT(Files("ingest"), ElementsAre(Digest::Of(two.blobs[1]).hex() + ".part"));
  EXPECT_EQ(Held().size(), 2u);
  EXPECT_EQ(snapshotter.open_writers(), 0);
  registry.Hook(nullptr);
  registry.Forget();
  Reopen();
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  EXPECT_EQ(registry.Count("GET", Digest::Of(two.blobs[0]).str()), 0u);
  bool resumed = false;
  for (const auto& s : registry.seen()) resumed = resumed || s.range == "bytes=100000-";
  EXPECT_TRUE(resumed);
  EXPECT_THAT(Files("ingest"), IsEmpty());
}

TEST_F(StoreTest, DamagedRemainderIsThrownAwayAndFetchedAnew) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(
      WriteFileAtomic(dir.path() + "/ingest/" + Digest::Of(two.blobs[1]).hex() + ".part", std::string(1000, '\0'))
          .has_value());
  auto image = Pull("quay.io/app:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  // Longer than the blob can be: not a part of it.
  TestImage one = TestImage::Small("s");
  one.PutInto(registry, base, "2");
  ASSERT_TRUE(
      WriteFileAtomic(dir.path() + "/ingest/" + Digest::Of(one.blobs[0]).hex() + ".part", std::string(100'000, 'x'))
          .has_value());
  EXPECT_TRUE(Pull("quay.io/app:2").has_value());
  EXPECT_THAT(Files("ingest"), IsEmpty());
}

TEST_F(StoreTest, CancelledPullStopsAndLeavesNoLayer) {
  two.PutInto(registry, base, "1");
  auto token = std::make_shared<CancelToken>();
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.find(Digest::Of(two.blobs[0]).str()) != std::string::npos) token->Cancel();
    return std::nullopt;
  });
  EXPECT_EQ(Pull("quay.io/app:1", Deadline::Never(token)).error().code, Code::kCancelled);
  EXPECT_EQ(snapshotter.open_writers(), 0);
  EXPECT_THAT(snapshotter.layers(), IsEmpty());
  EXPECT_EQ(Pull("quay.io/app:1", Deadline::After(std::chrono::seconds(0))).error().code, Code::kDeadlineExceeded);
  EXPECT_THAT(store->List(), IsEmpty());
}

TEST_F(StoreTest, FullDiskLeavesTheStoreAsItWas) {
  TestImage before = TestImage::Make({two.tars[0]});
  before.PutInto(registry, base, "0");
  ASSERT_TRUE(Pull("quay.io/app:0").has_value());
  auto blobs = Files("blobs/sha256");
  auto layers = snapshotter.layers();
  two.PutInto(registry, base, "1");
  for (const char* verb : {"begin", "write", "commit"}) {
    snapshotter.FailNext(verb, Code::kResourceExhausted, "no space left on device");
    EXPECT_EQ(Pull("quay.io/app:1").error().code, Code::kResourceExhausted) << verb;
    EXPECT_EQ(snapshotter.layers(), layers) << verb;
    EXPECT_EQ(Files("blobs/sha256"), blobs) << verb;
    EXPECT_THAT(Files("ingest"), IsEmpty()) << verb;
    EXPECT_EQ(Held().size(), 1u) << verb;
  }
  EXPECT_TRUE(Pull("quay.io/app:1").has_value());
}

TEST_F(StoreTest, RemoveByIdTagAndDigest) {
  two.PutInto(registry, base, "1");
  registry.PutManifest(base, "2", two.manifest);
  two.PutInto(registry, "https://quay.io/v2/other", "1");
  for (const char* name : {"quay.io/app:1", "quay.io/app:2", "quay.io/other:1"}) ASSERT_TRUE(Pull(name).has_value());
  ASSERT_TRUE(store->Remove("quay.io/app:1").has_value());
  auto image = store->Find(two.id.str()).value();
  EXPECT_THAT(image->repo_tags, ElementsAre("quay.io/app:2", "quay.io/other:1"));
  EXPECT_THAT(image->repo_digests, ElementsAre("quay.io/app@" + two.digest.str(), "quay.io/other@" + two.digest.str()));
  // With the last tag of a repository goes its digest.
  ASSERT_TRUE(store->Remove("quay.io/app:2").has_value());
  EXPECT_THAT(store->Find(two.id.str()).value()->repo_digests, ElementsAre("quay.io/other@" + two.digest.str()));
  ASSERT_TRUE(store->Remove("quay.io/other:1").has_value());
  ExpectEmpty();
  EXPECT_EQ(store->Remove("quay.io/other:1").error().code, Code::kNotFound);
  EXPECT_EQ(store->Remove(two.id.str()).error().code, Code::kNotFound);

  for (const char* name : {"quay.io/app:1", "quay.io/other:1"}) ASSERT_TRUE(Pull(name).has_value());
  ASSERT_TRUE(store->Remove(two.id.hex().substr(0, 8)).has_value());
  ExpectEmpty();
}

TEST_F(StoreTest, SharedLayersStayForTheOther) {
  TestImage one = TestImage::Make({two.tars[0]});
  one.PutInto(registry, base, "1");
  two.PutInto(registry, base, "2");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  ASSERT_TRUE(Pull("quay.io/app:2").has_value());
  EXPECT_EQ(registry.Count("GET", Digest::Of(two.blobs[0]).str()), 1u);
  ASSERT_TRUE(store->Remove(two.id.str()).has_value());
  EXPECT_THAT(snapshotter.layers(), ElementsAre(Digest::Of(two.tars[0])));
  ASSERT_TRUE(store->Remove(one.id.str()).has_value());
  ExpectEmpty();
}

TEST_F(StoreTest, LayersOfARunningContainerGoAfterIt) {
  two.PutInto(registry, base, "1");
  auto image = Pull("quay.io/app:1").value();
  ASSERT_TRUE(snapshotter.Prepare("c1", image->diff_ids, false, Deadline::Never()).has_value());
  ASSERT_TRUE(store->Remove("quay.io/app:1").has_value());
  EXPECT_THAT(store->List(), IsEmpty());
  EXPECT_EQ(snapshotter.layers().size(), 2u);
  store->CollectNow();
  EXPECT_EQ(snapshotter.layers().size(), 2u);
  Reopen();
  EXPECT_EQ(snapshotter.layers().size(), 2u);
  ASSERT_TRUE(snapshotter.Drop("c1").has_value());
  store->CollectNow();
  ExpectEmpty();
}

TEST_F(StoreTest, RemovesAtTheSameTimeAllSucceedOrFindNothing) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  std::atomic<int> removed = 0, missing = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 5; ++i)
    threads.emplace_back([&] {
      auto done = store->Remove(two.id.str());
      if (done)
        ++removed;
      else if (done.error().code == Code::kNotFound)
        ++missing;
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(removed, 1);
  EXPECT_EQ(missing, 4);
  ExpectEmpty();
}

TEST_F(StoreTest, TagMovesAndIsKept) {
  two.PutInto(registry, base, "1");
  TestImage next = TestImage::Small("next");
  next.PutInto(registry, base, "2");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  ASSERT_TRUE(Pull("quay.io/app:2").has_value());
  EXPECT_THAT(store->Tag("quay.io/app:1", "mine").value()->repo_tags,
              ElementsAre("docker.io/library/mine:latest", "quay.io/app:1"));
  EXPECT_EQ(store->Tag("quay.io/app:2", "mine").value()->id, next.id);
  EXPECT_THAT(store->Find(two.id.str()).value()->repo_tags, ElementsAre("quay.io/app:1"));
  EXPECT_EQ(store->Tag("none", "mine").error().code, Code::kNotFound);
  EXPECT_EQ(store->Tag("mine", "Bad").error().code, Code::kInvalidArgument);
  EXPECT_EQ(store->Tag("mine", "x@" + two.digest.str()).error().code, Code::kInvalidArgument);
  Reopen();
  EXPECT_EQ(store->Find("mine").value()->id, next.id);
}

TEST_F(StoreTest, WhatNoRowOwnsGoesAtOpen) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  auto blobs = Files("blobs/sha256");
  store.reset();
  ASSERT_TRUE(WriteFileAtomic(dir.path() + "/blobs/sha256/" + std::string(64, 'a'), "x").has_value());
  ASSERT_TRUE(WriteFileAtomic(dir.path() + "/blobs/sha256/" + std::string(64, 'b') + ".tmp-123", "x").has_value());
  ASSERT_TRUE(WriteFileAtomic(dir.path() + "/ingest/" + std::string(64, 'c') + ".part", "x").has_value());
  // A layer that a pull made before the agent died an hour ago, and one that it made just now.
  auto commit = [&](const std::string& bytes) {
    auto writer = snapshotter.Begin({}).value();
    ASSERT_TRUE(writer->Write(bytes).has_value());
    ASSERT_TRUE(writer->Commit(Digest::Of(bytes), Deadline::Never()).has_value());
  };
  commit("old"), commit("new");
  ASSERT_TRUE(StoreTable(*db)
                  .Hold({{Digest::Of("old"), Digest(), 1}, {Digest::Of("new"), Digest(), ::time(nullptr)}})
                  .has_value());
  Reopen();
  EXPECT_EQ(Files("blobs/sha256"), blobs);
  EXPECT_THAT(Files("ingest"), IsEmpty());
  EXPECT_FALSE(snapshotter.Find(Digest::Of("old")).value().has_value());
  EXPECT_TRUE(snapshotter.Find(Digest::Of("new")).value().has_value());
  EXPECT_EQ(store->List().size(), 1u);
}

TEST_F(StoreTest, DamagedConfigHidesTheImageUntilAPullHealsIt) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  store.reset();
  ASSERT_TRUE(WriteFileAtomic(dir.path() + "/blobs/sha256/" + two.id.hex(), "damaged").has_value());
  Reopen();
  EXPECT_EQ(store->Find("quay.io/app:1").error().code, Code::kNotFound);
  EXPECT_EQ(snapshotter.layers().size(), 2u);
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  EXPECT_EQ(store->Find("quay.io/app:1").value()->raw_config, two.config);
  Reopen();
  EXPECT_TRUE(store->Find("quay.io/app:1").has_value());
}

TEST_F(StoreTest, MissingLayerHidesTheImageAndItCanBeRemoved) {
  two.PutInto(registry, base, "1");
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  store.reset();
  ASSERT_TRUE(snapshotter.RemoveLayer(Digest::Of(two.tars[1])).has_value());
  Reopen();
  EXPECT_THAT(store->List(), IsEmpty());
  ASSERT_TRUE(Pull("quay.io/app:1").has_value());
  EXPECT_EQ(store->List().size(), 1u);
  store.reset();
  ASSERT_TRUE(snapshotter.RemoveLayer(Digest::Of(two.tars[1])).has_value());
  Reopen();
  ASSERT_TRUE(store->Remove("quay.io/app:1").has_value());
  ExpectEmpty();
}

TEST_F(StoreTest, PinnedImages) {
  two.PutInto(registry, base, "1");
  options.pinned = {"quay.io/app:1"};
  Reopen();
  EXPECT_TRUE(Pull("quay.io/app:1").value()->pinned);
  ASSERT_TRUE(store->Tag("quay.io/app:1", "other").has_value());
  ASSERT_TRUE(store->Remove("quay.io/app:1").has_value());
  EXPECT_FALSE(store->Find("other").value()->pinned);
  options.pinned = {two.id.str()};
  Reopen();
  EXPECT_TRUE(store->Find("other").value()->pinned);
  options.pinned = {"Bad"};
  store.reset();
  auto opened = OpenStoreWith(options, *db, snapshotter, std::make_unique<Forward>(registry));
  EXPECT_EQ(opened.error().code, Code::kInvalidArgument);
  EXPECT_THAT(opened.error().what, HasSubstr("images.pinned"));
}

TEST_F(StoreTest, ProgressTellsOfEachLayer) {
  two.PutInto(registry, base, "1");
  std::map<std::string, std::vector<std::string>> said;
  ASSERT_TRUE(store
                  ->Pull({.reference = "quay.io/app:1",
                          .platform = "linux/amd64",
                          .progress = [&](const PullProgress& p) { said[p.layer].push_back(p.status); }},
                         Deadline::Never())
                  .has_value());
  EXPECT_EQ(said.size(), 3u);
  for (const std::string& blob : two.blobs) {
    const auto& lines = said[Digest::Of(blob).hex().substr(0, 12)];
    EXPECT_EQ(lines.front(), "Pulling fs layer");
    EXPECT_EQ(lines.back(), "Pull complete");
  }
  EXPECT_EQ(said[""].front(), "Pulling from quay.io/app");
}

TEST_F(StoreTest, BadReferencesAndPlatformsAreNamed) {
  EXPECT_EQ(Pull("Bad").error().code, Code::kInvalidArgument);
  EXPECT_EQ(Pull("quay.io/app:1", Deadline::Never(), "linux/").error().code, Code::kInvalidArgument);
  EXPECT_EQ(Pull(two.id.hex()).error().code, Code::kInvalidArgument);
  registry.PutManifest(base, "1", R"({"schemaVersion":1,"fsLayers":[]})",
                       "application/vnd.docker.distribution.manifest.v1+json");
  EXPECT_EQ(Pull("quay.io/app:1").error().code, Code::kUnimplemented);
  registry.PutManifest(base, "2", "not json");
  EXPECT_EQ(Pull("quay.io/app:2").error().code, Code::kInvalidArgument);
  ExpectEmpty();
}

TEST_F(StoreTest, EmptyImageAndRepeatedLayers) {
  TestImage::Make({}).PutInto(registry, base, "empty");
  EXPECT_TRUE(Pull("quay.io/app:empty").has_value());
  TestImage twice = TestImage::Make({two.tars[0], two.tars[1], two.tars[0]});
  twice.PutInto(registry, base, "twice");
  auto image = Pull("quay.io/app:twice");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_EQ((*image)->diff_ids.size(), 3u);
  EXPECT_EQ(registry.Count("GET", Digest::Of(two.blobs[0]).str()), 1u);
}

}  // namespace
}  // namespace berth::images
