#include "images/media.h"

#include <gtest/gtest.h>

namespace berth::images {
namespace {

const std::string kA = "sha256:" + std::string(64, 'a');
const std::string kB = "sha256:" + std::string(64, 'b');

std::string ManifestText(const std::string& layers, const std::string& config_type = std::string(media::kOciConfig)) {
  return fmt::format(R"({{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":7}},"layers":[{}]}})",
                     config_type, kA, layers);
}
std::string LayerText(const std::string& type) {
  return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":10}})", type, kB);
}

TEST(Manifest, ReadsBothFamilies) {
  for (std::string_view type : {media::kOciManifest, media::kDockerManifest}) {
    auto doc = ParseManifest(ManifestText(LayerText("application/vnd.oci.image.layer.v1.tar+gzip")),
                             std::string(type) + "; charset=utf-8", "m");
    ASSERT_TRUE(doc.has_value()) << doc.error().what;
    const auto& manifest = std::get<Manifest>(*doc);
    EXPECT_EQ(manifest.media_type, type);
    EXPECT_EQ(manifest.config.digest.str(), kA);
    ASSERT_EQ(manifest.layers.size(), 1u);
    EXPECT_EQ(manifest.layers[0].size, 10u);
  }
  // A carrier that knows nothing of manifests: the document says what it is.
  EXPECT_TRUE(ParseManifest(ManifestText(""), "application/octet-stream", "m").has_value());
  auto index = ParseManifest(fmt::format(R"({{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":1,
      "platform":{{"os":"linux","architecture":"aarch64","variant":"v8"}}}}]}})",
                                         media::kOciManifest, kA),
                             "", "m");
  ASSERT_TRUE(index.has_value()) << index.error().what;
  EXPECT_EQ(std::get<Index>(*index).manifests[0].platform->str(), "linux/arm64");
}

TEST(Manifest, NamesTheWrongMember) {
  struct Row {
    std::string text, type, part;
    Code code;
  };
  const std::string oci(media::kOciManifest);
  const Row table[] = {
      {"{", oci, "byte", Code::kInvalidArgument},
      {"[]", oci, "expected object", Code::kInvalidArgument},
      {R"({"schemaVersion":1,"fsLayers":[]})", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1",
       Code::kUnimplemented},
      {R"({"schemaVersion":3})", oci, "schemaVersion is 3", Code::kInvalidArgument},
      {R"({"schemaVersion":"2"})", oci, "schemaVersion: expected integer", Code::kInvalidArgument},
      {R"({"schemaVersion":2})", "text/html", "neither", Code::kInvalidArgument},
      {R"({"schemaVersion":2})", oci, "\"config\" is missing", Code::kInvalidArgument},
      {R"({"schemaVersion":2})", std::string(media::kOciIndex), "\"manifests\" is missing", Code::kInvalidArgument},
      {R"({"schemaVersion":2,"manifests":[],"layers":[]})", "", "either an index or a manifest",
       Code::kInvalidArgument},
      {ManifestText(""), std::string(media::kOciIndex), "manifests\" is missing", Code::kInvalidArgument},
      {R"({"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"manifests":[]})", oci,
       "mediaType says", Code::kInvalidArgument},
      {ManifestText("", "application/vnd.cncf.helm.config.v1+json"), oci, "not a container image",
       Code::kUnimplemented},
      {ManifestText(LayerText("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), oci,
       "layers[0] is a foreign layer", Code::kUnimplemented},
      {ManifestText(LayerText("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")), oci, "encrypted",
       Code::kUnimplemented},
      {ManifestText(LayerText("image/png")), oci, "layers[0].mediaType", Code::kUnimplemented},
      {ManifestText(R"({"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:x","size":1})"), oci,
       "layers[0].digest", Code::kInvalidArgument},
      {ManifestText(
           fmt::format(R"({{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":-4}})", kA)),
       oci, "layers[0].size", Code::kInvalidArgument},
      {ManifestText(fmt::format(R"({{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}"}})", kA)), oci,
       "layers[0].size", Code::kInvalidArgument},
  };
  for (const Row& row : table) {
    auto doc = ParseManifest(row.text, row.type, "manifest of x");
    ASSERT_FALSE(doc.has_value()) << row.text;
    EXPECT_EQ(doc.error().code, row.code) << row.text << ": " << doc.error().what;
    EXPECT_NE(doc.error().what.find(row.part), std::string::npos) << row.text << ": " << doc.error().what;
    EXPECT_TRUE(doc.error().what.starts_with("manifest of x")) << doc.error().what;
  }
  std::string many;
  for (size_t i = 0; i <= kMaxLayers; ++i)
    many.append(i ? "," : "").append(LayerText("application/vnd.oci.image.layer.v1.tar"));
  EXPECT_NE(ParseManifest(ManifestText(many), oci, "m").error().what.find("at most 500"), std::string::npos);
}

