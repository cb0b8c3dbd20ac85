#include "images/registry/client.h"

#include "base/json.h"
#include "base/log.h"

namespace berth::images {
namespace {

constexpr int kMaxRedirects = 5;
constexpr size_t kMaxErrorBody = 64 << 10;
constexpr std::chrono::milliseconds kLongestPause{30'000};
constexpr uint64_t kProgress = 256 << 10;  // so much of a blob makes a broken connection worth another full round
constexpr size_t kChunk = 256 << 10;

struct WireError {
  std::string code, message;
  json::Value detail;
};
BOOST_DESCRIBE_STRUCT(WireError, (), (code, message, detail))
struct WireErrors {
  std::vector<WireError> errors;
};
BOOST_DESCRIBE_STRUCT(WireErrors, (), (errors))

// What the registry itself says, as one short printable line.
std::string RegistryText(std::string_view body) {
  auto parsed = json::Parse<WireErrors>(body, "error");
  std::string out;
  if (parsed)
    for (const WireError& e : parsed->errors) {
      if (!out.empty()) out += "; ";
      out += e.message.empty() ? e.code : e.message;
    }
  if (out.size() > 300) out.resize(300);
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return out;
}

// Reads what is left of a small body, so that the connection can be used again.
void Drain(HttpResponse& response, const Deadline& until) {
  std::array<char, 4096> chunk;
  size_t left = kMaxErrorBody;
  while (left > 0) {
    auto n = response.Read(chunk, until);
    if (!n || *n == 0) return;
    left -= std::min(left, *n);
  }
}

std::chrono::milliseconds RetryAfter(const HttpResponse& response) {
  std::string text = response.Header("Retry-After");  // the date form is rare and not worth a clock comparison
  if (text.empty() || text.size() > 6 ||
      !std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); }))
    return {};
  return std::min(std::chrono::milliseconds(std::stol(text) * 1000), kLongestPause);
}

bool Redirects(int status) { return status == 301 || status == 302 || status == 303 || status == 307 || status == 308; }

