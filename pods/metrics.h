#pragma once
// What pods and containers export, read at scrape time. Names and labels of containers are cAdvisor's, so that existing
// dashboards work:
//
//   container_*{container,pod,namespace,id,image,name}           one series a running container
//   container_network_*{...,interface}                           one a pod, with container="POD"
//   berth_pods{phase}, berth_containers{phase}                   how many there are
//   berth_operations_running{op,stage}                           what the agent is doing now
//   berth_operation_stage_seconds{op,stage}                      age of the oldest one at that stage: a stall shows
//   here
#include "metrics/registry.h"
#include "pods/core.h"

namespace berth::pods {

std::vector<metrics::Family> ContainerFamilies(Core& core);
std::vector<metrics::Family> AgentFamilies(Core& core);
// Adds both to the page. Core must outlive the registry's last scrape.
void ExportMetrics(Core& core, metrics::Registry& registry);

}  // namespace berth::pods
