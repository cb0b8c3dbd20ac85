// exec: a further process in a running container.
#include "base/atomic_file.h"
#include "cmd/berth-oci/command.h"
#include "runtime/oci/validate.h"

namespace berth {

using namespace runtime::oci;

namespace {

// "uid[:gid]", numbers only: a name would need the container's passwd file. Strict, CVE-2026-30892.
Result<void> SetUser(User* user, const std::string& text) {
  size_t colon = text.find(':');
  user->uid = TRY(Number(std::string_view(text).substr(0, colon), "--user"));
  user->gid = colon == std::string::npos ? 0 : TRY(Number(std::string_view(text).substr(colon + 1), "--user"));
  user->additionalGids.clear();
  return {};
}

// PATH, or controller[,controller]:PATH; several such options add up.
Result<void> AddSubgroups(ExecRequest* r, const std::string& text) {
  size_t colon = text.find(':');
  std::string path = colon == std::string::npos ? text : text.substr(colon + 1);
  if (path.empty()) return Err(Code::kInvalidArgument, "--cgroup: \"{}\": no path", text);
  if (colon == std::string::npos) {
    r->subgroups.emplace_back("", path);
    return {};
  }
  for (size_t at = 0; at < colon;) {
    size_t comma = std::min(text.find(',', at), colon);
    r->subgroups.emplace_back(text.substr(at, comma - at), path);
    at = comma + 1;
  }
  return {};
}

Result<void> Change(Process* p, const Parsed& a) {
  p->args.assign(a.rest.begin() + 1, a.rest.end());
  p->terminal = a.Flag("tty");
  p->consoleSize.reset();
  if (const std::string* cwd = a.Get("cwd")) p->cwd = *cwd;
  for (const std::string& e : a.All("env")) {
    std::string name = e.substr(0, e.find('=') + 1);
    if (name.empty()) return Err(Code::kInvalidArgument, "--env: \"{}\" must be NAME=value", e);
    std::erase_if(p->env, [&](const std::string& old) { return old.starts_with(name); });
    p->env.push_back(e);
  }
  if (const std::string* user = a.Get("user")) TRY(SetUser(&p->user, *user));
  for (const std::string& list : a.All("additional-gids"))
    for (size_t at = 0; at <= list.size();) {
      size_t comma = std::min(list.find(',', at), list.size());
      p->user.additionalGids.push_back(TRY(Number(std::string_view(list).substr(at, comma - at), "--additional-gids")));
      at = comma + 1;
    }
  for (const std::string& c : a.All("cap")) {
    if (!p->capabilities) p->capabilities.emplace();
    Capabilities& caps = *p->capabilities;
    for (auto* set : {&caps.bounding, &caps.effective, &caps.permitted}) set->push_back(c);
    // Ambient too where the process is not root, which else would have nothing of it after the exec; but inheritable
    // only as far as that needs it. CVE-2022-29162.
    if (p->user.uid)
      for (auto* set : {&caps.inheritable, &caps.ambient}) set->push_back(c);
  }
  if (a.Get("no-new-privs")) p->noNewPrivileges = a.Flag("no-new-privs");
  if (const std::string* label = a.Get("apparmor")) p->apparmorProfile = *label;
  if (const std::string* label = a.Get("process-label")) p->selinuxLabel = *label;
  return {};
}

Result<int> DoExec(Call& call) {
  TRY(UseStub(call));
  const Parsed& a = call.args;
  ExecRequest r;
  r.id = TRY(call.Id());
  if (const std::string* file = a.Get("process")) {
    std::string text = TRY_CTX(ReadFile(*file == "-" ? "/dev/stdin" : *file, 16 << 20), "--process");
    r.process = TRY(ParseProcess(text, *file));
    if (a.Flag("tty")) r.process.terminal = true;
  } else {
    if (a.rest.size() < 2) return Err(Code::kInvalidArgument, "exec: a command is required");
    r.process = TRY(ProcessOf(call.host, r.id));
    TRY(Change(&r.process, a));
  }
  for (const std::string& group : a.All("cgroup")) TRY(AddSubgroups(&r, group));
  r.pid_file = a.Text("pid-file");
  r.console_socket = a.Text("console-socket");
  r.pidfd_socket = a.Text("pidfd-socket");
  r.detach = a.Flag("detach");
  r.ignore_paused = a.Flag("ignore-paused");
  r.activation = TRY(ActivationFromEnvironment());
  r.preserve_fds = TRY(PreservedFds(call, r.activation.listen_fds));
  return Exec(call.host, r, &call.failed_code);
}

}  // namespace

void AddExecCommand(std::vector<Verb>* all) {
  all->push_back({"exec",
                  "exec [options] ID COMMAND [ARGUMENTS]",
                  "run a further process in a running container",
                  DoExec,
                  {{"process", 'p', true, "JSON file with the whole process; - is standard input"},
                   {"pid-file", 0, true, "write the process id there"},
                   {"console-socket", 0, true, "AF_UNIX socket that receives the terminal"},
                   {"pidfd-socket", 0, true, "AF_UNIX socket that receives a pidfd of the process"},
                   {"detach", 'd', false, "return once it runs"},
                   {"tty", 't', false, "with a terminal"},
                   {"cwd", 0, true, "working directory"},
                   {"env", 'e', true, "NAME=value"},
                   {"user", 'u', true, "uid[:gid]"},
                   {"additional-gids", 'g', true, "further groups"},
                   {"cap", 'c', true, "further capability"},
                   {"no-new-privs", 0, false, "no privileges by exec"},
                   {"apparmor", 0, true, "AppArmor profile"},
                   {"process-label", 0, true, "SELinux label"},
                   {"preserve-fds", 0, true, "pass descriptors 3 to 2+N"},
                   {"ignore-paused", 0, false, "also in a paused container"},
                   {"cgroup", 0, true, "PATH or CONTROLLER:PATH below the container's cgroup"}},
                  1});
}

}  // namespace berth
