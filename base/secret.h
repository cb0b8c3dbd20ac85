#pragma once
// A string that must not reach a log: formatting it prints stars.
#include <string>

#include <fmt/format.h>

namespace berth {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  const std::string& Reveal() const { return value_; }
  bool empty() const { return value_.empty(); }

 private:
  std::string value_;
};

}  // namespace berth

template <>
struct fmt::formatter<berth::Secret> : fmt::formatter<fmt::string_view> {
  template <class Context>
  auto format(const berth::Secret&, Context& ctx) const {
    return fmt::formatter<fmt::string_view>::format("***", ctx);
  }
};
