// berth: the command line. Each subcommand lives in the file of its group (commands.h).
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cmd/berth/commands.h"

int main(int argc, char** argv) {
  using namespace berth;
  using namespace berth::cli;
  CLI::App app{
      "Runs and looks after pods and containers through the agent berthd.\n\n"
      "A pod is a group of containers that share a network address; `berth run` makes a pod with one container.\n"
      "Objects are named by their name, id, or the first digits of the id.\n\n"
      "  berth run --rm docker.io/library/busybox echo hello\n"
      "  berth run --detach --name web --publish 8080:80 docker.io/library/nginx\n"
      "  berth logs --follow web\n"
      "  berth exec -it web sh\n",
      "berth"};
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of every command");
  app.failure_message(CLI::FailureMessage::help);
  Context context;
  if (const char* socket = std::getenv("BERTH_SOCKET")) context.socket = socket;
  app.add_option("--socket", context.socket, "Socket of the agent (environment: BERTH_SOCKET)")->capture_default_str();
  app.add_option("--timeout", context.timeout_seconds, "Seconds to wait for an answer; 0 waits forever")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  AddRun(app, context);
  AddList(app, context);
  AddLogs(app, context);
  AddExec(app, context);
  AddLifecycle(app, context);
  AddImages(app, context);
  AddInspect(app, context);
  AddDoctor(app, context);
  AddCompletion(app, context);
  app.failure_message([](const CLI::App* a, const CLI::Error& e) {
    return fmt::format("berth: {}\nTry `{} --help`.\n", e.what(), a->get_parent() ? "berth " + a->get_name() : "berth");
  });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    int code = app.exit(e);
    return code == 0 ? 0 : 125;  // as docker: 125 for the command itself, 126 and 127 for what it should run
  }
  auto code = context.action();
  if (!code) {
    fmt::print(stderr, "berth: {}\n", code.error().what);
    return 125;
  }
  return *code;
}
