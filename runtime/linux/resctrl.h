#pragma once
// Resource control of the CPU (Intel RDT and its like): a directory of the resctrl filesystem for each class of
// service, and in it one for each monitored container. Processes enter by writing 0 to `tasks` themselves.
#include <string>
#include <vector>

#include <boost/describe.hpp>

#include "base/error.h"
#include "base/unique_fd.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::resctrl {

struct Group {
  std::string dir;         // of the class; empty: none
  bool made = false;       // for this container alone: goes with it
  std::string monitoring;  // mon_groups/<id>, made by us; empty: none
};
BOOST_DESCRIBE_STRUCT(Group, (), (dir, made, monitoring))

// The first mount of resctrl in /proc/self/mountinfo; kFailedPrecondition when there is none.
Result<std::string> Mount();

// As the specification has linux.intelRdt: makes the class or finds it, writes or compares its schemata, makes the
// monitoring group. kInvalidArgument names the member; kConflict: an existing class says something else. When it fails,
// what it made is removed.
Result<Group> Prepare(const std::string& mount, const oci::IntelRdt& want, const std::string& id);
// `tasks` of the class, then of the monitoring group, write only.
Result<std::vector<unique_fd>> OpenTasks(const Group& group);
// Lines of the schemata file; the error quotes what the kernel says of them.
Result<void> WriteSchemata(const std::string& mount, const std::string& dir, const std::vector<std::string>& lines);
Result<void> Remove(const Group& group);

}  // namespace berth::runtime::resctrl
