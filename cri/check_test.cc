#include "cri/check.h"

#include <gtest/gtest.h>

#include "api.pb.h"
#include "berth.pb.h"
#include "cri/describe.h"

namespace berth::cri {
namespace {

namespace api = ::runtime::v1;

std::string Text(const Result<void>& r) { return r ? "ok" : r.error().what; }

TEST(CheckShape, NamesTheField) {
  api::RunPodSandboxRequest request;
  auto& config = *request.mutable_config();
  EXPECT_EQ(Text(CheckShape(request)), "ok");

  config.mutable_metadata()->set_name(std::string("a\0b", 3));
  EXPECT_EQ(Text(CheckShape(request)), "config.metadata.name: must not contain NUL bytes");
  config.clear_metadata();

  (*config.mutable_labels())["k\n"] = std::string(1, '\0');
  EXPECT_EQ(Text(CheckShape(request)), "config.labels[\"k\\x0a\"]: must not contain NUL bytes");
  config.clear_labels();

  config.add_port_mappings();
  config.add_port_mappings()->set_protocol(static_cast<api::Protocol>(9));
  EXPECT_EQ(Text(CheckShape(request)), "config.port_mappings[1].protocol: 9 is not one of TCP (0), UDP (1), SCTP (2)");
  config.clear_port_mappings();

  config.mutable_dns_config()->add_servers("ok");
  config.mutable_dns_config()->add_servers(std::string(2 << 20, 'x'));
  EXPECT_EQ(Text(CheckShape(request)), "config.dns_config.servers[1]: must be at most 1048576 bytes, has 2097152");
  config.clear_dns_config();

  for (int i = 0; i < 65537; ++i) config.mutable_dns_config()->add_options("");
  EXPECT_EQ(Text(CheckShape(request)), "config.dns_config.options: must have at most 65536 elements, has 65537");
}

TEST(CheckShape, BytesMayHoldAnything) {
  api::CreateContainerRequest request;
  request.mutable_config()->add_envs()->set_value(std::string("\0\xff", 2));
  EXPECT_EQ(Text(CheckShape(request)), "ok");
}

TEST(Check, Paths) {
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/a/b")), "ok");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/")), "ok");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/a..b/..c")), "ok");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "")), "p: must not be empty; an absolute path is wanted");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "a/b")), "p: must be an absolute path, got \"a/b\"");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/a/..")), "p: must not contain a `..` part, got \"/a/..\"");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/../a")), "p: must not contain a `..` part, got \"/../a\"");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/a\nb")), "p: must not contain control characters, got \"/a\\x0ab\"");
  EXPECT_EQ(Text(CheckAbsolutePath("p", "/" + std::string(256, 'a'))),
            "p: each part must be at most 255 bytes, one has 256");
  std::string deep;
  for (int i = 0; i < 3000; ++i) deep += "/a";
  EXPECT_EQ(Text(CheckAbsolutePath("p", deep)), "p: must be at most 4095 bytes, has 6000");
  EXPECT_EQ(Text(CheckRelativePath("p", "a/0.log")), "ok");
  EXPECT_EQ(Text(CheckRelativePath("p", "/a")), "p: must be a relative path, got \"/a\"");
  EXPECT_EQ(Text(CheckRelativePath("p", "a/../../b")), "p: must not contain a `..` part, got \"a/../../b\"");
}

TEST(Check, NamesWordsAddresses) {
  EXPECT_EQ(Text(CheckName("n", "web-1")), "ok");
  EXPECT_EQ(Text(CheckName("n", "")), "n: must not be empty");
  EXPECT_EQ(Text(CheckName("n", std::string(253, 'a'))), "ok");
  EXPECT_EQ(Text(CheckName("n", std::string(254, 'a'))), "n: must be at most 253 bytes, has 254");
  EXPECT_EQ(Text(CheckName("n", "a/b")), "n: must not contain slashes or control characters, got \"a/b\"");
  EXPECT_EQ(Text(CheckWord("w", "a b")), "w: must not contain blanks or control characters, got \"a b\"");
  EXPECT_EQ(Text(CheckAddress("a", "10.0.0.1")), "ok");
  EXPECT_EQ(Text(CheckAddress("a", "fd00::1")), "ok");
  for (const char* bad : {"", "10.0.0", "10.0.0.256", "example.org", "fd00::1%eth0", "10.0.0.1 "})
    EXPECT_NE(Text(CheckAddress("a", bad)), "ok") << bad;
  EXPECT_EQ(Text(CheckRange("r", 5, 1, 4)), "r: must be 1 to 4, got 5");
}

TEST(Quote, IsShortAndPrintable) {
  EXPECT_EQ(Quote("a\tb\xff"), "\"a\\x09b\\xff\"");
  EXPECT_EQ(Quote("grün"), "\"grün\"");
  EXPECT_EQ(Quote(std::string(1000, 'x')), "\"" + std::string(64, 'x') + "\"... (1000 bytes)");
}

TEST(Describe, HidesSecrets) {
  api::PullImageRequest pull;
  pull.mutable_image()->set_image("app:1");
  pull.mutable_auth()->set_username("user");
  pull.mutable_auth()->set_password("s3cret");
  pull.mutable_auth()->set_auth("s3cret");
  pull.mutable_auth()->set_identity_token("s3cret");
  pull.mutable_auth()->set_registry_token("s3cret");
  std::string text = Describe(pull);
  EXPECT_EQ(text.find("s3cret"), std::string::npos) << text;
  EXPECT_NE(text.find("username=\"user\""), std::string::npos) << text;

  api::CreateContainerRequest create;
  create.mutable_config()->add_envs()->set_key("TOKEN");
  create.mutable_config()->mutable_envs(0)->set_value("s3cret");
  EXPECT_EQ(Describe(create), "config={envs=[{key=\"TOKEN\" value=***}]}");

  berth::v1::PullRequest own;
  own.set_password("s3cret");
  EXPECT_EQ(Describe(own), "password=***");
}

TEST(Describe, IsBounded) {
  api::ExecSyncRequest request;
  for (int i = 0; i < 10000; ++i) request.add_cmd("argument");
  EXPECT_LE(Describe(request).size(), 1024u + 3);
}

}  // namespace
}  // namespace berth::cri
