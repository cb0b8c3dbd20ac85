// GetContainerEvents: what the kubelet's evented PLEG reads. Each event carries the pod and all its containers, as they are when it
// is sent, so that a reader that missed one is right again with the next.
#include "cri/convert.h"
#include "cri/streams.h"
#include "pods/events.h"

namespace berth::cri {
namespace {

// The kubelet knows four; a pod that becomes ready was created and started.
std::vector<api::ContainerEventType> TypesOf(pods::EventKind kind) {
  switch (kind) {
    case pods::EventKind::kPodReady: return {api::CONTAINER_CREATED_EVENT, api::CONTAINER_STARTED_EVENT};
    case pods::EventKind::kContainerCreated: return {api::CONTAINER_CREATED_EVENT};
    case pods::EventKind::kContainerStarted: return {api::CONTAINER_STARTED_EVENT};
    case pods::EventKind::kPodStopped:
    case pods::EventKind::kContainerExited: return {api::CONTAINER_STOPPED_EVENT};
    case pods::EventKind::kPodRemoved:
    case pods::EventKind::kContainerRemoved: return {api::CONTAINER_DELETED_EVENT};
    case pods::EventKind::kContainerOom:
    case pods::EventKind::kLost: return {};
  }
  return {};
}

}  // namespace

Result<void> GetContainerEvents(Door& door, const api::GetEventsRequest&, AnswerStream<api::ContainerEventResponse>& stream,
                                Call& call) {
  auto subscription = door.core.events.Subscribe();
  stream.StartSendInitialMetadata();  // from here on nothing is missed
  while (true) {
    pods::Event event = TRY(subscription->Next(call.until));
    if (event.kind == pods::EventKind::kLost)
      return Err(Code::kUnavailable, "the reader fell behind and missed events: list, then ask again");
    for (auto type : TypesOf(event.kind)) {
      api::ContainerEventResponse message;
      message.set_container_id(event.container ? event.container->id.str() : event.pod->id.str());
      message.set_container_event_type(type);
      message.set_created_at(event.at);
      FillPodStatus(*event.pod, *message.mutable_pod_sandbox_status());
      for (const auto& container : door.core.registry.Containers({.pod = event.pod->id.str()}))
        if (!event.container || container->id != event.container->id)
          FillContainerStatus(*container, *message.add_containers_statuses());
      if (event.container && event.kind != pods::EventKind::kContainerRemoved)
        FillContainerStatus(*event.container, *message.add_containers_statuses());
      if (!stream.Write(std::move(message))) return {};
    }
  }
}

}  // namespace berth::cri
