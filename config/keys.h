#pragma once
// The table of keys behind config.h. Internal to config/.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"

namespace berth::config {

enum class Type { kBool, kInteger, kMode, kText, kList };
using Value = std::variant<bool, int64_t, std::string, std::vector<std::string>>;

// Looks at a text (or one item of a list), may bring it into its usual form, and answers what was expected instead, or
// nothing when all is well.
using Check = std::string (*)(std::string& text);

template <class Owner>
struct Key {
  std::string_view path;                        // "images.snapshotter"; of tables with a name: "mirrors"
  Type type;
  std::string_view about;                       // a line for people
  Value (*get)(const Owner&, std::span<const std::string_view> choices);
  void (*set)(Owner&, const Value&, std::span<const std::string_view> choices);
  std::span<const std::string_view> choices;    // texts that are allowed; empty: any
  int64_t low = 0, high = 0;                    // integers and modes
  Check check = nullptr;
  std::string (*check_all)(const std::vector<std::string>&) = nullptr;  // a whole list
};

std::span<const Key<Config>> Keys();                                    // in the order they are printed
std::span<const Key<images::RegistryOptions>> RegistryKeys();           // [images.registries."host"]
inline constexpr std::string_view kRegistries = "images.registries";
std::string CheckRegistryHost(std::string& host);                       // the name of such a table
std::span<const Key<runtime::Handler>> HandlerKeys();                   // [runtime.handlers.name]
inline constexpr std::string_view kHandlers = "runtime.handlers";
std::string CheckHandlerName(std::string& name);

std::string_view SectionOf(std::string_view path);                      // "images"; "" for a top-level key
std::string QuoteToml(std::string_view text);                           // a basic string, with its quotes
std::string FormatToml(const Value& value, Type type);

// The candidate people most likely meant, or "" when none is near.
std::string Nearest(std::string_view text, std::span<const std::string> candidates);
int EditDistance(std::string_view a, std::string_view b);               // insert, delete, replace, swap of neighbours

}  // namespace berth::config