// "bytes 100-199/200": the first number.
std::optional<uint64_t> RangeStart(std::string_view header) {
  if (!header.starts_with("bytes ")) return std::nullopt;
  header.remove_prefix(6);
  size_t dash = header.find('-');
  if (dash == 0 || dash == std::string_view::npos || dash > 19) return std::nullopt;
  uint64_t value = 0;
  for (char c : header.substr(0, dash)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

}  // namespace

RegistryClient::RegistryClient(Transport& transport, std::map<std::string, RegistryOptions> registries)
    : transport_(transport), tokens_(transport), registries_(std::move(registries)) {}

Result<std::unique_ptr<Repository>> RegistryClient::Open(const Reference& reference, const Credentials& credentials) {
  std::unique_ptr<Repository> repository(new Repository(*this, reference, credentials));
  std::string host = RegistryHost(reference.domain);
  auto options_of = [&](const std::string& name) -> const RegistryOptions* {
    auto it = registries_.find(name);
    return it == registries_.end() ? nullptr : &it->second;
  };
  const RegistryOptions* options = options_of(reference.domain);
  if (options == nullptr) options = options_of(host);
  static const RegistryOptions kNone;
  if (options == nullptr) options = &kNone;

  for (const std::string& mirror : options->mirrors) {
    auto url = Url::Parse(mirror);
    if (!url) return Wrap(std::move(url).error(), "images.registries.\"{}\".mirrors", reference.domain);
    auto place = std::make_unique<Repository::Place>();
    place->name = "mirror " + mirror;
    place->base = url->Origin();
    place->authority = url->Authority();
    place->path_prefix = url->target;
    while (place->path_prefix.ends_with('/')) place->path_prefix.pop_back();
    place->query = "?ns=" + reference.domain;  // lets one mirror stand in for several registries
    place->plain_http = url->scheme == "http";
    const RegistryOptions* own = options_of(place->authority);
    place->tls = own != nullptr ? TlsOptions{own->skip_verify, own->ca_file} : TlsOptions{false, options->ca_file};
    repository->places_.push_back(std::move(place));
  }

  auto place = std::make_unique<Repository::Place>();
  Url self = TRY(Url::Parse("https://" + host));
  place->name = "registry " + reference.domain;
  place->authority = host;
  place->own = true;
  place->plain_http = options->plain_http;
  place->tls = {options->skip_verify, options->ca_file};
  // A loopback host may be either; a configured authority says that it is TLS.
  bool unknown = IsLoopbackHost(self.host) && !options->plain_http && options->ca_file.empty();
  if (!unknown) place->base = (options->plain_http ? "http://" : "https://") + host;
  repository->places_.push_back(std::move(place));
  return repository;
}

Result<bool> RegistryClient::UsesTls(const std::string& authority, const Deadline& until) {
  {
    std::lock_guard lock(mutex_);
    auto known = tls_.find(authority);
    if (known != tls_.end()) return known->second;
  }
  auto https = TRY(Url::Parse("https://" + authority));
  auto answer = transport_.SpeaksTls(https, until);
  if (!answer && answer.error().code == Code::kUnavailable && https.Authority() != authority + ":443" &&
      https.port == "443") {
    // No port in the name: 443 is closed, 80 may be open.
    auto http = TRY(Url::Parse("http://" + authority));
    if (http.port == "80") answer = false;
  }
  if (!answer) return answer;
  std::lock_guard lock(mutex_);
  tls_[authority] = *answer;
  return answer;
}

Repository::Repository(RegistryClient& client, Reference reference, Credentials credentials)
    : client_(client), reference_(std::move(reference)), credentials_(std::move(credentials)) {}

Result<Url> Repository::UrlOf(Place& place, const Ask& ask, const Deadline& until) {
  std::string base;
  {
    std::lock_guard lock(mutex_);
    base = place.base;
  }
  if (base.empty()) {
    bool tls = TRY(client_.UsesTls(place.authority, until));
    std::lock_guard lock(mutex_);
    place.plain_http = !tls;
    base = place.base = (tls ? "https://" : "http://") + place.authority;
  }
  return Url::Parse(fmt::format("{}{}/v2/{}/{}{}", base, place.path_prefix, reference_.path, ask.suffix, place.query));
}

Result<std::unique_ptr<HttpResponse>> Repository::Follow(const Place& place, const Url& start, const Ask& ask,
                                                         const std::string& authorization, bool& own,
                                                         const Deadline& until) {
  Url url = start;
  own = true;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpRequest request;
    request.method = ask.method;
    request.url = url;
    request.headers.emplace_back("User-Agent", "berth");
    request.headers.emplace_back("Accept", ask.accept.empty() ? "*/*" : ask.accept);
    if (own && !authorization.empty()) request.headers.emplace_back("Authorization", authorization);
    if (ask.offset > 0) request.headers.emplace_back("Range", fmt::format("bytes={}-", ask.offset));
    auto options = client_.registries_.find(url.Authority());
    request.tls = own || options == client_.registries_.end()
                      ? place.tls
                      : TlsOptions{options->second.skip_verify, options->second.ca_file};
    auto response = TRY(client_.transport_.Send(request, until));
    if (!Redirects(response->status())) return response;
    Url next = TRY_CTX(url.Resolve(response->Header("Location")), "{} redirects", url.Origin());
    if (url.scheme == "https" && next.scheme == "http" && !IsLoopbackHost(next.host))
      return Err(Code::kFailedPrecondition, "{} redirects from TLS to plain HTTP at {}; that is not followed",
                 url.Origin(), next.Origin());
    Drain(*response, until);
    own = own && next.Origin() == start.Origin();  // once gone elsewhere, credentials do not come back either
    url = std::move(next);
  }
  return Err(Code::kFailedPrecondition, "{} redirects more than {} times", start.Origin(), kMaxRedirects);
}

Result<std::unique_ptr<HttpResponse>> Repository::Request(Place& place, const Ask& ask, Again& again,
                                                          const Deadline& until) {
  static const Credentials kNone;
  const Credentials& credentials = place.own ? credentials_ : kNone;
  auto attempt = [&]() -> Result<std::unique_ptr<HttpResponse>> {
    Url url = TRY(UrlOf(place, ask, until));
    std::string authorization;
    TokenCache::Wanted wanted{fmt::format("repository:{}:pull", reference_.path), place.tls, false};
    {
      std::lock_guard lock(mutex_);
      authorization = place.authorization;
      wanted.plain_http = place.plain_http;
    }
    // Without an answer yet, with a kept token that may have died meanwhile, with a fresh one.
    for (int round = 0;; ++round) {
      bool own = false;
      auto response = TRY(Follow(place, url, ask, authorization, own, until));
      if (response->status() != 401) return response;
      if (!own) return Refusal(place, ask, *response, again, until);
      auto challenges = ParseChallenges(response->Header("WWW-Authenticate"));
      if (round == 2 || (round > 0 && authorization.starts_with("Basic ")))
        return Refusal(place, ask, *response, again, until);
      Drain(*response, until);
      client_.tokens_.Forget(authorization);
      auto next = client_.tokens_.Answer(challenges, credentials, wanted, until);
      if (!next) return Wrap(std::move(next).error(), "{}: {}", place.name, reference_.repository());
      if (*next == authorization)
        return Err(Code::kUnauthenticated, "{}: {}: the credentials were refused", place.name, reference_.repository());
      authorization = std::move(*next);
      std::lock_guard lock(mutex_);
      place.authorization = authorization;
    }
  };
  auto response = attempt();
  if (!response && response.error().code == Code::kUnavailable) again.worthwhile = true;
  return response;
}

