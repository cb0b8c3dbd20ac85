#include "config/config.h"

#include <stdlib.h>

#include <gtest/gtest.h>

#include "base/testing.h"
#include "config/keys.h"

namespace berth::config {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using berth::testing::TempDir;

std::string Source(const std::string& path) {
  const char* root = ::getenv("BERTH_SOURCE_DIR");
  return std::string(root ? root : ".") + "/" + path;
}

// Compares with a file beside the tests; BERTH_UPDATE_GOLDEN=1 writes it instead.
void ExpectGolden(const std::string& path, const std::string& got) {
  if (::getenv("BERTH_UPDATE_GOLDEN")) {
    ASSERT_TRUE(IsOk(WriteFileAtomic(Source(path), got)));
    return;
  }
  auto wanted = ReadFile(Source(path));
  ASSERT_TRUE(IsOk(wanted));
  EXPECT_EQ(got, *wanted) << path;
}

std::string Refusal(std::string_view text, const Overrides& overrides = {}) {
  auto loaded = Parse(text, "c.toml", overrides);
  return loaded ? "accepted" : loaded.error().what;
}

TEST(Config, DefaultsAreThoseOfTheOptions) {
  auto loaded = Parse("", "c.toml", {});
  ASSERT_TRUE(IsOk(loaded));
  EXPECT_TRUE(loaded->origins.empty());
  EXPECT_EQ(loaded->config.server.socket, "/run/berth/berth.sock");
  EXPECT_EQ(loaded->config.images.root, "/var/lib/berth");
  EXPECT_EQ(loaded->config.cni.subnets, cni::Options().subnets);
}

TEST(Config, EveryDefaultPassesItsOwnCheck) {
  auto loaded = Parse(PrintDefaults(), "c.toml", {});
  ASSERT_TRUE(IsOk(loaded));
  EXPECT_EQ(loaded->origins.size(), Keys().size());
  Loaded defaults = std::move(*Parse("", "c.toml", {}));
  loaded->origins.clear();
  EXPECT_EQ(Print(*loaded), Print(defaults));
  auto commented = Parse(PrintDefaults(true), "c.toml", {});
  ASSERT_TRUE(IsOk(commented));
  EXPECT_TRUE(commented->origins.empty());
}

TEST(Config, ReadsEveryKey) {
  const std::string text = *ReadFile(Source("config/testdata/all.toml"));
  auto loaded = Parse(text, "/etc/berth/config.toml", {{"log.level", "warn"}, {"cni.plugin_dirs", "/a,/b"}});
  ASSERT_TRUE(IsOk(loaded));
  const Config& c = loaded->config;
  EXPECT_EQ(c.images.root, "/data/berth");
  EXPECT_EQ(c.images.run, "/run/b");
  EXPECT_EQ(c.server.socket, "/run/b/berth.sock");
  EXPECT_EQ(c.server.mode, 0600u);
  EXPECT_EQ(c.log.level, log::Level::kWarn);
  EXPECT_EQ(c.log.format, log::Format::kJson);
  EXPECT_EQ(c.images.registries.at("docker.io").mirrors,
            (std::vector<std::string>{"http://127.0.0.1:5000", "https://mirror.example.org/hub"}));
  EXPECT_TRUE(c.images.registries.at("localhost").plain_http);
  for (const auto& key : Keys())
    EXPECT_EQ(loaded->origins.contains(std::string(key.path)), key.path != "server.socket") << key.path;
  ExpectGolden("config/testdata/all.printed.toml", Print(*loaded));
  auto again = Parse(Print(*loaded), "c.toml", {});
  ASSERT_TRUE(IsOk(again));
  again->origins = loaded->origins;
  EXPECT_EQ(Print(*again), Print(*loaded));
}

TEST(Config, AllErrorsOfAFileAreReported) {
  const std::string text = *ReadFile(Source("config/testdata/wrong.toml"));
  auto loaded = Parse(text, "/etc/berth/config.toml", {{"log.levle", "debug"}, {"images.parallel_downloads", "many"}});
  ASSERT_TRUE(IsErr(loaded, Code::kInvalidArgument));
  ExpectGolden("config/testdata/wrong.errors", loaded.error().what + "\n");
}

// A field that is new in an options.h does not compile here until it has been given a key (or a reason to have none).
TEST(Config, EveryOptionHasAKey) {
  const auto& [root, run, snapshotter, parallel_downloads, pinned, registries] = images::Options();  // root, run: of the top level
  const auto& [mirrors, plain_http, skip_verify, ca_file] = images::RegistryOptions();
  const auto& [config_dir, plugin_dirs, built_in_default, bridge, subnets, table] = cni::Options();
  const auto& [shim, cgroup_root, seccomp_profile, handlers] = runtime::Options();
  const auto& [address, tls_certificate, tls_key, sessions] = cri::streaming::Options();
  const auto& [path, type, state_root, options] = runtime::Handler();
  const size_t ours = 2 + 4 + 4 + 1 + 2;  // top level, server, streaming, metrics, log
  EXPECT_EQ(Keys().size(), ours + 3 + 6 + 3);
  EXPECT_EQ(RegistryKeys().size(), 4u);
  EXPECT_EQ(HandlerKeys().size(), 4u);
}

TEST(Config, TheExampleIsUpToDate) { ExpectGolden("packaging/config.toml", PrintDefaults(true)); }

TEST(Config, SyntaxErrorsHaveLineAndColumn) {
  const std::string what = Refusal("root = \"/a\"\n[server\nmode = 1\n");
  EXPECT_TRUE(what.starts_with("c.toml:2:8: ")) << what;
  EXPECT_TRUE(Refusal("root = 1\nroot = 2").starts_with("c.toml:2:")) << Refusal("root = 1\nroot = 2");
  EXPECT_TRUE(Refusal("\xFF").starts_with("c.toml:1:1: "));
}

TEST(Config, UnknownKeys) {
  EXPECT_EQ(Refusal("images.snapshoter = 1"), "c.toml:1: images.snapshoter: unknown key; did you mean images.snapshotter?");
  EXPECT_EQ(Refusal("\n[image]\nsnapshotter = 'auto'"), "c.toml:2: image: unknown key; did you mean images?");
  EXPECT_EQ(Refusal("snapshotter = 'auto'"), "c.toml:1: snapshotter: unknown key; did you mean images.snapshotter?");
  EXPECT_EQ(Refusal("[images.registries.'a.io']\nmirrrors=[]"),
            "c.toml:2: images.registries.\"a.io\".mirrrors: unknown key; did you mean images.registries.\"a.io\".mirrors?");
  EXPECT_EQ(Refusal("log.zzzzzz = 1"), "c.toml:1: log.zzzzzz: unknown key; there are log.level, log.format");
}

TEST(Config, HandlersNeedAProgramAndAName) {
  EXPECT_EQ(Refusal("[runtime.handlers.crun]"), "c.toml:1: runtime.handlers.crun.path: must be set to the OCI runtime's program");
  EXPECT_EQ(Refusal("[runtime.handlers.crun]\ntype = 'oci'"), "c.toml:1: runtime.handlers.crun.path: must be set to the OCI runtime's program");
  EXPECT_EQ(Refusal("[runtime.handlers.crun]\npath = 'crun'"),
            "c.toml:2: runtime.handlers.crun.path: expected an absolute path without . and .. parts, got \"crun\"");
  EXPECT_TRUE(Refusal("[runtime.handlers.berth]\npath = '/x'").find("not \"berth\"") != std::string::npos);
  auto loaded = Parse("", "c.toml", {{"runtime.handlers.crun.path", "/usr/bin/crun"}, {"runtime.handlers.crun.options", "--a,--b"}});
  ASSERT_TRUE(IsOk(loaded));
  EXPECT_EQ(loaded->config.runtime.handlers.at("crun").path, "/usr/bin/crun");
  EXPECT_EQ(loaded->config.runtime.handlers.at("crun").options, (std::vector<std::string>{"--a", "--b"}));
}

TEST(Config, ValuesAreChecked) {
  EXPECT_EQ(Refusal("images.parallel_downloads = 0"), "c.toml:1: images.parallel_downloads: expected a number from 1 to 64, got 0");
  EXPECT_EQ(Refusal("images.snapshotter = 'zfs'"),
            "c.toml:1: images.snapshotter: expected \"auto\", \"erofs\" or \"directory\", got \"zfs\"");
  EXPECT_EQ(Refusal("cni = 1"), "c.toml:1: cni: expected a table, got 1");
  EXPECT_EQ(Refusal("cni.built_in_default = 'yes'"), "c.toml:1: cni.built_in_default: expected true or false, got \"yes\"");
  EXPECT_EQ(Refusal("server.mode = 0o1777"), "c.toml:1: server.mode: expected a file mode from 0o0 to 0o777, got 0o1777");
  EXPECT_EQ(Refusal("server.mode = 440"), "c.toml:1: server.mode: expected a file mode in octal such as 0o660, got 440");
  for (const char* good : {"cni.subnets = ['10.0.0.0/8']", "cni.subnets = ['fd00::/64','10.1.2.0/24']", "metrics.address = ''",
                           "server.group = '1000'", "runtime.shim = ''", "runtime.cgroup_root = '/'"})
    EXPECT_EQ(Refusal(good), "accepted") << good;
  for (const char* bad : {"cni.subnets = []", "cni.subnets = ['10.0.0.0']", "cni.subnets = ['10.0.0.0/30']", "cni.subnets = ['10.0.0.1/24']",
                          "cni.subnets = ['fd00::/64','fd01::/64']", "metrics.address = ':9464'", "metrics.address = '::1:9464'",
                          "metrics.address = '127.0.0.1:99999'", "root = 'a'", "root = '/a/../b'", "root = ''", "cni.bridge = ''",
                          "cni.bridge = 'a/b'", "cni.table = '1a'", "server.mode = 0o1777", "server.group = 'a b'", "log.level = 3",
                          "cni.plugin_dirs = []", "root = \"/a\\nb\"", "log.level = 1979-05-27", "images.parallel_downloads = 1.0", "images.pinned = ['a b']"})
    EXPECT_NE(Refusal(bad), "accepted") << bad;
  EXPECT_EQ(Refusal("run = '/var/lib/berth/run'"),
            "c.toml:1: run: root (/var/lib/berth) and run (/var/lib/berth/run) must not lie in one another");
}

TEST(Config, Overrides) {
  auto loaded = Parse("images.parallel_downloads = 2", "c.toml",
                      {{"images.parallel_downloads", "4"}, {"cni.subnets", "10.9.0.0/16"}, {"cni.built_in_default", "false"},
                       {"server.mode", "0o666"}, {"images.registries.\"a.io\".mirrors", "[\"http://b\"]"}, {"server.socket", "/s"},
                       {"metrics.address", ""}, {"log.format", "\"json\""}});
  ASSERT_TRUE(IsOk(loaded));
  EXPECT_EQ(loaded->config.images.parallel_downloads, 4);
  EXPECT_EQ(loaded->config.cni.subnets, std::vector<std::string>{"10.9.0.0/16"});
  EXPECT_FALSE(loaded->config.cni.built_in_default);
  EXPECT_EQ(loaded->config.server.mode, 0666u);
  EXPECT_EQ(loaded->config.server.socket, "/s");
  EXPECT_EQ(loaded->config.images.registries.at("a.io").mirrors, std::vector<std::string>{"http://b"});
  EXPECT_EQ(loaded->config.metrics.address, "");
  EXPECT_EQ(loaded->config.log.format, log::Format::kJson);
  EXPECT_EQ(loaded->origins.at("images.parallel_downloads"), "--set");
  EXPECT_EQ(Refusal("", {{"images.snapshoter", "x"}}), "--set: images.snapshoter: unknown key; did you mean images.snapshotter?");
  EXPECT_EQ(Refusal("", {{"images.parallel_downloads", "4\nroot = 1"}}),
            "--set: images.parallel_downloads: expected one value, got several lines");
  EXPECT_EQ(Refusal("", {{"images.parallel_downloads", "x"}}), "--set: images.parallel_downloads: expected an integer, got \"x\"");
  EXPECT_EQ(Refusal("", {{"a b", "x"}}), "--set: a b: not a key; write it as in the file, such as images.snapshotter");
  EXPECT_NE(Refusal("", {{"images.registries.a.io.mirrors", "x"}}), "accepted");
}

TEST(Config, Files) {
  TempDir dir;
  EXPECT_TRUE(IsErr(Load(dir / "none.toml", {}), Code::kNotFound, dir / "none.toml"));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "c.toml", "\nlog.level = 'debug'\n")));
  auto loaded = Load(dir / "c.toml", {});
  ASSERT_TRUE(IsOk(loaded));
  EXPECT_EQ(loaded->origins.at("log.level"), dir / "c.toml" + ":2");
}

TEST(Nearest, Distances) {
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("abc", "abc"), 0);
  EXPECT_EQ(EditDistance("acb", "abc"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

}  // namespace
}  // namespace berth::config
