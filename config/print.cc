#include "config/keys.h"

namespace berth::config {
namespace {

std::string TableOf(std::string_view tables, const std::string& name) { return fmt::format("{}.{}", tables, QuoteToml(name)); }

// Joins names the way load.cc names keys, which quotes only what needs it.
std::string OriginKey(std::string_view tables, const std::string& host, std::string_view name) {
  const bool bare = host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == host.npos;
  return fmt::format("{}.{}.{}", tables, bare ? host : QuoteToml(host), name);
}

std::string_view NameOf(std::string_view path) { return path.substr(path.rfind('.') + 1); }

// What may be written, for the comment above a key.
template <class Owner>
std::string Allowed(const Key<Owner>& key) {
  if (!key.choices.empty()) {
    std::string out;
    for (const std::string_view choice : key.choices) out += (out.empty() ? "" : ", ") + std::string(choice);
    return fmt::format(" ({})", out);
  }
  if (key.type == Type::kInteger) return fmt::format(" ({} to {})", key.low, key.high);
  return "";
}

}  // namespace

std::string Print(const Loaded& loaded) {
  const auto origin = [&](const std::string& key) {
    const auto at = loaded.origins.find(key);
    return at == loaded.origins.end() ? std::string("default") : at->second;
  };
  std::string out;
  std::string_view section;
  for (const auto& key : Keys()) {
    if (SectionOf(key.path) != section) {
      section = SectionOf(key.path);
      out += fmt::format("\n[{}]\n", section);
    }
    out += fmt::format("{} = {}  # {}\n", NameOf(key.path), FormatToml(key.get(loaded.config, key.choices), key.type),
                       origin(std::string(key.path)));
  }
  const auto tables = [&](std::string_view where, const auto& named, auto keys) {
    for (const auto& [name, owner] : named) {
      out += fmt::format("\n[{}]\n", TableOf(where, name));
      for (const auto& key : keys)
        out += fmt::format("{} = {}  # {}\n", key.path, FormatToml(key.get(owner, key.choices), key.type), origin(OriginKey(where, name, key.path)));
    }
  };
  tables(kHandlers, loaded.config.runtime.handlers, HandlerKeys());
  tables(kRegistries, loaded.config.images.registries, RegistryKeys());
  return out;
}

std::string PrintDefaults(bool commented) {
  const Config config;
  const std::string_view mark = commented ? "#" : "";
  std::string out =
      "# Configuration of berthd. Every key is shown with its default.\n"
      "# `berthd config` prints what is in effect and where it came from.\n\n";
  std::string_view section;
  for (const auto& key : Keys()) {
    if (SectionOf(key.path) != section) {
      section = SectionOf(key.path);
      out += fmt::format("\n[{}]\n", section);
    }
    out += fmt::format("# {}{}\n{}{} = {}\n", key.about, Allowed(key), mark, NameOf(key.path),
                       FormatToml(key.get(config, key.choices), key.type));
  }
  const auto example = [&](std::string_view about, std::string_view tables, const std::string& name, const auto& owner, auto keys) {
    out += fmt::format("\n# {}\n#[{}]\n", about, TableOf(tables, name));
    for (const auto& key : keys)
      out += fmt::format("# {}{}\n#{} = {}\n", key.about, Allowed(key), key.path, FormatToml(key.get(owner, key.choices), key.type));
  };
  example("One table for each other OCI runtime that pods may ask for (RuntimeClass).", kHandlers, "crun",
          runtime::Handler{.path = "/usr/bin/crun"}, HandlerKeys());
  example("One table for each registry host that needs other than the usual.", kRegistries, "registry.example.org",
          images::RegistryOptions(), RegistryKeys());
  return out;
}

}  // namespace berth::config
