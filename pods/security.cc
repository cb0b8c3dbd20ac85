#include "pods/security.h"

#include "base/atomic_file.h"

namespace berth::pods {

Result<std::optional<runtime::oci::Seccomp>> LoadSeccomp(const ContainerSpec&, const std::string&) {
  return std::nullopt;
}

Result<void> CheckAppArmor(const SecurityProfile& profile, const std::string& sys) {
  if (profile.kind != "localhost") return {};
  std::string path = sys + "/kernel/security/apparmor/profiles";
  if (!Exists(path))
    return Err(Code::kFailedPrecondition, "apparmor: profile {}: this kernel runs without AppArmor", profile.path);
  std::string loaded = TRY(ReadFile(path));  // lines "name (enforce)"
  if (("\n" + loaded).find("\n" + profile.path + " (") != std::string::npos) return {};
  return Err(Code::kFailedPrecondition, "apparmor: profile {}: is not loaded; load it with apparmor_parser", profile.path);
}

}  // namespace berth::pods
