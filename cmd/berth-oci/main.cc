// berth-oci: the runtime core behind the command line of an OCI runtime (create, start, state, kill, delete, ...), for
// containerd, CRI-O, podman and people.
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

#include "base/atomic_file.h"
#include "base/json.h"
#include "cmd/berth-oci/args.h"
#include "cmd/berth-oci/journal.h"
#include "runtime/init/executor.h"
#include "runtime/linux/names.h"
#include "runtime/linux/namespaces.h"
#include "runtime/oci/validate.h"
#include "runtime/oci/verbs.h"

#ifndef BERTH_VERSION
#define BERTH_VERSION "unknown"
#endif

// The program berth-init (runtime/init/stub_main.cc), put here by CMakeLists.txt.
asm(".section .rodata\n"
    ".balign 16\n"
    "berth_init_image: .incbin \"" BERTH_INIT_IMAGE
    "\"\n"
    "berth_init_image_end:\n"
    ".previous\n");
extern "C" const char berth_init_image[], berth_init_image_end[];

namespace berth {
namespace {

using namespace runtime;
using namespace runtime::oci;

constexpr std::string_view kUsage =
    "berth-oci: run containers from OCI bundles\n"
    "\n"
    "usage: berth-oci [global options] COMMAND [options] [arguments]\n"
    "\n"
    "commands:\n"
    "  create ID       make a container from a bundle, up to its start\n"
    "  start ID        run the process of a created container\n"
    "  run ID          create, start, wait, delete; exits with the container's code\n"
    "  exec ID CMD     run a further process in a running container\n"
    "  state ID        print its state as JSON\n"
    "  kill ID [SIG]   send a signal (TERM) to its first process\n"
    "  delete ID       remove a stopped container and what it used\n"
    "  list            containers of this state root\n"
    "  ps ID           process ids of a container\n"
    "  pause ID, resume ID\n"
    "  update ID       change its limits\n"
    "  spec            write a config.json to start from\n"
    "  features        what this runtime supports, as JSON\n"
    "\n"
    "global options:\n"
    "  --root DIR            state directory (/run/berth-oci; without root $XDG_RUNTIME_DIR/berth-oci)\n"
    "  --log FILE            append messages to FILE\n"
    "  --log-format FORMAT   text or json\n"
    "  --debug               more messages\n"
    "  --rootless BOOL       do without a cgroup where none may be made: true, false or auto (who is not root)\n"
    "  --systemd-cgroup      cgroupsPath has the form slice:prefix:name\n"
    "  --version, --help     `berth-oci COMMAND --help` explains a command\n";

struct Exit {
  int code = 0;
};

Result<int> Number(const std::string& text, std::string_view what) {
  int n = 0;
  auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (err != std::errc() || end != text.data() + text.size() || n < 0)
    return Err(Code::kInvalidArgument, "{}: \"{}\" is not a number", what, text);
  return n;
}

void Print(std::string_view text) { (void)WriteAll(1, text); }

Result<std::string> Absolute(const std::string& path, std::string_view option) {
  char resolved[PATH_MAX];
  if (!::realpath(path.c_str(), resolved)) return SysErr("{}: {}", option, path);
  return std::string(resolved);
}

struct Call {
  RuntimeHost host;
  Parsed args;
  int failed_code = 1;

