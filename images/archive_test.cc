#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <thread>

#include "base/json.h"
#include "images/archive.h"
#include "images/snapshots/fake_snapshotter.h"
#include "images/store_impl.h"
#include "images/store_testing.h"

namespace berth::images {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class ArchiveTest : public ::testing::Test {
 protected:
  struct Side {  // a store with all it stands on
    Side() {
      Options options;
      options.root = dir.path();
      db = Db::OpenMemory().value();
      store = OpenStoreWith(options, *db, snapshotter, std::make_unique<FakeRegistry>()).value();
    }
    std::vector<std::string> Files(const std::string& below) const {
      std::vector<std::string> out;
      for (const auto& entry : std::filesystem::directory_iterator(dir.path() + "/" + below))
        out.push_back(entry.path().filename());
      return out;
    }
    TempDir dir;
    FakeSnapshotter snapshotter;
    std::unique_ptr<Db> db;
    std::unique_ptr<StoreImpl> store;
  };
  void ExpectEmpty(Side& side) {
    EXPECT_THAT(side.store->List(), IsEmpty());
    EXPECT_THAT(side.snapshotter.layers(), IsEmpty());
    EXPECT_EQ(side.snapshotter.open_writers(), 0);
    EXPECT_THAT(side.Files("ingest"), IsEmpty());
    EXPECT_THAT(side.Files("blobs/sha256"), IsEmpty());
    EXPECT_THAT(StoreTable(*side.db).LoadHeld().value(), IsEmpty());
  }
  // A file with these bytes, at its beginning.
  static unique_fd File(const std::string& bytes) {
    char name[] = "/tmp/berth-archive-XXXXXX";
    unique_fd fd(::mkstemp(name));
    ::unlink(name);
    EXPECT_TRUE(WriteAll(fd.get(), bytes).has_value());
    ::lseek(fd.get(), 0, SEEK_SET);
    return fd;
  }
  static std::string Contents(int fd) {
    std::string out(static_cast<size_t>(::lseek(fd, 0, SEEK_END)), '\0');
    EXPECT_EQ(::pread(fd, out.data(), out.size(), 0), static_cast<ssize_t>(out.size()));
    return out;
  }
  static Result<std::vector<ImagePtr>> Import(Side& side, const std::string& bytes, const std::string& name = "") {
    unique_fd fd = File(bytes);
    return side.store->Import(fd.get(), name, Deadline::Never());
  }
  static std::string Export(Side& side, const std::vector<std::string>& names, Store::Archive form) {
    unique_fd fd = File("");
    auto done = side.store->Export(names, form, fd.get(), Deadline::Never());
    EXPECT_TRUE(done.has_value()) << done.error().what;
    return Contents(fd.get());
  }
  // As `docker save` of old: a folder a layer, a config, manifest.json last.
  static std::string OldDocker(const TestImage& image, const std::string& tags = "[\"app:1\"]") {
    TarMaker tar;
    std::vector<std::string> layers;
    for (size_t i = 0; i < image.tars.size(); ++i) {
      std::string folder(64, static_cast<char>('0' + i));
      tar.Dir(folder)
          .File(folder + "/VERSION", "1.0")
          .File(folder + "/json", "{}")
          .File(folder + "/layer.tar", image.tars[i]);
      layers.push_back("\"" + folder + "/layer.tar\"");
    }
    return tar.File(image.id.hex() + ".json", image.config)
        .File("manifest.json", fmt::format(R"([{{"Config":"{}.json","RepoTags":{},"Layers":[{}]}}])", image.id.hex(),
                                           tags, fmt::join(layers, ",")))
        .File("repositories", "{}")
        .Finish();
  }
  static std::string Layout(const TestImage& image, const std::string& annotations = "",
                            const std::string& platform = "linux/amd64") {
    TarMaker tar;
    tar.File("oci-layout", R"({"imageLayoutVersion":"1.0.0"})").Dir("blobs").Dir("blobs/sha256");
    for (const std::string& blob : image.blobs) tar.File("blobs/sha256/" + Digest::Of(blob).hex(), blob);
    std::string descriptor = image.Descriptor(platform);
    if (!annotations.empty()) descriptor.insert(descriptor.size() - 1, ",\"annotations\":" + annotations);
    return tar.File("blobs/sha256/" + image.id.hex(), image.config)
        .File("blobs/sha256/" + image.digest.hex(), image.manifest)
        .File("index.json", IndexText({descriptor}))
        .Finish();
  }

