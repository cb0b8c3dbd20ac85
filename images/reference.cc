#include "images/reference.h"

#include <arpa/inet.h>

namespace berth::images {
namespace {

constexpr std::string_view kDefaultDomain = "docker.io";
constexpr size_t kMaxText = 1024;       // longer input is no reference, whatever it is
constexpr size_t kMaxRepository = 255;  // of the path, as registries enforce it
constexpr size_t kMaxTag = 128;

bool Lower(char c) { return c >= 'a' && c <= 'z'; }
bool Digit(char c) { return c >= '0' && c <= '9'; }
bool Letter(char c) { return Lower(c) || (c >= 'A' && c <= 'Z'); }
bool Hex(char c) { return Digit(c) || (c >= 'a' && c <= 'f'); }

// User input in an error: short, printable.
std::string Shown(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 128)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  if (text.size() > 128) out += "...";
  return out;
}

Result<void> CheckDomain(std::string_view whole, std::string_view domain) {
  std::string_view host = domain, port;
  bool has_port = false;
  if (domain.starts_with('[')) {
    size_t close = domain.find(']');
    if (close == std::string_view::npos)
      return Err(Code::kInvalidArgument, "reference \"{}\": host \"{}\" lacks the closing ]", Shown(whole),
                 Shown(domain));
    host = domain.substr(1, close - 1);
    std::string_view rest = domain.substr(close + 1);
    in6_addr address;
    if (::inet_pton(AF_INET6, std::string(host).c_str(), &address) != 1)
      return Err(Code::kInvalidArgument, "reference \"{}\": \"{}\" is no IPv6 address", Shown(whole), Shown(host));
    if (!rest.empty()) {
      if (!rest.starts_with(':'))
        return Err(Code::kInvalidArgument, "reference \"{}\": expected :port after \"[{}]\"", Shown(whole),
                   Shown(host));
      has_port = true;
      port = rest.substr(1);
    }
  } else {
    size_t colon = host.find(':');
    if (colon != std::string_view::npos) {
      has_port = true;
      port = host.substr(colon + 1);
      host = host.substr(0, colon);
    }
    size_t start = 0;
    while (true) {
      size_t dot = host.find('.', start);
      std::string_view label = host.substr(start, dot == std::string_view::npos ? dot : dot - start);
      bool good = !label.empty() && label.front() != '-' && label.back() != '-' &&
                  std::all_of(label.begin(), label.end(), [](char c) { return Letter(c) || Digit(c) || c == '-'; });
      if (!good)
        return Err(Code::kInvalidArgument,
                   "reference \"{}\": host \"{}\" is malformed; expected letters, digits, inner hyphens and dots, "
                   "then an optional :port",
                   Shown(whole), Shown(domain));
      if (dot == std::string_view::npos) break;
      start = dot + 1;
    }
  }
  if (has_port) {
    bool digits = !port.empty() && port.size() <= 5 && std::all_of(port.begin(), port.end(), Digit);
    int number = digits ? std::stoi(std::string(port)) : 0;
    if (number < 1 || number > 65535)
      return Err(Code::kInvalidArgument, "reference \"{}\": port \"{}\" is not a number from 1 to 65535", Shown(whole),
                 Shown(port));
  }
  return {};
}

// a path component: runs of [a-z0-9] joined by one '.', one or two '_', or any number of '-'.
bool ComponentGood(std::string_view part) {
  size_t i = 0;
  while (true) {
    size_t run = i;
    while (i < part.size() && (Lower(part[i]) || Digit(part[i]))) ++i;
    if (i == run) return false;
    if (i == part.size()) return true;
    size_t mark = i;
    char c = part[i];
    while (i < part.size() && part[i] == c) ++i;
    size_t width = i - mark;
    bool good = (c == '.' && width == 1) || (c == '_' && width <= 2) || c == '-';
    if (!good) return false;
  }
}

Result<void> CheckPath(std::string_view whole, std::string_view path) {
  if (path.size() > kMaxRepository)
    return Err(Code::kInvalidArgument,
               "reference \"{}\": the repository name has {} characters, at most {} are allowed", Shown(whole),
               path.size(), kMaxRepository);
  size_t start = 0;
  while (true) {
    size_t slash = path.find('/', start);
    std::string_view part = path.substr(start, slash == std::string_view::npos ? slash : slash - start);
    if (part.empty())
      return Err(Code::kInvalidArgument, "reference \"{}\": empty name component; expected name, host/name or host/a/b",
                 Shown(whole));
    if (std::any_of(part.begin(), part.end(), [](char c) { return c >= 'A' && c <= 'Z'; }))
      return Err(Code::kInvalidArgument, "reference \"{}\": repository name \"{}\" must be lowercase", Shown(whole),
                 Shown(path));
    if (!ComponentGood(part))
      return Err(
          Code::kInvalidArgument,
          "reference \"{}\": name component \"{}\" is malformed; expected a-z and 0-9, joined by '.', '_', '__' or '-'",
          Shown(whole), Shown(part));
    if (slash == std::string_view::npos) return {};
    start = slash + 1;
  }
}

Result<void> CheckTag(std::string_view whole, std::string_view tag) {
  if (tag.empty()) return Err(Code::kInvalidArgument, "reference \"{}\": the tag after ':' is empty", Shown(whole));
  if (tag.size() > kMaxTag)
    return Err(Code::kInvalidArgument, "reference \"{}\": the tag has {} characters, at most {} are allowed",
               Shown(whole), tag.size(), kMaxTag);
  auto word = [](char c) { return Letter(c) || Digit(c) || c == '_'; };
  if (!word(tag.front()) ||
      !std::all_of(tag.begin(), tag.end(), [&](char c) { return word(c) || c == '.' || c == '-'; }))
    return Err(Code::kInvalidArgument,
               "reference \"{}\": tag \"{}\" is malformed; expected a letter, digit or '_', then also '.' and '-'",
               Shown(whole), Shown(tag));
  return {};
}

}  // namespace

