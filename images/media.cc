#include "images/media.h"

#include <sys/utsname.h>

#include "base/json.h"

namespace berth::images {
namespace {

// As on the wire; members that we do not use are left out.
struct WirePlatform {
  std::string architecture, os, variant;
};
BOOST_DESCRIBE_STRUCT(WirePlatform, (), (architecture, os, variant))

struct WireDescriptor {
  std::string mediaType, digest;
  int64_t size = -1;
  std::optional<WirePlatform> platform;
  std::map<std::string, std::string> annotations;
  std::vector<std::string> urls;
};
BOOST_DESCRIBE_STRUCT(WireDescriptor, (), (mediaType, digest, size, platform, annotations, urls))

struct WireManifest {
  int64_t schemaVersion = 0;
  std::string mediaType, artifactType;
  std::optional<WireDescriptor> config;
  std::optional<std::vector<WireDescriptor>> layers, manifests;
  json::Value fsLayers, signatures;  // schema 1
};
BOOST_DESCRIBE_STRUCT(WireManifest, (),
                      (schemaVersion, mediaType, artifactType, config, layers, manifests, fsLayers, signatures))

struct WireSettings {
  std::string User, WorkingDir, StopSignal;
  std::vector<std::string> Env, Entrypoint, Cmd;
  std::map<std::string, std::string> Labels;
  std::map<std::string, json::Value> ExposedPorts, Volumes;
};
BOOST_DESCRIBE_STRUCT(WireSettings, (),
                      (User, WorkingDir, StopSignal, Env, Entrypoint, Cmd, Labels, ExposedPorts, Volumes))

struct WireRootFs {
  std::string type;
  std::vector<std::string> diff_ids;
};
BOOST_DESCRIBE_STRUCT(WireRootFs, (), (type, diff_ids))

struct WireImage {
  std::string created, architecture, os, variant;
  WireSettings config;
  std::optional<WireRootFs> rootfs;
};
BOOST_DESCRIBE_STRUCT(WireImage, (), (created, architecture, os, variant, config, rootfs))

Platform Normal(std::string os, std::string architecture, std::string variant) {
  auto lower = [](std::string& s) {
    std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return std::tolower(c); });
  };
  lower(os), lower(architecture), lower(variant);
  if (architecture == "x86_64" || architecture == "x86-64") architecture = "amd64";
  if (architecture == "i386" || architecture == "i486" || architecture == "i586" || architecture == "i686" ||
      architecture == "x86")
    architecture = "386", variant = "";
  if (architecture == "aarch64") architecture = "arm64";
  if (architecture == "armhf" || architecture == "armv7l") architecture = "arm", variant = "v7";
  if (architecture == "armel" || architecture == "armv6l") architecture = "arm", variant = "v6";
  if (!variant.empty() && std::isdigit(static_cast<unsigned char>(variant.front())))
    variant.insert(variant.begin(), 'v');
  // One spelling each for the variant that the bare architecture means (containerd's platforms package).
  if (architecture == "amd64" && variant == "v1") variant = "";
  if (architecture == "arm64" && variant == "v8") variant = "";
  if (architecture == "arm" && variant.empty()) variant = "v7";
  return {std::move(os), std::move(architecture), std::move(variant)};
}

// Variants that a machine of `wanted` runs, best first.
std::vector<std::string> Acceptable(const Platform& wanted) {
  auto down_to = [&](int lowest, int bare) {
    std::vector<std::string> out;
    int from = wanted.variant.size() == 2 ? wanted.variant[1] - '0' : bare;
    for (int v = from; v >= lowest; --v)
      out.push_back(v == bare && wanted.architecture != "arm" ? std::string() : fmt::format("v{}", v));
    return out;
  };
  if (wanted.architecture == "amd64") {
    auto out = down_to(1, 1);
#if defined(__x86_64__)
    // An index that has only images for newer processors is still good for a machine that is one.
    if (wanted == Platform::Machine()) {
      if (__builtin_cpu_supports("x86-64-v2")) out.push_back("v2");
      if (__builtin_cpu_supports("x86-64-v3")) out.push_back("v3");
      if (__builtin_cpu_supports("x86-64-v4")) out.push_back("v4");
    }
#endif
    return out;
  }
  if (wanted.architecture == "arm64") return down_to(8, 8);
  if (wanted.architecture == "arm") return down_to(5, 7);
  return {wanted.variant};
}

Result<Descriptor> ToDescriptor(const WireDescriptor& wire, std::string_view where, std::string_view member) {
  Descriptor out;
  out.media_type = wire.mediaType;
  auto digest = Digest::Parse(wire.digest);
  if (!digest) return Wrap(std::move(digest).error(), "{}: {}.digest", where, member);
  out.digest = *digest;
  if (wire.size < 0)
    return Err(Code::kInvalidArgument, "{}: {}.size: expected the size in bytes, 0 or more", where, member);
  out.size = static_cast<uint64_t>(wire.size);
  if (wire.platform) out.platform = Normal(wire.platform->os, wire.platform->architecture, wire.platform->variant);
  out.annotations = wire.annotations;
  return out;
}

