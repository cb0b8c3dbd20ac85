// create, start, run, state, kill, delete, pause, resume.
#include "base/json.h"
#include "cmd/berth-oci/command.h"
#include "runtime/linux/names.h"

namespace berth {

using namespace runtime;
using namespace runtime::oci;

const std::vector<Option>& CreateOptions() {
  static const std::vector<Option> options = {
      {"bundle", 'b', true, "directory with config.json (the current one)"},
      {"pid-file", 0, true, "write the process id there"},
      {"console-socket", 0, true, "AF_UNIX socket that receives the terminal"},
      {"pidfd-socket", 0, true, "AF_UNIX socket that receives a pidfd of the process"},
      {"no-pivot", 0, false, "chroot instead of pivot_root, for a host that runs from its initramfs"},
      {"no-new-keyring", 0, false, "keep the caller's session keyring"},
      {"preserve-fds", 0, true, "pass descriptors 3 to 2+N to the container"}};
  return options;
}

Result<CreateRequest> CreateFrom(const Call& call) {
  CreateRequest r;
  r.id = TRY(call.Id());
  r.bundle = TRY(Absolute(call.args.Text("bundle", "."), "--bundle"));
  r.pid_file = call.args.Text("pid-file");
  r.console_socket = call.args.Text("console-socket");
  r.pidfd_socket = call.args.Text("pidfd-socket");
  r.no_pivot = call.args.Flag("no-pivot");
  r.new_keyring = !call.args.Flag("no-new-keyring");
  r.activation = TRY(ActivationFromEnvironment());
  r.preserve_fds = TRY(PreservedFds(call, r.activation.listen_fds));
  return r;
}

namespace {

Result<int> DoCreate(Call& call) {
  TRY(UseStub(call));
  TRY(Create(call.host, TRY(CreateFrom(call))));
  return 0;
}

Result<int> DoStart(Call& call) {
  TRY(Start(call.host, TRY(call.Id())));
  return 0;
}

Result<int> DoRun(Call& call) {
  TRY(UseStub(call));
  RunRequest r;
  r.create = TRY(CreateFrom(call));
  r.detach = call.args.Flag("detach");
  r.keep = call.args.Flag("keep");
  r.subreaper = !call.args.Flag("no-subreaper");
  return Run(call.host, r, &call.failed_code);
}

Result<int> DoState(Call& call) {
  Print(json::SerializePretty(json::ToValue(TRY(State(call.host, TRY(call.Id()))))) + "\n");
  return 0;
}

Result<int> DoKill(Call& call) {
  std::string id = TRY(call.Id());
  std::string name = call.args.rest.size() > 1 ? call.args.rest[1] : call.args.Text("signal", "TERM");
  // Signal 0 asks whether the process is there, as kill(1) has it.
  auto signal = name == "0" ? std::optional(0) : SignalNumber(name);
  if (!signal) return Err(Code::kInvalidArgument, "unknown signal \"{}\"", name);
  TRY(Kill(call.host, id, *signal, call.args.Flag("all")));
  return 0;
}

Result<int> DoDelete(Call& call) {
  TRY(Delete(call.host, TRY(call.Id()), call.args.Flag("force")));
  return 0;
}

Result<int> DoPause(Call& call) {
  TRY(Pause(call.host, TRY(call.Id()), true));
  return 0;
}

Result<int> DoResume(Call& call) {
  TRY(Pause(call.host, TRY(call.Id()), false));
  return 0;
}

}  // namespace

void AddLifeCommands(std::vector<Verb>* all) {
  all->push_back(
      {"create", "create [options] ID", "make a container from a bundle, up to its start", DoCreate, CreateOptions()});
  all->push_back({"start", "start ID", "run the process of a created container", DoStart, {}});
  all->push_back({"run", "run [options] ID", "create, start, wait, delete; exits with the container's code", DoRun,
                  With(CreateOptions(), {{"detach", 'd', false, "return once it runs"},
                                         {"keep", 0, false, "do not delete it after its end"},
                                         {"no-subreaper", 0, false, "do not adopt its orphans"}})});
  all->push_back({"state", "state ID", "print its state as JSON", DoState, {}});
  all->push_back(
      {"kill",
       "kill [--all] ID [SIGNAL]",
       "send a signal (TERM) to its first process",
       DoKill,
       {{"all", 'a', false, "every process of the container"}, {"signal", 's', true, "the same as SIGNAL"}}});
  all->push_back({"delete",
                  "delete [--force] ID",
                  "remove a stopped container and what it used",
                  DoDelete,
                  {{"force", 'f', false, "kill it first; a missing one is success"}}});
  all->push_back({"pause", "pause ID", "freeze its processes", DoPause, {}});
  all->push_back({"resume", "resume ID", "let them run again", DoResume, {}});
}

}  // namespace berth
