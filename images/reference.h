#pragma once
// Names of images, read as Docker reads them (the grammar of the distribution project's `reference` package).
//
//   nginx                              docker.io/library/nginx:latest
//   user/app:1.2                       docker.io/user/app:1.2
//   localhost/app, host:5000/a/b       the first component is a host when it has a dot, a colon or a capital letter, or is
//                                      `localhost`; [::1]:5000/app works too
//   app:1.2@sha256:<64 hex>            the digest form; the tag says nothing then and is dropped
//
// What looks like an image id (64 hex digits) is no name: the store tries ids itself.
#include <string>
#include <string_view>

#include "base/error.h"
#include "images/digest.h"

namespace berth::images {

struct Reference {
  std::string domain;   // "docker.io", "localhost:5000", "[::1]:5000"
  std::string path;     // "library/nginx"
  std::string tag;      // empty in the digest form
  Digest digest;        // empty in the tag form

  // kInvalidArgument names the part that is wrong and what would be right.
  static Result<Reference> Parse(std::string_view text);
  std::string repository() const { return domain + "/" + path; }
  std::string Canonical() const;   // docker.io/library/nginx:latest
  std::string Familiar() const;    // nginx:latest
  auto operator<=>(const Reference&) const = default;
};

// The host that serves a domain: docker.io lives at registry-1.docker.io.
std::string RegistryHost(std::string_view domain);

}  // namespace berth::images
