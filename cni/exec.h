#pragma once
// CNI plugins that are programs (specification 1.1.0, section 2): found in the plugin directories, run with CNI_* in
// the environment and the request on standard input, through base/child.
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/json.h"
#include "cni/network.h"
#include "cni/result.h"

namespace berth::cni {

struct PluginCall {
  std::string command;           // ADD, DEL
  std::string type;              // the program's name
  json::Object config;           // the plugin's object of the list
  std::string network, version;  // of the list
  std::string container, netns_path, interface, args;
  std::string prev_result;      // JSON, "" for none
  json::Object runtime_config;  // only what the plugin declared; empty: left out
  const std::vector<std::string>& dirs;
};

// Path of the program, or kFailedPrecondition naming where it was looked for.
Result<std::string> FindPlugin(const std::string& type, const std::vector<std::string>& dirs);
// The request as it goes to standard input.
std::string RequestJson(const PluginCall& call);
// Standard output of a successful call ("" after DEL). A failure carries the plugin's own message: codes 2, 4, 6 and 7
// (the configuration) are kFailedPrecondition, 11, 50 and 51 kUnavailable, 3 kNotFound, others kInternal.
Result<std::string> RunPlugin(const PluginCall& call, const Deadline& until);
// CNI_ARGS as Kubernetes plugins expect it.
std::string KubernetesArgs(const PodId& pod, const std::string& name, const std::string& name_space,
                           const std::string& uid);

}  // namespace berth::cni
