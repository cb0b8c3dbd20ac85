#include "cri/streams.h"

namespace berth::cri {

Result<void> StreamPodSandboxes(Door& door, const api::StreamPodSandboxesRequest& request,
                                AnswerStream<api::StreamPodSandboxesResponse>& stream, Call& call) {
  api::ListPodSandboxRequest list;
  *list.mutable_filter() = request.filter();
  api::ListPodSandboxResponse all;
  TRY(ListPodSandbox(door, list, all, call));
  return WritePieces(stream, all.mutable_items(), [](auto& message, auto& item) { message.add_pod_sandboxes()->Swap(&item); });
}

Result<void> StreamContainers(Door& door, const api::StreamContainersRequest& request,
                              AnswerStream<api::StreamContainersResponse>& stream, Call& call) {
  api::ListContainersRequest list;
  *list.mutable_filter() = request.filter();
  api::ListContainersResponse all;
  TRY(ListContainers(door, list, all, call));
  return WritePieces(stream, all.mutable_containers(), [](auto& message, auto& item) { message.add_containers()->Swap(&item); });
}

Result<void> StreamContainerStats(Door& door, const api::StreamContainerStatsRequest& request,
                                  AnswerStream<api::StreamContainerStatsResponse>& stream, Call& call) {
  api::ListContainerStatsRequest list;
  *list.mutable_filter() = request.filter();
  api::ListContainerStatsResponse all;
  TRY(ListContainerStats(door, list, all, call));
  return WritePieces(stream, all.mutable_stats(), [](auto& message, auto& item) { message.add_container_stats()->Swap(&item); });
}

Result<void> StreamImages(Door& door, const api::StreamImagesRequest& request, AnswerStream<api::StreamImagesResponse>& stream,
                          Call& call) {
  api::ListImagesRequest list;
  *list.mutable_filter() = request.filter();
  api::ListImagesResponse all;
  TRY(ListImages(door, list, all, call));
  return WritePieces(stream, all.mutable_images(), [](auto& message, auto& item) { message.add_images()->Swap(&item); });
}

}  // namespace berth::cri
