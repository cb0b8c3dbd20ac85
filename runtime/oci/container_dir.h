#pragma once
// What berth-oci keeps of a container between two commands: a directory below the state root.
//
//   <root>/<id>/           0700; making it claims the id
//     config.json          the specification as it was at `create`: later edits of the bundle have no effect
//     state.json           written whole by rename, once the process exists; without it the container is `creating`
//     notify/              mounted at /run/notify, with the service manager's notify socket in our environment
//     start.sock           the created process listens here; gone once it has been started
//
// Volatile by nature (below /run), so nothing is synced to disk. A pid counts only together with its start time.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <boost/describe.hpp>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/linux/resctrl.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

enum class Status { kCreating, kCreated, kRunning, kPaused, kStopped };
std::string_view StatusName(Status status);

struct StateRecord {
  std::string ociVersion, id;
  int64_t pid = 0;
  uint64_t startTime = 0;  // field 22 of /proc/<pid>/stat
  std::string bundle, rootfs, created, owner, cgroup, scope;  // scope: systemd's unit, if it made the cgroup
  std::map<std::string, std::string> annotations;
  std::optional<Hooks> hooks;                  // poststart and poststop only: what later commands run
  std::optional<resctrl::Group> resctrl;
  std::string notifySocket;  // the service manager's, when notifications are passed on
  std::string listenerPath, listenerMetadata;  // of a filter that notifies, for `start`
  uint64_t mountId = 0;  // of our mount at `rootfs`, for a container without a mount namespace; 0: none
};
BOOST_DESCRIBE_STRUCT(StateRecord, (),
                      (ociVersion, id, pid, startTime, bundle, rootfs, created, owner, cgroup, scope, annotations, hooks, resctrl, notifySocket,
                       listenerPath, listenerMetadata, mountId))

// What `state` prints; members and spelling of the OCI runtime-spec, and those that containerd and podman read.
struct StateDocument {
  std::string ociVersion, id;
  int64_t pid = 0;  // 0 when stopped
  std::string status, bundle, rootfs, created, owner;
  std::map<std::string, std::string> annotations;
};
BOOST_DESCRIBE_STRUCT(StateDocument, (), (ociVersion, id, pid, status, bundle, rootfs, created, owner, annotations))

class ContainerDir {
 public:
  // kAlreadyExists: "container with id exists: x".
  static Result<ContainerDir> Claim(const std::string& root, const std::string& id);
  // kNotFound: "container \"x\" does not exist".
  static Result<ContainerDir> Find(const std::string& root, const std::string& id);

  const std::string& path() const { return path_; }
  Result<void> WriteConfig(std::string_view text) const;
  Result<Spec> ReadConfig() const;
  Result<void> WriteState(const StateRecord& state) const;
  Result<StateRecord> ReadState() const;  // kConflict while it is being created
  Result<unique_fd> Listen() const;       // start.sock
  Result<unique_fd> Connect() const;      // kConflict when there is nobody to start
  void RemoveSocket() const;
  Result<void> Remove() const;

 private:
  std::string path_, id_;
};

uint64_t ProcessStartTime(int64_t pid);  // 0 when there is no such process, or only its zombie
// The container's first process; kConflict "container not running" when it is gone.
Result<unique_fd> OpenProcess(const StateRecord& state);
Result<Status> StatusOf(const ContainerDir& dir, const StateRecord& state);
// Writes `text` beside `path` and renames: the file is there whole or not at all.
Result<void> ReplaceFile(const std::string& path, std::string_view text, unsigned mode);

}  // namespace berth::runtime::oci
