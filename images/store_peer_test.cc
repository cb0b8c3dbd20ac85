// Against a real registry (Debian's docker-registry on a loopback port) and real peers (skopeo, umoci), with the
// machine's own snapshotter. Needs root; everything lives in temporary directories and a mount namespace of its own.
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "images/registry/http_transport.h"
#include "images/snapshots/probe.h"
#include "images/store_impl.h"
#include "images/store_peer_testing.h"

namespace berth::images {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PeerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0) return;
    private_mounts_ = ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    if (!private_mounts_) GTEST_SKIP() << "needs a mount namespace of its own";
    for (const char* tool : {"docker-registry", "skopeo", "umoci", "htpasswd"})
      if (Shell(fmt::format("command -v {}", tool)).code != 0) GTEST_SKIP() << "needs " << tool;
    options.root = dir.path() + "/root";
    options.run = dir.path() + "/run";
    ASSERT_TRUE(MakeDirs(options.root).has_value());
    ASSERT_TRUE(MakeDirs(options.run).has_value());
  }
  void TearDown() override {
    Close();
    (void)Shell(
        fmt::format("awk '$5 ~ \"^{}\" {{print $5}}' /proc/self/mountinfo | sort -r | xargs -r umount -l", dir.path()));
  }
  void Close() {
    store.reset();
    snapshotter.reset();
    db.reset();
  }
  // Opens the store with what `options` say now.
  void Open() {
    Close();
    auto opened_db = Db::OpenFile(options.root + "/berth.db");
    ASSERT_TRUE(opened_db.has_value()) << opened_db.error().what;
    db = std::move(*opened_db);
    auto opened_snapshotter = OpenSnapshotter(options, *db);
    ASSERT_TRUE(opened_snapshotter.has_value()) << opened_snapshotter.error().what;
    snapshotter = std::move(*opened_snapshotter);
    ASSERT_TRUE(snapshotter->Collect({}).has_value());
    auto opened = OpenStoreWith(options, *db, *snapshotter, std::make_unique<HttpTransport>());
    ASSERT_TRUE(opened.has_value()) << opened.error().what;
    store = std::move(*opened);
    store->registry().first_pause = std::chrono::milliseconds(1);
  }
  Result<ImagePtr> Pull(const std::string& reference, const Credentials& credentials = {},
                        const Deadline& until = Deadline::After(std::chrono::seconds(100))) {
    return store->Pull({.reference = reference, .credentials = credentials}, until);
  }
  static Credentials User(const std::string& name, const std::string& password) {
    Credentials c;
    c.username = name;
    c.password = Secret(password);
    return c;
  }
  std::vector<std::string> Files(const std::string& below) const {
    std::vector<std::string> out;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator(options.root + "/" + below, ec))
      out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }
  void ExpectNothing() {
    EXPECT_THAT(store->List(), IsEmpty());
    EXPECT_THAT(Files("ingest"), IsEmpty());
    EXPECT_THAT(Files("blobs/sha256"), IsEmpty());
    EXPECT_THAT(Files("layers"), IsEmpty());
    EXPECT_THAT(StoreTable(*db).LoadHeld().value(), IsEmpty());
  }
  // The file in the image's root filesystem, read through the mount.
  std::string FileIn(const ImagePtr& image, const std::string& path) {
    auto root = snapshotter->Prepare("reader", image->diff_ids, true, Deadline::Never());
    EXPECT_TRUE(root.has_value()) << root.error().what;
    auto bytes = ReadFileAt(root->mount.get(), path);
    EXPECT_TRUE(bytes.has_value()) << bytes.error().what;
    root->mount.reset();
    EXPECT_TRUE(snapshotter->Drop("reader").has_value());
    return bytes.value_or("");
  }

  static inline bool private_mounts_ = false;
  TempDir dir;
  Options options;
  std::unique_ptr<Db> db;
  std::unique_ptr<Snapshotter> snapshotter;
  std::unique_ptr<StoreImpl> store;
};