std::unexpected<Error> Repository::Refusal(const Place& place, const Ask& ask, HttpResponse& response, Again& again,
                                           const Deadline& until) {
  int status = response.status();
  auto body = ask.method == "HEAD" ? Result<std::string>("") : ReadBody(response, kMaxErrorBody, "error", until);
  std::string said = body ? RegistryText(*body) : "";
  again.wish = RetryAfter(response);
  std::string what = fmt::format("{}: {}: {}", place.name, reference_.repository(), ask.suffix);
  std::string tail = said.empty() ? fmt::format(" (HTTP {})", status) : fmt::format(" (HTTP {}: {})", status, said);
  switch (status) {
    case 401:
      return Err(Code::kUnauthenticated, "{}: {}{}", what,
                 place.own && !credentials_.empty() ? "the credentials were refused"
                                                    : "there is no such image, or it needs credentials",
                 tail);
    case 403:
      return Err(Code::kPermissionDenied, "{}: the registry forbids it{}", what, tail);
    case 404:
      return Err(Code::kNotFound, "{}: not found{}", what, tail);
    case 429:
      again.worthwhile = true;
      return Err(Code::kResourceExhausted, "{}: the registry's rate limit is reached{}", what, tail);
    default:
      break;
  }
  if (status >= 500 || status == 408) {
    again.worthwhile = status != 501;
    return Err(Code::kUnavailable, "{}: the registry failed{}", what, tail);
  }
  return Err(Code::kFailedPrecondition, "{}: unexpected answer{}", what, tail);
}

Result<void> Repository::Repeatedly(Place& place, const Use& use, const bool& stop, const Deadline& until) {
  // Another place is at hand after a mirror: it gets one chance.
  int attempts = place.own ? std::max(1, client_.attempts) : 1;
  auto pause = client_.first_pause;
  for (int left = attempts;;) {
    Again again;
    auto done = use(place, again);
    if (done || stop || !again.worthwhile) return done;
    if (again.progress) left = attempts, pause = client_.first_pause;
    if (--left <= 0) return done;
    auto wait = std::max(pause, again.wish);
    pause = std::min(pause * 2, kLongestPause);
    // With no time left for another attempt the cause says more than the clock.
    auto remaining = until.remaining();
    if (remaining && *remaining <= wait && *remaining > std::chrono::nanoseconds(0)) return done;
    TRY(until.Sleep(wait, fmt::format("another attempt at {}", place.name)));
  }
}

Result<void> Repository::Everywhere(const Use& use, const bool& stop, const Deadline& until) {
  std::string passed;
  for (size_t i = 0;; ++i) {
    Place& place = *places_[i];
    {
      std::lock_guard lock(mutex_);
      if (place.dead) continue;
    }
    auto done = Repeatedly(place, use, stop, until);
    if (done || stop) return done;
    TRY(until.Check(place.name));
    if (place.own) {
      if (!passed.empty()) done.error().what += " (before that: " + passed + ")";
      return done;
    }
    if (done.error().code == Code::kUnavailable) {
      std::lock_guard lock(mutex_);
      place.dead = true;
    }
    log::Debug("mirror.passed_over",
               {{"mirror", place.base}, {"image", reference_.Canonical()}, {"error", done.error()}});
    passed += (passed.empty() ? "" : "; ") + done.error().what;
  }
}

bool Repository::DistrustMirrors() {
  std::lock_guard lock(mutex_);
  bool any = false;
  for (auto& place : places_) {
    if (place->own || place->dead) continue;
    log::Warn("mirror.distrusted", {{"mirror", place->base}, {"image", reference_.Canonical()}});
    place->dead = any = true;
  }
  return any;
}