  Side a;
  const TestImage two = TestImage::Make(
      {TarMaker().File("a", Noise(300'000, 1)).Finish(), TarMaker().File("b", Noise(300'000, 2)).Finish()});
};

TEST_F(ArchiveTest, OldDockerArchive) {
  auto images = Import(a, OldDocker(two, "[\"app:1\",\"localhost:5000/x:2\"]"));
  ASSERT_TRUE(images.has_value()) << images.error().what;
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ((*images)[0]->id, two.id);
  EXPECT_THAT((*images)[0]->repo_tags, ElementsAre("docker.io/library/app:1", "localhost:5000/x:2"));
  EXPECT_THAT((*images)[0]->repo_digests, IsEmpty());
  EXPECT_GT((*images)[0]->size, 0u);
  EXPECT_EQ(a.snapshotter.layers().size(), 2u);
  EXPECT_THAT(a.Files("ingest"), IsEmpty());
}

TEST_F(ArchiveTest, ThroughPipesSocketsAndCompression) {
  const std::string tar = OldDocker(two);
  for (const std::string& bytes : {tar, Gzip(tar), Zstd(tar)}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    unique_fd reader(ends[0]);
    std::thread writer([&] {
      unique_fd own(ends[1]);
      (void)WriteAll(own.get(), bytes);
    });
    auto images = a.store->Import(reader.get(), "", Deadline::Never());
    writer.join();
    ASSERT_TRUE(images.has_value()) << images.error().what;
    EXPECT_EQ((*images)[0]->id, two.id);
    ASSERT_TRUE(a.store->Remove(two.id.str()).has_value());
  }
  ASSERT_TRUE(Import(a, Gzip(tar)).has_value());
}

TEST_F(ArchiveTest, StreamThatStopsComingEndsAtTheDeadline) {
  auto pipe = Pipe().value();
  auto token = std::make_shared<CancelToken>();
  ASSERT_TRUE(WriteAll(pipe.second.get(), OldDocker(two).substr(0, 2000)).has_value());
  token->Cancel();
  EXPECT_EQ(a.store->Import(pipe.first.get(), "", Deadline::Never(token)).error().code, Code::kCancelled);
  EXPECT_EQ(a.store->Import(pipe.first.get(), "", Deadline::After(std::chrono::milliseconds(5))).error().code,
            Code::kDeadlineExceeded);
  ExpectEmpty(a);
}

TEST_F(ArchiveTest, ReadInPlaceFromTheMiddleOfAFile) {
  std::string before(777, 'x');
  unique_fd fd = File(before + OldDocker(two));
  ::lseek(fd.get(), 777, SEEK_SET);
  auto images = a.store->Import(fd.get(), "", Deadline::Never());
  ASSERT_TRUE(images.has_value()) << images.error().what;
}

TEST_F(ArchiveTest, LayersAsLinksWithinTheArchive) {
  std::string tar =
      TarMaker()
          .File("one/layer.tar", two.tars[0])
          .Dir("two")
          .Symlink("two/layer.tar", "../one/layer.tar")
          .Link("three.tar", "one/layer.tar")
          .File("c.json", TestImage::Make({two.tars[0], two.tars[0], two.tars[0]}).config)
          .File("manifest.json",
                R"([{"Config":"c.json","RepoTags":null,"Layers":["one/layer.tar","two/layer.tar","three.tar"]}])")
          .Finish();
  auto images = Import(a, tar, "named");
  ASSERT_TRUE(images.has_value()) << images.error().what;
  EXPECT_THAT((*images)[0]->repo_tags, ElementsAre("docker.io/library/named:latest"));
}

TEST_F(ArchiveTest, LayoutNames) {
  struct Row {
    std::string annotations, fallback;
    std::vector<std::string> tags;
  };
  const Row table[] = {
      {R"({"io.containerd.image.name":"quay.io/a/b:7","org.opencontainers.image.ref.name":"7"})",
       "",
       {"quay.io/a/b:7"}},
      {R"({"org.opencontainers.image.ref.name":"nginx:1.2"})", "", {"docker.io/library/nginx:1.2"}},
      {R"({"org.opencontainers.image.ref.name":"latest"})", "", {}},
      {R"({"org.opencontainers.image.ref.name":"v3"})", "my/app:x", {"docker.io/my/app:v3"}},
      {"", "my/app", {"docker.io/my/app:latest"}},
      {"", "", {}},
  };
  for (const Row& row : table) {
    auto images = Import(a, Layout(two, row.annotations), row.fallback);
    ASSERT_TRUE(images.has_value()) << row.annotations << images.error().what;
    EXPECT_EQ((*images)[0]->repo_tags, row.tags) << row.annotations;
    EXPECT_EQ((*images)[0]->size, two.config.size() + two.blobs[0].size() + two.blobs[1].size());
    ASSERT_TRUE(a.store->Remove(two.id.str()).has_value());
    ExpectEmpty(a);
  }
}

TEST_F(ArchiveTest, LayoutKeepsTheRegistrysDigest) {
  ASSERT_TRUE(Import(a, Layout(two, R"({"io.containerd.image.name":"quay.io/a/b:7"})")).has_value());
  EXPECT_EQ(a.store->Find("quay.io/a/b@" + two.digest.str()).value()->id, two.id);
}

TEST_F(ArchiveTest, LayoutPlatforms) {
  TestImage arm = TestImage::Small("arm", "arm64");
  std::string both = IndexText({arm.Descriptor("linux/arm64"), two.Descriptor("linux/amd64")});
  std::string inner =
      fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{}}})", media::kOciIndex, Digest::Of(both), both.size());
  auto tar = [&](const std::string& index) {
    TarMaker t;
    for (const TestImage* image : {&std::as_const(arm), &two}) {
      for (const std::string& blob : image->blobs) t.File("blobs/sha256/" + Digest::Of(blob).hex(), blob);
      t.File("blobs/sha256/" + image->id.hex(), image->config)
          .File("blobs/sha256/" + image->digest.hex(), image->manifest);
    }
    return t.File("blobs/sha256/" + Digest::Of(both).hex(), both).File("index.json", index).Finish();
  };
  bool amd = Platform::Machine().architecture == "amd64";
  for (const std::string& index : {both, IndexText({inner})}) {
    auto images = Import(a, tar(index));
    ASSERT_TRUE(images.has_value()) << images.error().what;
    ASSERT_EQ(images->size(), 1u);
    EXPECT_EQ((*images)[0]->id, amd ? two.id : arm.id);
    ASSERT_TRUE(a.store->Remove((*images)[0]->id.str()).has_value());
  }
  auto none = Import(a, Layout(arm, "", "linux/s390x"));
  EXPECT_EQ(none.error().code, Code::kNotFound);
  EXPECT_THAT(none.error().what, HasSubstr("available: linux/s390x"));
}

