#pragma once
// One function a command group: adds its subcommands and options to the command line. A subcommand sets `action`, which
// runs after parsing and returns the exit code.
#include <functional>
#include <string>

#include <CLI/CLI.hpp>

#include "cmd/berth/client.h"

namespace berth::cli {

struct Context {
  std::string socket = "/run/berth/berth.sock";
  int timeout_seconds = 60;
  std::function<Result<int>()> action;

  Client Open() const { return Connect(socket, std::chrono::seconds(timeout_seconds)); }
};

void AddRun(CLI::App& app, Context& context);         // run
void AddList(CLI::App& app, Context& context);        // ps, pods, images
void AddLifecycle(CLI::App& app, Context& context);   // stop, rm, stopp, rmp
void AddImages(CLI::App& app, Context& context);      // pull, import, save, rmi
void AddLogs(CLI::App& app, Context& context);        // logs
void AddExec(CLI::App& app, Context& context);        // exec
void AddInspect(CLI::App& app, Context& context);     // inspect, stats, version, debug ops
void AddDoctor(CLI::App& app, Context& context);      // doctor
void AddCompletion(CLI::App& app, Context& context);  // completion

// Pulls with a progress display on standard error; returns the image id.
Result<std::string> PullWithProgress(const Client& client, const std::string& image, const std::string& platform,
                                     bool quiet);

}  // namespace berth::cli