Result<void> CheckLayerType(const WireDescriptor& layer, std::string_view where, std::string_view member) {
  const std::string& type = layer.mediaType;
  if (type.find("foreign") != std::string::npos || type.find("nondistributable") != std::string::npos)
    return Err(Code::kUnimplemented, "{}: {} is a foreign layer ({}), which lives outside the registry", where, member,
               type);
  if (type.find("encrypted") != std::string::npos)
    return Err(Code::kUnimplemented, "{}: {} is encrypted ({})", where, member, type);
  bool known = type.starts_with(media::kOciLayer) || type.starts_with("application/vnd.docker.image.rootfs.diff.tar");
  if (!known)
    return Err(Code::kUnimplemented, "{}: {}.mediaType is \"{}\", which is no image layer", where, member, type);
  return {};
}

}  // namespace

bool media::IsManifest(std::string_view type) { return type == kOciManifest || type == kDockerManifest; }
bool media::IsIndex(std::string_view type) { return type == kOciIndex || type == kDockerList; }

Result<Platform> Platform::Parse(std::string_view text) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (true) {
    size_t slash = text.find('/', start);
    parts.emplace_back(text.substr(start, slash == std::string_view::npos ? slash : slash - start));
    if (slash == std::string_view::npos) break;
    start = slash + 1;
  }
  auto word = [](const std::string& s) {
    return !s.empty() && s.size() <= 32 && std::isalnum(static_cast<unsigned char>(s.front())) &&
           std::all_of(s.begin(), s.end(),
                       [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; });
  };
  if (parts.size() > 3 || !std::all_of(parts.begin(), parts.end(), word))
    return Err(Code::kInvalidArgument, "platform \"{}\": expected os/architecture[/variant], like linux/arm64/v8",
               text);
  if (parts.size() == 1 || (parts.size() == 2 && parts[1].starts_with('v') && parts[0] != "linux"))
    parts.insert(parts.begin(), "linux");
  return Normal(parts[0], parts[1], parts.size() == 3 ? parts[2] : "");
}

const Platform& Platform::Machine() {
  static const Platform machine = [] {
    utsname name{};
    ::uname(&name);
    std::string architecture = name.machine;
    if (architecture == "ppc64le" || architecture == "riscv64" || architecture == "s390x")
      return Platform{"linux", architecture, ""};
    return Normal("linux", architecture, "");
  }();
  return machine;
}

std::string Platform::str() const { return os + "/" + architecture + (variant.empty() ? "" : "/" + variant); }

Result<std::variant<Manifest, Index>> ParseManifest(std::string_view bytes, std::string_view media_type,
                                                    std::string_view where) {
  auto wire = TRY(json::Parse<WireManifest>(bytes, where));
  std::string carrier(media_type.substr(0, media_type.find(';')));
  while (carrier.ends_with(' ')) carrier.pop_back();
  if (wire.schemaVersion == 1 || !wire.fsLayers.is_null() || !wire.signatures.is_null())
    return Err(
        Code::kUnimplemented,
        "{}: Docker image format 1 (schema 1) is not supported, nobody else does any more; push the image again with a "
        "current client",
        where);
  if (wire.schemaVersion != 2)
    return Err(Code::kInvalidArgument, "{}: schemaVersion is {}, expected 2", where, wire.schemaVersion);
  std::string type = wire.mediaType.empty() ? carrier : wire.mediaType;
  bool generic =
      type.empty() || type == "application/json" || type == "application/octet-stream" || type == "text/plain";
  bool is_index = media::IsIndex(type) || (generic && wire.manifests.has_value());
  bool is_manifest = media::IsManifest(type) || (generic && wire.config.has_value());
  // A document that is both could mean one image to us and another to a scanner (CVE-2021-41190).
  if (wire.manifests && (wire.layers || wire.config))
    return Err(Code::kInvalidArgument,
               "{}: has both \"manifests\" and \"layers\" or \"config\"; it must be either an index or a manifest",
               where);
  if ((media::IsIndex(carrier) && is_manifest) || (media::IsManifest(carrier) && is_index))
    return Err(Code::kInvalidArgument, "{}: the content type is {} but mediaType says {}", where, carrier, type);

  if (is_index) {
    if (!wire.manifests) return Err(Code::kInvalidArgument, "{}: member \"manifests\" is missing", where);
    Index index{type.empty() ? std::string(media::kOciIndex) : type, {}};
    for (size_t i = 0; i < wire.manifests->size(); ++i)
      index.manifests.push_back(TRY(ToDescriptor((*wire.manifests)[i], where, fmt::format("manifests[{}]", i))));
    return index;
  }
  if (!is_manifest)
    return Err(Code::kInvalidArgument, "{}: mediaType \"{}\" is neither an image manifest nor an index", where, type);

  if (!wire.config) return Err(Code::kInvalidArgument, "{}: member \"config\" is missing", where);
  if (!wire.layers) return Err(Code::kInvalidArgument, "{}: member \"layers\" is missing", where);
  const std::string& config_type = wire.config->mediaType;
  if (config_type != media::kOciConfig && config_type != media::kDockerConfig)
    return Err(Code::kUnimplemented, "{}: not a container image: its config is \"{}\"", where, config_type);
  if (wire.layers->size() > kMaxLayers)
    return Err(Code::kInvalidArgument, "{}: {} layers, at most {} can be mounted", where, wire.layers->size(),
               kMaxLayers);
  Manifest manifest;
  manifest.media_type = generic ? std::string(media::kOciManifest) : type;
  manifest.config = TRY(ToDescriptor(*wire.config, where, "config"));
  if (manifest.config.size > kMaxConfig)
    return Err(Code::kInvalidArgument, "{}: config.size is {}, at most {} bytes are read", where, manifest.config.size,
               kMaxConfig);
  for (size_t i = 0; i < wire.layers->size(); ++i) {
    std::string member = fmt::format("layers[{}]", i);
    TRY(CheckLayerType((*wire.layers)[i], where, member));
    manifest.layers.push_back(TRY(ToDescriptor((*wire.layers)[i], where, member)));
  }
  return manifest;
}

