#pragma once
// The commands of berth-oci: what they are given, and how they are listed. One file a family.
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cmd/berth-oci/args.h"
#include "runtime/oci/verbs.h"

namespace berth {

struct Call {
  runtime::oci::RuntimeHost host;
  Parsed args;
  int failed_code = 1;  // what to exit with when the command fails

  Result<std::string> Id() const {
    if (args.rest.empty()) return Err(Code::kInvalidArgument, "a container id is required");
    return args.rest[0];
  }
};

struct Verb {
  std::string_view name, usage, about;
  Result<int> (*run)(Call&);  // exit code
  std::vector<Option> options;
  size_t stop_at = SIZE_MAX;  // ParseArgs
};

// Appended to in order, so that --help lists them so.
void AddLifeCommands(std::vector<Verb>* all);        // create, start, run, state, kill, delete, pause, resume
void AddExecCommand(std::vector<Verb>* all);         // exec
void AddShowCommands(std::vector<Verb>* all);        // list, ps, spec, features
void AddUpdateCommands(std::vector<Verb>* all);      // update, events
void AddCheckpointCommands(std::vector<Verb>* all);  // checkpoint, restore

// What runs in the container until its own program does must not be a file of the host: CVE-2019-5736. (main.cc)
Result<void> UseStub(Call& call);

const std::vector<Option>& CreateOptions();
Result<runtime::oci::CreateRequest> CreateFrom(const Call& call);
// LISTEN_FDS, LISTEN_FDNAMES and NOTIFY_SOCKET of our own environment.
Result<runtime::oci::Activation> ActivationFromEnvironment();
// --preserve-fds, checked: 3 .. 2+first+N are open.
Result<uint32_t> PreservedFds(const Call& call, uint32_t first);

std::vector<Option> With(std::vector<Option> base, std::initializer_list<Option> more);
// Whole texts only: "12x", "-1", " 1" and the empty one are errors naming `what`. CVE-2026-30892.
Result<uint32_t> Number(std::string_view text, std::string_view what);
Result<int64_t> Signed(std::string_view text, std::string_view what);
Result<int64_t> Bytes(std::string_view text, std::string_view what);                      // "64m", "1GiB"; -1 stays -1
Result<std::chrono::nanoseconds> Duration(std::string_view text, std::string_view what);  // "5s", "100ms", "1m30s"
Result<std::string> Absolute(const std::string& path, std::string_view option);
void Print(std::string_view text);

}  // namespace berth
