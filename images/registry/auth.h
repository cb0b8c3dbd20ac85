#pragma once
// How a registry asks for credentials, and the tokens it accepts (RFC 7235, RFC 6750, distribution's token and oauth
// pages).
//
// A registry answers 401 with `WWW-Authenticate: Bearer
// realm="https://auth/token",service="x",scope="repository:a:pull"` or `Basic realm="x"`. For Bearer a token is fetched
// from the realm: by GET with Basic credentials, without any for public images, or by POST (OAuth2) with an identity
// token. Tokens are kept until shortly before they expire, per realm, service, scope and credentials.
//
// Credentials go to the registry they are for and to the token service it names, nowhere else, and never in the clear
// to another machine unless the registry itself is configured as plain HTTP.
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "images/registry/transport.h"
#include "images/store.h"

namespace berth::images {

struct Challenge {
  std::string scheme;                         // lower case: "basic", "bearer"
  std::map<std::string, std::string> params;  // names in lower case
};
// All challenges of one or more joined header values. Malformed parts are left out.
std::vector<Challenge> ParseChallenges(std::string_view header);

std::string EncodeBase64(std::string_view bytes);
// The name under which credentials are told apart, without containing them; "" for none.
std::string Fingerprint(const Credentials& credentials);

class TokenCache {  // thread-safe
 public:
  explicit TokenCache(Transport& transport) : transport_(transport) {}

  struct Wanted {
    std::string scope;  // used when the challenge names none: "repository:library/nginx:pull"
    TlsOptions tls;
    bool plain_http = false;  // the registry itself is reached in the clear
  };
  // The value of an Authorization header that answers the challenges. kUnauthenticated when there is no way to answer
  // them, or the token service refuses.
  Result<std::string> Answer(const std::vector<Challenge>& challenges, const Credentials& credentials,
                             const Wanted& wanted, const Deadline& until);
  // What Answer gave was refused: a cached token is not given again.
  void Forget(const std::string& authorization);

 private:
  struct Token {
    std::string value;
    std::chrono::steady_clock::time_point expires;
  };
  Result<Token> Fetch(const Challenge& challenge, const std::string& scope, const Credentials& credentials,
                      const Wanted& wanted, const Deadline& until);
  Transport& transport_;
  std::mutex mutex_;
  std::map<std::string, Token> tokens_;
};

}  // namespace berth::images
