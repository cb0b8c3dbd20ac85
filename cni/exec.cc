#include "cni/exec.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/child.h"

namespace berth::cni {
namespace {

constexpr int kBusyRetries = 5;  // a program that is just being replaced (ETXTBSY); a second apart, as libcni does

Code CodeOf(int64_t plugin_code) {
  switch (plugin_code) {
    case 1:
    case 2:
    case 4:
    case 6:
    case 7:
      return Code::kFailedPrecondition;
    case 3:
      return Code::kNotFound;
    case 11:
    case 50:
    case 51:
      return Code::kUnavailable;
    default:
      return Code::kInternal;
  }
}

std::unexpected<Error> Failure(const PluginCall& call, const CommandOutput& out) {
  std::string who = fmt::format("cni plugin {} {}", call.type, call.command);
  auto tree = json::ParseTree(out.out, who, 1 << 20);
  if (tree && tree->is_object() && tree->get_object().contains("msg")) {
    const json::Object& o = tree->get_object();
    const json::Value* code = o.if_contains("code");
    int64_t number = code && code->is_int64() ? code->get_int64() : 999;
    std::string text;
    for (const char* key : {"msg", "details"})
      if (const json::Value* v = o.if_contains(key); v && v->is_string() && !v->get_string().empty())
        text += (text.empty() ? "" : "; ") + std::string(v->get_string());
    return Err(CodeOf(number), "{}: {} (code {})", who, text, number);
  }
  std::string raw = out.out.empty() ? out.err : out.out;
  if (raw.size() > 500) raw = raw.substr(0, 500) + "...";
  while (!raw.empty() && isspace(static_cast<unsigned char>(raw.back()))) raw.pop_back();
  return Err(Code::kInternal, "{}: exit status {}: {}", who, out.exit_code, raw.empty() ? "no message" : raw);
}

}  // namespace

Result<std::string> FindPlugin(const std::string& type, const std::vector<std::string>& dirs) {
  std::string looked;
  for (const std::string& dir : dirs) {
    std::string path = dir + "/" + type;
    struct stat st;
    if (stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) && access(path.c_str(), X_OK) == 0) return path;
    looked += (looked.empty() ? "" : ", ") + dir;
  }
  return Err(Code::kFailedPrecondition, "cni plugin '{}' is not in {}; install it there", type,
             looked.empty() ? "any directory, as none is configured" : looked);
}

std::string RequestJson(const PluginCall& call) {
  json::Object request = call.config;
  request["name"] = call.network;
  request["cniVersion"] = call.version;
  if (!call.runtime_config.empty()) request["runtimeConfig"] = call.runtime_config;
  if (!call.prev_result.empty())
    if (auto prev = json::ParseTree(call.prev_result, "prevResult", 1 << 20)) request["prevResult"] = *prev;
  return json::Serialize(request);
}

std::string KubernetesArgs(const PodId& pod, const std::string& name, const std::string& name_space,
                           const std::string& uid) {
  // A value with the list's own separators would become other keys.
  auto clean = [](std::string v) {
    std::erase_if(v, [](char c) { return c == ';' || c == '=' || c == '\n'; });
    return v;
  };
  return fmt::format(
      "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
      clean(name_space), clean(name), pod, clean(uid));
}

Result<std::string> RunPlugin(const PluginCall& call, const Deadline& until) {
  Command command;
  std::string path = TRY(FindPlugin(call.type, call.dirs));
  command.argv = {path};
  command.input = RequestJson(call);
  command.output_limit = 1 << 20;
  std::string dirs;
  for (const std::string& dir : call.dirs) dirs += (dirs.empty() ? "" : ":") + dir;
  // The runtime's own environment first, as libcni does: plugins read PATH, HOME or a proxy from it.
  for (char** e = environ; *e; ++e)
    if (strncmp(*e, "CNI_", 4) != 0 && strncmp(*e, "BERTH_", 6) != 0) command.env.emplace_back(*e);
  command.env.push_back("CNI_COMMAND=" + call.command);
  command.env.push_back("CNI_CONTAINERID=" + call.container);
  command.env.push_back("CNI_NETNS=" + call.netns_path);
  command.env.push_back("CNI_IFNAME=" + call.interface);
  command.env.push_back("CNI_ARGS=" + call.args);
  command.env.push_back("CNI_PATH=" + dirs);
  for (int attempt = 0;; ++attempt) {
    auto out = Run(command, until);
    if (!out && out.error().sys == ETXTBSY && attempt < kBusyRetries) {
      TRY(until.Sleep(std::chrono::seconds(1), "cni plugin " + call.type + ", which is being replaced"));
      continue;
    }
    if (!out) return Wrap(out.error(), "cni plugin {} {}", call.type, call.command);
    if (out->exit_code != 0) return Failure(call, *out);
    if (out->truncated) return Err(Code::kInternal, "cni plugin {}: more than 1 MiB of output", call.type);
    return std::move(out->out);
  }
}

}  // namespace berth::cni
