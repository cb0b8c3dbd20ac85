#include <charconv>

#include "cri/check.h"
#include "cri/convert.h"

namespace berth::cri {
namespace {

constexpr std::string_view kHub = "docker.io";

// RFC 4648 with or without padding; nothing when it is not base64.
std::optional<std::string> Base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+' || c == '-' ? 62
                : c == '/' || c == '_' ? 63
                                       : -1;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xff);
    }
  }
  if (text.size() % 4 == 1) return std::nullopt;
  return out;
}

// The several names under which Docker Hub is written in credentials are one server.
std::string Server(std::string_view address) {
  for (std::string_view scheme : {"https://", "http://"})
    if (address.starts_with(scheme)) address.remove_prefix(scheme.size());
  std::string host(address.substr(0, address.find('/')));
  if (host == "index.docker.io" || host == "registry-1.docker.io" || host == "registry.hub.docker.com")
    return std::string(kHub);
  return host;
}

}  // namespace

// The first part of a name is a host when it could not be a Docker Hub user: it has a dot or a port, or is localhost.
std::string RegistryHost(std::string_view reference) {
  size_t slash = reference.find('/');
  if (slash == std::string_view::npos) return std::string(kHub);
  std::string_view first = reference.substr(0, slash);
  if (first != "localhost" && first.find_first_of(".:") == std::string_view::npos) return std::string(kHub);
  return Server(first);
}

Result<images::Credentials> ToCredentials(const api::AuthConfig& auth, std::string_view reference) {
  images::Credentials out;
  if (!auth.server_address().empty() && Server(auth.server_address()) != RegistryHost(reference)) return out;
  if (!auth.registry_token().empty()) out.registry_token = Secret(auth.registry_token());
  if (!auth.identity_token().empty()) out.identity_token = Secret(auth.identity_token());
  out.username = auth.username();
  if (!auth.username().empty()) {
    out.password = Secret(auth.password());
  } else if (!auth.password().empty()) {
    return Bad("auth.username", "must not be empty when auth.password is set");
  } else if (!auth.auth().empty()) {
    auto text = Base64(auth.auth());
    size_t colon = text ? text->find(':') : std::string::npos;
    if (colon == std::string::npos || colon == 0) return Bad("auth.auth", "must be base64 of username:password");
    out.username = text->substr(0, colon);
    std::string password = text->substr(colon + 1);
    while (!password.empty() && password.back() == '\0') password.pop_back();  // docker login pads with them
    out.password = Secret(std::move(password));
  }
  return out;
}

void FillImage(const images::Image& image, api::Image& out) {
  out.set_id(image.id.str());
  for (const auto& tag : image.repo_tags) out.add_repo_tags(tag);
  for (const auto& digest : image.repo_digests) out.add_repo_digests(digest);
  out.set_size(std::max<uint64_t>(image.size, 1));  // 0 is an error to the kubelet
  std::string_view user = image.config.user;
  user = user.substr(0, user.find(':'));
  int64_t uid = 0;
  auto [end, error] = std::from_chars(user.data(), user.data() + user.size(), uid);
  if (!user.empty() && error == std::errc() && end == user.data() + user.size())
    out.mutable_uid()->set_value(uid);
  else
    out.set_username(std::string(user));
  out.set_pinned(image.pinned);
}

}  // namespace berth::cri
