#include <unistd.h>

#include <cstdio>

#include "base/atomic_file.h"
#include "cmd/berth/commands.h"
#include "cmd/berth/log_reader.h"

namespace berth::cli {
namespace {

struct LogsOptions {
  std::string container;
  LogOptions read;
  bool timestamps = false;
};

Result<int> Logs(const Context& context, const LogsOptions& o) {
  Client client = context.Open();
  auto container = TRY(FindContainer(client, o.container));
  auto status = TRY(StatusOf(client, container.id()));
  if (status.log_path().empty())
    return Err(Code::kFailedPrecondition, "container {} keeps no log: its pod was made without a log directory",
               o.container);
  Result<void> written;
  auto sink = [&](const LogRecord& r) {
    std::string text = o.timestamps ? fmt::format("{} {}", r.time, r.content) : std::string(r.content);
    if (written) written = WriteAll(r.stream == "stderr" ? STDERR_FILENO : STDOUT_FILENO, text);
  };
  LogReader reader(status.log_path(), o.read);
  TRY(reader.ReadExisting(sink));
  while (o.read.follow && written) {
    // The state first, then the file: what was written before the exit is read before we stop.
    auto now = StatusOf(client, container.id());
    bool over = (now && now->state() != cri::CONTAINER_RUNNING && now->state() != cri::CONTAINER_CREATED) ||
                (!now && now.error().code == Code::kNotFound);  // an agent that restarts is not an end
    TRY(reader.ReadMore(sink));
    if (over) break;
    TRY(reader.WaitForChange(500, -1));
  }
  if (!written && written.error().sys == EPIPE) return 0;
  TRY(std::move(written));
  return 0;
}

}  // namespace

void AddLogs(CLI::App& app, Context& context) {
  auto o = std::make_shared<LogsOptions>();
  auto* logs = app.add_subcommand("logs", "Prints what a container wrote; its standard error goes to standard error");
  logs->add_option("container", o->container, "Name or id")->required();
  logs->add_flag("-f,--follow", o->read.follow,
                 "Goes on until the container exits; across log rotation and agent restarts");
  logs->add_option("-n,--tail", o->read.tail, "Only the last lines")->check(CLI::NonNegativeNumber);
  logs->add_option("--since", o->read.since, "Only from this time on, e.g. 2026-01-02T03:04:05Z");
  logs->add_flag("-t,--timestamps", o->timestamps, "With the time of each record");
  logs->callback([=, &context] {
    context.action = [=, &context] {
      ::signal(SIGPIPE, SIG_IGN);
      return Logs(context, *o);
    };
  });
}

}  // namespace berth::cli
