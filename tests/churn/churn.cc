// Pods and containers made, entered, killed and removed at random over the CRI socket, by several threads, while
// somebody else kills the agent again and again. Every exit and every exec must be told truthfully in the end.
//
//   berth_churn --endpoint /run/berth/berth.sock --image 127.0.0.1:5000/busybox:test --logs DIR --seconds 3600
//               [--threads 6] [--seed 1]
//
// Each container has a fate that only it knows: an exit code of its own after a while, or a long sleep that the churn
// ends by StopContainer or by SIGKILL from outside. A call that meets a dead agent is made again until it is answered;
// what it did the first time must not show. At the end every container's status is compared with its fate, everything
// is removed, and the counts are printed as one JSON line. Exit code 1: something was lost or wrong; each case has a
// line on stderr.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "api.grpc.pb.h"
#include "base/id.h"
#include "base/json.h"

namespace {

namespace cri = ::runtime::v1;
using Stub = cri::RuntimeService::Stub;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kOutage(60);  // an agent that is away for longer is a failure of its own

struct Counts {
  std::atomic<long> pods{0}, containers{0}, exits{0}, killed{0}, stopped{0}, execs{0}, execs_interrupted{0}, retries{0},
      wrong{0};
};
Counts g_counts;

void Wrong(const std::string& text) {
  ++g_counts.wrong;
  fmt::print(stderr, "WRONG: {}\n", text);
}

struct Container {
  std::string id, name;
  int code = 0;            // what its status has to say in the end
  bool lasts = false;      // sleeps until it is killed
  Clock::time_point ends;  // not before
};

struct Pod {
  std::string id;
  cri::PodSandboxConfig config;
  std::vector<Container> containers;
};

class Churn {
 public:
  Churn(const std::string& endpoint, std::string image, std::string logs, unsigned seed)
      : stub_(cri::RuntimeService::NewStub(Channel(endpoint, seed))),
        image_(std::move(image)),
        logs_(std::move(logs)),
        random_(seed) {}

  void Step() {
    const unsigned dice = Pick(100);
    if (pods_.empty() || (dice < 12 && pods_.size() < 3)) return RunPod();
    Pod& pod = pods_[Pick(static_cast<unsigned>(pods_.size()))];
    if (dice < 18) return EndPod(pod);
    if (pod.containers.empty() || (dice < 45 && pod.containers.size() < 4)) return StartContainer(pod);
    const size_t at = Pick(static_cast<unsigned>(pod.containers.size()));
    Container& c = pod.containers[at];
    if (dice < 75) return Exec(c);
    if (c.lasts) {
      dice < 87 ? StopContainer(c) : KillContainer(c);
    } else if (Clock::now() < c.ends) {
      return std::this_thread::sleep_for(milliseconds(Pick(50)));
    }
    Remove(c);
    pod.containers.erase(pod.containers.begin() + static_cast<long>(at));
  }

  void End() {
    while (!pods_.empty()) EndPod(pods_.back());
  }

 private:
  static std::shared_ptr<grpc::Channel> Channel(const std::string& endpoint, unsigned seed) {
    grpc::ChannelArguments arguments;  // a connection of its own for each thread; comes back fast after a death
    arguments.SetInt("berth.churn", static_cast<int>(seed));
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    return grpc::CreateCustomChannel(fmt::format("unix://{}", endpoint), grpc::InsecureChannelCredentials(), arguments);
  }

  unsigned Pick(unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random_); }

