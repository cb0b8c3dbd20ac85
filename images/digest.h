#pragma once
// A content digest, `sha256:<64 hex>`, and the hash that makes it.
#include <memory>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace berth::images {

class Digest {
 public:
  Digest() = default;
  // kInvalidArgument unless `sha256:` and 64 lower-case hex digits. Other algorithms are refused by name.
  static Result<Digest> Parse(std::string_view text);
  static Digest Of(std::string_view bytes);
  const std::string& str() const { return text_; }   // "sha256:..."
  std::string hex() const { return text_.empty() ? "" : text_.substr(7); }
  bool empty() const { return text_.empty(); }
  auto operator<=>(const Digest&) const = default;

 private:
  friend class Hasher;
  std::string text_;
};

class Hasher {  // SHA-256, incremental
 public:
  Hasher();
  ~Hasher();
  void Update(const void* data, size_t size);
  Digest Finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace berth::images

template <>
struct fmt::formatter<berth::images::Digest> : fmt::formatter<fmt::string_view> {
  template <class Context>
  auto format(const berth::images::Digest& d, Context& ctx) const {
    return fmt::formatter<fmt::string_view>::format(d.str(), ctx);
  }
};
