#pragma once
// The cgroup driver for hosts whose cgroup tree belongs to systemd: a container's group is a transient scope, made by
// systemd at our word, so that it survives daemon-reload and shows in systemd-cgls with its limits.
//
// A scope needs a process to begin with. The caller hands in one that waits (the holder), starts the container's first
// process straight in the group that systemd made, and ends the holder: nothing is ever moved between groups.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "runtime/linux/cgroup.h"
#include "runtime/linux/dbus.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::systemd {

struct Scope {
  std::string slice, unit;  // "system.slice", "berth-oci-abc.scope"
};
// From linux.cgroupsPath "slice:prefix:name"; an empty path: the manager's default slice, "berth-oci" and the id. An
// empty slice is the default one too. kInvalidArgument: another form, or no valid names.
Result<Scope> ScopeOf(const std::string& cgroups_path, const std::string& id, bool user_manager);
// Where systemd puts it below the root of its tree: "/a.slice/a-b.slice/x.scope".
std::string PathOf(const Scope& scope);

using Property = std::pair<std::string, dbus::Value>;
// Limits in systemd's words, as far as it has words for them; the rest is written to the files alone. `version`:
// systemd's, 0 unknown (then only what is older than any).
Result<std::vector<Property>> LimitProperties(const cgroup::Layout& layout, const oci::Resources& resources,
                                              unsigned version);
// Annotations org.systemd.property.NAME with values in GVariant's text form; names in ...Sec take seconds.
Result<std::vector<Property>> AnnotatedProperties(const std::map<std::string, std::string>& annotations);

class Manager {  // a connection; one thread
 public:
  // The system's manager for the host's root, else the user's own. kFailedPrecondition: systemd does not run here.
  static Result<Manager> Connect(const Deadline& until);
  unsigned version() const { return version_; }

  // Makes the scope with `pid` in it and waits until it is there. A failed unit of that name is cleared away first;
  // kAlreadyExists: one is running.
  Result<void> StartScope(const Scope& scope, const std::string& description, pid_t pid,
                          std::vector<Property> properties, const Deadline& until);
  // Ends what is left of it and waits; one that is not there is success.
  Result<void> Stop(const std::string& unit, const Deadline& until);
  Result<void> SetProperties(const std::string& unit, std::vector<Property> properties, const Deadline& until);

 private:
  Result<std::vector<dbus::Value>> Call(const char* member, std::vector<dbus::Value> body, const Deadline& until);
  Result<void> WaitForJob(const std::string& job, const std::string& unit, const Deadline& until);
  dbus::Connection connection_;
  unsigned version_ = 0;
};

bool UserManager();  // Connect means the user's own manager: not root, or root of a user namespace only

}  // namespace berth::runtime::systemd
