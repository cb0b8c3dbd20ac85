#pragma once
// Command lines of OCI runtimes: options anywhere, `--name value`, `--name=value`, `-n value`, `-nvalue`; "--" ends
// them. Small on purpose: berth-oci is started for every step of every container.
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace berth {

struct Option {
  std::string_view name;  // "bundle"
  char letter = 0;        // 'b'
  bool takes_value = true;
  std::string_view help;
};

struct Parsed {
  std::vector<std::pair<std::string_view, std::string>>
      options;  // in order; a flag's value is "" (or what followed '=')
  std::vector<std::string> rest;
  std::string error;  // what is wrong, empty when all is well

  const std::string* Get(std::string_view name) const {
    const std::string* last = nullptr;
    for (const auto& [n, value] : options)
      if (n == name) last = &value;
    return last;
  }
  std::string Text(std::string_view name, std::string_view fallback = "") const {
    const std::string* v = Get(name);
    return v ? *v : std::string(fallback);
  }
  bool Flag(std::string_view name) const {
    const std::string* v = Get(name);
    return v && *v != "false";
  }
  std::vector<std::string> All(std::string_view name) const {
    std::vector<std::string> all;
    for (const auto& [n, value] : options)
      if (n == name) all.push_back(value);
    return all;
  }
};

// Parses args[from..]. The word after `stop_at` words that are no options, and all that follows it, is left alone in
// `rest`: 0 for the sub-command, 1 for the command of `exec ID command`.
Parsed ParseArgs(const std::vector<std::string>& args, size_t from, const std::vector<Option>& options, size_t stop_at);

}  // namespace berth
