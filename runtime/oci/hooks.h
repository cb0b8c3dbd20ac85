#pragma once
// The specification's hooks, as far as they run in the runtime's own namespaces (prestart, createRuntime, poststart,
// poststop). The others are run by the container's first process (runtime/init/hooks.cc) and are part of its plan.
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "runtime/oci/container_dir.h"
#include "runtime/oci/spec.h"
#include "runtime/oci/verbs.h"

namespace berth::runtime::oci {

// The state document that hooks read, in two pieces: between them go status, `","pid":` and the number.
struct HookState {
  std::string head, tail;
  HookState(const std::string& oci_version, const std::string& id, const std::string& bundle,
            const std::map<std::string, std::string>& annotations);
  std::string For(std::string_view status, int64_t pid) const;
};

// Runs each in turn with `state` on its standard input, in directory `bundle` when that is there; nothing else is
// inherited. The first that fails or outlasts its timeout (its process group is killed) makes the error, which quotes
// what it wrote: kFailedPrecondition. `kind` names it: "createRuntime".
Result<void> RunHooks(const std::vector<Hook>& hooks, std::string_view kind, const std::string& state,
                      const std::string& bundle);
// All of them, failures being only warned of.
void RunPoststop(const RuntimeHost& host, const StateRecord& state);

// "hooks.prestart[0].path: must be absolute", timeouts above zero.
Result<void> CheckHooks(const Hooks& hooks);

}  // namespace berth::runtime::oci