TEST_F(ArchiveTest, RoundTripKeepsIdsInBothForms) {
  ASSERT_TRUE(Import(a, OldDocker(two, "[\"app:1\",\"app:2\"]")).has_value());
  TestImage small = TestImage::Make({two.tars[0]});
  ASSERT_TRUE(Import(a, OldDocker(small, "[\"quay.io/small:x\"]")).has_value());
  for (auto form : {Store::Archive::kDocker, Store::Archive::kOci}) {
    Side b;
    std::string tar = Export(a, {"app:1", "quay.io/small:x", "app:2"}, form);
    EXPECT_EQ(tar, Export(a, {"app:1", "quay.io/small:x", "app:2"}, form));  // the same bytes each time
    auto images = Import(b, tar);
    ASSERT_TRUE(images.has_value()) << images.error().what;
    EXPECT_EQ(b.store->List().size(), 2u);
    EXPECT_THAT(b.store->Find(two.id.str()).value()->repo_tags,
                ElementsAre("docker.io/library/app:1", "docker.io/library/app:2"));
    EXPECT_EQ(b.store->Find("quay.io/small:x").value()->id, small.id);
    EXPECT_THAT(b.snapshotter.layers(), UnorderedElementsAre(Digest::Of(two.tars[0]), Digest::Of(two.tars[1])));
    // By id: no names.
    Side c;
    ASSERT_TRUE(Import(c, Export(a, {two.id.str()}, form)).has_value());
    EXPECT_THAT(c.store->List().at(0)->repo_tags, IsEmpty());
  }
}

