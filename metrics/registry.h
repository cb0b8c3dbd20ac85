#pragma once
// The agent's own metrics, over prometheus-cpp's families and serialiser. A folder declares its metrics in
// <folder>/metrics.h and observes them at the event. Thread-safe.
//
//   inline metrics::Counter& pulled_bytes =
//       metrics::Registry::Global().AddCounter("berth_image_pulled_bytes_total", "Bytes read from registries.", {"registry"});
//   pulled_bytes.Add(n, {host});
//
// Doors share berth_operation_seconds{op,code}. Values that are read at scrape time come from collectors. Label values
// come from a small fixed set (an operation, a code, a driver), never from a request: each new one is kept for ever.
#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
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

using LabelValues = std::initializer_list<std::string_view>;  // in the order of the label names

class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Add(double by = 1, LabelValues values = {}) = 0;  // by >= 0
};
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value, LabelValues values = {}) = 0;
  virtual void Add(double by, LabelValues values = {}) = 0;      // either sign
};
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(double value, LabelValues values = {}) = 0;
};

class Registry {
 public:
  Registry();
  ~Registry();
  static Registry& Global();  // never destroyed
  // One observation of berth_operation_seconds{op="run_pod_sandbox",code="ok"}: buckets from 0.5 ms to 60 s.
  void ObserveOperation(const std::string& op, const std::string& code, std::chrono::nanoseconds took);

  // The references live as long as the registry. A name that breaks the rules of Prometheus (data model: metric names
  // [a-zA-Z_:][a-zA-Z0-9_:]*, label names without the colon) or a count of values that is not that of the names is a
  // broken invariant and aborts.
  Counter& AddCounter(const std::string& name, const std::string& help, std::vector<std::string> labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, std::vector<std::string> labels = {});
  Histogram& AddHistogram(const std::string& name, const std::string& help, std::vector<double> upper_bounds,
                          std::vector<std::string> labels = {});

  // Called at each scrape, from the scraping thread, no lock held. Families of one name from several collectors are
  // joined; a family or sample with an impossible name is left out and logged (`metrics.bad_name`).
  void AddCollector(std::function<std::vector<Family>()> collect);
  std::string Page() const;   // Prometheus text format 0.0.4, families by name

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What Prometheus calls the standard process metrics: process_cpu_seconds_total, process_resident_memory_bytes,
// process_virtual_memory_bytes, process_open_fds, process_max_fds, process_start_time_seconds, process_threads. A
// collector: registry.AddCollector(ProcessFamilies).
std::vector<Family> ProcessFamilies();

// Serves GET and HEAD of /metrics and /healthz on `address` ("127.0.0.1:9464", "[::1]:9464") from threads of its own
// until destroyed. At most eight connections at a time, further ones get 503; a request has ten seconds. A taken port is
// kConflict.
class Server {
 public:
  static Result<std::unique_ptr<Server>> Start(const std::string& address, Registry& registry);
  virtual ~Server() = default;
  virtual const std::string& address() const = 0;  // with the port that was bound
};

}  // namespace berth::metrics
