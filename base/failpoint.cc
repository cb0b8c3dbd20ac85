#include "base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>

namespace berth {
namespace {

std::string_view Armed() {
  const char* value = ::getenv("BERTH_FAILPOINT");
  return value ? std::string_view(value) : std::string_view();
}

}  // namespace

const bool kFailpointsArmed = !Armed().empty();

void FailpointHit(std::string_view name) {
  if (Armed() == name) ::kill(::getpid(), SIGKILL);
}

Result<void> FailpointError(std::string_view name) {
  if (!kFailpointsArmed) [[likely]] return {};
  FailpointHit(name);
  const std::string_view armed = Armed();
  if (armed.size() == name.size() + 6 && armed.starts_with(name) && armed.ends_with(":error"))
    return Err(Code::kInternal, "failpoint {}", name);
  return {};
}

}  // namespace berth
