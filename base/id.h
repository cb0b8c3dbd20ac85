#pragma once
// Ids are distinct types, so that a pod's id is never taken for a container's. 64 lower-case hex digits, random: tools cut
// them at 12 or 13 characters, and cAdvisor matches exactly 64.
#include <compare>
#include <functional>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace berth {

template <class Tag>
struct Id {
  std::string value;
  Id() = default;
  explicit Id(std::string v) : value(std::move(v)) {}
  auto operator<=>(const Id&) const = default;
  bool empty() const { return value.empty(); }
  const std::string& str() const { return value; }
  std::string Short() const { return value.substr(0, 12); }
};

using PodId = Id<struct PodTag>;
using ContainerId = Id<struct ContainerTag>;

std::string RandomHex(size_t digits);  // from getrandom(2)
inline PodId NewPodId() { return PodId(RandomHex(64)); }
inline ContainerId NewContainerId() { return ContainerId(RandomHex(64)); }

}  // namespace berth

template <class Tag>
struct std::hash<berth::Id<Tag>> {
  size_t operator()(const berth::Id<Tag>& id) const { return std::hash<std::string>()(id.value); }
};
template <class Tag>
struct fmt::formatter<berth::Id<Tag>> : fmt::formatter<fmt::string_view> {
  template <class Context>
  auto format(const berth::Id<Tag>& id, Context& ctx) const {
    return fmt::formatter<fmt::string_view>::format(id.value, ctx);
  }
};