Result<std::optional<Digest>> Repository::ResolveTag(const std::string& tag, const Deadline& until) {
  std::optional<Digest> found;
  Ask ask{"HEAD", "manifests/" + tag, std::string(media::kAccept), 0};
  TRY(Everywhere(
      [&](Place& place, Again& again) -> Result<void> {
        auto response = TRY(Request(place, ask, again, until));
        // The GET that follows a failed HEAD brings the registry's own words.
        if (response->status() != 200) return place.own ? Result<void>() : Refusal(place, ask, *response, again, until);
        if (auto digest = Digest::Parse(response->Header("Docker-Content-Digest"))) found = *digest;
        Drain(*response, until);
        return {};
      },
      false, until));
  return found;
}

Result<FetchedManifest> Repository::GetManifest(const std::string& tag_or_digest, const Deadline& until) {
  FetchedManifest out;
  Ask ask{"GET", "manifests/" + tag_or_digest, std::string(media::kAccept), 0};
  bool by_digest = tag_or_digest.find(':') != std::string::npos;
  TRY(Everywhere(
      [&](Place& place, Again& again) -> Result<void> {
        auto response = TRY(Request(place, ask, again, until));
        if (response->status() != 200) return Refusal(place, ask, *response, again, until);
        std::string what = fmt::format("{}: {}: {}", place.name, reference_.repository(), ask.suffix);
        auto body = ReadBody(*response, kMaxManifest, what, until);
        if (!body) {
          again.worthwhile = body.error().code == Code::kUnavailable;
          return std::unexpected(std::move(body).error());
        }
        out.digest = Digest::Of(*body);
        if (by_digest && out.digest.str() != tag_or_digest)
          return Err(Code::kDataLoss, "{}: the bytes that came hash to {}", what, out.digest);
        auto claimed = Digest::Parse(response->Header("Docker-Content-Digest"));
        if (claimed && *claimed != out.digest)
          return Err(Code::kDataLoss, "{}: the registry announced {} but the bytes hash to {}", what, *claimed,
                     out.digest);
        out.media_type = response->Header("Content-Type");
        out.bytes = std::move(*body);
        return {};
      },
      false, until));
  return out;
}

Result<void> Repository::GetBlob(const Digest& digest, uint64_t size, uint64_t offset, const Sink& sink,
                                 const Deadline& until) {
  bool stop = false;  // the sink failed: no other place would change that
  std::vector<char> chunk(kChunk);
  return Everywhere(
      [&](Place& place, Again& again) -> Result<void> {
        if (offset >= size && size > 0) return {};
        Ask ask{"GET", "blobs/" + digest.str(), "", offset};
        auto response = TRY(Request(place, ask, again, until));
        std::string what = fmt::format("{}: {}: {}", place.name, reference_.repository(), ask.suffix);
        uint64_t skip = 0;
        if (response->status() == 206) {
          if (RangeStart(response->Header("Content-Range")) != offset)
            return Err(Code::kDataLoss, "{}: asked from byte {}, answered with {}", what, offset,
                       response->Header("Content-Range"));
        } else if (response->status() == 200) {
          skip = offset;  // ranges are not its thing
        } else {
          return Refusal(place, ask, *response, again, until);
        }
        const uint64_t from = offset;
        while (true) {
          auto n = response->Read(chunk, until);
          if (!n) {
            again.worthwhile = n.error().code == Code::kUnavailable;
            again.progress = offset - from >= kProgress;
            return Wrap(std::move(n).error(), "{}: after {} of {} bytes", what, offset, size);
          }
          if (*n == 0) break;
          std::string_view bytes(chunk.data(), *n);
          size_t drop = std::min<uint64_t>(skip, bytes.size());
          skip -= drop;
          bytes.remove_prefix(drop);
          if (bytes.size() > size - offset)
            return Err(Code::kDataLoss, "{}: it is longer than the {} bytes that the manifest says", what, size);
          if (bytes.empty()) continue;
          auto taken = sink(bytes);
          if (!taken) {
            stop = true;
            return taken;
          }
          offset += bytes.size();
        }
        if (offset < size)
          return Err(Code::kDataLoss, "{}: it ends after {} of the {} bytes that the manifest says", what, offset,
                     size);
        return {};
      },
      stop, until);
}

}  // namespace berth::images
