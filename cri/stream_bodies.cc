// Exec, Attach and PortForward check what is asked and hand out the URL; the streaming server does the rest.
#include "cri/bodies.h"
#include "cri/check.h"
#include "cri/streaming/server.h"
#include "pods/registry.h"

namespace berth::cri {
namespace {

// The rules of the API's comments; with a terminal there is one output.
Result<streaming::Streams> StreamsOf(const auto& request) {
  if (request.tty() && request.stderr()) return Bad("stderr", "must be false with tty: a terminal has one output");
  if (!request.stdin() && !request.stdout() && !request.stderr()) return Bad("stdin, stdout, stderr", "one of them must be true");
  return streaming::Streams{.in = request.stdin(), .out = request.stdout(), .err = request.stderr(), .tty = request.tty()};
}

Result<pods::ContainerState> Running(Door& door, const std::string& id) {
  pods::ContainerState container = TRY(pods::FindContainer(door.core, id));
  if (container.phase != pods::ContainerPhase::kRunning)
    return Err(Code::kFailedPrecondition, "container {}: is not running", container.id.Short());
  return container;
}

}  // namespace

Result<void> Exec(Door& door, const api::ExecRequest& request, api::ExecResponse& response, Call& call) {
  call.object = request.container_id().substr(0, 64);
  TRY(CheckName("container_id", request.container_id()));
  if (request.cmd_size() == 0 || request.cmd(0).empty()) return Bad("cmd", "must name a program, then its arguments");
  const streaming::Streams streams = TRY(StreamsOf(request));  // apart: g++ 12 leaks a half made aggregate that is left by a return
  streaming::ExecTicket ticket{.container = {}, .argv = {request.cmd().begin(), request.cmd().end()}, .streams = streams};
  ticket.container = TRY(Running(door, request.container_id())).id.str();
  response.set_url(TRY(door.streaming->Invite(std::move(ticket))));
  return {};
}

Result<void> Attach(Door& door, const api::AttachRequest& request, api::AttachResponse& response, Call& call) {
  call.object = request.container_id().substr(0, 64);
  TRY(CheckName("container_id", request.container_id()));
  streaming::AttachTicket ticket{.container = {}, .streams = TRY(StreamsOf(request))};
  const pods::ContainerState container = TRY(Running(door, request.container_id()));
  if (request.tty() != container.spec.tty)
    return Bad("tty", container.spec.tty ? "must be true: the container has a terminal" : "must be false: the container has no terminal");
  if (request.stdin() && !container.spec.keep_stdin) return Bad("stdin", "must be false: the container was created without stdin");
  ticket.container = container.id.str();
  response.set_url(TRY(door.streaming->Invite(std::move(ticket))));
  return {};
}

Result<void> PortForward(Door& door, const api::PortForwardRequest& request, api::PortForwardResponse& response, Call& call) {
  call.object = request.pod_sandbox_id().substr(0, 64);
  TRY(CheckName("pod_sandbox_id", request.pod_sandbox_id()));
  streaming::PortForwardTicket ticket;
  for (int i = 0; i < request.port_size(); ++i) {
    TRY(CheckRange(fmt::format("port[{}]", i), request.port(i), 1, 65535));
    ticket.ports.push_back(static_cast<uint16_t>(request.port(i)));
  }
  if (ticket.ports.size() > 128) return Bad("port", "at most 128 ports");
  pods::PodState pod = TRY(pods::FindPod(door.core, request.pod_sandbox_id()));
  if (pod.phase != pods::PodPhase::kReady) return Err(Code::kFailedPrecondition, "pod {}: is not ready", pod.id.Short());
  ticket.pod = pod.id.str();
  response.set_url(TRY(door.streaming->Invite(std::move(ticket))));
  return {};
}

}  // namespace berth::cri