TEST_F(ArchiveTest, ExportNamesWhatIsWrong) {
  unique_fd fd = File("");
  EXPECT_EQ(a.store->Export({}, Store::Archive::kDocker, fd.get(), Deadline::Never()).error().code,
            Code::kInvalidArgument);
  EXPECT_EQ(a.store->Export({"none"}, Store::Archive::kOci, fd.get(), Deadline::Never()).error().code, Code::kNotFound);
  ASSERT_TRUE(Import(a, OldDocker(two)).has_value());
  // A receiver that reads nothing.
  auto pipe = Pipe().value();
  EXPECT_EQ(
      a.store->Export({"app:1"}, Store::Archive::kOci, pipe.second.get(), Deadline::After(std::chrono::milliseconds(5)))
          .error()
          .code,
      Code::kDeadlineExceeded);
  // One that goes away.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  unique_fd own(ends[0]);
  ::close(ends[1]);
  EXPECT_FALSE(a.store->Export({"app:1"}, Store::Archive::kOci, own.get(), Deadline::Never()).has_value());
}

TEST_F(ArchiveTest, ImportOverAPulledImageKeepsWhatTheRegistrySaid) {
  ASSERT_TRUE(Import(a, Layout(two, R"({"io.containerd.image.name":"quay.io/a:1"})")).has_value());
  uint64_t size = a.store->Find(two.id.str()).value()->size;
  ASSERT_TRUE(Import(a, OldDocker(two)).has_value());
  auto image = a.store->Find(two.id.str()).value();
  EXPECT_EQ(image->size, size);
  EXPECT_THAT(image->repo_tags, ElementsAre("docker.io/library/app:1", "quay.io/a:1"));
}

