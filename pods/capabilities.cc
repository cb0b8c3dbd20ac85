#include "pods/capabilities.h"

#include "runtime/linux/caps.h"

namespace berth::pods {

namespace caps = runtime::caps;

namespace {

Result<caps::Set> Bit(const std::string& name, std::string_view field) {
  auto number = caps::Number(name);
  if (!number)
    return Err(Code::kInvalidArgument, "{}: {}: no such capability; a name such as NET_ADMIN, or ALL", field, name);
  return caps::Set{1} << *number;
}

bool IsAll(std::string_view name) {
  return name.size() == 3 && std::toupper(name[0]) == 'A' && std::toupper(name[1]) == 'L' &&
         std::toupper(name[2]) == 'L';
}

}  // namespace

Result<runtime::oci::Capabilities> MakeCapabilities(const ContainerSpec& spec) {
  const caps::Set every = caps::FromNames(caps::AllNames(), nullptr);
  caps::Set bits = spec.privileged ? every : caps::Default();
  if (!spec.privileged) {
    // Kubernetes: drop ALL with single adds, and add ALL with single drops, both mean what they say.
    for (const auto& name : spec.add_capabilities)
      if (IsAll(name)) bits = every;
    for (const auto& name : spec.drop_capabilities)
      if (IsAll(name)) bits = 0;
    for (const auto& name : spec.add_capabilities)
      if (!IsAll(name)) bits |= TRY(Bit(name, "add_capabilities"));
    for (const auto& name : spec.drop_capabilities)
      if (!IsAll(name)) bits &= ~TRY(Bit(name, "drop_capabilities"));
  }
  caps::Set ambient = 0;
  for (const auto& name : spec.ambient_capabilities) {
    caps::Set bit = IsAll(name) ? bits : TRY(Bit(name, "ambient_capabilities"));
    if ((bit & ~bits) != 0)
      return Err(Code::kInvalidArgument, "ambient_capabilities: {}: not among the container's capabilities", name);
    ambient |= bit;
  }
  runtime::oci::Capabilities out;
  out.bounding = out.effective = out.permitted = caps::ToNames(bits);
  out.inheritable = out.ambient = caps::ToNames(ambient);
  return out;
}

}  // namespace berth::pods
