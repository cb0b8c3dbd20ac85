#include <sched.h>
#include <sys/auxv.h>

#include "runtime/linux/namespaces.h"
#include "runtime/oci/launch.h"

namespace berth::runtime::oci {

Result<void> Unprivilege(const RuntimeHost& host, const Spec& spec, PlanInput* in) {
  bool root = ::getauxval(AT_EUID) == 0;
  in->nested = !root || !namespaces::InInitialUser();
  in->cgroup_optional = host.rootless == Rootless::kYes || (host.rootless == Rootless::kAuto && in->nested);
  if (root) return {};
  const auto& list = spec.linux->namespaces;
  auto user = std::find_if(list.begin(), list.end(), [](const Namespace& ns) { return ns.type == "user"; });
  if (user == list.end())
    return Err(Code::kPermissionDenied, "linux.namespaces: without root a container needs a user namespace");
  unique_fd ns;
  if (user->path.empty()) {
    ns = TRY_CTX(namespaces::MakeUser(spec.linux->uidMappings, spec.linux->gidMappings), "linux.uidMappings");
  } else {
    ns = TRY_CTX(namespaces::OpenAt(user->path, "user"), "linux.namespaces[{}].path", user - list.begin());
    if (namespaces::IsOwn(ns.get(), "user"))
      return Err(Code::kPermissionDenied, "linux.namespaces[{}].path: {} is the runtime's own user namespace",
                 user - list.begin(), user->path);
  }
  if (::setns(ns.get(), CLONE_NEWUSER) < 0) return SysErr("enter the container's user namespace");
  if (::unshare(CLONE_NEWNS) < 0) return SysErr("make a mount namespace to plan in");
  in->user_entered = true;
  return {};
}

}  // namespace berth::runtime::oci
