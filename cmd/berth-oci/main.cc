// berth-oci: the runtime core behind the command line of an OCI runtime (create, start, state, kill, delete, ...), for
// containerd, CRI-O, podman and people.
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "cmd/berth-oci/command.h"
#include "cmd/berth-oci/journal.h"
#include "runtime/init/executor.h"
#include "runtime/linux/namespaces.h"

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
    "commands:\n";

constexpr std::string_view kGlobals =
    "\n"
    "global options:\n"
    "  --root DIR            state directory (/run/berth-oci; without root $XDG_RUNTIME_DIR/berth-oci)\n"
    "  --log FILE            append messages to FILE\n"
    "  --log-format FORMAT   text or json\n"
    "  --debug               more messages\n"
    "  --rootless BOOL       do without a cgroup where none may be made: true, false or auto (who is not root)\n"
    "  --systemd-cgroup      cgroupsPath has the form slice:prefix:name\n"
    "  --cgroup-manager M    cgroupfs, systemd (as --systemd-cgroup) or disabled (no cgroup, no limits)\n"
    "  --version, --help     `berth-oci COMMAND --help` explains a command\n";

std::vector<Verb> Verbs() {
  std::vector<Verb> all;
  AddLifeCommands(&all);
  AddExecCommand(&all);
  AddShowCommands(&all);
  AddUpdateCommands(&all);
  return all;
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
      {"root", 0, true, ""},           {"log", 0, true, ""},    {"log-format", 0, true, ""},
      {"log-level", 0, true, ""},      {"debug", 0, false, ""}, {"rootless", 0, true, ""},
      {"cgroup-manager", 0, true, ""}, {"criu", 0, true, ""},   {"systemd-cgroup", 0, false, ""},
      {"version", 'v', false, ""},     {"help", 'h', false, ""}};
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
    std::string text(kUsage);
    for (const Verb& verb : Verbs()) text += fmt::format("  {:<14}{}\n", verb.name, verb.about);
    Print(text + std::string(kGlobals));
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
  std::string manager = global.Text("cgroup-manager", call.host.systemd_cgroup ? "systemd" : "cgroupfs");
  if (manager != "cgroupfs" && manager != "systemd" && manager != "disabled") {
    Journal("error", fmt::format("--cgroup-manager: \"{}\": must be cgroupfs, systemd or disabled", manager));
    return 1;
  }
  call.host.systemd_cgroup = manager == "systemd";
  call.host.no_cgroup = manager == "disabled";
  call.host.warn = [](const std::string& text) { Journal("warning", text); };
  if (call.host.root.empty() || call.host.root[0] != '/') {
    Journal("error", fmt::format("--root: \"{}\": must be an absolute path", call.host.root));
    return 1;
  }

  std::vector<Verb> commands = Verbs();
  const std::string name = global.rest[0];
  for (Verb& c : commands) {
    if (c.name != name) continue;
    c.options.push_back({"help", 'h', false, "this text"});
    call.args = ParseArgs(global.rest, 1, c.options, c.stop_at);
    if (call.args.error.empty() && call.args.Flag("help")) {
      Print(fmt::format("usage: berth-oci {}\n{}\n", c.usage, c.about));
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

// What runs in the container until its own program does must not be this file: CVE-2019-5736.
Result<void> UseStub(Call& call) {
  call.host.stub = init::SealExecutable(berth_init_image, static_cast<size_t>(berth_init_image_end - berth_init_image));
  if (call.host.stub < 0) return SysErr("seal berth-init into memory");
  return {};
}

}  // namespace berth

int main(int argc, char** argv) {
  // Closed standard streams would be taken by the next open, and then be the container's.
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  return berth::Main(std::vector<std::string>(argv, argv + argc));
}
