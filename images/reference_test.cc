#include "images/reference.h"

#include <gtest/gtest.h>

namespace berth::images {
namespace {

constexpr const char* kHex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const std::string kDigest = std::string("@sha256:") + kHex;

struct Good {
  std::string text, canonical, familiar;
};

TEST(Reference, ReadsWhatDockerReads) {
  const Good table[] = {
      {"nginx", "docker.io/library/nginx:latest", "nginx:latest"},
      {"nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"},
      {"library/nginx", "docker.io/library/nginx:latest", "nginx:latest"},
      {"docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"},
      {"index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"},
      {"docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
      {"user/app", "docker.io/user/app:latest", "user/app:latest"},
      {"a/b/c/d:x", "docker.io/a/b/c/d:x", "a/b/c/d:x"},
      {"quay.io/app", "quay.io/app:latest", "quay.io/app:latest"},
      {"localhost/app", "localhost/app:latest", "localhost/app:latest"},
      {"localhost:5000/app:2", "localhost:5000/app:2", "localhost:5000/app:2"},
      {"host:5000/a/b", "host:5000/a/b:latest", "host:5000/a/b:latest"},
      {"Registry/app", "Registry/app:latest", "Registry/app:latest"},
      {"127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"},
      {"[::1]:5000/app:2", "[::1]:5000/app:2", "[::1]:5000/app:2"},
      {"[2001:db8::1]/app", "[2001:db8::1]/app:latest", "[2001:db8::1]/app:latest"},
      {"a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest", "a__b/c-d--e.f:latest"},
      {"nginx" + kDigest, "docker.io/library/nginx" + kDigest, "nginx" + kDigest},
      {"nginx:1.25" + kDigest, "docker.io/library/nginx" + kDigest, "nginx" + kDigest},
      {"x:" + std::string(128, 'a'), "docker.io/library/x:" + std::string(128, 'a'), "x:" + std::string(128, 'a')},
      {"app:_1.0-A", "docker.io/library/app:_1.0-A", "app:_1.0-A"},
      // 63 hex digits are a name like any other.
      {std::string(kHex).substr(1), "docker.io/library/" + std::string(kHex).substr(1) + ":latest",
       std::string(kHex).substr(1) + ":latest"},
      {"host/" + std::string(kHex), "docker.io/host/" + std::string(kHex) + ":latest",
       "host/" + std::string(kHex) + ":latest"},
  };
  for (const Good& row : table) {
    auto parsed = Reference::Parse(row.text);
    ASSERT_TRUE(parsed.has_value()) << row.text << ": " << parsed.error().what;
    EXPECT_EQ(parsed->Canonical(), row.canonical) << row.text;
    EXPECT_EQ(parsed->Familiar(), row.familiar) << row.text;
    // Both forms read as the same reference again.
    EXPECT_EQ(Reference::Parse(parsed->Canonical()).value(), *parsed) << row.text;
    EXPECT_EQ(Reference::Parse(parsed->Familiar()).value(), *parsed) << row.text;
  }
}

TEST(Reference, NamesTheWrongPart) {
  const std::pair<std::string, std::string> table[] = {
      {"", "is empty"},
      {"Nginx", "must be lowercase"},
      {"user/App", "must be lowercase"},
      {"nginx:", "tag after ':' is empty"},
      {"nginx:-x", "tag \"-x\" is malformed"},
      {"nginx:a/b", "port \"a\""},  // nginx:a is a host then
      {"nginx:" + std::string(129, 'a'), "129 characters"},
      {"nginx@", "digest"},
      {"nginx@sha256:12", "sha256"},
      {"nginx@md5:d41d8cd98f00b204e9800998ecf8427e", "md5"},
      {kDigest, "before '@' is empty"},
      {"a//b", "empty name component"},
      {"/a", "empty name component"},
      {"a/", "empty name component"},
      {"-a", "component \"-a\""},
      {"a-", "component \"a-\""},
      {"a..b", "component"},
      {"x/a___b", "component"},
      {"a_-b", "component"},
      {"a b", "component"},
      {"host:0/a", "port \"0\""},
      {"host:99999/a", "port \"99999\""},
      {"host:/a", "port \"\""},
      {"ho_st.x/a", "host \"ho_st.x\" is malformed"},
      {".x/a", "host \".x\" is malformed"},
      {"x-./a", "malformed"},
      {"[::1/a", "closing ]"},
      {"[::zz]/a", "no IPv6 address"},
      {"[::1]5000/a", "expected :port"},
      {"https://quay.io/app", "is a URL; leave \"https://\" away"},
      {kHex, "image id"},
      {"x/" + std::string(255, 'a'), "at most 255"},
      {std::string(5000, 'a'), "5000 characters"},
      {std::string("a\0b", 3), "component"},
      {"a\nb", "a?b"},
  };
  for (const auto& [text, part] : table) {
    auto parsed = Reference::Parse(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument) << text;
    EXPECT_NE(parsed.error().what.find(part), std::string::npos) << text << ": " << parsed.error().what;
  }
}

TEST(Reference, DockerIoLivesElsewhere) {
  EXPECT_EQ(RegistryHost("docker.io"), "registry-1.docker.io");
  EXPECT_EQ(RegistryHost("quay.io"), "quay.io");
}

}  // namespace
}  // namespace berth::images
