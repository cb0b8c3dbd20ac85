#pragma once
// The agent's own metrics, over prometheus-cpp's families and serialiser. A folder declares its metrics in
// <folder>/metrics.h and observes them at the event. Thread-safe.
//
// Doors share berth_operation_seconds{op,code}. Values that are read at scrape time come from collectors.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"

namespace berth::metrics {

struct Sample {
  std::vector<std::pair<std::string, std::string>> labels;
  double value = 0;
};
enum class Kind { kCounter, kGauge };
struct Family {
  std::string name, help;
  Kind kind = Kind::kGauge;
  std::vector<Sample> samples;
};

class Registry {
 public:
  Registry();
  ~Registry();
  static Registry& Global();
  // One observation of berth_operation_seconds{op="run_pod_sandbox",code="ok"}.
  void ObserveOperation(const std::string& op, const std::string& code, std::chrono::nanoseconds took);
  // Called at each scrape, from the scraping thread.
  void AddCollector(std::function<std::vector<Family>()> collect);
  std::string Page() const;   // Prometheus text format 0.0.4

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Serves GET /metrics and GET /healthz on `address` ("127.0.0.1:9464") from a thread of its own until destroyed.
class Server {
 public:
  static Result<std::unique_ptr<Server>> Start(const std::string& address, Registry& registry);
  virtual ~Server() = default;
};

}  // namespace berth::metrics
