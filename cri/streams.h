#pragma once
// The streams of the runtime service: events, and the lists in pieces (CRI since 0.36): the same items as the unary list, from one snapshot, each once, in messages that stay
// far below the limit of 16 MiB however many there are.
#include "cri/bodies.h"
#include "cri/stream.h"

namespace berth::cri {

inline constexpr size_t kPieceBytes = 256 << 10;  // of one message, about

// Moves `items` into messages by `add(message, item)`. A client that has gone ends it early; that is no error of ours.
template <class Response, class Items, class Add>
Result<void> WritePieces(AnswerStream<Response>& stream, Items* items, Add add) {
  Response message;
  size_t bytes = 0;
  for (auto& item : *items) {
    bytes += item.ByteSizeLong();
    add(message, item);
    if (bytes < kPieceBytes) continue;
    if (!stream.Write(std::move(message))) return {};
    message = Response();
    bytes = 0;
  }
  if (bytes > 0) stream.Write(std::move(message));
  return {};
}

Result<void> StreamPodSandboxes(Door&, const api::StreamPodSandboxesRequest&, AnswerStream<api::StreamPodSandboxesResponse>&, Call&);
Result<void> StreamContainers(Door&, const api::StreamContainersRequest&, AnswerStream<api::StreamContainersResponse>&, Call&);
Result<void> StreamContainerStats(Door&, const api::StreamContainerStatsRequest&, AnswerStream<api::StreamContainerStatsResponse>&, Call&);
Result<void> StreamImages(Door&, const api::StreamImagesRequest&, AnswerStream<api::StreamImagesResponse>&, Call&);

// events.cc
Result<void> GetContainerEvents(Door&, const api::GetEventsRequest&, AnswerStream<api::ContainerEventResponse>&, Call&);

}  // namespace berth::cri
