#include "metrics/registry.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cstdlib>
#include <sstream>

#include "base/log.h"

namespace berth::metrics {
namespace {

const std::vector<double> kOperationBounds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                              0.25,   0.5,   1,      2.5,   5,    10,    30,   60};

bool IsName(std::string_view name, bool colon) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  for (const char c : name)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '_' && !(colon && c == ':'))
      return false;
  return true;
}
bool IsLabel(std::string_view name) { return IsName(name, false) && !name.starts_with("__"); }

// The serialiser writes help texts as they are, where the format wants backslash and newline escaped.
std::string EscapeHelp(std::string_view help) {
  std::string out;
  for (const char c : help)
    if (c == '\n') out += "\\n";
    else if (c == '\\') out += "\\\\";
    else out += c;
  return out;
}

[[noreturn]] void Broken(std::string_view name, std::string_view why) {
  log::Fail("metrics.broken", {{"name", name}, {"reason", why}});
  std::abort();
}

prometheus::Labels Zip(const std::string& metric, const std::vector<std::string>& names, LabelValues values) {
  if (names.size() != values.size()) Broken(metric, "the number of label values is not that of the names");
  prometheus::Labels labels;
  size_t i = 0;
  for (const std::string_view value : values) labels.emplace(names[i++], value);
  return labels;
}

template <class Interface, class Metric>
class Labelled : public Interface {
 public:
  Labelled(prometheus::Family<Metric>& family, std::vector<std::string> names) : family_(family), names_(std::move(names)) {}

 protected:
  template <class... Args>
  Metric& Of(LabelValues values, const Args&... args) {
    return family_.Add(Zip(family_.GetName(), names_, values), args...);
  }

 private:
  prometheus::Family<Metric>& family_;
  std::vector<std::string> names_;
};

class CounterOf : public Labelled<Counter, prometheus::Counter> {
 public:
  using Labelled::Labelled;
  void Add(double by, LabelValues values) override { Of(values).Increment(by); }
};
class GaugeOf : public Labelled<Gauge, prometheus::Gauge> {
 public:
  using Labelled::Labelled;
  void Set(double value, LabelValues values) override { Of(values).Set(value); }
  void Add(double by, LabelValues values) override { Of(values).Increment(by); }
};
class HistogramOf : public Labelled<Histogram, prometheus::Histogram> {
 public:
  HistogramOf(prometheus::Family<prometheus::Histogram>& family, std::vector<std::string> names, std::vector<double> bounds)
      : Labelled(family, std::move(names)), bounds_(std::move(bounds)) {}
  void Observe(double value, LabelValues values) override { Of(values, bounds_).Observe(value); }

 private:
  std::vector<double> bounds_;
};

}  // namespace

struct Registry::State {
  prometheus::Registry registry;
  std::mutex mutex;  // the lists
  std::vector<std::shared_ptr<const std::function<std::vector<Family>()>>> collectors;
  std::vector<std::unique_ptr<Counter>> counters;
  std::vector<std::unique_ptr<Gauge>> gauges;
  std::vector<std::unique_ptr<Histogram>> histograms;
  Histogram* operations = nullptr;

  template <class Metric>
  prometheus::Family<Metric>& Make(const std::string& name, const std::string& help, const std::vector<std::string>& labels) {
    if (!IsName(name, true) || !std::ranges::all_of(labels, IsLabel)) Broken(name, "not a metric name with label names");
    try {
      return prometheus::detail::Builder<Metric>().Name(name).Help(EscapeHelp(help)).Register(registry);
    } catch (const std::exception& e) {
      Broken(name, e.what());
    }
  }
};

Registry::Registry() : state_(std::make_unique<State>()) {
  state_->operations = &AddHistogram("berth_operation_seconds", "Time an operation took at a door, by its outcome.",
                                     kOperationBounds, {"op", "code"});
}
Registry::~Registry() = default;

Registry& Registry::Global() {
  static Registry& registry = *new Registry;
  return registry;
}

void Registry::ObserveOperation(const std::string& op, const std::string& code, std::chrono::nanoseconds took) {
  state_->operations->Observe(std::chrono::duration<double>(took).count(), {op, code});
}

Counter& Registry::AddCounter(const std::string& name, const std::string& help, std::vector<std::string> labels) {
  auto& family = state_->Make<prometheus::Counter>(name, help, labels);
  std::lock_guard lock(state_->mutex);
  return *state_->counters.emplace_back(std::make_unique<CounterOf>(family, std::move(labels)));
}

Gauge& Registry::AddGauge(const std::string& name, const std::string& help, std::vector<std::string> labels) {
  auto& family = state_->Make<prometheus::Gauge>(name, help, labels);
  std::lock_guard lock(state_->mutex);
  return *state_->gauges.emplace_back(std::make_unique<GaugeOf>(family, std::move(labels)));
}

Histogram& Registry::AddHistogram(const std::string& name, const std::string& help, std::vector<double> upper_bounds,
                                  std::vector<std::string> labels) {
  auto& family = state_->Make<prometheus::Histogram>(name, help, labels);
  std::lock_guard lock(state_->mutex);
  return *state_->histograms.emplace_back(std::make_unique<HistogramOf>(family, std::move(labels), std::move(upper_bounds)));
}

void Registry::AddCollector(std::function<std::vector<Family>()> collect) {
  std::lock_guard lock(state_->mutex);
  state_->collectors.push_back(std::make_shared<const std::function<std::vector<Family>()>>(std::move(collect)));
}

std::string Registry::Page() const {
  std::map<std::string, prometheus::MetricFamily> families;
  for (prometheus::MetricFamily& family : state_->registry.Collect()) {
    std::string name = family.name;
    families.emplace(std::move(name), std::move(family));
  }
  const auto collectors = [&] {
    std::lock_guard lock(state_->mutex);
    return state_->collectors;
  }();
  for (const auto& collect : collectors) {
    for (const Family& from : (*collect)()) {
      const auto type = from.kind == Kind::kCounter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
      const auto drop = [&](std::string_view why) { log::Warn("metrics.bad_name", {{"name", from.name}, {"reason", why}}); };
      if (!IsName(from.name, true)) {
        drop("not a metric name");
        continue;
      }
      auto [at, fresh] = families.try_emplace(from.name);
      prometheus::MetricFamily& to = at->second;
      if (fresh) {
        to.name = from.name;
        to.help = EscapeHelp(from.help);
        to.type = type;
      } else if (to.type != type) {
        drop("the name is taken by a metric of another type");
        continue;
      }
      for (const Sample& sample : from.samples) {
        prometheus::ClientMetric metric;
        metric.label.reserve(sample.labels.size());
        bool named = true;
        for (const auto& [name, value] : sample.labels) {
          named &= IsLabel(name);
          metric.label.push_back({name, value});
        }
        if (!named) {
          drop("not a label name");
          continue;
        }
        (from.kind == Kind::kCounter ? metric.counter.value : metric.gauge.value) = sample.value;
        to.metric.push_back(std::move(metric));
      }
    }
  }
  std::vector<prometheus::MetricFamily> list;
  list.reserve(families.size());
  for (auto& [name, family] : families)
    if (!family.metric.empty()) list.push_back(std::move(family));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, list);
  return std::move(out).str();
}

}  // namespace berth::metrics