Result<ParsedConfig> ParseConfig(std::string_view bytes, std::string_view where) {
  auto wire = TRY(json::Parse<WireImage>(bytes, where));
  if (!wire.rootfs) return Err(Code::kInvalidArgument, "{}: member \"rootfs\" is missing", where);
  if (wire.rootfs->type != "layers")
    return Err(Code::kInvalidArgument, "{}: rootfs.type is \"{}\", expected \"layers\"", where, wire.rootfs->type);
  ParsedConfig out;
  if (wire.rootfs->diff_ids.size() > kMaxLayers)
    return Err(Code::kInvalidArgument, "{}: {} layers, at most {} can be mounted", where, wire.rootfs->diff_ids.size(),
               kMaxLayers);
  for (size_t i = 0; i < wire.rootfs->diff_ids.size(); ++i) {
    auto digest = Digest::Parse(wire.rootfs->diff_ids[i]);
    if (!digest) return Wrap(std::move(digest).error(), "{}: rootfs.diff_ids[{}]", where, i);
    out.diff_ids.push_back(*digest);
  }
  ImageConfig& c = out.config;
  c.created = wire.created;
  c.architecture = wire.architecture;
  c.os = wire.os;
  c.variant = wire.variant;
  c.user = wire.config.User;
  c.env = wire.config.Env;
  c.entrypoint = wire.config.Entrypoint;
  c.cmd = wire.config.Cmd;
  c.working_dir = wire.config.WorkingDir;
  c.stop_signal = wire.config.StopSignal;
  c.labels = wire.config.Labels;
  for (const auto& [port, _] : wire.config.ExposedPorts) c.exposed_ports.push_back(port);
  for (const auto& [path, _] : wire.config.Volumes) c.volumes.push_back(path);
  return out;
}

Result<Descriptor> ChoosePlatform(const Index& index, const Platform& wanted, std::string_view where) {
  const auto variants = Acceptable(wanted);
  const Descriptor* best = nullptr;
  size_t best_rank = variants.size();
  std::vector<std::string> available;
  for (const Descriptor& entry : index.manifests) {
    if (!media::IsManifest(entry.media_type) && !media::IsIndex(entry.media_type)) continue;
    if (!entry.platform || entry.platform->os == "unknown" || entry.platform->os.empty()) continue;
    const Platform& p = *entry.platform;
    if (std::find(available.begin(), available.end(), p.str()) == available.end()) available.push_back(p.str());
    if (p.os != wanted.os || p.architecture != wanted.architecture) continue;
    size_t rank = std::find(variants.begin(), variants.end(), p.variant) - variants.begin();
    if (rank < best_rank) best = &entry, best_rank = rank;
  }
  if (best != nullptr) return *best;
  // An index that names no platform at all: its only image is the one meant; its config is checked afterwards.
  const Descriptor* only = nullptr;
  size_t nameless = 0;
  for (const Descriptor& entry : index.manifests)
    if (!entry.platform && (media::IsManifest(entry.media_type) || media::IsIndex(entry.media_type)))
      only = &entry, ++nameless;
  if (available.empty() && nameless == 1) return *only;
  return Err(
      Code::kNotFound, "{}: no image for {}; available: {}", where, wanted.str(),
      available.empty() ? std::string("none that names its platform") : fmt::format("{}", fmt::join(available, ", ")));
}

bool Fits(const ImageConfig& config, const Platform& wanted) {
  if (config.architecture.empty()) return true;
  Platform p = Normal(config.os.empty() ? "linux" : config.os, config.architecture, config.variant);
  if (p.os != wanted.os || p.architecture != wanted.architecture) return false;
  if (config.variant.empty()) return true;
  const auto variants = Acceptable(wanted);
  return std::find(variants.begin(), variants.end(), p.variant) != variants.end();
}

}  // namespace berth::images
