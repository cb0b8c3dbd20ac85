#pragma once
// Is a request well formed? Looks at nothing but the request: kInvalidArgument naming the field and what would be
// right.
#include "base/error.h"
#include "pods/spec.h"

namespace berth::pods {

Result<void> CheckPodSpec(const PodSpec& spec);
// `pod`: the pod it goes into.
Result<void> CheckContainerSpec(const ContainerSpec& spec, const PodSpec& pod);

// A cgroup path that can be joined below every hierarchy: absolute, without empty, "." or ".." parts. A relative path
// is taken from the root. kInvalidArgument for anything else, also a systemd slice name.
Result<std::string> CleanCgroupPath(const std::string& path, std::string_view field);

// "TERM", "SIGTERM", "15", "RTMIN+3" -> number; kInvalidArgument naming `field`.
Result<int> SignalNumber(const std::string& name, std::string_view field);

}  // namespace berth::pods