  // Again and again while the agent is away. `once`: what the agent's death interrupts is not repeated.
  template <class Request, class Response>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response, bool once = false) {
    for (const auto until = Clock::now() + kOutage;;) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + seconds(60));
      response->Clear();
      grpc::Status status = ((*stub_).*method)(&context, request, response);
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE || once || Clock::now() > until) return status;
      ++g_counts.retries;
      std::this_thread::sleep_for(milliseconds(50));
    }
  }

  void RunPod() {
    Pod pod;
    auto* metadata = pod.config.mutable_metadata();
    metadata->set_name(fmt::format("churn-{}", berth::RandomHex(12)));
    metadata->set_namespace_("churn");
    metadata->set_uid(berth::RandomHex(32));
    pod.config.set_log_directory(fmt::format("{}/{}", logs_, metadata->name()));
    pod.config.mutable_linux();
    cri::RunPodSandboxRequest request;
    *request.mutable_config() = pod.config;
    cri::RunPodSandboxResponse response;
    if (auto status = Call(&Stub::RunPodSandbox, request, &response); !status.ok())
      return Wrong(fmt::format("RunPodSandbox {}: {}", metadata->name(), status.error_message()));
    pod.id = response.pod_sandbox_id();
    ++g_counts.pods;
    pods_.push_back(std::move(pod));
  }

  void StartContainer(Pod& pod) {
    Container c;
    c.name = fmt::format("c{}", berth::RandomHex(8));
    c.lasts = Pick(3) == 0;
    c.code = c.lasts ? 137 : static_cast<int>(Pick(120));
    const unsigned tenths = Pick(80);
    cri::CreateContainerRequest request;
    request.set_pod_sandbox_id(pod.id);
    *request.mutable_sandbox_config() = pod.config;
    auto* config = request.mutable_config();
    config->mutable_metadata()->set_name(c.name);
    config->mutable_image()->set_image(image_);
    config->set_log_path(fmt::format("{}.log", c.name));
    config->mutable_linux();
    for (const std::string& word :
         {std::string("sh"), std::string("-c"),
          c.lasts ? std::string("echo here; exec sleep 100000")
                  : fmt::format("echo here; sleep {}.{}; exit {}", tenths / 10, tenths % 10, c.code)})
      config->add_command(word);
    cri::CreateContainerResponse response;
    auto status = Call(&Stub::CreateContainer, request, &response);
    if (status.error_code() == grpc::StatusCode::ALREADY_EXISTS) {  // the first attempt came through after all
      c.id = Find(pod.id, c.name);
      if (c.id.empty())
        return Wrong(fmt::format("CreateContainer {}: {}, but it is not listed", c.name, status.error_message()));
    } else if (!status.ok()) {
      return Wrong(fmt::format("CreateContainer {}: {}", c.name, status.error_message()));
    } else {
      c.id = response.container_id();
    }
    cri::StartContainerRequest start;
    start.set_container_id(c.id);
    cri::StartContainerResponse started;
    const long retries = g_counts.retries;
    status = Call(&Stub::StartContainer, start, &started);
    if (!status.ok()) {  // a repeated start finds it started
      auto seen = Status(c.id);
      if (g_counts.retries == retries || !seen || seen->state() == cri::CONTAINER_CREATED)
        return Wrong(fmt::format("StartContainer {}: {}", c.name, status.error_message()));
    }
    ++g_counts.containers;
    c.ends = Clock::now() + milliseconds(tenths * 100);
    pod.containers.push_back(std::move(c));
  }

  std::string Find(const std::string& pod, const std::string& name) {
    cri::ListContainersRequest request;
    request.mutable_filter()->set_pod_sandbox_id(pod);
    cri::ListContainersResponse response;
    Call(&Stub::ListContainers, request, &response);
    for (const auto& c : response.containers())
      if (c.metadata().name() == name) return c.id();
    return "";
  }

  std::optional<cri::ContainerStatus> Status(const std::string& id, int* pid = nullptr) {
    cri::ContainerStatusRequest request;
    request.set_container_id(id);
    request.set_verbose(pid != nullptr);
    cri::ContainerStatusResponse response;
    auto status = Call(&Stub::ContainerStatus, request, &response);
    if (!status.ok()) {
      Wrong(fmt::format("ContainerStatus {}: {}", id, status.error_message()));
      return std::nullopt;
    }
    if (pid != nullptr) {
      auto info = berth::json::ParseTree(response.info().at("info"), "info");
      *pid = info ? static_cast<int>(info->at("pid").to_number<int64_t>()) : 0;
    }
    return response.status();
  }

  void Exec(const Container& c) {
    auto before = Status(c.id);
    if (!before || before->state() != cri::CONTAINER_RUNNING) return;
    const std::string word = berth::RandomHex(16);
    const int code = static_cast<int>(Pick(100));
    cri::ExecSyncRequest request;
    request.set_container_id(c.id);
    request.set_timeout(20);
    for (const std::string& w : {std::string("sh"), std::string("-c"), fmt::format("echo {}; exit {}", word, code)})
      request.add_cmd(w);
    cri::ExecSyncResponse response;
    auto status = Call(&Stub::ExecSync, request, &response, true);
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      ++g_counts.execs_interrupted;
      return;
    }
    if (status.ok() && response.exit_code() == code && response.stdout() == fmt::format("{}\n", word)) {
      ++g_counts.execs;
      return;
    }
    // A container that ends takes its execs along; the agent may hear of the end a moment later.
    for (int i = 0; i < 40; ++i, std::this_thread::sleep_for(milliseconds(50))) {
      auto after = Status(c.id);
      if (after && after->state() != cri::CONTAINER_RUNNING) return;
    }
    Wrong(fmt::format("ExecSync in {}: {} exit {} output {}", c.name, status.error_message(), response.exit_code(),
                      response.stdout()));
  }

  void StopContainer(const Container& c) {
    cri::StopContainerRequest request;
    request.set_container_id(c.id);
    request.set_timeout(Pick(2));
    cri::StopContainerResponse response;
    if (auto status = Call(&Stub::StopContainer, request, &response); !status.ok())
      Wrong(fmt::format("StopContainer {}: {}", c.name, status.error_message()));
    ++g_counts.stopped;
  }

  void KillContainer(const Container& c) {
    int pid = 0;
    auto status = Status(c.id, &pid);
    if (!status || status->state() != cri::CONTAINER_RUNNING)
      return Wrong(fmt::format("{} does not run before it is killed", c.name));
    if (pid <= 1 || ::kill(pid, SIGKILL) < 0) return Wrong(fmt::format("cannot kill {} (pid {})", c.name, pid));
    ++g_counts.killed;
  }

  // Waits for its end, compares it with its fate, removes it.
  void Remove(const Container& c) {
    std::optional<cri::ContainerStatus> seen;
    for (const auto until = Clock::now() + kOutage; Clock::now() < until;
         std::this_thread::sleep_for(milliseconds(20))) {
      seen = Status(c.id);
      if (!seen || seen->state() == cri::CONTAINER_EXITED) break;
    }
    if (!seen) return;
    if (seen->state() != cri::CONTAINER_EXITED) {
      Wrong(fmt::format("{} ({}): its exit is lost", c.name, c.id));
    } else if (seen->exit_code() != c.code || seen->finished_at() < seen->started_at() || seen->started_at() <= 0) {
      Wrong(fmt::format("{}: exit {} from {} to {}, expected {}", c.name, seen->exit_code(), seen->started_at(),
                        seen->finished_at(), c.code));
    } else {
      ++g_counts.exits;
    }
    cri::RemoveContainerRequest request;
    request.set_container_id(c.id);
    cri::RemoveContainerResponse response;
    if (auto status = Call(&Stub::RemoveContainer, request, &response); !status.ok())
      Wrong(fmt::format("RemoveContainer {}: {}", c.name, status.error_message()));
  }

  void EndPod(Pod& pod) {
    for (Container& c : pod.containers) {
      if (c.lasts) StopContainer(c);
      Remove(c);
    }
    cri::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(pod.id);
    cri::StopPodSandboxResponse stopped;
    if (auto status = Call(&Stub::StopPodSandbox, stop, &stopped); !status.ok())
      Wrong(fmt::format("StopPodSandbox {}: {}", pod.id, status.error_message()));
    cri::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(pod.id);
    cri::RemovePodSandboxResponse removed;
    if (auto status = Call(&Stub::RemovePodSandbox, remove, &removed); !status.ok())
      Wrong(fmt::format("RemovePodSandbox {}: {}", pod.id, status.error_message()));
    std::erase_if(pods_, [id = pod.id](const Pod& p) { return p.id == id; });
  }

  std::unique_ptr<Stub> stub_;
  std::string image_, logs_;
  std::mt19937 random_;
  std::vector<Pod> pods_;
};

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options{{"--threads", "6"}, {"--seed", "1"}, {"--seconds", "60"}};
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  for (const char* needed : {"--endpoint", "--image", "--logs"})
    if (options[needed].empty()) {
      fmt::print(stderr, "berth_churn: needs {}\n", needed);
      return 2;
    }
  const auto until = Clock::now() + seconds(std::atoi(options["--seconds"].c_str()));
  const auto seed = static_cast<unsigned>(std::atoi(options["--seed"].c_str()));
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < static_cast<unsigned>(std::atoi(options["--threads"].c_str())); ++t)
      threads.emplace_back([&, t] {
        Churn churn(options["--endpoint"], options["--image"], options["--logs"], seed * 1000 + t);
        while (Clock::now() < until) churn.Step();
        churn.End();
      });
  }
  const Counts& c = g_counts;
  fmt::print(
      "{{\"pods\":{},\"containers\":{},\"exits_right\":{},\"killed\":{},\"stopped\":{},\"execs_right\":{},\"execs_"
      "interrupted\":{},"
      "\"retries\":{},\"wrong\":{}}}\n",
      c.pods.load(), c.containers.load(), c.exits.load(), c.killed.load(), c.stopped.load(), c.execs.load(),
      c.execs_interrupted.load(), c.retries.load(), c.wrong.load());
  return c.wrong == 0 && c.exits == c.containers ? 0 : 1;
}
