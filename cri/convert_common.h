#pragma once
// Parts that pods and containers have in common. Used by convert_*.cc only.
#include "cri/convert.h"

namespace berth::cri {

// `given`: the message is there. Absent: the defaults of pods::Namespaces (own PID namespace), since an unset enum
// would read as POD.
Result<void> ReadNamespaces(std::string_view field, bool given, const api::NamespaceOption& options, bool of_pod,
                            pods::Namespaces& out);
void FillNamespaces(const pods::Namespaces& namespaces, api::NamespaceOption& out);

void FillMount(const pods::Mount& mount, api::Mount& out);

// Labels and annotations are the caller's, byte for byte; only an empty key is refused.
Result<void> ReadLabels(std::string_view field, const google::protobuf::Map<std::string, std::string>& from,
                        pods::Labels& to);

Result<void> ReadProfile(std::string_view field, bool given, const api::SecurityProfile& profile, bool path,
                         pods::SecurityProfile& out);
// The string form: "", "runtime/default", "docker/default", "unconfined", "localhost/<ref>".
Result<void> ReadProfileText(std::string_view field, const std::string& text, bool path, pods::SecurityProfile& out);

// The new field, else the old one; neither: unconfined.
template <class Security>
Result<void> ReadSeccomp(const std::string& field, const Security& security, pods::SecurityProfile& out) {
  if (security.has_seccomp()) return ReadProfile(field + ".seccomp", true, security.seccomp(), true, out);
  TRY(ReadProfileText(field + ".seccomp_profile_path", security.seccomp_profile_path(), true, out));
  if (out.kind.empty()) out.kind = "unconfined";
  return {};
}

Result<void> CheckSelinux(std::string_view field, const api::SELinuxOption& options, const HostFacts& host);
Result<void> CheckId(std::string_view field, int64_t id);

template <class Security>
bool HasUserName(const Security& security) {
  if constexpr (requires { security.run_as_username(); })
    return !security.run_as_username().empty();
  else
    return false;
}

template <class Security>
Result<void> CheckUser(const std::string& field, const Security& security) {
  if (security.has_run_as_user()) TRY(CheckId(field + ".run_as_user", security.run_as_user().value()));
  if (security.has_run_as_group()) {
    TRY(CheckId(field + ".run_as_group", security.run_as_group().value()));
    if (!security.has_run_as_user() && !HasUserName(security))
      return Err(Code::kInvalidArgument, "{}.run_as_group: needs run_as_user or run_as_username beside it", field);
  }
  for (int i = 0; i < security.supplemental_groups_size(); ++i)
    TRY(CheckId(fmt::format("{}.supplemental_groups[{}]", field, i), security.supplemental_groups(i)));
  return {};
}

}  // namespace berth::cri