TEST_F(ArchiveTest, HostileArchivesLeaveNothing) {
  const std::string config = two.config;
  auto docker = [&](const std::string& layers, const std::string& name = "c.json") {
    return fmt::format(R"([{{"Config":"{}","RepoTags":["x"],"Layers":[{}]}}])", name, layers);
  };
  std::string big(kMaxConfig + 1, ' ');
  TarMaker flood;
  for (int i = 0; i < 1000; ++i) flood.File(fmt::format("f{}", i), "");
  std::string gz = Gzip(OldDocker(two));
  struct Row {
    const char* what;
    std::string bytes;
    Code code;
    std::string part;
  };
  const Row table[] = {
      {"empty", "", Code::kInvalidArgument, "archive"},
      {"no tar", std::string(2000, 'x'), Code::kInvalidArgument, "archive"},
      {"zeros", std::string(10240, '\0'), Code::kInvalidArgument, "empty"},
      {"cut gzip", gz.substr(0, gz.size() / 2), Code::kInvalidArgument, "ends in the middle"},
      {"cut tar", OldDocker(two).substr(0, 100'000), Code::kInvalidArgument, "archive"},
      {"neither form", TarMaker().File("x", "y").Finish(), Code::kInvalidArgument, "neither manifest.json"},
      {"climbs", TarMaker().File("../../etc/passwd", "x").Finish(), Code::kInvalidArgument, "leaves the archive"},
      {"link climbs", TarMaker().Symlink("a/b", "../../../etc/shadow").Finish(), Code::kInvalidArgument,
       "leaves the archive"},
      {"device", TarMaker().Add({.type = '3', .path = "dev"}).Finish(), Code::kInvalidArgument, "device"},
      {"long name", TarMaker().Add({.path = "x", .pax = {{"path", std::string(5000, 'p')}}}).Finish(),
       Code::kInvalidArgument, "archive"},
      {"bad json", TarMaker().File("manifest.json", "[{").Finish(), Code::kInvalidArgument, "manifest.json"},
      {"no images", TarMaker().File("manifest.json", "[]").Finish(), Code::kNotFound, "no image"},
      {"config missing", TarMaker().File("manifest.json", docker("")).Finish(), Code::kNotFound, "[0].Config"},
      {"config outside", TarMaker().File("manifest.json", docker("", "/etc/passwd")).Finish(), Code::kNotFound,
       "/etc/passwd"},
      {"config too big", TarMaker().File("c.json", big).File("manifest.json", docker("")).Finish(),
       Code::kInvalidArgument, "at most"},
      {"config is a directory", TarMaker().Dir("c.json").File("manifest.json", docker("")).Finish(),
       Code::kInvalidArgument, "directory"},
      {"config is a loop", TarMaker().Symlink("c.json", "c.json").File("manifest.json", docker("")).Finish(),
       Code::kInvalidArgument, "link"},
      {"layers missing", TarMaker().File("c.json", config).File("manifest.json", docker("")).Finish(),
       Code::kInvalidArgument, "rootfs.diff_ids names 2"},
      {"layer absent", TarMaker().File("c.json", config).File("manifest.json", docker("\"l1\",\"l2\"")).Finish(),
       Code::kNotFound, "layer 1 of 2"},
      {"layer wrong",
       TarMaker()
           .File("c.json", config)
           .File("l1", two.tars[0])
           .File("l2", two.tars[0])
           .File("manifest.json", docker("\"l1\",\"l2\""))
           .Finish(),
       Code::kDataLoss, "layer 2 of 2"},
      {"tag bad",
       TarMaker()
           .File("c.json", config)
           .File("manifest.json", R"([{"Config":"c.json","RepoTags":["Bad:x"],"Layers":["a","b"]}])")
           .Finish(),
       Code::kInvalidArgument, "RepoTags[0]"},
      {"layout version",
       TarMaker().File("oci-layout", R"({"imageLayoutVersion":"2"})").File("index.json", "{}").Finish(),
       Code::kUnimplemented, "imageLayoutVersion"},
      {"index bad", TarMaker().File("index.json", "{}").Finish(), Code::kInvalidArgument, "index.json"},
      {"blob absent", TarMaker().File("index.json", IndexText({two.Descriptor("linux/amd64")})).Finish(),
       Code::kNotFound, two.digest.hex()},
      {"blob wrong",
       TarMaker()
           .File("blobs/sha256/" + two.digest.hex(), "{}")
           .File("index.json", IndexText({two.Descriptor("linux/amd64")}))
           .Finish(),
       Code::kDataLoss, "hash to"},
      {"flood is only odd", flood.Finish(), Code::kInvalidArgument, "neither"},
  };
  for (const Row& row : table) {
    auto images = Import(a, row.bytes);
    ASSERT_FALSE(images.has_value()) << row.what;
    EXPECT_EQ(images.error().code, row.code) << row.what << ": " << images.error().what;
    EXPECT_THAT(images.error().what, HasSubstr(row.part)) << row.what;
    ExpectEmpty(a);
  }
  // A layer blob with other bytes than its name says.
  std::string layout = Layout(two);
  size_t at = layout.find(two.blobs[1].substr(0, 64));
  layout[at + 5000] ^= 1;
  auto images = Import(a, layout);
  EXPECT_EQ(images.error().code, Code::kDataLoss) << images.error().what;
  ExpectEmpty(a);
  EXPECT_EQ(Import(a, OldDocker(two), "x@" + two.digest.str()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(Import(a, OldDocker(two), "Bad").error().code, Code::kInvalidArgument);
}

TEST_F(ArchiveTest, TooManyEntries) {
  TarMaker flood;
  for (int i = 0; i < 50; ++i) flood.File(fmt::format("f{}", i), "");
  unique_fd fd = File(flood.Finish());
  EXPECT_FALSE(ArchiveReader::Open(fd.get(), "/tmp", Deadline::Never(), {.entries = 10}).has_value());
  EXPECT_FALSE(ArchiveReader::Open(fd.get(), "/tmp", Deadline::Never(), {.names = 20}).has_value());
  EXPECT_TRUE(ArchiveReader::Open(fd.get(), "/tmp", Deadline::Never()).has_value());
}

TEST_F(ArchiveTest, FullDiskDuringImportLeavesNothing) {
  for (const char* verb : {"begin", "write", "commit"}) {
    a.snapshotter.FailNext(verb, Code::kResourceExhausted, "no space left on device");
    EXPECT_EQ(Import(a, OldDocker(two)).error().code, Code::kResourceExhausted) << verb;
    ExpectEmpty(a);
  }
}

}  // namespace
}  // namespace berth::images