TEST_F(PeerTest, PlainHttp) {
  RealRegistry registry;
  registry.Push("busybox", "busybox:1");
  registry.Push("nginx", "web/nginx:s2", "--format v2s2");
  Open();
  auto image = Pull(registry.host() + "/busybox:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  std::string inspect = fmt::format("skopeo inspect --tls-verify=false --raw docker://{}", registry.host());
  EXPECT_EQ((*image)->repo_digests.at(0),
            registry.host() + "/busybox@sha256:" + MustShell(inspect + "/busybox:1 | sha256sum | cut -c1-64"));
  EXPECT_THAT(MustShell(inspect + "/busybox:1"), HasSubstr((*image)->id.str()));
  EXPECT_THAT(FileIn(*image, "etc/passwd"), HasSubstr("root:x:0:0"));
  EXPECT_EQ(registry.Served("PUT", "/v2/busybox/blobs", "401"), 0u);

  auto schema2 = Pull(registry.host() + "/web/nginx:s2");
  ASSERT_TRUE(schema2.has_value()) << schema2.error().what;
  EXPECT_EQ((*schema2)->diff_ids.size(), 3u);
  EXPECT_EQ((*schema2)->config.stop_signal, "SIGQUIT");
  EXPECT_THAT(FileIn(*schema2, "usr/share/nginx/html/index.html"), HasSubstr("Welcome to nginx"));
  EXPECT_THAT(FileIn(*schema2, "etc/passwd"), HasSubstr("root:x:0:0"));
  EXPECT_THAT(Files("ingest"), IsEmpty());

  auto missing = Pull(registry.host() + "/busybox:2");
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_THAT(missing.error().what, HasSubstr("manifest unknown"));
  EXPECT_EQ(Pull(registry.host() + "/none:1").error().code, Code::kNotFound);

  for (const ImagePtr& each : store->List()) ASSERT_TRUE(store->Remove(each->id.str()).has_value());
  ExpectNothing();
}

TEST_F(PeerTest, TlsWithItsOwnAuthority) {
  RealRegistry registry("--tls");
  registry.Push("empty", "e:1");
  Open();
  auto refused = Pull(registry.host() + "/e:1");
  EXPECT_EQ(refused.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().what, HasSubstr("certificate is not accepted"));
  EXPECT_THAT(refused.error().what, HasSubstr("ca_file"));
  options.registries[registry.host()].ca_file = registry.ca();
  options.registries["localhost:" + registry.port()].ca_file = registry.ca();
  Open();
  EXPECT_TRUE(Pull(registry.host() + "/e:1").has_value());
  EXPECT_TRUE(Pull("localhost:" + registry.port() + "/e:1").has_value());
  options.registries[registry.host()] = {.skip_verify = true};
  Open();
  EXPECT_TRUE(Pull(registry.host() + "/e:1").has_value());
  options.registries[registry.host()] = {.ca_file = "/nonexistent.pem"};
  Open();
  auto no_file = Pull(registry.host() + "/e:1");
  EXPECT_EQ(no_file.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(no_file.error().what, HasSubstr("/nonexistent.pem"));
}

TEST_F(PeerTest, CertificateForAnotherName) {
  RealRegistry registry("--tls");
  // The certificate is for 127.0.0.1 and localhost.
  std::string other = "elsewhere.localhost:" + registry.port();
  options.registries[other].ca_file = registry.ca();
  Open();
  auto refused = Pull(other + "/e:1");
  // Without a resolver that knows *.localhost it cannot be reached at all; either way nothing was accepted.
  EXPECT_FALSE(refused.has_value());
  if (refused.error().code == Code::kFailedPrecondition)
    EXPECT_THAT(refused.error().what, HasSubstr("hostname mismatch"));
  else
    EXPECT_EQ(refused.error().code, Code::kUnavailable);
}

TEST_F(PeerTest, PlainServerWhereTlsIsExpected) {
  RealRegistry registry;
  options.registries[registry.host()].ca_file = "/etc/ssl/certs/ca-certificates.crt";
  Open();
  auto refused = Pull(registry.host() + "/e:1");
  EXPECT_EQ(refused.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().what, HasSubstr("does not speak TLS"));
  EXPECT_THAT(refused.error().what, HasSubstr("plain_http"));
}

TEST_F(PeerTest, BasicAuthentication) {
  RealRegistry registry("--tls --htpasswd me:se:cret");
  registry.Push("empty", "e:1", "--dest-creds me:se:cret");
  options.registries[registry.host()].ca_file = registry.ca();
  Open();
  EXPECT_TRUE(Pull(registry.host() + "/e:1", User("me", "se:cret")).has_value());
  auto wrong = Pull(registry.host() + "/e:1", User("me", "nope"));
  EXPECT_EQ(wrong.error().code, Code::kUnauthenticated);
  EXPECT_EQ(wrong.error().what.find("nope"), std::string::npos);
  EXPECT_EQ(Pull(registry.host() + "/e:1").error().code, Code::kUnauthenticated);
}

TEST_F(PeerTest, TokenAuthentication) {
  RealRegistry registry("--token me:secret");
  registry.Push("busybox", "team/box:1", "--dest-creds me:secret");
  Open();
  const std::string name = registry.host() + "/team/box:1";
  ASSERT_TRUE(Pull(name, User("me", "secret")).has_value());
  // One token serves manifest, config and layers.
  const std::string grant = "GET account=me scope=repository:team/box:pull grant=basic -> 200";
  const std::string tokens = registry.token_log();
  ASSERT_THAT(tokens, HasSubstr(grant));
  EXPECT_EQ(tokens.find(grant, tokens.find(grant) + 1), std::string::npos) << tokens;
  Credentials identity;
  identity.username = "<token>";
  identity.identity_token = Secret("refresh-me");
  ASSERT_TRUE(Pull(name, identity).has_value());
  EXPECT_THAT(registry.token_log(),
              HasSubstr("POST account=me scope=repository:team/box:pull grant=refresh_token -> 200"));
  identity.identity_token = Secret("refresh-you");
  EXPECT_EQ(Pull(name, identity).error().code, Code::kUnauthenticated);
  EXPECT_EQ(Pull(name, User("me", "wrong")).error().code, Code::kUnauthenticated);
  EXPECT_EQ(Pull(name).error().code, Code::kUnauthenticated);
}

TEST_F(PeerTest, TokenForPublicImages) {
  RealRegistry registry("--token me:secret --anonymous-pull");
  registry.Push("empty", "public:1", "--dest-creds me:secret");
  Open();
  EXPECT_TRUE(Pull(registry.host() + "/public:1").has_value());
  EXPECT_THAT(registry.token_log(), HasSubstr("grant=anonymous -> 200"));
}

TEST_F(PeerTest, IndexWithTwoPlatforms) {
  RealRegistry registry;
  registry.Push("busybox --platforms linux/amd64,linux/arm64", "two:1");
  Open();
  auto here = Pull(registry.host() + "/two:1");
  ASSERT_TRUE(here.has_value()) << here.error().what;
  EXPECT_EQ((*here)->config.architecture, Platform::Machine().architecture);
  auto arm = store->Pull({.reference = registry.host() + "/two:1", .platform = "linux/arm64"}, Deadline::Never());
  EXPECT_EQ((*arm)->config.architecture, "arm64");
  auto none = store->Pull({.reference = registry.host() + "/two:1", .platform = "linux/riscv64"}, Deadline::Never());
  EXPECT_THAT(none.error().what, HasSubstr("available: linux/amd64, linux/arm64"));
}

TEST_F(PeerTest, MirrorStandsInForARegistryThatIsNotThere) {
  RealRegistry registry;
  registry.Push("empty", "library/thing:1");
  options.registries["docker.io"].mirrors = {"http://127.0.0.1:1", "http://" + registry.host()};
  Open();
  auto image = Pull("thing:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_THAT((*image)->repo_tags, ElementsAre("docker.io/library/thing:1"));
}

TEST_F(PeerTest, UnreachableRegistry) {
  Open();
  auto gone = Pull("127.0.0.1:1/x:1");
  EXPECT_EQ(gone.error().code, Code::kUnavailable);
  EXPECT_THAT(gone.error().what, HasSubstr("Connection refused"));
}

TEST_F(PeerTest, CutConnectionsAreResumed) {
  RealRegistry registry;
  registry.Push("busybox --filler 24", "big:1");
  Proxy proxy(registry.port());
  Open();
  proxy.CutAfter(5 << 20, 3);
  auto image = Pull(proxy.host() + "/big:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_GE(proxy.cuts_made(), 3);
  EXPECT_GE(registry.Served("GET", "/v2/big/blobs/", "206"), 3u);
  EXPECT_EQ(FileIn(*image, "filler/0000/000000").size(), size_t{24} << 20);
}

TEST_F(PeerTest, ALaterPullGoesOnWhereAnInterruptedOneEnded) {
  RealRegistry registry;
  registry.Push("busybox --filler 24", "big:1");
  Proxy proxy(registry.port());
  Open();
  store->registry().attempts = 1;
  // Every connection ends early, the first one with enough on disk to go on from.
  proxy.CutAfter(12 << 20, 1);
  proxy.CutTheRestAtOnce();
  EXPECT_EQ(Pull(proxy.host() + "/big:1").error().code, Code::kUnavailable);
  EXPECT_EQ(Files("ingest").size(), 1u);
  proxy.Behave();
  Open();  // as after a restart of the agent
  auto image = Pull(proxy.host() + "/big:1");
  ASSERT_TRUE(image.has_value()) << image.error().what;
  EXPECT_GE(registry.Served("GET", "/v2/big/blobs/", "206"), 1u);
  EXPECT_THAT(Files("ingest"), IsEmpty());
}

TEST_F(PeerTest, StalledDownloadIsCancelledAtOnce) {
  RealRegistry registry;
  registry.Push("busybox --filler 24", "big:1");
  Proxy proxy(registry.port());
  Open();
  proxy.StallAfter(4 << 20);
  auto token = std::make_shared<CancelToken>();
  std::thread canceller([&] {
    while (!proxy.stalled()) std::this_thread::yield();
    token->Cancel();
  });
  auto cancelled = Pull(proxy.host() + "/big:1", {}, Deadline::Never(token));
  canceller.join();
  EXPECT_EQ(cancelled.error().code, Code::kCancelled);
  for (const std::string& name : Files("layers")) EXPECT_FALSE(name.starts_with(".tmp-")) << name;
  EXPECT_THAT(store->List(), IsEmpty());
}

TEST_F(PeerTest, OneMillisecondIsNotEnough) {
  RealRegistry registry;
  registry.Push("busybox --filler 8", "big:1");
  Open();
  auto late = Pull(registry.host() + "/big:1", {}, Deadline::After(std::chrono::milliseconds(1)));
  EXPECT_EQ(late.error().code, Code::kDeadlineExceeded);
  EXPECT_THAT(store->List(), IsEmpty());
  EXPECT_TRUE(Pull(registry.host() + "/big:1").has_value());
}

TEST_F(PeerTest, BlobDamagedOnTheRegistrysDiskIsNeverUsed) {
  RealRegistry registry;
  registry.Push("nginx", "n:1");
  Open();
  std::string manifest =
      MustShell(fmt::format("skopeo inspect --tls-verify=false --raw docker://{}/n:1", registry.host()));
  auto parsed = std::get<Manifest>(ParseManifest(manifest, "", "m").value());
  const Digest blob = parsed.layers.at(1).digest;
  MustShell(fmt::format("printf X | dd of={} bs=1 seek={} conv=notrunc status=none", registry.BlobFile(blob),
                        parsed.layers[1].size / 2));
  auto image = Pull(registry.host() + "/n:1");
  EXPECT_EQ(image.error().code, Code::kDataLoss);
  EXPECT_THAT(image.error().what, HasSubstr(fmt::format("layer 2 of 3 ({})", blob)));
  ExpectNothing();
}

TEST_F(PeerTest, FullDiskLeavesTheStoreAsItWas) {
  RealRegistry registry;
  registry.Push("busybox", "small:1");
  registry.Push("busybox --filler 64", "big:1");
  std::string file = dir.path() + "/disk";
  MustShell(fmt::format("truncate -s 48M {} && mkfs.ext4 -q -m 0 {}", file, file));
  if (Output mounted = Shell(fmt::format("mount -o loop {} {}", file, options.root)); mounted.code != 0)
    GTEST_SKIP() << "needs a loop mount: " << mounted.out;
  Open();
  auto small = Pull(registry.host() + "/small:1");
  ASSERT_TRUE(small.has_value()) << small.error().what;
  auto state = [&] {
    return std::tuple(Files("layers"), Files("trees"), Files("blobs/sha256"), Files("ingest"),
                      StoreTable(*db).LoadHeld()->size());
  };
  auto before = state();
  for (int round = 0; round < 2; ++round) {
    auto full = Pull(registry.host() + "/big:1");
    EXPECT_EQ(full.error().code, Code::kResourceExhausted) << full.error().what;
    EXPECT_EQ(state(), before);
    EXPECT_EQ(store->List().size(), 1u);
  }
  EXPECT_THAT(FileIn(*small, "etc/passwd"), HasSubstr("root"));
  // The compressed blob fits, the layer beside it does not: the end of the disk comes while it is written.
  registry.Push("busybox --filler 26", "half:1");
  auto half = Pull(registry.host() + "/half:1");
  EXPECT_EQ(half.error().code, Code::kResourceExhausted) << half.error().what;
  EXPECT_EQ(state(), before);
  // There is room for what fits.
  registry.Push("busybox --filler 4", "fits:1");
  EXPECT_TRUE(Pull(registry.host() + "/fits:1").has_value());
  Open();
  EXPECT_EQ(store->List().size(), 2u);
  Close();
  MustShell(fmt::format("umount -l {}", options.root));
}

TEST_F(PeerTest, PullsAtTheSameTimeDownloadOnce) {
  RealRegistry registry;
  registry.Push("nginx --filler 8", "n:1");
  MustShell(
      fmt::format("skopeo copy -q --src-tls-verify=false --dest-tls-verify=false docker://{0}/n:1 docker://{0}/n:2",
                  registry.host()));
  Open();
  size_t before = registry.Served("GET", "/v2/n/blobs/");
  std::vector<Result<ImagePtr>> results(6);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, i] { results[i] = Pull(registry.host() + (i % 2 ? "/n:1" : "/n:2")); });
  for (auto& t : threads) t.join();
  for (auto& r : results) ASSERT_TRUE(r.has_value()) << r.error().what;
  // Two names make two pulls; layers are fetched once all the same, the config by each at most.
  size_t blobs = registry.Served("GET", "/v2/n/blobs/") - before;
  EXPECT_GE(blobs, 5u);
  EXPECT_LE(blobs, 6u);
  EXPECT_EQ(store->List().size(), 1u);
}

TEST_F(PeerTest, SkopeoAndUmociReadWhatExportWrites) {
  RealRegistry registry;
  registry.Push("nginx", "n:1");
  Open();
  auto image = Pull(registry.host() + "/n:1").value();
  ASSERT_TRUE(store->Tag(image->id.str(), "berth/n:1").has_value());
  auto write = [&](const char* name, Store::Archive form) {
    auto fd = berth::Open(dir.path() + "/" + name, O_RDWR | O_CREAT | O_TRUNC, 0644).value();
    auto done = store->Export({"berth/n:1"}, form, fd.get(), Deadline::Never());
    EXPECT_TRUE(done.has_value()) << done.error().what;
  };
  write("docker.tar", Store::Archive::kDocker);
  write("oci.tar", Store::Archive::kOci);
  const std::string d = dir.path();
  EXPECT_EQ(MustShell(fmt::format(
                "skopeo inspect --raw --config docker-archive:{}/docker.tar:berth/n:1 | sha256sum | cut -c1-64", d)),
            image->id.hex());
  EXPECT_EQ(MustShell(fmt::format("skopeo inspect --raw --config oci-archive:{}/oci.tar | sha256sum | cut -c1-64", d)),
            image->id.hex());
  EXPECT_EQ(
      MustShell(fmt::format("skopeo inspect --raw --config oci-archive:{}/docker.tar | sha256sum | cut -c1-64", d)),
      image->id.hex());
  // Whole copies, which check every digest.
  MustShell(fmt::format("skopeo copy -q --insecure-policy docker-archive:{0}/docker.tar dir:{0}/copied1", d));
  MustShell(fmt::format("skopeo copy -q --insecure-policy oci-archive:{0}/oci.tar dir:{0}/copied2", d));
  MustShell(fmt::format(
      "mkdir {0}/layout && tar -C {0}/layout -xf {0}/oci.tar && umoci unpack --image {0}/layout:1 {0}/bundle", d));
  EXPECT_THAT(ReadFile(d + "/bundle/rootfs/usr/share/nginx/html/index.html").value(), HasSubstr("Welcome to nginx"));
  // And pushed elsewhere it is the same image again.
  MustShell(fmt::format(
      "skopeo copy -q --insecure-policy --dest-tls-verify=false docker-archive:{}/docker.tar docker://{}/back:1", d,
      registry.host()));
  EXPECT_EQ(Pull(registry.host() + "/back:1").value()->id, image->id);
}

TEST_F(PeerTest, ImportReadsWhatSkopeoWrites) {
  RealRegistry registry;
  registry.Push("nginx", "n:1");
  Open();
  const std::string d = dir.path();
  std::string from =
      fmt::format("skopeo copy -q --insecure-policy --src-tls-verify=false docker://{}/n:1 ", registry.host());
  MustShell(from + fmt::format("docker-archive:{}/a.tar:app/n:a", d));
  MustShell(from + fmt::format("oci-archive:{}/b.tar:app/n:b", d));
  MustShell(from + fmt::format("oci:{}/layout:c && tar -C {}/layout -czf {}/c.tar.gz .", d, d, d));
  MustShell(fmt::format("{} nginx --form docker --name app/n:d --out {}/d.tar", Tool("make_image"), d));
  MustShell(fmt::format("{} nginx --compression zstd --name app/n:e --out {}/e.tar", Tool("make_image"), d));
  const std::pair<const char*, const char*> table[] = {
      {"a.tar", "app/n:a"}, {"b.tar", "app/n:b"}, {"c.tar.gz", "app/n:c"}, {"d.tar", "app/n:d"}, {"e.tar", "app/n:e"}};
  std::set<std::string> ids;
  for (const auto& [file, name] : table) {
    auto fd = berth::Open(d + "/" + file, O_RDONLY).value();
    auto images = store->Import(fd.get(), file == std::string("c.tar.gz") ? "app/n" : "", Deadline::Never());
    ASSERT_TRUE(images.has_value()) << file << ": " << images.error().what;
    EXPECT_THAT(images->at(0)->repo_tags, ::testing::Contains("docker.io/" + std::string(name))) << file;
    ids.insert(images->at(0)->id.str());
    EXPECT_THAT(FileIn(images->at(0), "usr/share/nginx/html/index.html"), HasSubstr("Welcome"));
  }
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_EQ(Pull(registry.host() + "/n:1").value()->id.str(), *ids.begin());
}

TEST_F(PeerTest, DiskUsageIsKnown) {
  RealRegistry registry;
  registry.Push("busybox", "b:1");
  Open();
  auto image = Pull(registry.host() + "/b:1").value();
  Open();
  EXPECT_GT(store->DiskUsage().bytes, 500'000u);
  EXPECT_TRUE(std::filesystem::is_directory(store->root()));
}

}  // namespace
}  // namespace berth::images