Result<Reference> Reference::Parse(std::string_view text) {
  if (text.empty())
    return Err(Code::kInvalidArgument, "reference is empty; expected [host/]name[:tag][@sha256:digest]");
  if (text.size() > kMaxText)
    return Err(Code::kInvalidArgument, "reference \"{}\" has {} characters; no reference is that long", Shown(text),
               text.size());
  size_t scheme = text.find("://");
  if (scheme != std::string_view::npos)
    return Err(Code::kInvalidArgument, "reference \"{}\" is a URL; leave \"{}\" away", Shown(text),
               Shown(text.substr(0, scheme + 3)));
  if (text.size() == 64 && std::all_of(text.begin(), text.end(), Hex))
    return Err(Code::kInvalidArgument, "reference \"{}\" is an image id; a name must not be 64 hexadecimal digits",
               text);

  Reference out;
  std::string_view rest = text;
  size_t at = rest.find('@');
  if (at != std::string_view::npos) {
    auto digest = Digest::Parse(rest.substr(at + 1));
    if (!digest) return Wrap(std::move(digest).error(), "reference \"{}\"", Shown(text));
    out.digest = *digest;
    rest = rest.substr(0, at);
    if (rest.empty()) return Err(Code::kInvalidArgument, "reference \"{}\": the name before '@' is empty", Shown(text));
  }

  std::string_view domain = kDefaultDomain;
  size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    std::string_view first = rest.substr(0, slash);
    bool host = first.find_first_of(".:[") != std::string_view::npos || first == "localhost" ||
                std::any_of(first.begin(), first.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (host) {
      TRY(CheckDomain(text, first));
      domain = first == "index.docker.io" ? kDefaultDomain : first;
      rest = rest.substr(slash + 1);
    }
  }

  size_t last = rest.rfind('/');
  size_t colon = rest.find(':', last == std::string_view::npos ? 0 : last);
  std::string_view path = rest;
  if (colon != std::string_view::npos) {
    path = rest.substr(0, colon);
    std::string_view tag = rest.substr(colon + 1);
    TRY(CheckTag(text, tag));
    if (out.digest.empty()) out.tag = tag;
  }
  TRY(CheckPath(text, path));
  out.domain = domain;
  out.path = domain == kDefaultDomain && path.find('/') == std::string_view::npos ? "library/" + std::string(path)
                                                                                  : std::string(path);
  if (out.tag.empty() && out.digest.empty()) out.tag = "latest";
  return out;
}

std::string Reference::Canonical() const { return repository() + (digest.empty() ? ":" + tag : "@" + digest.str()); }

std::string Reference::Familiar() const {
  std::string name = domain == kDefaultDomain ? path : repository();
  if (domain == kDefaultDomain && path.starts_with("library/") && path.find('/', 8) == std::string::npos)
    name = path.substr(8);
  return name + (digest.empty() ? ":" + tag : "@" + digest.str());
}

std::string RegistryHost(std::string_view domain) {
  return domain == kDefaultDomain ? "registry-1.docker.io" : std::string(domain);
}

}  // namespace berth::images
