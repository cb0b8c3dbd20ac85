#pragma once
// The HTTP side of Exec, Attach and PortForward. The RPC hands a ticket in and gives its client the URL; the client connects,
// upgrades to SPDY/3.1 or WebSocket, and a worker relays until either side ends.
//
// Answers without a session: 404 unknown, used or expired ticket; 405 neither GET nor POST; 400 not an upgrade, or none of the
// version headers; 403 no common protocol; 503 too many sessions or the agent stops.
#include <memory>
#include <string>

#include "base/deadline.h"
#include "cri/streaming/options.h"
#include "cri/streaming/port_forward.h"
#include "cri/streaming/remote_command.h"
#include "cri/streaming/tickets.h"

namespace berth::cri::streaming {

// What stands behind the streams. Called from session threads.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::unique_ptr<Process> Exec(const ExecTicket& ticket) = 0;
  virtual std::unique_ptr<Process> Attach(const AttachTicket& ticket) = 0;
  virtual Result<unique_fd> Dial(const std::string& pod, uint16_t port, const Deadline& until) = 0;
};

class Server {
 public:
  static Result<std::unique_ptr<Server>> Start(const Options& options, Backend& backend);
  virtual ~Server() = default;  // ends every session
  // Leaves a ticket; the absolute URL for the client.
  virtual Result<std::string> Invite(Ticket ticket) = 0;
  virtual const std::string& base_url() const = 0;  // "http://127.0.0.1:41234"
  virtual size_t sessions() const = 0;              // running now
};

}  // namespace berth::cri::streaming
