#pragma once
// What every call passes: the references the services share, and the part of a call that does not depend on its message
// types. A call is one task of the worker pool; gRPC's own threads only carry bytes.
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/worker_pool.h"
#include "cri/host_facts.h"
#include "metrics/registry.h"
#include "pods/core.h"

namespace google::protobuf {
class Message;
}

namespace berth::cri {

// The calls in flight, so that shutdown can end those that would never end by themselves. Thread-safe.
class Calls {
 public:
  void Enter(const void* call, std::shared_ptr<CancelToken> token, bool endless);
  void Leave(const void* call);
  // From now on also for calls that enter later.
  void CancelEndless();
  size_t running() const;

 private:
  struct Entry {
    std::shared_ptr<CancelToken> token;
    bool endless;
  };
  mutable std::mutex mutex_;
  std::map<const void*, Entry> calls_;
  bool draining_ = false;
};

struct Identity {       // what Version, Status and Info say about the agent
  std::string version;  // a semantic version
  std::string metrics_address, cgroup;
  std::map<std::string, std::string> facts;
  std::string config;  // JSON object: the effective configuration
};

namespace streaming {
class Server;
}

struct Door {  // outlives every call
  pods::Core& core;
  images::Store& images;
  cni::Network& network;
  WorkerPool& pool;
  metrics::Registry& metrics;
  Calls& calls;
  HostFacts host;
  Identity identity;
  streaming::Server* streaming = nullptr;  // there before the first call
};

struct Rpc {
  enum Kind { kRead, kChange };
  std::string_view name;  // "run_pod_sandbox": label of the metric and field of the log line
  Kind kind = kRead;      // successful changes are logged at info, reads at debug
  bool endless = false;   // shutdown does not wait for it
};

// Handed to the body of a call.
struct Call {
  const Deadline& until;
  std::string object;  // id or image, for the log line
  // Set before failing where the kubelet knows the failure by the beginning of its text alone: the status is then
  // UNKNOWN and its message starts with this (constants of cri-api pkg/errors).
  std::string_view kubelet_text = {};
};

// One call from arrival to status: deadline and cancellation of the client, the metric, the one log line.
class CallFrame {
 public:
  CallFrame(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context);
  ~CallFrame();
  CallFrame(const CallFrame&) = delete;

  // From gRPC's OnCancel; any thread.
  void Cancelled() { token_->Cancel(); }
  const Deadline& until() const { return until_; }
  const std::shared_ptr<CancelToken>& token() const { return token_; }
  Door& door() { return door_; }

  // Checks the shape of `request` (null: a stream checks its own), runs `body`, observes and logs. Never throws.
  grpc::Status Run(const google::protobuf::Message* request, const std::function<Result<void>(Call&)>& body);
  // A call that never ran: no worker free.
  grpc::Status Refuse(const Error& error);

 private:
  grpc::Status Close(const Call& call, const Result<void>& outcome);

  Door& door_;
  const Rpc rpc_;
  const std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> client_deadline_;
  std::shared_ptr<CancelToken> token_;
  Deadline until_;
};

// The status of an error, by the table in base/error.cc. The message is cut to 2000 bytes: gRPC's header limit is 8
// KiB.
grpc::Status StatusOf(const Error& error, std::string_view kubelet_text = {});

}  // namespace berth::cri
