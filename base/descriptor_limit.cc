#include "base/descriptor_limit.h"

namespace berth {
namespace {
std::optional<rlimit> g_original;
}

Result<rlim_t> RaiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return SysErr("read the limit of open descriptors");
  if (limit.rlim_cur >= limit.rlim_max) return limit.rlim_cur;
  rlimit raised{limit.rlim_max, limit.rlim_max};
  if (::setrlimit(RLIMIT_NOFILE, &raised) < 0) return SysErr("raise the limit of open descriptors to {}", limit.rlim_max);
  if (!g_original) g_original = limit;
  return raised.rlim_cur;
}

const std::optional<rlimit>& ChildDescriptorLimit() { return g_original; }

}  // namespace berth
