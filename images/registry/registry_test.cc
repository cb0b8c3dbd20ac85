#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "images/registry/client.h"
#include "images/registry/fake_registry.h"

namespace berth::images {
namespace {

using ::testing::HasSubstr;

TEST(Urls, Table) {
  const std::pair<const char*, const char*> good[] = {{"https://quay.io/v2/", "https://quay.io/v2/"},
                                                      {"HTTP://h:80/x", "http://h/x"},
                                                      {"https://h:5000", "https://h:5000/"},
                                                      {"https://[::1]:5000/a?b=c#d", "https://[::1]:5000/a?b=c"},
                                                      {"https://h?x=1", "https://h/?x=1"}};
  for (const auto& [text, wanted] : good) EXPECT_EQ(Url::Parse(text).value().str(), wanted) << text;
  for (const char* text :
       {"", "quay.io", "ftp://x/", "https://", "https://u:p@h/", "https://h:/", "https://h:0x/", "https://h:99999/",
        "https://h/a b", "https://h/\r\nX: y", "https://[::1/", "https://[zz]/", "https://h\r\n/"})
    EXPECT_EQ(Url::Parse(text).error().code, Code::kInvalidArgument) << text;
  Url base = Url::Parse("https://h:5000/v2/a/blobs/x?q=1").value();
  const std::pair<const char*, const char*> moved[] = {{"/other", "https://h:5000/other"},
                                                       {"https://cdn/x", "https://cdn/x"},
                                                       {"//cdn/x", "https://cdn/x"},
                                                       {"y?z", "https://h:5000/v2/a/blobs/y?z"},
                                                       {"?n", "https://h:5000/v2/a/blobs/x?n"},
                                                       {"/r?u=http://z/", "https://h:5000/r?u=http://z/"}};
  for (const auto& [location, wanted] : moved) EXPECT_EQ(base.Resolve(location).value().str(), wanted) << location;
  EXPECT_FALSE(base.Resolve("").has_value());
  EXPECT_FALSE(base.Resolve("file:///etc/passwd").has_value());
}

TEST(Loopback, Hosts) {
  for (const char* host : {"localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"})
    EXPECT_TRUE(IsLoopbackHost(host)) << host;
  for (const char* host : {"10.0.0.1", "localhost.example", "127.0.0.1.example", "::2", "128.0.0.1"})
    EXPECT_FALSE(IsLoopbackHost(host)) << host;
}

TEST(Challenges, Table) {
  auto one = ParseChallenges(R"(Bearer realm="https://auth.x/token",service="reg, istry",scope="repository:a/b:pull")");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].scheme, "bearer");
  EXPECT_EQ(one[0].params["realm"], "https://auth.x/token");
  EXPECT_EQ(one[0].params["service"], "reg, istry");
  EXPECT_EQ(one[0].params["scope"], "repository:a/b:pull");
  auto two = ParseChallenges(R"(BASIC Realm="a \"b\"", Bearer realm=x , error = "invalid_token")");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].scheme, "basic");
  EXPECT_EQ(two[0].params["realm"], "a \"b\"");
  EXPECT_EQ(two[1].params["realm"], "x");
  EXPECT_EQ(two[1].params["error"], "invalid_token");
  EXPECT_EQ(ParseChallenges("Negotiate").at(0).scheme, "negotiate");
  EXPECT_EQ(ParseChallenges("Negotiate abc==, Basic realm=z").back().params["realm"], "z");
  EXPECT_TRUE(ParseChallenges("").empty());
  EXPECT_TRUE(ParseChallenges(" , ,, ").empty());
  ParseChallenges("Bearer realm=\"unfinished");
  ParseChallenges("=====\"\\");
}

TEST(Base64, Table) {
  const std::pair<const char*, const char*> table[] = {{"", ""},        {"f", "Zg=="},        {"fo", "Zm8="},
                                                       {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"u:p:q", "dTpwOnE="}};
  for (const auto& [text, wanted] : table) EXPECT_EQ(EncodeBase64(text), wanted);
}

TEST(Secrets, FingerprintsTellApart) {
  Credentials a, b;
  EXPECT_EQ(Fingerprint(a), "");
  a.username = "u", a.password = Secret("pw");
  b.username = "up", b.password = Secret("w");
  EXPECT_NE(Fingerprint(a), Fingerprint(b));
  EXPECT_EQ(Fingerprint(a).find("pw"), std::string::npos);
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() : client(registry, {}) { Hurry(client); }
  static void Hurry(RegistryClient& c) { c.first_pause = std::chrono::milliseconds(0); }
  std::unique_ptr<Repository> Open(const std::string& text, Credentials credentials = {}) {
    return client.Open(Reference::Parse(text).value(), credentials).value();
  }
  static Credentials User() {
    Credentials c;
    c.username = "u";
    c.password = Secret("p");
    return c;
  }
  Result<std::string> Blob(Repository& repository, const std::string& bytes, uint64_t offset = 0,
                           std::optional<uint64_t> size = {}) {
    std::string got;
    TRY(repository.GetBlob(
        Digest::Of(bytes), size.value_or(bytes.size()), offset,
        [&](std::string_view part) -> Result<void> {
          got += part;
          return {};
        },
        Deadline::Never()));
    return got;
  }

  FakeRegistry registry;
  RegistryClient client;
  const std::string base = "https://quay.io/v2/app";
};

TEST_F(ClientTest, ManifestByTagAndDigest) {
  Digest digest = registry.PutManifest(base, "1", "{}");
  auto repository = Open("quay.io/app:1");
  auto got = repository->GetManifest("1", Deadline::Never());
  ASSERT_TRUE(got.has_value()) << got.error().what;
  EXPECT_EQ(got->digest, digest);
  EXPECT_EQ(got->media_type, media::kOciManifest);
  EXPECT_EQ(repository->GetManifest(digest.str(), Deadline::Never())->bytes, "{}");
  EXPECT_EQ(repository->ResolveTag("1", Deadline::Never()).value(), digest);
  auto missing = repository->GetManifest("2", Deadline::Never());
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_THAT(missing.error().what,
              HasSubstr("registry quay.io: quay.io/app: manifests/2: not found (HTTP 404: unknown)"));
  EXPECT_EQ(repository->ResolveTag("2", Deadline::Never()).value(), std::nullopt);
}

TEST_F(ClientTest, DockerHubHasAnotherHost) {
  registry.PutManifest("https://registry-1.docker.io/v2/library/nginx", "latest", "{}");
  EXPECT_TRUE(Open("nginx")->GetManifest("latest", Deadline::Never()).has_value());
}

TEST_F(ClientTest, ManifestThatDoesNotMatchIsDataLoss) {
  Digest digest = Digest::Of("{}");
  registry.Put(base + "/manifests/" + digest.str(), {200, {}, "{ }"});
  EXPECT_EQ(Open("quay.io/app")->GetManifest(digest.str(), Deadline::Never()).error().code, Code::kDataLoss);
  registry.Put(base + "/manifests/x", {200, {{"Docker-Content-Digest", digest.str()}}, "{ }"});
  EXPECT_EQ(Open("quay.io/app")->GetManifest("x", Deadline::Never()).error().code, Code::kDataLoss);
  registry.Put(base + "/manifests/big", {200, {}, std::string(kMaxManifest + 1, ' ')});
  EXPECT_THAT(Open("quay.io/app")->GetManifest("big", Deadline::Never()).error().what, HasSubstr("larger than"));
}

TEST_F(ClientTest, BasicCredentialsOnlyWhenAskedFor) {
  registry.PutManifest(base, "1", "{}");
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.authorization == "Basic dTpw") return std::nullopt;
    return FakeAnswer{401, {{"WWW-Authenticate", "Basic realm=\"x\""}}, ""};
  });
  auto repository = Open("quay.io/app:1", User());
  ASSERT_TRUE(repository->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_EQ(registry.seen().at(0).authorization, "");
  // The next request knows.
  ASSERT_TRUE(repository->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_EQ(registry.seen().size(), 3u);

  auto anonymous = Open("quay.io/app:1")->GetManifest("1", Deadline::Never());
  EXPECT_EQ(anonymous.error().code, Code::kUnauthenticated);
  EXPECT_THAT(anonymous.error().what, HasSubstr("asks for a user name"));
  Credentials wrong = User();
  wrong.password = Secret("no");
  auto refused = Open("quay.io/app:1", wrong)->GetManifest("1", Deadline::Never());
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_EQ(refused.error().what.find("no\""), std::string::npos);
}

TEST_F(ClientTest, TokenIsFetchedOnceAndKept) {
  registry.PutManifest(base, "1", "{}");
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.starts_with("https://auth.quay.io/token"))
      return FakeAnswer{200, {}, R"({"token":"t0k","expires_in":300})"};
    if (s.authorization == "Bearer t0k") return std::nullopt;
    return FakeAnswer{401,
                      {{"WWW-Authenticate",
                        R"(Bearer realm="https://auth.quay.io/token?x=1",service="quay",scope="repository:app:pull")"}},
                      ""};
  });
  ASSERT_TRUE(Open("quay.io/app:1", User())->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_EQ(registry.seen().at(1).url,
            "https://auth.quay.io/token?x=1&service=quay&scope=repository%3Aapp%3Apull&account=u");
  EXPECT_EQ(registry.seen().at(1).authorization, "Basic dTpw");
  ASSERT_TRUE(Open("quay.io/app:1", User())->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_EQ(registry.Count("GET", "auth.quay.io"), 1u);
  // Other credentials: another token.
  ASSERT_TRUE(Open("quay.io/app:1")->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_EQ(registry.Count("GET", "auth.quay.io"), 2u);
  EXPECT_EQ(registry.seen().at(registry.seen().size() - 2).authorization, "");
}

TEST_F(ClientTest, IdentityTokenGoesByPost) {
  registry.PutManifest(base, "1", "{}");
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url == "https://auth/token") return FakeAnswer{200, {}, R"({"access_token":"acc"})"};
    if (s.authorization == "Bearer acc") return std::nullopt;
    return FakeAnswer{401, {{"WWW-Authenticate", R"(Bearer realm="https://auth/token",service="q")"}}, ""};
  });
  Credentials credentials;
  credentials.identity_token = Secret("re fresh");
  ASSERT_TRUE(Open("quay.io/app:1", credentials)->GetManifest("1", Deadline::Never()).has_value());
  auto post = registry.seen().at(1);
  EXPECT_EQ(post.method, "POST");
  EXPECT_EQ(
      post.body,
      "grant_type=refresh_token&service=q&client_id=berth&scope=repository%3Aapp%3Apull&refresh_token=re%20fresh");
  EXPECT_EQ(post.authorization, "");
}

TEST_F(ClientTest, RegistryTokenIsUsedAsItIs) {
  registry.PutManifest(base, "1", "{}");
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.authorization == "Bearer mine") return std::nullopt;
    return FakeAnswer{401, {{"WWW-Authenticate", R"(Bearer realm="https://auth/token")"}}, ""};
  });
  Credentials credentials;
  credentials.registry_token = Secret("mine");
  EXPECT_TRUE(Open("quay.io/app:1", credentials)->GetManifest("1", Deadline::Never()).has_value());
}

TEST_F(ClientTest, CredentialsAreNotSentInTheClear) {
  registry.Hook([](const FakeRegistry::Seen&) -> std::optional<FakeAnswer> {
    return FakeAnswer{401, {{"WWW-Authenticate", R"(Bearer realm="http://evil.example/token",service="q")"}}, ""};
  });
  auto got = Open("quay.io/app:1", User())->GetManifest("1", Deadline::Never());
  EXPECT_EQ(got.error().code, Code::kUnauthenticated);
  EXPECT_THAT(got.error().what, HasSubstr("not encrypted"));
  EXPECT_EQ(registry.Count("GET", "evil"), 0u);
}

TEST_F(ClientTest, DeadTokenIsReplaced) {
  registry.PutManifest(base, "1", "{}");
  int issued = 0;
  std::string valid = "Bearer 1";
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.starts_with("https://auth"))
      return FakeAnswer{200, {}, fmt::format(R"({{"token":"{}","expires_in":300}})", ++issued)};
    if (s.authorization == valid) return std::nullopt;
    return FakeAnswer{401, {{"WWW-Authenticate", R"(Bearer realm="https://auth/token")"}}, ""};
  });
  auto repository = Open("quay.io/app:1");
  ASSERT_TRUE(repository->GetManifest("1", Deadline::Never()).has_value());
  valid = "Bearer 2";  // the registry has forgotten the first
  EXPECT_TRUE(repository->GetManifest("1", Deadline::Never()).has_value());
  valid = "Bearer 3";
  EXPECT_TRUE(Open("quay.io/app:1")->GetManifest("1", Deadline::Never()).has_value());
}

TEST_F(ClientTest, RedirectToStorageCarriesNoCredentials) {
  std::string bytes = "content";
  registry.Put("https://cdn.example/x", {200, {}, bytes});
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.find("/blobs/") == std::string::npos) return std::nullopt;
    if (s.authorization.empty()) return FakeAnswer{401, {{"WWW-Authenticate", "Basic realm=x"}}, ""};
    return FakeAnswer{307, {{"Location", "https://cdn.example/x?signed=1"}}, ""};
  });
  auto repository = Open("quay.io/app:1", User());
  EXPECT_EQ(Blob(*repository, bytes).value(), bytes);
  EXPECT_EQ(registry.seen().back().url, "https://cdn.example/x?signed=1");
  EXPECT_EQ(registry.seen().back().authorization, "");
}

TEST_F(ClientTest, ChallengesOfARedirectedHostAreNotAnswered) {
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.starts_with("https://quay.io")) return FakeAnswer{307, {{"Location", "https://cdn.example/x"}}, ""};
    return FakeAnswer{401, {{"WWW-Authenticate", R"(Bearer realm="https://evil.example/token",service="q")"}}, ""};
  });
  EXPECT_EQ(Blob(*Open("quay.io/app:1", User()), "content").error().code, Code::kUnauthenticated);
  EXPECT_EQ(registry.Count("GET", "evil.example"), 0u);
}

TEST_F(ClientTest, RedirectsAreBounded) {
  registry.Put(base + "/manifests/loop", {302, {{"Location", "loop"}}, ""});
  EXPECT_THAT(Open("quay.io/app")->GetManifest("loop", Deadline::Never()).error().what, HasSubstr("more than 5 times"));
  registry.Put(base + "/manifests/down", {302, {{"Location", "http://plain.example/"}}, ""});
  EXPECT_THAT(Open("quay.io/app")->GetManifest("down", Deadline::Never()).error().what,
              HasSubstr("from TLS to plain HTTP"));
  registry.Put(base + "/manifests/odd", {302, {{"Location", "gopher://x/"}}, ""});
  EXPECT_EQ(Open("quay.io/app")->GetManifest("odd", Deadline::Never()).error().code, Code::kInvalidArgument);
}

TEST_F(ClientTest, PassingFailuresAreTriedAgain) {
  registry.PutManifest(base, "1", "{}");
  int left = 3;
  registry.Hook([&](const FakeRegistry::Seen&) -> std::optional<FakeAnswer> {
    return left-- > 0 ? std::optional(FakeAnswer{left % 2 ? 503 : 429, {}, ""}) : std::nullopt;
  });
  EXPECT_TRUE(Open("quay.io/app")->GetManifest("1", Deadline::Never()).has_value());
  left = 100;
  auto given_up = Open("quay.io/app")->GetManifest("1", Deadline::Never());
  EXPECT_FALSE(given_up.has_value());
  EXPECT_EQ(left, 96);
  registry.Hook([](const FakeRegistry::Seen&) {
    return std::optional(FakeAnswer{429, {}, R"({"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]})"});
  });
  auto limited = Open("quay.io/app")->GetManifest("1", Deadline::Never());
  EXPECT_EQ(limited.error().code, Code::kResourceExhausted);
  EXPECT_THAT(limited.error().what, HasSubstr("slow down"));
}

TEST_F(ClientTest, StatusesBecomeCodes) {
  const std::pair<int, Code> table[] = {{400, Code::kFailedPrecondition}, {403, Code::kPermissionDenied},
                                        {404, Code::kNotFound},           {405, Code::kFailedPrecondition},
                                        {500, Code::kUnavailable},        {501, Code::kUnavailable}};
  for (const auto& [status, code] : table) {
    registry.Put(base + "/manifests/x", {status, {}, "<html>"});
    EXPECT_EQ(Open("quay.io/app")->GetManifest("x", Deadline::Never()).error().code, code) << status;
  }
  registry.Unreachable("https://quay.io");
  auto gone = Open("quay.io/app")->GetManifest("x", Deadline::Never());
  EXPECT_EQ(gone.error().code, Code::kUnavailable);
  EXPECT_THAT(gone.error().what, HasSubstr("connection refused"));
}

TEST_F(ClientTest, CutBlobIsResumed) {
  std::string bytes(1 << 20, 'x');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 >> 8);
  registry.PutBlob(base, bytes);
  int cuts = 3;
  registry.Hook([&](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    return cuts-- > 0
               ? std::optional(FakeAnswer{
                     s.range.empty() ? 200 : 206,
                     {{"Content-Range", fmt::format("bytes {}-", s.range.empty() ? 0 : std::stoul(s.range.substr(6)))}},
                     bytes.substr(s.range.empty() ? 0 : std::stoul(s.range.substr(6))),
                     100'000})
               : std::nullopt;
  });
  EXPECT_EQ(Blob(*Open("quay.io/app"), bytes).value(), bytes);
  EXPECT_EQ(registry.seen().back().range, "bytes=300000-");
  // A server that knows no ranges sends everything again.
  registry.Hook([&](const FakeRegistry::Seen&) { return std::optional(FakeAnswer{200, {}, bytes}); });
  registry.Forget();
  std::string tail = Blob(*Open("quay.io/app"), bytes, 1000).value();
  EXPECT_EQ(tail, bytes.substr(1000));
  // One that answers with another range is not believed.
  registry.Hook([&](const FakeRegistry::Seen&) {
    return std::optional(FakeAnswer{206, {{"Content-Range", "bytes 5-9/10"}}, bytes});
  });
  EXPECT_EQ(Blob(*Open("quay.io/app"), bytes, 1000).error().code, Code::kDataLoss);
}

TEST_F(ClientTest, BlobOfAnotherLength) {
  registry.PutBlob(base, "12345");
  EXPECT_THAT(Blob(*Open("quay.io/app"), "12345", 0, 4).error().what, HasSubstr("longer than the 4 bytes"));
  EXPECT_THAT(Blob(*Open("quay.io/app"), "12345", 0, 6).error().what, HasSubstr("ends after 5 of the 6"));
}

TEST_F(ClientTest, FailingSinkEndsIt) {
  registry.PutBlob(base, "12345");
  auto done =
      Open("quay.io/app")
          ->GetBlob(
              Digest::Of("12345"), 5, 0,
              [](std::string_view) -> Result<void> { return Err(Code::kUnavailable, "mine"); }, Deadline::Never());
  EXPECT_EQ(done.error().what, "mine");
  EXPECT_EQ(registry.seen().size(), 1u);
}

TEST_F(ClientTest, MirrorsComeFirstAndAreFallenThrough) {
  RegistryClient mirrored(registry, {{"quay.io", {.mirrors = {"https://m1.example", "http://127.0.0.1:5000/cache/"}}}});
  Hurry(mirrored);
  registry.Unreachable("https://m1.example");
  registry.PutManifest(base, "only-here", "{\"a\":1}");
  registry.PutManifest("http://127.0.0.1:5000/cache/v2/app", "1", "{}");
  auto repository = mirrored.Open(Reference::Parse("quay.io/app:1").value(), User()).value();
  ASSERT_TRUE(repository->GetManifest("1", Deadline::Never()).has_value());
  auto seen = registry.seen();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].url, "https://m1.example/v2/app/manifests/1?ns=quay.io");
  EXPECT_EQ(seen[1].url, "http://127.0.0.1:5000/cache/v2/app/manifests/1?ns=quay.io");
  // A dead mirror is not asked twice; one that lacks something is passed over for that only.
  ASSERT_TRUE(repository->GetManifest("only-here", Deadline::Never()).has_value());
  seen = registry.seen();
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[3].url, base + "/manifests/only-here");
  // The error tells of all places.
  auto none = repository->GetManifest("none", Deadline::Never());
  EXPECT_THAT(none.error().what, HasSubstr("registry quay.io"));
  EXPECT_THAT(none.error().what, HasSubstr("before that: mirror http://127.0.0.1:5000/cache/"));
}

TEST_F(ClientTest, MirrorsNeverSeeTheCredentials) {
  RegistryClient mirrored(registry, {{"quay.io", {.mirrors = {"https://m1.example"}}}});
  Hurry(mirrored);
  registry.PutManifest(base, "1", "{}");
  registry.Hook([](const FakeRegistry::Seen& s) -> std::optional<FakeAnswer> {
    if (s.url.starts_with("https://m1.example") || s.authorization.empty())
      return FakeAnswer{401, {{"WWW-Authenticate", "Basic realm=x"}}, ""};
    return std::nullopt;
  });
  ASSERT_TRUE(mirrored.Open(Reference::Parse("quay.io/app:1").value(), User())
                  .value()
                  ->GetManifest("1", Deadline::Never())
                  .has_value());
  for (const auto& s : registry.seen()) {
    if (!s.url.starts_with("https://m1.example")) continue;
    EXPECT_EQ(s.authorization, "");
  }
}

TEST_F(ClientTest, MirrorWithWrongBytesIsPassedOver) {
  RegistryClient mirrored(registry, {{"quay.io", {.mirrors = {"https://m1.example"}}}});
  Hurry(mirrored);
  Digest digest = registry.PutManifest(base, "1", "{}");
  registry.Put("https://m1.example/v2/app/manifests/" + digest.str(), {200, {}, "{ }"});
  EXPECT_EQ(mirrored.Open(Reference::Parse("quay.io/app:1").value(), {})
                .value()
                ->GetManifest(digest.str(), Deadline::Never())
                ->bytes,
            "{}");
}

TEST_F(ClientTest, LoopbackMayBePlain) {
  registry.SpeaksPlainHttp("localhost:5000");
  registry.PutManifest("http://localhost:5000/v2/app", "1", "{}");
  registry.PutManifest("https://localhost:5001/v2/app", "1", "{}");
  EXPECT_TRUE(Open("localhost:5000/app:1")->GetManifest("1", Deadline::Never()).has_value());
  EXPECT_TRUE(Open("localhost:5001/app:1")->GetManifest("1", Deadline::Never()).has_value());
  RegistryClient plain(registry, {{"reg.example", {.plain_http = true}}});
  registry.PutManifest("http://reg.example/v2/app", "1", "{}");
  EXPECT_TRUE(plain.Open(Reference::Parse("reg.example/app:1").value(), {})
                  .value()
                  ->GetManifest("1", Deadline::Never())
                  .has_value());
}

TEST_F(ClientTest, BadMirrorIsNamed) {
  RegistryClient bad(registry, {{"quay.io", {.mirrors = {"m1"}}}});
  auto opened = bad.Open(Reference::Parse("quay.io/app").value(), {});
  EXPECT_EQ(opened.error().code, Code::kInvalidArgument);
  EXPECT_THAT(opened.error().what, HasSubstr("images.registries.\"quay.io\".mirrors"));
}

TEST_F(ClientTest, ExpiredDeadlineAsksNobody) {
  auto got = Open("quay.io/app")->GetManifest("1", Deadline::After(std::chrono::seconds(0)));
  EXPECT_EQ(got.error().code, Code::kDeadlineExceeded);
  auto token = std::make_shared<CancelToken>();
  token->Cancel();
  EXPECT_EQ(Open("quay.io/app")->GetManifest("1", Deadline::Never(token)).error().code, Code::kCancelled);
  EXPECT_TRUE(registry.seen().empty());
}

}  // namespace
}  // namespace berth::images
