// Times the CRI life of a pod with one container against several runtimes in alternation.
//
//   berth_bench_cri --endpoint berth=/run/berth/berth.sock --endpoint containerd=/run/containerd/containerd.sock
//                   --image 127.0.0.1:5000/busybox:test --cycles 20 --pause-ms 60 [--parallel 1]
//
// Each cycle: RunPodSandbox, CreateContainer, StartContainer, StopContainer (grace 0), RemoveContainer, StopPodSandbox,
// RemovePodSandbox. Prints the median and p99 of each call a runtime and the ratios to the first one, then one JSON
// line. The image must be present in each runtime; nothing is left behind.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "api.grpc.pb.h"
#include "base/id.h"

namespace {

namespace cri = ::runtime::v1;
using Clock = std::chrono::steady_clock;

constexpr const char* kCalls[] = {"RunPodSandbox",   "CreateContainer", "StartContainer",  "StopContainer",
                                  "RemoveContainer", "StopPodSandbox",  "RemovePodSandbox"};
constexpr size_t kCallCount = std::size(kCalls);

struct Endpoint {
  std::string name;
  std::unique_ptr<cri::RuntimeService::Stub> stub;
  std::vector<double> times[kCallCount + 1];  // milliseconds; the last is the whole cycle
};

[[noreturn]] void Die(const std::string& text) {
  fmt::print(stderr, "berth_bench_cri: {}\n", text);
  std::exit(1);
}

template <class Request, class Response>
double Timed(const Endpoint& e, size_t call,
             grpc::Status (cri::RuntimeService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
             const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  auto start = Clock::now();
  auto status = ((*e.stub).*method)(&context, request, response);
  double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  if (!status.ok()) Die(fmt::format("{}: {}: {}", e.name, kCalls[call], status.error_message()));
  return ms;
}

std::array<double, kCallCount + 1> Cycle(const Endpoint& e, const std::string& image, const std::string& logs) {
  using Stub = cri::RuntimeService::Stub;
  std::array<double, kCallCount + 1> ms{};
  cri::RunPodSandboxRequest run;
  auto* metadata = run.mutable_config()->mutable_metadata();
  metadata->set_name("bench-" + berth::RandomHex(12));
  metadata->set_namespace_("bench");
  metadata->set_uid(berth::RandomHex(32));
  run.mutable_config()->set_log_directory(logs + "/" + metadata->name());
  run.mutable_config()->set_hostname("bench");
  run.mutable_config()->mutable_linux();
  auto start = Clock::now();
  cri::RunPodSandboxResponse pod;
  ms[0] = Timed(e, 0, &Stub::RunPodSandbox, run, &pod);
  cri::CreateContainerRequest create;
  create.set_pod_sandbox_id(pod.pod_sandbox_id());
  *create.mutable_sandbox_config() = run.config();
  create.mutable_config()->mutable_metadata()->set_name("c");
  create.mutable_config()->mutable_image()->set_image(image);
  create.mutable_config()->add_command("sleep");
  create.mutable_config()->add_args("600");
  create.mutable_config()->set_log_path("c.log");
  create.mutable_config()->mutable_linux()->mutable_security_context()->mutable_seccomp()->set_profile_type(
      cri::SecurityProfile_ProfileType_RuntimeDefault);
  create.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
      cri::CONTAINER);
  cri::CreateContainerResponse container;
  ms[1] = Timed(e, 1, &Stub::CreateContainer, create, &container);
  cri::StartContainerRequest start_request;
  start_request.set_container_id(container.container_id());
  cri::StartContainerResponse started;
  ms[2] = Timed(e, 2, &Stub::StartContainer, start_request, &started);
  cri::StopContainerRequest stop;
  stop.set_container_id(container.container_id());
  cri::StopContainerResponse stopped;
  ms[3] = Timed(e, 3, &Stub::StopContainer, stop, &stopped);
  cri::RemoveContainerRequest remove;
  remove.set_container_id(container.container_id());
  cri::RemoveContainerResponse removed;
  ms[4] = Timed(e, 4, &Stub::RemoveContainer, remove, &removed);
  cri::StopPodSandboxRequest stop_pod;
  stop_pod.set_pod_sandbox_id(pod.pod_sandbox_id());
  cri::StopPodSandboxResponse pod_stopped;
  ms[5] = Timed(e, 5, &Stub::StopPodSandbox, stop_pod, &pod_stopped);
  cri::RemovePodSandboxRequest remove_pod;
  remove_pod.set_pod_sandbox_id(pod.pod_sandbox_id());
  cri::RemovePodSandboxResponse pod_removed;
  ms[6] = Timed(e, 6, &Stub::RemovePodSandbox, remove_pod, &pod_removed);
  ms[7] = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  return ms;
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values.empty()
             ? 0
             : values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Endpoint> endpoints;
  std::string image, logs = "/tmp/berth-bench-logs";
  int cycles = 20, pause_ms = 60, parallel = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string option = argv[i], value = argv[i + 1];
    if (option == "--endpoint") {
      size_t equal = value.find('=');
      if (equal == value.npos) Die("--endpoint needs name=socket");
      auto channel = grpc::CreateChannel("unix://" + value.substr(equal + 1), grpc::InsecureChannelCredentials());
      endpoints.emplace_back();
      endpoints.back().name = value.substr(0, equal);
      endpoints.back().stub = cri::RuntimeService::NewStub(channel);
    } else if (option == "--image")
      image = value;
    else if (option == "--logs")
      logs = value;
    else if (option == "--cycles")
      cycles = std::atoi(value.c_str());
    else if (option == "--pause-ms")
      pause_ms = std::atoi(value.c_str());
    else if (option == "--parallel")
      parallel = std::atoi(value.c_str());
    else
      Die("unknown option " + option);
  }
  if (endpoints.empty() || image.empty() || cycles < 1 || parallel < 1) Die("needs --endpoint name=socket and --image");

  for (auto& e : endpoints) Cycle(e, image, logs);  // warm-up, not counted
  for (int i = 0; i < cycles; i++) {
    for (auto& e : endpoints) {
      std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
      std::mutex mutex;
      std::vector<std::jthread> threads;
      for (int p = 0; p < parallel; p++)
        threads.emplace_back([&] {
          auto ms = Cycle(e, image, logs);
          std::lock_guard lock(mutex);
          for (size_t c = 0; c <= kCallCount; c++) e.times[c].push_back(ms[c]);
        });
    }
  }
  fmt::print("{:<18}", "milliseconds");
  for (const auto& e : endpoints) fmt::print("{:>12} p50 {:>8} p99", e.name, "");
  fmt::print("\n");
  std::string json = "{";
  for (size_t c = 0; c <= kCallCount; c++) {
    const char* call = c == kCallCount ? "whole cycle" : kCalls[c];
    fmt::print("{:<18}", call);
    double first = Quantile(endpoints[0].times[c], 0.5);
    for (const auto& e : endpoints) {
      double p50 = Quantile(e.times[c], 0.5);
      fmt::print("{:>16.2f} {:>12.2f}", p50, Quantile(e.times[c], 0.99));
      if (&e != &endpoints[0]) fmt::print("  {:>6.1f}x", p50 / first);
      json += fmt::format("{}\"{}.{}\":{:.3f}", json.size() > 1 ? "," : "", e.name, call, p50);
    }
    fmt::print("\n");
  }
  fmt::print("{}}}\n", json);
  return 0;
}
