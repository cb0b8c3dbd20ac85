// berthd, the agent: command line only. agent.cc puts the parts together.
#include <CLI/CLI.hpp>

#include <cstdio>

#include "cmd/berthd/agent.h"
#include "cni/failpoints.h"
#include "images/failpoints.h"
#include "images/snapshots/failpoints.h"
#include "pods/failpoints.h"
#include "runtime/failpoints.h"

namespace {

void Say(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

template <class List>
void SayNames(const List& names) {
  for (std::string_view name : names) Say(std::string(name) + "\n");
}

int Fail(const berth::Error& error, int code) {
  std::fprintf(stderr, "berthd: %s\n", error.what.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "berthd runs the pods and containers of this machine and serves the Kubernetes container runtime interface "
      "(CRI).\n"
      "Stopping it leaves every container running; the next start takes them over.",
      "berthd"};
  app.footer(
      "Examples:\n"
      "  berthd                                        serve with the defaults, or /etc/berth/config.toml when there\n"
      "  berthd --set log.level=debug                  the same, with one value changed\n"
      "  berthd --config ./berth.toml config           show what would be in force, and where each value comes from\n"
      "Signals: SIGTERM ends it, SIGUSR1 logs what it is doing.\n"
      "Exit codes: 0 ended as asked, 1 failed, 2 wrong use or configuration.");
  std::string file;
  std::vector<std::string> sets;
  auto* file_option =
      app.add_option("--config", file, "Configuration file (TOML); default /etc/berth/config.toml, if there")
          ->type_name("FILE");
  app.add_option("--set", sets, "Change one value, as in log.level=debug; may be repeated, wins over the file")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  app.require_subcommand(0, 1);
  auto* serve = app.add_subcommand("serve", "Serve (the same as no command)");
  auto* config = app.add_subcommand("config", "Print the effective configuration with the origin of each value");
  bool defaults = false;
  config->add_flag("--defaults", defaults, "Print every key at its default, with what it means");
  auto* failpoints =
      app.add_subcommand("failpoints", "Print the names for BERTH_FAILPOINT, where tests let the agent die");
  auto* version = app.add_subcommand("version", "Print the version");
  for (auto* sub : {serve, config, failpoints, version}) sub->fallthrough();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }

  if (*version) {
    Say("berthd " BERTH_VERSION "\n");
    return 0;
  }
  if (*failpoints) {
    SayNames(berth::pods::kFailpoints);
    SayNames(berth::runtime::kFailpoints);
    SayNames(berth::cni::kFailpoints);
    SayNames(berth::images::kFailpoints);
    SayNames(berth::images::kSnapshotFailpoints);
    return 0;
  }
  if (*config && defaults) {
    Say(berth::config::PrintDefaults());
    return 0;
  }

  berth::config::Overrides overrides;
  for (const auto& set : sets) {
    size_t eq = set.find('=');
    if (eq == std::string::npos || eq == 0) {
      std::fprintf(stderr, "berthd: --set %s: must be KEY=VALUE, as in log.level=debug\n", set.c_str());
      return 2;
    }
    overrides.emplace_back(set.substr(0, eq), set.substr(eq + 1));
  }
  auto loaded = berth::config::Load(file_option->count() > 0 ? std::optional(file) : std::nullopt, overrides);
  if (!loaded) return Fail(loaded.error(), 2);
  if (*config) {
    Say(berth::config::Print(*loaded));
    return 0;
  }
  if (auto served = berth::Serve(*loaded, BERTH_VERSION); !served) return Fail(served.error(), 1);
  return 0;
}
