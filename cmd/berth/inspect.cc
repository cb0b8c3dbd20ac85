#include <unistd.h>

#include <cstdio>
#include <thread>

#include <google/protobuf/util/json_util.h>

#include "base/json.h"
#include "cmd/berth/commands.h"
#include "cmd/berth/table.h"

namespace berth::cli {
namespace {

struct InspectOptions {
  std::vector<std::string> names;
  std::string type;
  bool watch = false;
};

// A message as JSON; the verbose `info` values that are JSON documents become objects.
Result<json::Value> ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) return Err(Code::kInternal, "answer as JSON: {}", status.ToString());
  auto value = TRY(json::ParseTree(text, "answer"));
  if (auto* info = value.as_object().if_contains("info"); info != nullptr && info->is_object())
    for (auto& [key, entry] : info->as_object())
      if (entry.is_string())
        if (auto parsed = json::ParseTree(entry.as_string(), "info"); parsed) entry = *parsed;
  return value;
}

Result<json::Value> InspectOne(const Client& client, const std::string& name, const std::string& type) {
  if (type.empty() || type == "container") {
    auto container = FindContainer(client, name);
    if (container) {
      cri::ContainerStatusRequest request;
      request.set_container_id(container->id());
      request.set_verbose(true);
      return ToJson(TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ContainerStatus, request)));
    }
    if (type == "container" || container.error().code != Code::kNotFound) return std::unexpected(container.error());
  }
  if (type.empty() || type == "pod") {
    auto pod = FindPod(client, name);
    if (pod) {
      cri::PodSandboxStatusRequest request;
      request.set_pod_sandbox_id(pod->id());
      request.set_verbose(true);
      return ToJson(TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::PodSandboxStatus, request)));
    }
    if (type == "pod" || pod.error().code != Code::kNotFound) return std::unexpected(pod.error());
  }
  cri::ImageStatusRequest request;
  request.mutable_image()->set_image(name);
  request.set_verbose(true);
  auto image = TRY(Call(client, *client.images, &cri::ImageService::Stub::ImageStatus, request));
  if (!image.has_image())
    return Err(Code::kNotFound, "no {} '{}'", type.empty() ? "container, pod or image" : type, name);
  return ToJson(image);
}

Result<int> Inspect(const Context& context, const InspectOptions& o) {
  Client client = context.Open();
  json::Array all;
  for (const auto& name : o.names) all.push_back(TRY(InspectOne(client, name, o.type)));
  fmt::print("{}\n", json::SerializePretty(all));
  return 0;
}

Result<cri::ListContainerStatsResponse> Sample(const Client& client) {
  return Call(client, *client.runtime, &cri::RuntimeService::Stub::ListContainerStats,
              cri::ListContainerStatsRequest());
}

Result<int> Stats(const Context& context, const InspectOptions& o) {
  Client client = context.Open();
  std::set<std::string> wanted;
  for (const auto& name : o.names) wanted.insert(TRY(FindContainer(client, name)).id());
  auto before = TRY(Sample(client));
  bool terminal = ::isatty(STDOUT_FILENO);
  do {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    auto now = TRY(Sample(client));
    Table table({"CONTAINER", "NAME", "CPU", "MEMORY", "OF LIMIT", "RSS", "WRITTEN"});
    for (const auto& stats : now.stats()) {
      if (!wanted.empty() && !wanted.contains(stats.attributes().id())) continue;
      std::string cpu = "-";
      for (const auto& old : before.stats()) {
        auto spent = stats.cpu().timestamp() - old.cpu().timestamp();
        if (old.attributes().id() != stats.attributes().id() || spent <= 0) continue;
        cpu = fmt::format("{:.1f} %", 100.0 *
                                          static_cast<double>(stats.cpu().usage_core_nano_seconds().value() -
                                                              old.cpu().usage_core_nano_seconds().value()) /
                                          static_cast<double>(spent));
      }
      uint64_t used = stats.memory().working_set_bytes().value();
      std::string of = "-";
      if (stats.memory().has_available_bytes())
        of = fmt::format("{:.1f} %", 100.0 * static_cast<double>(used) /
                                         static_cast<double>(used + stats.memory().available_bytes().value()));
      table.Add({ShortId(stats.attributes().id()), stats.attributes().metadata().name(), cpu, HumanSize(used), of,
                 HumanSize(stats.memory().rss_bytes().value()),
                 HumanSize(stats.writable_layer().used_bytes().value())});
    }
    fmt::print("{}{}", o.watch && terminal ? "\x1b[H\x1b[2J" : "", table.Text());
    ::fflush(stdout);
    before = std::move(now);
  } while (o.watch);
  return 0;
}

Result<int> Version(const Context& context) {
  fmt::print("berth {}\n", BERTH_VERSION);
  Client client = context.Open();
  auto version = TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::Version, cri::VersionRequest()));
  auto info = TRY(Call(client, *client.agent, &::berth::v1::Agent::Stub::Info, ::berth::v1::InfoRequest()));
  fmt::print("agent {} {}, CRI {}\n", version.runtime_name(), version.runtime_version(), version.runtime_api_version());
  fmt::print("layers {}, cgroup {}, data {}, metrics {}\n", info.snapshotter(), info.cgroup(), info.root(),
             info.metrics_address().empty() ? "off" : info.metrics_address());
  return 0;
}

Result<int> Operations(const Context& context) {
  Client client = context.Open();
  auto all = TRY(Call(client, *client.agent, &::berth::v1::Agent::Stub::Operations, ::berth::v1::OperationsRequest()));
  Table table({"OPERATION", "OBJECT", "SINCE", "STAGE"});
  for (const auto& op : all.operations())
    table.Add({op.name(), op.object().size() == 64 ? ShortId(op.object()) : op.object(),
               fmt::format("{:.1f} s", static_cast<double>(op.age_ns()) / 1e9), op.stage()});
  fmt::print("{}", table.Text());
  return 0;
}

}  // namespace

void AddInspect(CLI::App& app, Context& context) {
  auto o = std::make_shared<InspectOptions>();
  auto* inspect = app.add_subcommand("inspect", "Prints everything known of containers, pods or images as JSON");
  inspect->add_option("name", o->names, "Names or ids")->required();
  inspect->add_option("--type", o->type, "container, pod or image; default: the first that has the name")
      ->check(CLI::IsMember({"container", "pod", "image"}));
  auto* stats = app.add_subcommand("stats", "Shows what running containers use, measured over one second");
  stats->add_option("container", o->names, "Names or ids; default: all");
  stats->add_flag("-w,--watch", o->watch, "Goes on, once a second");
  auto* version = app.add_subcommand("version", "Versions of this command and of the agent");
  auto* debug = app.add_subcommand("debug", "Looks inside the agent");
  debug->require_subcommand(1);
  auto* ops = debug->add_subcommand("ops", "What the agent is doing now: stage and what it waits for");
  inspect->callback([=, &context] { context.action = [=, &context] { return Inspect(context, *o); }; });
  stats->callback([=, &context] { context.action = [=, &context] { return Stats(context, *o); }; });
  version->callback([&context] { context.action = [&context] { return Version(context); }; });
  ops->callback([&context] { context.action = [&context] { return Operations(context); }; });
}

}  // namespace berth::cli
