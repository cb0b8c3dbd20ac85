#include "images/registry/auth.h"

#include "base/json.h"
#include "images/digest.h"

namespace berth::images {
namespace {

constexpr size_t kMaxTokenAnswer = 1 << 20;
constexpr std::chrono::seconds kDefaultLife{60};  // the token page's default for a missing expires_in
constexpr size_t kMaxCached = 512;

struct WireToken {
  std::string token, access_token;
  std::optional<int64_t> expires_in;
};
BOOST_DESCRIBE_STRUCT(WireToken, (), (token, access_token, expires_in))

bool TokenChar(char c) {
  static constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return std::isalnum(static_cast<unsigned char>(c)) || kOthers.find(c) != std::string_view::npos;
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string EscapeQuery(std::string_view text) {
  std::string out;
  for (unsigned char c : text) {
    if (std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~')
      out += static_cast<char>(c);
    else
      out += fmt::format("%{:02X}", c);
  }
  return out;
}

class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  void Blanks() {
    while (!done() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  void Commas() {
    while (!done() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == ',')) ++at_;
  }
  bool Take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view Token() {
    size_t from = at_;
    while (!done() && TokenChar(text_[at_])) ++at_;
    return text_.substr(from, at_ - from);
  }
  std::string Value() {
    if (!Take('"')) return std::string(Token());
    std::string out;
    while (!done() && text_[at_] != '"') {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      out += text_[at_++];
    }
    Take('"');
    return out;
  }
  void SkipOne() { ++at_; }
  size_t at() const { return at_; }
  void Back(size_t at) { at_ = at; }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::vector<Challenge> ParseChallenges(std::string_view header) {
  std::vector<Challenge> out;
  HeaderReader in(header);
  for (in.Commas(); !in.done(); in.Commas()) {
    size_t from = in.at();
    std::string_view word = in.Token();
    if (word.empty()) {  // token68 padding or noise
      in.SkipOne();
      continue;
    }
    size_t after = in.at();
    in.Blanks();
    if (in.Take('=')) {  // a parameter of the challenge before it
      in.Blanks();
      std::string value = in.Value();
      if (!out.empty()) out.back().params.try_emplace(Lower(word), std::move(value));
      continue;
    }
    if (in.at() == from) in.SkipOne();
    in.Back(after);
    out.push_back({Lower(word), {}});
  }
  return out;
}

std::string EncodeBase64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    size_t have = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < have ? static_cast<unsigned char>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) out += j <= have ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string Fingerprint(const Credentials& credentials) {
  if (credentials.empty()) return "";
  std::string all;
  for (const std::string* part : {&credentials.username, &credentials.password.Reveal(),
                                  &credentials.identity_token.Reveal(), &credentials.registry_token.Reveal()})
    all += fmt::format("{}:{}", part->size(), *part);
  return Digest::Of(all).hex();
}

Result<std::string> TokenCache::Answer(const std::vector<Challenge>& challenges, const Credentials& credentials,
                                       const Wanted& wanted, const Deadline& until) {
  if (!credentials.registry_token.empty()) return "Bearer " + credentials.registry_token.Reveal();
  const Challenge* bearer = nullptr;
  const Challenge* basic = nullptr;
  for (const Challenge& c : challenges) {
    if (c.scheme == "bearer" && bearer == nullptr) bearer = &c;
    if (c.scheme == "basic" && basic == nullptr) basic = &c;
  }
  if (bearer != nullptr) {
    auto named = bearer->params.find("scope");
    const std::string& scope = named != bearer->params.end() && !named->second.empty() ? named->second : wanted.scope;
    auto param = [&](const char* name) {
      auto it = bearer->params.find(name);
      return it == bearer->params.end() ? std::string() : it->second;
    };
    std::string key = fmt::format("{}\n{}\n{}\n{}", param("realm"), param("service"), scope, Fingerprint(credentials));
    {
      std::lock_guard lock(mutex_);
      auto it = tokens_.find(key);
      if (it != tokens_.end() && it->second.expires > std::chrono::steady_clock::now())
        return "Bearer " + it->second.value;
    }
    Token token = TRY(Fetch(*bearer, scope, credentials, wanted, until));
    std::string header = "Bearer " + token.value;
    std::lock_guard lock(mutex_);
    if (tokens_.size() >= kMaxCached) tokens_.clear();
    tokens_.insert_or_assign(key, std::move(token));
    return header;
  }
  if (basic != nullptr) {
    if (credentials.username.empty())
      return Err(Code::kUnauthenticated, "the registry asks for a user name and a password, none were given");
    return "Basic " + EncodeBase64(credentials.username + ":" + credentials.password.Reveal());
  }
  std::string offered;
  for (const Challenge& c : challenges) offered += (offered.empty() ? "" : ", ") + c.scheme;
  return Err(Code::kUnauthenticated, "the registry asks for an authentication that is not known here: {}",
             offered.empty() ? "it does not say which" : offered);
}

void TokenCache::Forget(const std::string& authorization) {
  std::lock_guard lock(mutex_);
  std::erase_if(tokens_, [&](const auto& entry) { return "Bearer " + entry.second.value == authorization; });
}

Result<TokenCache::Token> TokenCache::Fetch(const Challenge& challenge, const std::string& scope,
                                            const Credentials& credentials, const Wanted& wanted,
                                            const Deadline& until) {
  auto realm = challenge.params.find("realm");
  if (realm == challenge.params.end() || realm->second.empty())
    return Err(Code::kUnauthenticated, "the registry names no token service: its challenge lacks \"realm\"");
  HttpRequest request;
  request.url = TRY_CTX(Url::Parse(realm->second), "the registry's token service");
  request.tls = wanted.tls;
  if (!credentials.empty() && request.url.scheme == "http" && !wanted.plain_http && !IsLoopbackHost(request.url.host))
    return Err(Code::kUnauthenticated, "token service {} is not encrypted; credentials are not sent there",
               request.url.Origin());
  auto service = challenge.params.find("service");
  std::string service_name = service == challenge.params.end() ? "" : service->second;
  std::string form;
  auto add = [&](std::string_view name, std::string_view value) {
    if (!form.empty()) form += '&';
    form += fmt::format("{}={}", name, EscapeQuery(value));
  };
  if (!credentials.identity_token.empty()) {
    add("grant_type", "refresh_token");
    add("service", service_name);
    add("client_id", "berth");
    add("scope", scope);
    add("refresh_token", credentials.identity_token.Reveal());
    request.method = "POST";
    request.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    request.body = form;
  } else {
    if (!service_name.empty()) add("service", service_name);
    // Several scopes are one parameter each.
    for (size_t start = 0; start < scope.size();) {
      size_t blank = std::min(scope.find(' ', start), scope.size());
      if (blank > start) add("scope", std::string_view(scope).substr(start, blank - start));
      start = blank + 1;
    }
    if (!credentials.username.empty()) {
      add("account", credentials.username);
      request.headers.emplace_back("Authorization",
                                   "Basic " + EncodeBase64(credentials.username + ":" + credentials.password.Reveal()));
    }
    request.url.target += (request.url.target.find('?') == std::string::npos ? "?" : "&") + form;
  }
  request.headers.emplace_back("Accept", "application/json");
  request.headers.emplace_back("User-Agent", "berth");
  auto response = TRY_CTX(transport_.Send(request, until), "token service {}", request.url.Origin());
  std::string what = fmt::format("token service {}", request.url.Origin());
  int status = response->status();
  if (status == 401 || status == 403 || status == 400)
    return Err(Code::kUnauthenticated, "{} refused {} (HTTP {})", what,
               credentials.empty() ? "to give a token without credentials" : "the credentials", status);
  if (status != 200)
    return Err(status >= 500 || status == 429 ? Code::kUnavailable : Code::kUnauthenticated, "{} answered HTTP {}",
               what, status);
  std::string body = TRY(ReadBody(*response, kMaxTokenAnswer, what, until));
  auto wire = TRY(json::Parse<WireToken>(body, what));
  Token token;
  token.value = wire.token.empty() ? wire.access_token : wire.token;
  bool printable = std::all_of(token.value.begin(), token.value.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (token.value.empty() || !printable) return Err(Code::kUnauthenticated, "{} answered without a usable token", what);
  auto life = wire.expires_in && *wire.expires_in > 0 ? std::chrono::seconds(std::min<int64_t>(*wire.expires_in, 86400))
                                                      : kDefaultLife;
  // Ends early, so that a token does not die on its way; short-lived ones still get half their life.
  token.expires = std::chrono::steady_clock::now() + std::max(life - std::chrono::seconds(10), life / 2);
  return token;
}

}  // namespace berth::images
