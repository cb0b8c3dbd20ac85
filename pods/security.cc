#include "pods/security.h"

#include "base/atomic_file.h"
#include "pods/capabilities.h"
#include "runtime/linux/seccomp.h"

namespace berth::pods {

namespace seccomp = runtime::seccomp;

Result<std::optional<runtime::oci::Seccomp>> LoadSeccomp(const ContainerSpec& spec,
                                                         const std::string& default_profile) {
  const SecurityProfile& asked = spec.seccomp;
  if (spec.privileged || (asked.kind != "default" && asked.kind != "localhost")) return std::nullopt;
  const auto sets = TRY(MakeCapabilities(spec));
  const auto caps = runtime::caps::FromNames(sets.bounding, nullptr);
  const std::string& path = asked.kind == "localhost" ? asked.path : default_profile;
  if (path.empty()) return seccomp::DefaultFilter(caps);
  if (path[0] != '/') return Err(Code::kInvalidArgument, "seccomp: profile {}: must be an absolute path", path);
  auto text = TRY_CTX(ReadFile(path, 4 << 20), "seccomp: profile {}", path);
  return TRY(seccomp::ParseProfile(text, path, {.caps = caps, .arch = {}, .kernel_major = 0, .kernel_minor = 0}));
}

Result<void> CheckAppArmor(const SecurityProfile& profile, const std::string& sys) {
  if (profile.kind != "localhost") return {};
  std::string path = sys + "/kernel/security/apparmor/profiles";
  if (!Exists(path))
    return Err(Code::kFailedPrecondition, "apparmor: profile {}: this kernel runs without AppArmor", profile.path);
  std::string loaded = TRY(ReadFile(path));  // lines "name (enforce)"
  if (("\n" + loaded).find("\n" + profile.path + " (") != std::string::npos) return {};
  return Err(Code::kFailedPrecondition, "apparmor: profile {}: is not loaded; load it with apparmor_parser",
             profile.path);
}

}  // namespace berth::pods
