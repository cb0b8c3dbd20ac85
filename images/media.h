#pragma once
// The documents of the OCI image-spec and of Docker's schema 2: manifests, indexes, configs; media types; platforms.
//
// Everything here is pure. Documents come from strangers: the size is the caller's to bound (kMaxManifest, kMaxConfig), the
// rest is checked here, and an error names the member: `manifest of x: layers[2].digest: ...` (kInvalidArgument).
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "images/digest.h"
#include "images/image.h"

namespace berth::images {

inline constexpr size_t kMaxManifest = 4 << 20;  // bytes; what registries accept
inline constexpr size_t kMaxConfig = 8 << 20;
inline constexpr size_t kMaxLayers = 500;        // overlayfs takes 500 lower directories

namespace media {
inline constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kOciLayer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
// What we ask a registry for, in the order of the Accept header.
inline constexpr std::string_view kAccept =
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
bool IsManifest(std::string_view type);
bool IsIndex(std::string_view type);
}  // namespace media

struct Platform {
  std::string os, architecture, variant;
  // "linux/amd64", "linux/arm64/v8", "arm/v7" and "arm64" (os is linux then); other spellings of the same machine
  // (x86_64, aarch64, armhf) are normalised.
  static Result<Platform> Parse(std::string_view text);
  static const Platform& Machine();
  std::string str() const;
  bool operator==(const Platform&) const = default;
};

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::optional<Platform> platform;
  std::map<std::string, std::string> annotations;
};

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;   // bottom first
};

struct Index {
  std::string media_type;
  std::vector<Descriptor> manifests;
};

// `where` names the document in errors ("manifest of docker.io/library/nginx:latest"). `media_type` is what the carrier said
// (may be empty; parameters after ';' are ignored): the document's own mediaType wins when both are there and agree in kind.
// Schema 1 is refused, with the way out. Foreign and encrypted layers and things that are no container image (charts,
// signatures) are kUnimplemented.
Result<std::variant<Manifest, Index>> ParseManifest(std::string_view bytes, std::string_view media_type, std::string_view where);

struct ParsedConfig {
  ImageConfig config;
  std::vector<Digest> diff_ids;
};
Result<ParsedConfig> ParseConfig(std::string_view bytes, std::string_view where);

// The best entry for `wanted`: exact variant first, then older ones that the machine also runs. Entries whose os is
// `unknown` (attestations) are never chosen. kNotFound lists what is there.
Result<Descriptor> ChoosePlatform(const Index& index, const Platform& wanted, std::string_view where);
// Whether an image of that config runs on `wanted`; a config that says no architecture fits everywhere.
bool Fits(const ImageConfig& config, const Platform& wanted);

}  // namespace berth::images
