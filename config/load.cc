#include <set>

#include <toml++/toml.h>

#include "base/atomic_file.h"
#include "config/keys.h"

namespace berth::config {
namespace {

constexpr size_t kFileLimit = 1 << 20;
constexpr std::string_view kSetOrigin = "--set";

using Path = std::vector<std::string>;

bool IsBare(std::string_view part) {
  return !part.empty() && part.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == part.npos;
}

std::string Join(const Path& path) {
  std::string out;
  for (const std::string& part : path) {
    if (!out.empty()) out += '.';
    out += IsBare(part) ? part : QuoteToml(part);
  }
  return out;
}

// "images.registries."a.b".mirrors" -> its four parts; empty when it is not a key.
Path Split(std::string_view text) {
  Path out;
  for (size_t at = 0; at <= text.size();) {
    size_t end;
    if (at < text.size() && (text[at] == '"' || text[at] == '\'')) {
      end = text.find(text[at], at + 1);
      if (end == text.npos) return {};
      out.emplace_back(text.substr(at + 1, end - at - 1));
      ++end;
      if (end < text.size() && text[end] != '.') return {};
    } else {
      end = std::min(text.find('.', at), text.size());
      out.emplace_back(text.substr(at, end - at));
      if (!IsBare(out.back())) return {};
    }
    at = end + 1;
  }
  return out;
}

std::string Shown(const toml::node& node) {  // what was found where something else was expected
  if (const auto* s = node.as_string()) return QuoteToml(std::string_view(s->get()).substr(0, 80));
  if (const auto* i = node.as_integer()) return std::to_string(i->get());
  if (const auto* b = node.as_boolean()) return b->get() ? "true" : "false";
  if (const auto* f = node.as_floating_point()) return fmt::format("{}", f->get());
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::string Wanted(Type type) {
  switch (type) {
    case Type::kBool: return "true or false";
    case Type::kInteger: return "an integer";
    case Type::kMode: return "a file mode such as 0o660";
    case Type::kText: return "a string";
    case Type::kList: return "a list of strings";
  }
  return "";
}

std::string Choices(std::span<const std::string_view> choices) {
  std::string out;
  for (size_t i = 0; i < choices.size(); ++i)
    out += (i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ") + QuoteToml(choices[i]);
  return out;
}

class Loader {
 public:
  explicit Loader(std::string name) : name_(std::move(name)) {}

  void File(std::string_view text) {
    try {
      const toml::table table = toml::parse(text, name_);
      Visit(table, {});
      std::ranges::stable_sort(errors_, {}, &Problem::line);
    } catch (const toml::parse_error& e) {
      errors_.push_back({0, fmt::format("{}:{}:{}: {}", name_, e.source().begin.line, e.source().begin.column, e.description())});
    }
  }

  void Override(const std::string& key, const std::string& value) {
    origin_ = kSetOrigin;
    line_ = kAfterFile;
    const Path path = Split(key);
    if (path.empty()) return Fail(key, "not a key; write it as in the file, such as images.snapshotter");
    const std::string_view type_source = value;
    // A text needs no quotes, a list of texts neither brackets nor quotes.
    const auto type = TypeOf(path);
    std::string toml = value;
    if (type == Type::kText && !type_source.starts_with('"') && !type_source.starts_with('\'')) toml = QuoteToml(value);
    if (type == Type::kList && !type_source.starts_with('[')) {
      toml.clear();
      for (size_t at = 0; !value.empty() && at <= value.size();) {
        const size_t end = std::min(value.find(',', at), value.size());
        toml += (toml.empty() ? "" : ", ") + QuoteToml(value.substr(at, end - at));
        at = end + 1;
      }
      toml = "[" + toml + "]";
    }
    if (!type) return Unknown(path);
    try {
      const toml::table table = toml::parse("v = " + toml);
      if (table.size() != 1) return Fail(key, "expected one value, got several lines");
      Visit(path, *table.get("v"));
    } catch (const toml::parse_error& e) {
      Fail(key, fmt::format("expected {}, got {}", Wanted(*type), QuoteToml(value.substr(0, 80))));
    }
  }

  Result<Loaded> Finish() {
    Config& c = out_.config;
    if (!out_.origins.contains("server.socket")) c.server.socket = (c.run == "/" ? "" : c.run) + "/berth.sock";
    c.images.root = c.root;
    c.images.run = c.run;
    // Layer mounts and sockets must not be carried off with the data, nor the data end with the boot.
    if (Inside(c.root, c.run) || Inside(c.run, c.root)) {
      const bool run_set = out_.origins.contains("run");
      origin_ = out_.origins.contains(run_set ? "run" : "root") ? out_.origins[run_set ? "run" : "root"] : name_;
      Fail(run_set ? "run" : "root", fmt::format("root ({}) and run ({}) must not lie in one another", c.root, c.run));
    }
    for (const auto& [name, handler] : c.runtime.handlers) {
      const std::string key = Join({"runtime", "handlers", name, "path"});
      // Not twice, when what was written there is no path.
      if (!handler.path.empty() || std::ranges::any_of(errors_, [&](const Problem& p) { return p.text.find(key + ":") != p.text.npos; }))
        continue;
      origin_ = named_at_[name];
      Fail(key, "must be set to the OCI runtime's program");
    }
    if (errors_.empty()) return std::move(out_);
    std::string what;
    for (const Problem& p : errors_) what += (what.empty() ? "" : "\n") + p.text;
    return Err(Code::kInvalidArgument, "{}", what);
  }

 private:
  struct Problem {
    int64_t line;
    std::string text;
  };
  static constexpr int64_t kAfterFile = std::numeric_limits<int64_t>::max();

  static bool Inside(const std::string& inner, const std::string& outer) {
    return inner == outer || outer == "/" || inner.starts_with(outer + "/");
  }

  void Fail(const std::string& key, const std::string& what) {
    errors_.push_back({line_, fmt::format("{}: {}: {}", origin_, key, what)});
  }

  // In a table of tables, each of which has a name of the user's: images.registries, runtime.handlers.
  static bool IsBelow(const Path& path, std::string_view tables) { return path.size() >= 2 && path[0] + "." + path[1] == tables; }
  static bool IsNamed(const Path& path) { return IsBelow(path, kRegistries) || IsBelow(path, kHandlers); }

  template <class Owner>
  static std::optional<Type> TypeIn(const Path& path, std::span<const Key<Owner>> keys) {
    for (const auto& key : keys)
      if (path.size() == 4 && path[3] == key.path) return key.type;
    return std::nullopt;
  }

  static std::optional<Type> TypeOf(const Path& path) {
    if (IsBelow(path, kRegistries)) return TypeIn(path, RegistryKeys());
    if (IsBelow(path, kHandlers)) return TypeIn(path, HandlerKeys());
    const std::string joined = Join(path);
    for (const auto& key : Keys())
      if (joined == key.path) return key.type;
    return std::nullopt;
  }

  template <class Owner>
  void VisitNamed(const Path& path, const toml::node& node, std::map<std::string, Owner>& tables, std::span<const Key<Owner>> keys,
                  Check check, std::string_view each) {
    const std::string joined = Join(path);
    if (path.size() >= 3) {
      std::string name = path[2];
      if (const std::string wrong = check(name); !wrong.empty()) return Fail(joined, "expected " + wrong);
    }
    if (path.size() <= 3) {
      if (path.size() == 3) {
        tables[path[2]];  // an empty table is one too
        named_at_.try_emplace(path[2], origin_);
      }
      const toml::table* table = node.as_table();
      if (!table) return Fail(joined, fmt::format("expected a table{}, got {}", path.size() == 2 ? each : "", Shown(node)));
      return Visit(*table, path);
    }
    for (const auto& key : keys)
      if (path.size() == 4 && path[3] == key.path) {
        named_at_.try_emplace(path[2], origin_);
        return Assign(key, tables[path[2]], node, joined);
      }
    Unknown(path);
  }

  void Visit(const toml::table& table, const Path& prefix) {
    for (const auto& [name, node] : table) {
      Path path = prefix;
      path.emplace_back(name.str());
      line_ = name.source().begin.line;
      origin_ = fmt::format("{}:{}", name_, line_);
      Visit(path, node);
    }
  }

  void Visit(const Path& path, const toml::node& node) {
    const std::string joined = Join(path);
    Config& c = out_.config;
    if (IsBelow(path, kRegistries))
      return VisitNamed(path, node, c.images.registries, RegistryKeys(), CheckRegistryHost, " for each host");
    if (IsBelow(path, kHandlers)) return VisitNamed(path, node, c.runtime.handlers, HandlerKeys(), CheckHandlerName, " for each handler");
    for (const auto& key : Keys())
      if (joined == key.path) return Assign(key, out_.config, node, joined);
    for (const auto& key : Keys())
      if (joined == SectionOf(key.path)) {
        const toml::table* table = node.as_table();
        if (!table) return Fail(joined, fmt::format("expected a table, got {}", Shown(node)));
        return Visit(*table, path);
      }
    Unknown(path);
  }

  void Unknown(const Path& path) {
    std::vector<std::string> candidates;
    std::string prefix;
    if (IsNamed(path) && path.size() >= 3) {
      prefix = Join({path.begin(), path.begin() + 3}) + ".";
      if (IsBelow(path, kRegistries))
        for (const auto& key : RegistryKeys()) candidates.emplace_back(key.path);
      else
        for (const auto& key : HandlerKeys()) candidates.emplace_back(key.path);
    } else {
      std::set<std::string> sections;
      for (const auto& key : Keys()) {
        candidates.emplace_back(key.path);
        if (const auto section = SectionOf(key.path); !section.empty()) sections.emplace(section);
      }
      candidates.insert(candidates.end(), sections.begin(), sections.end());
      candidates.emplace_back(kRegistries);
      candidates.emplace_back(kHandlers);
    }
    const std::string joined = Join(path);
    const std::string tail = prefix.empty() ? joined : Join({path.begin() + std::min<ptrdiff_t>(3, path.size()), path.end()});
    if (const std::string near = Nearest(tail, candidates); !near.empty())
      return Fail(joined, fmt::format("unknown key; did you mean {}{}?", prefix, near));
    std::string there;
    for (const std::string& candidate : candidates)
      if (SectionOf(candidate) == SectionOf(tail)) there += (there.empty() ? "" : ", ") + prefix + candidate;
    Fail(joined, there.empty() ? "unknown key" : fmt::format("unknown key; there are {}", there));
  }

  template <class Owner>
  void Assign(const Key<Owner>& key, Owner& owner, const toml::node& node, const std::string& joined) {
    std::string wrong;
    const std::optional<Value> value = Convert(key, node, wrong);
    if (!value) return Fail(joined, wrong);
    key.set(owner, *value, key.choices);
    out_.origins[joined] = origin_;
  }

  template <class Owner>
  static std::optional<Value> Convert(const Key<Owner>& key, const toml::node& node, std::string& wrong) {
    const auto expected = [&](const std::string& what, const toml::node& got) {
      wrong = fmt::format("expected {}, got {}", what, Shown(got));
      return std::nullopt;
    };
    switch (key.type) {
      case Type::kBool:
        if (const auto* b = node.as_boolean()) return b->get();
        return expected(Wanted(key.type), node);
      case Type::kInteger:
      case Type::kMode: {
        const auto* i = node.as_integer();
        if (!i) return expected(Wanted(key.type), node);
        // 660 and 0o660 are different modes, and only one of them is ever meant.
        if (key.type == Type::kMode && (i->flags() & toml::value_flags::format_as_octal) == toml::value_flags::none)
          return expected("a file mode in octal such as 0o660", node);
        if (i->get() >= key.low && i->get() <= key.high) return i->get();
        if (key.type == Type::kMode)
          wrong = fmt::format("expected a file mode from 0o{:o} to 0o{:o}, got 0o{:o}", key.low, key.high, i->get());
        else
          wrong = fmt::format("expected a number from {} to {}, got {}", key.low, key.high, i->get());
        return std::nullopt;
      }
      case Type::kText: {
        const auto* s = node.as_string();
        if (!s) return expected(key.choices.empty() ? Wanted(key.type) : Choices(key.choices), node);
        std::string text = s->get();
        if (!key.choices.empty() && std::ranges::find(key.choices, text) == key.choices.end()) return expected(Choices(key.choices), node);
        if (key.check)
          if (const std::string what = key.check(text); !what.empty()) return expected(what, node);
        return text;
      }
      case Type::kList: {
        const auto* array = node.as_array();
        if (!array) return expected(Wanted(key.type), node);
        std::vector<std::string> list;
        for (const toml::node& item : *array) {
          const auto* s = item.as_string();
          if (!s) return expected(Wanted(key.type), item);
          std::string text = s->get();
          if (key.check)
            if (const std::string what = key.check(text); !what.empty()) return expected(what, item);
          list.push_back(std::move(text));
        }
        if (key.check_all)
          if (const std::string what = key.check_all(list); !what.empty()) {
            wrong = fmt::format("expected {}, got {}", what, FormatToml(list, key.type));
            return std::nullopt;
          }
        return list;
      }
    }
    return std::nullopt;
  }

  std::string name_;
  std::string origin_;  // of what is being looked at
  int64_t line_ = 0;
  std::map<std::string, std::string> named_at_;  // where a table with a name was first seen
  Loaded out_;
  std::vector<Problem> errors_;
};

Result<Loaded> LoadFrom(const std::optional<std::string>& text, const std::string& name, const Overrides& overrides) {
  Loader loader(name);
  if (text) loader.File(*text);
  for (const auto& [key, value] : overrides) loader.Override(key, value);
  return loader.Finish();
}

}  // namespace

Result<Loaded> Parse(std::string_view text, const std::string& name, const Overrides& overrides) {
  return LoadFrom(std::string(text), name, overrides);
}

Result<Loaded> Load(const std::optional<std::string>& file, const Overrides& overrides) {
  const std::string name = file.value_or(std::string(kDefaultFile));
  auto text = ReadFile(name, kFileLimit);
  if (text) return LoadFrom(*text, name, overrides);
  if (!file && text.error().code == Code::kNotFound) return LoadFrom(std::nullopt, name, overrides);
  return Wrap(std::move(text).error(), "configuration");
}

}  // namespace berth::config
