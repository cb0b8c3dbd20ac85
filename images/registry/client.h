#pragma once
// A registry, as the OCI distribution-spec describes it, read-only: manifests and blobs of one repository.
//
// A request goes to the configured mirrors in order and then to the registry itself; a place that cannot answer
// (unreachable, not found, refused) is passed over, and one that was unreachable is not asked again by the same
// Repository. Credentials go to the registry itself only. Redirects are followed (at most 5); a redirect to another
// origin carries no credentials, and one from TLS to plain HTTP is refused. Connection failures, 429 and 5xx are tried
// again with growing pauses, within the deadline.
//
// Codes: kNotFound (no such repository, tag or blob), kUnauthenticated, kPermissionDenied, kUnavailable (unreachable or
// broken; trying later may help), kResourceExhausted (rate limit), kFailedPrecondition (TLS, configuration), kDataLoss
// (bytes that do not match their digest), kDeadlineExceeded, kCancelled.
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "images/digest.h"
#include "images/media.h"
#include "images/options.h"
#include "images/reference.h"
#include "images/registry/auth.h"
#include "images/registry/transport.h"
#include "images/store.h"

namespace berth::images {

struct FetchedManifest {
  Digest digest;           // of `bytes`, verified
  std::string media_type;  // as the registry said it
  std::string bytes;
};

class RegistryClient;

// One repository with one set of credentials. Thread-safe; the client outlives it.
class Repository {
 public:
  // The digest behind a tag, without transferring the manifest; nothing when the registry does not say.
  Result<std::optional<Digest>> ResolveTag(const std::string& tag, const Deadline& until);
  // By tag or by digest ("sha256:..."): then the bytes must match it.
  Result<FetchedManifest> GetManifest(const std::string& tag_or_digest, const Deadline& until);
  // Bytes of a blob from `offset` on, in order and complete: `sink` sees exactly size - offset bytes when this
  // succeeds. A connection that breaks is resumed where it was, also at another mirror. The digest is the caller's to
  // check. An error of `sink` ends it and is returned as it is.
  using Sink = std::function<Result<void>(std::string_view)>;
  Result<void> GetBlob(const Digest& digest, uint64_t size, uint64_t offset, const Sink& sink, const Deadline& until);
  // From now on only the registry itself is asked: bytes that came were wrong, and a mirror may be why. False when
  // there is no mirror left that could be.
  bool DistrustMirrors();

 private:
  friend class RegistryClient;
  struct Place {
    std::string name;         // for errors: "mirror http://127.0.0.1:5000", "registry quay.io"
    std::string base;         // "https://quay.io"; empty while the scheme of a loopback host is unknown
    std::string authority;    // host:port
    std::string path_prefix;  // of mirrors with a path
    std::string query;        // "?ns=docker.io" for mirrors
    TlsOptions tls;
    bool plain_http = false;
    bool own = false;           // the registry itself: may see the credentials
    bool dead = false;          // was unreachable
    std::string authorization;  // that worked last
  };
  struct Ask {
    std::string method, suffix, accept;  // suffix: "manifests/latest"
    uint64_t offset = 0;
  };
  struct Again {  // what a failed attempt says about the next one
    bool worthwhile = false;
    bool progress = false;              // it got somewhere: the count of attempts starts anew
    std::chrono::milliseconds wish{0};  // Retry-After
  };
  using Use = std::function<Result<void>(Place&, Again&)>;
  Repository(RegistryClient& client, Reference reference, Credentials credentials);
  // Runs `use` at each place in order until one succeeds, several times each where that is worthwhile. Ends early when
  // `stop` is set.
  Result<void> Everywhere(const Use& use, const bool& stop, const Deadline& until);
  Result<void> Repeatedly(Place& place, const Use& use, const bool& stop, const Deadline& until);
  // One request with authentication and redirects. The answer has any status but 401.
  Result<std::unique_ptr<HttpResponse>> Request(Place& place, const Ask& ask, Again& again, const Deadline& until);
  // `own`: whether the answer is the place's itself and not that of a host it redirected to, whose challenges are not
  // answered.
  Result<std::unique_ptr<HttpResponse>> Follow(const Place& place, const Url& start, const Ask& ask,
                                               const std::string& authorization, bool& own, const Deadline& until);
  Result<Url> UrlOf(Place& place, const Ask& ask, const Deadline& until);
  // The error that an answer means.
  std::unexpected<Error> Refusal(const Place& place, const Ask& ask, HttpResponse& response, Again& again,
                                 const Deadline& until);

  RegistryClient& client_;
  Reference reference_;
  Credentials credentials_;
  std::mutex mutex_;  // of the places' changing members
  std::vector<std::unique_ptr<Place>> places_;
};

class RegistryClient {  // thread-safe
 public:
  RegistryClient(Transport& transport, std::map<std::string, RegistryOptions> registries);
  // kInvalidArgument when a configured mirror is no URL.
  Result<std::unique_ptr<Repository>> Open(const Reference& reference, const Credentials& credentials);

  // How the pauses between attempts start and how many there are; tests make them short.
  std::chrono::milliseconds first_pause{250};
  int attempts = 4;

 private:
  friend class Repository;
  Result<bool> UsesTls(const std::string& authority, const Deadline& until);
  Transport& transport_;
  TokenCache tokens_;
  std::map<std::string, RegistryOptions> registries_;
  std::mutex mutex_;
  std::map<std::string, bool> tls_;  // loopback hosts whose scheme was found out
};

}  // namespace berth::images
