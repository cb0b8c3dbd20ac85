#pragma once
// The agent's socket: CRI (runtime.v1.RuntimeService and ImageService) and the private berth.v1.Agent.
//
// Connections are accepted here and handed to gRPC, so that a second agent cannot take over a living socket, the mode
// is right from the first moment, and the peer is known. Messages up to 16 MiB both ways; at most 256 calls in flight a
// connection, further ones wait in the client. Start ignores SIGPIPE for the process: streams report a broken pipe as
// an error.
#include <memory>
#include <optional>
#include <string>

#include "base/worker_pool.h"
#include "cri/door.h"
#include "cri/streaming/options.h"

namespace berth::cri {

struct ServerOptions {
  std::string socket = "/run/berth/berth.sock";  // its directory is made when missing, with `directory_mode`
  unsigned mode = 0660, directory_mode = 0710;
  std::string group;  // name or number of the group that may use the socket; empty: root's
  std::chrono::nanoseconds drain = std::chrono::seconds(10);
  Identity identity;              // `version` must be a semantic version
  streaming::Options streaming;   // exec, attach and port-forward
  std::optional<HostFacts> host;  // for tests; else ProbeHost()
};

class Server {
 public:
  // kConflict: another agent serves that socket. A socket that nobody serves is replaced. The references outlive the
  // server.
  static Result<std::unique_ptr<Server>> Start(const ServerOptions& options, pods::Core& core, images::Store& images,
                                               cni::Network& network, WorkerPool& pool, metrics::Registry& metrics);
  // Stops taking connections, ends calls without an end of their own, waits `drain` for the others, cancels those,
  // waits for every worker to let go, removes the socket. Once; the destructor does it else.
  virtual void Shutdown() = 0;
  virtual ~Server() = default;
};

}  // namespace berth::cri
