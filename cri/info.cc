// The `info` texts of verbose answers: what people and tools read with `crictl inspect`. The shapes follow containerd's
// where tools rely on them: .info.pid, .info.runtimeSpec.linux.namespaces[].path, .info.config.
#include <google/protobuf/util/json_util.h>

#include "base/json.h"
#include "base/utf8.h"
#include "cri/convert.h"

namespace berth::cri {
namespace {

json::Value FromProto(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return json::Object();
  auto tree = json::ParseTree(text, "config");
  return tree ? std::move(*tree) : json::Value(json::Object());
}

// Namespaces as a monitor or container has them: type and a path that setns(2) takes.
json::Array NamespacesOf(pid_t pid, const std::string& network_path, bool host_network, bool host_ipc, bool own_pid) {
  json::Array out;
  auto add = [&](std::string_view type, std::string path) {
    json::Object entry;
    entry["type"] = json::Value(boost::json::string_view(type.data(), type.size()));
    if (!path.empty()) entry["path"] = path;
    out.push_back(std::move(entry));
  };
  auto of = [&](std::string_view name) { return pid > 0 ? fmt::format("/proc/{}/ns/{}", pid, name) : std::string(); };
  if (own_pid) add("pid", of("pid"));
  if (!host_ipc) add("ipc", of("ipc"));
  if (!host_network) {
    add("uts", of("uts"));
    add("network", network_path.empty() ? of("net") : network_path);
  }
  add("mount", of("mnt"));
  return out;
}

std::string ProcPath(pid_t pid, std::string_view type) {
  std::string_view name = type == "network" ? "net" : type == "mount" ? "mnt" : type;
  return fmt::format("/proc/{}/ns/{}", pid, name);
}

}  // namespace

std::string PodInfo(const pods::PodState& pod) {
  const auto& spec = pod.spec;
  json::Object info;
  info["pid"] = pod.monitor > 0 ? pod.monitor : 0;
  info["processStatus"] = pod.phase == pods::PodPhase::kReady ? "running" : "stopped";
  info["netNamespaceClosed"] = pod.phase != pods::PodPhase::kReady;
  info["runtimeHandler"] = spec.runtime_handler;
  info["cgroup"] = pod.cgroup;
  if (!pod.stuck.empty()) info["stuck"] = pod.stuck;
  info["config"] = FromProto(ConfigOf(spec));

  json::Object runtime_spec, linux;
  const bool ready = pod.phase == pods::PodPhase::kReady;
  linux["namespaces"] = NamespacesOf(
      ready ? pod.monitor : -1, ready ? pod.netns_path : "", spec.namespaces.network == pods::Namespace::kNode,
      spec.namespaces.ipc == pods::Namespace::kNode, spec.namespaces.pid == pods::Namespace::kPod);
  linux["cgroupsPath"] = pod.cgroup;
  json::Object sysctl;
  for (const auto& [key, value] : spec.sysctls) sysctl[key] = value;
  linux["sysctl"] = std::move(sysctl);
  runtime_spec["ociVersion"] = "1.2.0";
  runtime_spec["hostname"] = spec.hostname;
  runtime_spec["linux"] = std::move(linux);
  info["runtimeSpec"] = std::move(runtime_spec);

  if (auto result = json::ParseTree(pod.network.result_json, "CNI result"); result && result->is_object())
    info["cniResult"] = std::move(*result);
  return json::Serialize(info);
}

std::string ContainerInfo(const pods::ContainerState& container, const runtime::oci::Spec* spec) {
  json::Object info;
  info["sandboxID"] = container.pod.str();
  info["pid"] = container.pid > 0 ? container.pid : 0;
  info["privileged"] = container.spec.privileged;
  info["cgroup"] = container.cgroup;
  json::Value config = FromProto(ConfigOf(container.spec));
  // Values are bytes on the wire and would stand here as base64.
  if (auto* envs = config.as_object().if_contains("envs"); envs != nullptr && envs->is_array())
    for (size_t i = 0; i < envs->as_array().size() && i < container.spec.env.size(); ++i) {
      const std::string& env = container.spec.env[i];
      size_t equals = env.find('=');
      envs->as_array()[i].as_object()["value"] = equals == std::string::npos ? "" : ToUtf8(env.substr(equals + 1));
    }
  info["config"] = std::move(config);
  if (spec != nullptr) {
    runtime::oci::Spec shown = *spec;
    if (shown.linux && container.pid > 0)
      for (auto& name_space : shown.linux->namespaces)
        if (name_space.path.empty() || name_space.type == "network")
          name_space.path = ProcPath(container.pid, name_space.type);
    info["runtimeSpec"] = json::ToValue(shown, json::Omit::kEmpty);
  }
  return json::Serialize(info);
}

std::string ImageInfo(const images::Image& image) {
  json::Object info;
  // OCI image-spec, config.md, "Layer ChainID".
  std::string chain;
  for (const auto& diff_id : image.diff_ids)
    chain = chain.empty() ? diff_id.str() : images::Digest::Of(chain + " " + diff_id.str()).str();
  info["chainID"] = chain;
  if (auto config = json::ParseTree(image.raw_config, "image config")) info["imageSpec"] = std::move(*config);
  return json::Serialize(info);
}

}  // namespace berth::cri
