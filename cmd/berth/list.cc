#include <cstdio>

#include "cmd/berth/commands.h"
#include "cmd/berth/table.h"

namespace berth::cli {
namespace {

struct ListOptions {
  bool all = false, quiet = false, no_trunc = false;
  std::string pod;
};

std::string Shown(const std::string& id, const ListOptions& o) { return o.no_trunc ? id : ShortId(id); }

std::string StateText(const cri::Container& c, const Client& client) {
  switch (c.state()) {
    case cri::CONTAINER_CREATED:
      return "Created";
    case cri::CONTAINER_RUNNING:
      return "Running";
    case cri::CONTAINER_EXITED:
      if (auto status = StatusOf(client, c.id()); status)
        return fmt::format("Exited ({}) {}", status->exit_code(), HumanAge(status->finished_at()));
      return "Exited";
    default:
      return "Unknown";
  }
}

Result<int> ListContainers(const Context& context, const ListOptions& o) {
  Client client = context.Open();
  cri::ListContainersRequest request;
  if (!o.pod.empty()) request.mutable_filter()->set_pod_sandbox_id(TRY(FindPod(client, o.pod)).id());
  auto response = TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListContainers, request));
  auto pods =
      TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest()));
  std::map<std::string, std::string> pod_names;
  for (const auto& pod : pods.items()) pod_names[pod.id()] = pod.metadata().name();
  std::vector<cri::Container> shown;
  for (const auto& c : response.containers())
    if (o.all || c.state() == cri::CONTAINER_RUNNING) shown.push_back(c);
  std::sort(shown.begin(), shown.end(), [](auto& a, auto& b) { return a.created_at() > b.created_at(); });
  if (o.quiet) {
    for (const auto& c : shown) fmt::print("{}\n", Shown(c.id(), o));
    return 0;
  }
  Table table({"CONTAINER", "NAME", "POD", "IMAGE", "CREATED", "STATE"});
  for (const auto& c : shown) {
    std::string image = c.image().user_specified_image().empty() ? c.image().image() : c.image().user_specified_image();
    table.Add({Shown(c.id(), o), c.metadata().name(), pod_names[c.pod_sandbox_id()],
               image.starts_with("sha256:") ? ShortId(image) : image, HumanAge(c.created_at()), StateText(c, client)});
  }
  fmt::print("{}", table.Text());
  return 0;
}

Result<int> ListPods(const Context& context, const ListOptions& o) {
  Client client = context.Open();
  auto response =
      TRY(Call(client, *client.runtime, &cri::RuntimeService::Stub::ListPodSandbox, cri::ListPodSandboxRequest()));
  std::vector<cri::PodSandbox> pods(response.items().begin(), response.items().end());
  std::sort(pods.begin(), pods.end(), [](auto& a, auto& b) { return a.created_at() > b.created_at(); });
  if (o.quiet) {
    for (const auto& pod : pods) fmt::print("{}\n", Shown(pod.id(), o));
    return 0;
  }
  Table table({"POD", "NAMESPACE", "NAME", "STATE", "CREATED", "ADDRESS"});
  for (const auto& pod : pods) {
    cri::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(pod.id());
    auto status = Call(client, *client.runtime, &cri::RuntimeService::Stub::PodSandboxStatus, request);
    std::string address = "host";
    if (status) {
      const auto& options = status->status().linux().namespaces().options();
      if (options.network() != cri::NODE) address = status->status().network().ip();
      for (const auto& more : status->status().network().additional_ips()) address += " " + more.ip();
    }
    table.Add({Shown(pod.id(), o), pod.metadata().namespace_(), pod.metadata().name(),
               pod.state() == cri::SANDBOX_READY ? "Ready" : "Stopped", HumanAge(pod.created_at()), address});
  }
  fmt::print("{}", table.Text());
  return 0;
}

Result<int> ListImages(const Context& context, const ListOptions& o) {
  Client client = context.Open();
  auto response = TRY(Call(client, *client.images, &cri::ImageService::Stub::ListImages, cri::ListImagesRequest()));
  Table table({"IMAGE", "ID", "SIZE"});
  for (const auto& image : response.images()) {
    if (o.quiet) {
      fmt::print("{}\n", Shown(image.id(), o));
      continue;
    }
    std::vector<std::string> names(image.repo_tags().begin(), image.repo_tags().end());
    if (names.empty()) names.assign(image.repo_digests().begin(), image.repo_digests().end());
    if (names.empty()) names = {"<none>"};
    for (const auto& name : names) table.Add({name, Shown(image.id(), o), HumanSize(image.size())});
  }
  if (!o.quiet) fmt::print("{}", table.Text());
  return 0;
}

}  // namespace

void AddList(CLI::App& app, Context& context) {
  auto o = std::make_shared<ListOptions>();
  auto* ps = app.add_subcommand("ps", "Lists containers: the running ones, or every one with --all");
  ps->add_flag("-a,--all", o->all, "Also those that were created or have exited");
  ps->add_option("--pod", o->pod, "Only containers of this pod");
  auto* pods = app.add_subcommand("pods", "Lists pods with their addresses");
  auto* images = app.add_subcommand("images", "Lists images in the store");
  for (auto* command : {ps, pods, images}) {
    command->add_flag("-q,--quiet", o->quiet, "Only ids");
    command->add_flag("--no-trunc", o->no_trunc, "Whole ids");
  }
  ps->callback([=, &context] { context.action = [=, &context] { return ListContainers(context, *o); }; });
  pods->callback([=, &context] { context.action = [=, &context] { return ListPods(context, *o); }; });
  images->callback([=, &context] { context.action = [=, &context] { return ListImages(context, *o); }; });
}

}  // namespace berth::cli
