#include "cmd/berth-oci/args.h"

#include <fmt/format.h>

namespace berth {

Parsed ParseArgs(const std::vector<std::string>& args, size_t from, const std::vector<Option>& options,
                 size_t stop_at) {
  Parsed out;
  size_t words = 0;
  for (size_t i = from; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg.size() < 2 || arg[0] != '-') {
      if (words == stop_at) {
        out.rest.insert(out.rest.end(), args.begin() + static_cast<std::ptrdiff_t>(i), args.end());
        return out;
      }
      out.rest.push_back(arg);
      ++words;
      continue;
    }
    if (arg == "--") {
      out.rest.insert(out.rest.end(), args.begin() + static_cast<std::ptrdiff_t>(i) + 1, args.end());
      return out;
    }
    bool is_long = arg[1] == '-';
    std::string_view body = std::string_view(arg).substr(is_long ? 2 : 1);
    size_t equals = body.find('=');
    std::string_view name = body.substr(0, equals);
    const Option* found = nullptr;
    std::string attached;
    bool has_attached = equals != std::string_view::npos;
    if (has_attached) attached = body.substr(equals + 1);
    for (const Option& o : options)
      if (o.name == name) found = &o;
    if (!found && !is_long) {
      for (const Option& o : options)
        if (o.letter && o.letter == body[0]) found = &o;
      if (found && body.size() > 1 && !(has_attached && equals == 1)) {
        if (found->takes_value) {
          attached = body.substr(1);
          has_attached = true;
        } else {  // -it: several flags in one word
          for (char c : body) {
            const Option* flag = nullptr;
            for (const Option& o : options)
              if (o.letter == c && !o.takes_value) flag = &o;
            if (!flag) {
              out.error = fmt::format("unknown option -{}", c);
              return out;
            }
            out.options.emplace_back(flag->name, "");
          }
          continue;
        }
      }
    }
    if (!found) {
      out.error = fmt::format("unknown option {}", arg);
      return out;
    }
    if (!found->takes_value) {
      out.options.emplace_back(found->name, has_attached ? attached : "");
      continue;
    }
    if (!has_attached) {
      if (i + 1 == args.size()) {
        out.error = fmt::format("option {} needs a value", arg);
        return out;
      }
      attached = args[++i];
    }
    out.options.emplace_back(found->name, std::move(attached));
  }
  return out;
}

}  // namespace berth
