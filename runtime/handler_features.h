#pragma once
// What another OCI runtime can do, by its own words (`<program> features`, runtime-spec features.md).
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "runtime/options.h"

namespace berth::runtime {

struct HandlerFeatures {
  bool recursive_read_only = false;   // it knows the mount option rro
};

// A program that has no such command has no such features. kFailedPrecondition: the program is not there.
Result<HandlerFeatures> AskFeatures(const Handler& handler, const Deadline& until);
HandlerFeatures ReadFeatures(std::string_view document);   // pure; what is no such document has none

// The environment that a handler's commands get: ours, but only what says where things are.
std::vector<std::string> HandlerEnvironment();

}  // namespace berth::runtime