  Result<std::string> Id() const {
    if (args.rest.empty()) return Err(Code::kInvalidArgument, "a container id is required");
    return args.rest[0];
  }
};

const std::vector<Option> kCreateOptions = {
    {"bundle", 'b', true, "directory with config.json (the current one)"},
    {"pid-file", 0, true, "write the process id there"},
    {"console-socket", 0, true, "AF_UNIX socket that receives the terminal"},
    {"pidfd-socket", 0, true, "not supported"},
    {"no-pivot", 0, false, "chroot instead of pivot_root, for a host that runs from its initramfs"},
    {"no-new-keyring", 0, false, "keep the caller's session keyring"},
    {"preserve-fds", 0, true, "pass descriptors 3 to 2+N to the container"}};

Result<CreateRequest> CreateFrom(const Call& call) {
  CreateRequest r;
  r.id = TRY(call.Id());
  if (call.args.Get("pidfd-socket")) return Err(Code::kUnimplemented, "--pidfd-socket is not supported");
  r.bundle = TRY(Absolute(call.args.Text("bundle", "."), "--bundle"));
  r.pid_file = call.args.Text("pid-file");
  r.console_socket = call.args.Text("console-socket");
  r.no_pivot = call.args.Flag("no-pivot");
  r.new_keyring = !call.args.Flag("no-new-keyring");
  r.preserve_fds = static_cast<uint32_t>(TRY(Number(call.args.Text("preserve-fds", "0"), "--preserve-fds")));
  for (uint32_t fd = 3; fd < 3 + r.preserve_fds; ++fd)
    if (::fcntl(static_cast<int>(fd), F_GETFD) < 0)
      return Err(Code::kInvalidArgument, "--preserve-fds: descriptor {} is not open", fd);
  return r;
}

// What runs in the container until its own program does must not be this file: CVE-2019-5736.
Result<void> UseStub(Call& call) {
  call.host.stub = init::SealExecutable(berth_init_image, static_cast<size_t>(berth_init_image_end - berth_init_image));
  if (call.host.stub < 0) return SysErr("seal berth-init into memory");
  return {};
}

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
  StateDocument s = TRY(State(call.host, TRY(call.Id())));
  Print(json::SerializePretty(json::ToValue(s)) + "\n");
  return 0;
}

Result<int> DoKill(Call& call) {
  std::string id = TRY(call.Id());
  std::string name = call.args.rest.size() > 1 ? call.args.rest[1] : "TERM";
  auto signal = SignalNumber(name);
  if (!signal) return Err(Code::kInvalidArgument, "unknown signal \"{}\"", name);
  TRY(Kill(call.host, id, *signal, call.args.Flag("all")));
  return 0;
}

Result<int> DoDelete(Call& call) {
  TRY(Delete(call.host, TRY(call.Id()), call.args.Flag("force")));
  return 0;
}

// "uid[:gid]", numbers only: a name would need the container's passwd file. Strict, CVE-2026-30892.
Result<void> SetUser(User* user, const std::string& text) {
  size_t colon = text.find(':');
  user->uid = static_cast<uint32_t>(TRY(Number(text.substr(0, colon), "--user")));
  user->gid = colon == std::string::npos ? 0 : static_cast<uint32_t>(TRY(Number(text.substr(colon + 1), "--user")));
  user->additionalGids.clear();
  return {};
}

Result<int> DoExec(Call& call) {
  TRY(UseStub(call));
  const Parsed& a = call.args;
  ExecRequest r;
  r.id = TRY(call.Id());
  if (const std::string* file = a.Get("process")) {
    std::string text = TRY_CTX(ReadFile(*file, 16 << 20), "--process");
    r.process = TRY(ParseProcess(text, *file));
  } else {
    if (a.rest.size() < 2) return Err(Code::kInvalidArgument, "exec: a command is required");
    r.process = TRY(ProcessOf(call.host, r.id));
    r.process.args.assign(a.rest.begin() + 1, a.rest.end());
    r.process.terminal = a.Flag("tty");
    r.process.consoleSize.reset();
    if (const std::string* cwd = a.Get("cwd")) r.process.cwd = *cwd;
    for (const std::string& e : a.All("env")) {
      std::string name = e.substr(0, e.find('=') + 1);
      if (name.empty()) return Err(Code::kInvalidArgument, "--env: \"{}\" must be NAME=value", e);
      std::erase_if(r.process.env, [&](const std::string& old) { return old.starts_with(name); });
      r.process.env.push_back(e);
    }
    if (const std::string* user = a.Get("user")) TRY(SetUser(&r.process.user, *user));
    for (const std::string& g : a.All("additional-gids"))
      r.process.user.additionalGids.push_back(static_cast<uint32_t>(TRY(Number(g, "--additional-gids"))));
    for (const std::string& c : a.All("cap")) {
      if (!r.process.capabilities) r.process.capabilities.emplace();
      Capabilities& caps = *r.process.capabilities;
      for (auto* set : {&caps.bounding, &caps.effective, &caps.permitted}) set->push_back(c);
    }
    if (a.Get("no-new-privs")) r.process.noNewPrivileges = a.Flag("no-new-privs");
    if (const std::string* label = a.Get("apparmor")) r.process.apparmorProfile = *label;
    if (const std::string* label = a.Get("process-label")) r.process.selinuxLabel = *label;
  }
  if (a.Get("cgroup")) return Err(Code::kUnimplemented, "--cgroup is not supported");
  r.pid_file = a.Text("pid-file");
  r.console_socket = a.Text("console-socket");
  r.detach = a.Flag("detach");
  r.ignore_paused = a.Flag("ignore-paused");
  r.preserve_fds = static_cast<uint32_t>(TRY(Number(a.Text("preserve-fds", "0"), "--preserve-fds")));
  return Exec(call.host, r, &call.failed_code);
}

Result<int> DoList(Call& call) {
  auto all = TRY(List(call.host));
  std::string format = call.args.Text("format", "table");
  if (call.args.Flag("quiet")) {
    for (const StateDocument& s : all) Print(s.id + "\n");
  } else if (format == "json") {
    Print(json::Serialize(json::ToValue(all)) + "\n");
  } else if (format == "table") {
    Print(fmt::format("{:<24} {:<10} {:<10} {:<32} {:<32}\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED"));
    for (const StateDocument& s : all)
      Print(fmt::format("{:<24} {:<10} {:<10} {:<32} {:<32}\n", s.id, s.pid, s.status, s.bundle, s.created));
  } else {
    return Err(Code::kInvalidArgument, "--format: \"{}\": must be table or json", format);
  }
  return 0;
}

Result<int> DoPs(Call& call) {
  auto pids = TRY(Pids(call.host, TRY(call.Id())));
  std::string format = call.args.Text("format", "table");
  if (format == "json") {
    Print(json::Serialize(json::ToValue(pids)) + "\n");
  } else if (format == "table") {
    Print("PID\n");
    for (pid_t pid : pids) Print(fmt::format("{}\n", pid));
  } else {
    return Err(Code::kInvalidArgument, "--format: \"{}\": must be table or json", format);
  }
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

Result<int> DoUpdate(Call& call) {
  std::string id = TRY(call.Id());
  const std::string* file = call.args.Get("resources");
  if (!file) return Err(Code::kInvalidArgument, "update: --resources FILE is required (- reads standard input)");
  std::string text = TRY_CTX(ReadFile(*file == "-" ? "/dev/stdin" : *file, 1 << 20), "--resources");
  TRY(Update(call.host, id, TRY(json::Parse<Resources>(text, "--resources"))));
  return 0;
}

Result<int> DoSpec(Call& call) {
  std::string path = call.args.Text("bundle", ".") + "/config.json";
  unique_fd fd = TRY(Open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  TRY(WriteAll(fd.get(), SpecTemplate()));
  return 0;
}

Result<int> DoFeatures(Call&) {
  Print(Features());
  return 0;
}

struct Command {
  std::string_view name, usage;
  Result<int> (*run)(Call&);
  std::vector<Option> options;
  size_t stop_at = SIZE_MAX;
};

std::vector<Option> With(std::vector<Option> base, std::initializer_list<Option> more) {
  base.insert(base.end(), more);
  return base;
}

std::vector<Command> Commands() {
  return {
      {"create", "create [options] ID", DoCreate, kCreateOptions},
      {"start", "start ID", DoStart, {}},
      {"run", "run [options] ID", DoRun,
       With(kCreateOptions, {{"detach", 'd', false, "return once it runs"},
                             {"keep", 0, false, "do not delete it after its end"},
                             {"no-subreaper", 0, false, "do not adopt its orphans"}})},
      {"state", "state ID", DoState, {}},
      {"kill", "kill [--all] ID [SIGNAL]", DoKill, {{"all", 'a', false, "every process of the container"}}},
      {"delete", "delete [--force] ID", DoDelete, {{"force", 'f', false, "kill it first; a missing one is success"}}},
      {"exec",
       "exec [options] ID COMMAND [ARGUMENTS]",
       DoExec,
       {{"process", 'p', true, "JSON file with the whole process"},
        {"pid-file", 0, true, "write the process id there"},
        {"console-socket", 0, true, "AF_UNIX socket that receives the terminal"},
        {"detach", 'd', false, "return once it runs"},
        {"tty", 't', false, "with a terminal"},
        {"cwd", 0, true, "working directory"},
        {"env", 'e', true, "NAME=value"},
        {"user", 'u', true, "uid[:gid]"},
        {"additional-gids", 'g', true, "further group"},
        {"cap", 'c', true, "further capability"},
        {"no-new-privs", 0, false, "no privileges by exec"},
        {"apparmor", 0, true, "AppArmor profile"},
        {"process-label", 0, true, "SELinux label"},
        {"preserve-fds", 0, true, "pass descriptors 3 to 2+N"},
        {"ignore-paused", 0, false, "also in a paused container"},
        {"cgroup", 0, true, "not supported"}},
       1},
      {"list",
       "list [--format table|json] [-q]",
       DoList,
       {{"format", 'f', true, "table or json"}, {"quiet", 'q', false, "ids only"}}},
      {"ps", "ps [--format table|json] ID", DoPs, {{"format", 'f', true, "table or json"}}, 1},
      {"pause", "pause ID", DoPause, {}},
      {"resume", "resume ID", DoResume, {}},
      {"update",
       "update --resources FILE ID",
       DoUpdate,
       {{"resources", 'r', true, "JSON file in the form of linux.resources; - is standard input"}}},
      {"spec",
       "spec [--bundle DIR]",
       DoSpec,
       {{"bundle", 'b', true, "where to write config.json (the current directory)"}}},
      {"features", "features", DoFeatures, {}}};
}

// Below the user's own directory for whoever is not root, and for root of a user namespace (podman without root).
std::string DefaultRoot() {
  const char* own = ::getenv("XDG_RUNTIME_DIR");
  if (!own || *own != '/') {
    unsigned long uid = ::getauxval(AT_EUID);
    return uid == 0 ? std::string("/run/berth-oci") : fmt::format("/run/user/{}/berth-oci", uid);
  }
  if (::getauxval(AT_EUID) == 0 && namespaces::InInitialUser()) return "/run/berth-oci";
  return std::string(own) + "/berth-oci";
}

int Main(const std::vector<std::string>& args) {
  const std::vector<Option> global_options = {
      {"root", 0, true, ""},   {"log", 0, true, ""},      {"log-format", 0, true, ""},      {"log-level", 0, true, ""},
      {"debug", 0, false, ""}, {"rootless", 0, true, ""}, {"systemd-cgroup", 0, false, ""}, {"version", 'v', false, ""},
      {"help", 'h', false, ""}};
  Parsed global = ParseArgs(args, 1, global_options, 0);
  // The first word that is no option is the command; its options follow.
  if (!global.error.empty()) {
    Journal("error", global.error);
    return 1;
  }
  if (global.Flag("version")) {
    Print("berth-oci version " BERTH_VERSION "\nspec: 1.3.0\n");
    return 0;
  }
  if (global.Flag("help") || global.rest.empty() || global.rest[0] == "help") {
    Print(kUsage);
    return global.rest.empty() && !global.Flag("help") ? 1 : 0;
  }
  std::string format = global.Text("log-format", "text");
  OpenJournal(global.Text("log"), format == "json", global.Flag("debug") || global.Text("log-level") == "debug");
  if (format != "json" && format != "text") {
    Journal("error", fmt::format("--log-format: \"{}\": must be text or json", format));
    return 1;
  }
  Call call;
  const std::string* root = global.Get("root");
  call.host.root = root ? *root : DefaultRoot();
  std::string rootless = global.Text("rootless", "auto");
  if (rootless != "auto" && rootless != "true" && rootless != "false") {
    Journal("error", fmt::format("--rootless: \"{}\": must be true, false or auto", rootless));
    return 1;
  }
  call.host.rootless = rootless == "auto" ? Rootless::kAuto : rootless == "true" ? Rootless::kYes : Rootless::kNo;
  call.host.systemd_cgroup = global.Flag("systemd-cgroup");
  call.host.warn = [](const std::string& text) { Journal("warning", text); };
  if (call.host.root.empty() || call.host.root[0] != '/') {
    Journal("error", fmt::format("--root: \"{}\": must be an absolute path", call.host.root));
    return 1;
  }

  std::vector<Command> commands = Commands();
  const std::string name = global.rest[0];
  for (Command& c : commands) {
    if (c.name != name) continue;
    c.options.push_back({"help", 'h', false, "this text"});
    call.args = ParseArgs(global.rest, 1, c.options, c.stop_at);
    if (call.args.error.empty() && call.args.Flag("help")) {
      Print(fmt::format("usage: berth-oci {}\n", c.usage));
      for (const Option& o : c.options)
        Print(fmt::format("  {}--{:<18} {}\n", o.letter ? fmt::format("-{}, ", o.letter) : "    ", o.name, o.help));
      return 0;
    }
    Result<int> done = call.args.error.empty()
                           ? c.run(call)
                           : Result<int>(Err(Code::kInvalidArgument, "{}: {}", name, call.args.error));
    if (done) return *done;
    Journal("error", done.error().what);
    return call.failed_code;
  }
  Journal("error", fmt::format("unknown command \"{}\"; `berth-oci --help` lists them", name));
  return 1;
}

}  // namespace
}  // namespace berth

int main(int argc, char** argv) {
  // Closed standard streams would be taken by the next open, and then be the container's.
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  return berth::Main(std::vector<std::string>(argv, argv + argc));
}