TEST(Config, ReadsWhatRunsTheContainer) {
  auto parsed =
      ParseConfig(fmt::format(R"({{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","config":{{
      "User":"33:33","Env":["A=b"],"Entrypoint":null,"Cmd":["x","y"],"WorkingDir":"/w","StopSignal":"SIGQUIT",
      "Labels":{{"k":"v"}},"ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/data":{{}}}},"Healthcheck":{{"Test":[]}}}},
      "rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}})",
                              kA),
                  "config");
  ASSERT_TRUE(parsed.has_value()) << parsed.error().what;
  const ImageConfig& c = parsed->config;
  EXPECT_EQ(c.user, "33:33");
  EXPECT_TRUE(c.entrypoint.empty());
  EXPECT_EQ(c.cmd, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(c.stop_signal, "SIGQUIT");
  EXPECT_EQ(c.labels.at("k"), "v");
  EXPECT_EQ(c.exposed_ports, std::vector<std::string>{"80/tcp"});
  EXPECT_EQ(c.volumes, std::vector<std::string>{"/data"});
  EXPECT_EQ(parsed->diff_ids.at(0).str(), kA);
}

TEST(Config, NamesTheWrongMember) {
  const std::pair<std::string, std::string> table[] = {
      {R"({"rootfs":{"type":"layers","diff_ids":["x"]}})", "rootfs.diff_ids[0]"},
      {R"({"rootfs":{"type":"tree","diff_ids":[]}})", "rootfs.type"},
      {R"({})", "rootfs"},
      {R"({"config":{"Env":"A=b"},"rootfs":{"type":"layers"}})", "config.Env"},
  };
  for (const auto& [text, part] : table) {
    auto parsed = ParseConfig(text, "c");
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
    EXPECT_NE(parsed.error().what.find(part), std::string::npos) << parsed.error().what;
  }
}

Descriptor Entry(const std::string& platform, char digit) {
  Descriptor d{std::string(media::kOciManifest), Digest::Parse("sha256:" + std::string(64, digit)).value(), 1, {}, {}};
  if (!platform.empty()) d.platform = Platform::Parse(platform).value();
  return d;
}

TEST(Platforms, SpellingsAndErrors) {
  const std::pair<const char*, const char*> table[] = {
      {"linux/amd64", "linux/amd64"},    {"linux/x86_64", "linux/amd64"},   {"amd64", "linux/amd64"},
      {"linux/amd64/v1", "linux/amd64"}, {"linux/arm64/v8", "linux/arm64"}, {"linux/aarch64", "linux/arm64"},
      {"linux/arm", "linux/arm/v7"},     {"linux/arm/6", "linux/arm/v6"},   {"arm/v7", "linux/arm/v7"},
      {"Linux/AMD64", "linux/amd64"},    {"linux/i386", "linux/386"},       {"linux/armhf", "linux/arm/v7"}};
  for (const auto& [text, wanted] : table) EXPECT_EQ(Platform::Parse(text).value().str(), wanted) << text;
  for (const char* text : {"", "linux/", "a/b/c/d", "linux/am d64", "linux/../x"})
    EXPECT_EQ(Platform::Parse(text).error().code, Code::kInvalidArgument) << text;
  EXPECT_EQ(Platform::Machine().os, "linux");
}

TEST(Platforms, TheClosestVariantWins) {
  Index index;
  index.manifests = {Entry("linux/arm/v5", '1'), Entry("linux/arm/v7", '2'),   Entry("linux/arm/v6", '3'),
                     Entry("linux/arm64", '4'),  Entry("linux/amd64/v3", '5'), Entry("unknown/unknown", '6'),
                     Entry("windows/amd64", '7')};
  auto chosen = [&](const char* platform) -> std::string {
    auto entry = ChoosePlatform(index, Platform::Parse(platform).value(), "x");
    return entry ? entry->digest.hex().substr(0, 1) : entry.error().what;
  };
  EXPECT_EQ(chosen("linux/arm/v7"), "2");
  EXPECT_EQ(chosen("linux/arm/v6"), "3");
  EXPECT_EQ(chosen("linux/arm64/v9"), "4");
  EXPECT_EQ(chosen("linux/amd64/v4"), "5");
  EXPECT_EQ(chosen("windows/amd64"), "7");
  EXPECT_EQ(chosen("linux/s390x"),
            "x: no image for linux/s390x; available: linux/arm/v5, linux/arm/v7, linux/arm/v6, linux/arm64, "
            "linux/amd64/v3, windows/amd64");
  index.manifests = {Entry("", '8')};
  EXPECT_EQ(chosen("linux/amd64"), "8");
  index.manifests.push_back(Entry("", '9'));
  EXPECT_NE(chosen("linux/amd64").find("none that names its platform"), std::string::npos);
  index.manifests.clear();
  EXPECT_NE(chosen("linux/amd64").find("no image for linux/amd64"), std::string::npos);
}

TEST(Platforms, ConfigOfASingleImage) {
  ImageConfig config;
  const Platform amd64 = Platform::Parse("linux/amd64").value();
  EXPECT_TRUE(Fits(config, amd64));
  config.architecture = "amd64";
  EXPECT_TRUE(Fits(config, amd64));
  config.architecture = "arm64";
  EXPECT_FALSE(Fits(config, amd64));
  config.os = "windows";
  config.architecture = "amd64";
  EXPECT_FALSE(Fits(config, amd64));
}

}  // namespace
}  // namespace berth::images
