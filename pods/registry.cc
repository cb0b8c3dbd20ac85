#include "pods/registry.h"

#include <poll.h>

namespace berth::pods {

Result<void> Await(const Latch& latch, const Deadline& until, std::string_view what) {
  while (!latch.cancelled()) {
    // A latch that found no descriptor left when it was made is asked now and then.
    if (latch.fd() < 0)
      TRY(until.Sleep(std::chrono::milliseconds(20), what));
    else
      TRY(until.WaitFor(latch.fd(), POLLIN, what));
  }
  return {};
}

std::string PodIdentity(const PodSpec& spec) {
  return fmt::format("pod {}/{} uid {} attempt {}", spec.name_space, spec.name, spec.uid, spec.attempt);
}

std::string ContainerIdentity(const PodId& pod, const ContainerSpec& spec) {
  return fmt::format("container {} attempt {} in pod {}", spec.name, spec.attempt, pod);
}

namespace {

std::string LabelKey(const std::string& key, const std::string& value) { return key + "=" + value; }

bool Matches(const Labels& have, const Labels& want) {
  return std::all_of(want.begin(), want.end(), [&](const auto& kv) {
    auto it = have.find(kv.first);
    return it != have.end() && it->second == kv.second;
  });
}

bool HasPrefix(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

// The entry whose key begins with `prefix`; end() with kNotFound or kConflict in *error.
template <class Map>
auto FindByPrefix(const Map& map, std::string_view prefix, std::string_view noun, std::optional<Error>* error) {
  auto it = prefix.empty() ? map.end() : map.lower_bound(std::string(prefix));
  if (it == map.end() || !HasPrefix(it->first, prefix)) {
    *error = Err(Code::kNotFound, "{} {}: no such {}", noun, prefix, noun).error();
    return map.end();
  }
  if (it->first == prefix) return it;
  if (auto next = std::next(it); next != map.end() && HasPrefix(next->first, prefix)) {
    *error = Err(Code::kConflict, "{} {}: ambiguous: {} and {} begin so", noun, prefix, it->first, next->first).error();
    return map.end();
  }
  return it;
}

}  // namespace

Registry::Registry(const Clock& clock) : clock_(clock), background_(std::make_unique<WorkerPool>("pods", 64)) {}

Registry::~Registry() { EndBackground(); }

PodPtr Registry::Pod(const PodId& id) const {
  std::lock_guard lock(mutex_);
  auto it = pods_.find(id.str());
  return it == pods_.end() ? nullptr : it->second.state;
}

ContainerPtr Registry::Container(const ContainerId& id) const {
  std::lock_guard lock(mutex_);
  auto it = containers_.find(id.str());
  return it == containers_.end() ? nullptr : it->second.state;
}

Result<PodPtr> Registry::FindPod(std::string_view id) const {
  std::lock_guard lock(mutex_);
  std::optional<Error> error;
  auto it = FindByPrefix(pods_, id, "pod", &error);
  if (error) return std::unexpected(std::move(*error));
  return it->second.state;
}

Result<ContainerPtr> Registry::FindContainer(std::string_view id) const {
  std::lock_guard lock(mutex_);
  std::optional<Error> error;
  auto it = FindByPrefix(containers_, id, "container", &error);
  if (error) return std::unexpected(std::move(*error));
  return it->second.state;
}

namespace {

// The ids that carry the rarest of the wanted labels; null: go through all.
template <class Index>
const std::set<std::string>* Narrow(const Index& index, const Labels& labels) {
  static const std::set<std::string> kNone;
  const std::set<std::string>* best = nullptr;
  for (const auto& [key, value] : labels) {
    auto it = index.find(LabelKey(key, value));
    if (it == index.end()) return &kNone;
    if (best == nullptr || it->second.size() < best->size()) best = &it->second;
  }
  return best;
}

// Calls `f` with the entries of `map` that can match: by id prefix, by label, or all.
template <class Map, class Index, class F>
void ForCandidates(const Map& map, const Index& index, const std::string& prefix, const Labels& labels, F&& f) {
  if (!prefix.empty()) {
    for (auto it = map.lower_bound(prefix); it != map.end() && HasPrefix(it->first, prefix); ++it) f(it->second);
  } else if (const auto* ids = Narrow(index, labels)) {
    for (const auto& id : *ids) f(map.at(id));
  } else {
    for (const auto& [id, entry] : map) f(entry);
  }
}

template <class Ptr>
void NewestFirst(std::vector<Ptr>* all) {
  std::sort(all->begin(), all->end(), [](const Ptr& a, const Ptr& b) { return a->created_at > b->created_at; });
}

}  // namespace

std::vector<PodPtr> Registry::Pods(const PodFilter& filter) const {
  std::vector<PodPtr> out;
  {
    std::lock_guard lock(mutex_);
    ForCandidates(pods_, pod_labels_, filter.id, filter.labels, [&](const PodEntry& entry) {
      const PodState& s = *entry.state;
      if (s.phase == PodPhase::kCreating || (filter.phase && s.phase != *filter.phase)) return;
      if (Matches(s.spec.labels, filter.labels)) out.push_back(entry.state);
    });
  }
  NewestFirst(&out);
  return out;
}

std::vector<ContainerPtr> Registry::Containers(const ContainerFilter& filter) const {
  std::vector<ContainerPtr> out;
  {
    std::lock_guard lock(mutex_);
    auto take = [&](const ContainerEntry& entry) {
      const ContainerState& s = *entry.state;
      if (s.phase == ContainerPhase::kCreating || (filter.phase && s.phase != *filter.phase)) return;
      if (!HasPrefix(s.pod.str(), filter.pod) || !HasPrefix(s.id.str(), filter.id)) return;
      if (Matches(s.spec.labels, filter.labels)) out.push_back(entry.state);
    };
    if (filter.id.empty() && !filter.pod.empty()) {
      for (auto it = pods_.lower_bound(filter.pod); it != pods_.end() && HasPrefix(it->first, filter.pod); ++it)
        for (const auto& id : it->second.containers)
          if (auto c = containers_.find(id); c != containers_.end()) take(c->second);
    } else {
      ForCandidates(containers_, container_labels_, filter.id, filter.labels, take);
    }
  }
  NewestFirst(&out);
  return out;
}

std::vector<ContainerPtr> Registry::ContainersOf(const PodId& pod) const {
  std::vector<ContainerPtr> out;
  {
    std::lock_guard lock(mutex_);
    auto it = pods_.find(pod.str());
    if (it == pods_.end()) return out;
    for (const auto& id : it->second.containers) out.push_back(containers_.at(id).state);
  }
  NewestFirst(&out);
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<PodPtr> Registry::EveryPod() const {
  std::lock_guard lock(mutex_);
  std::vector<PodPtr> out;
  out.reserve(pods_.size());
  for (const auto& [id, entry] : pods_) out.push_back(entry.state);
  return out;
}

Result<KeyedMutex::Lock> Registry::LockPod(const PodId& pod, const Deadline& until) {
  return locks_.Acquire(pod.str(), until, "the state of pod " + pod.Short());
}

Result<KeyedMutex::Lock> Registry::LockVerb(const std::string& id, const Deadline& until) {
  return verbs_.Acquire(id, until, "an earlier operation on " + id.substr(0, 12));
}

void Registry::Put(PodState state) {
  auto next = std::make_shared<const PodState>(std::move(state));
  PodPtr old;  // freed after the mutex
  std::lock_guard lock(mutex_);
  PodEntry& entry = pods_[next->id.str()];
  if (!entry.state) {
    identities_[PodIdentity(next->spec)] = next->id.str();
    for (const auto& [k, v] : next->spec.labels) pod_labels_[LabelKey(k, v)].insert(next->id.str());
  }
  created_floor_ = std::max(created_floor_, next->created_at);
  old = std::exchange(entry.state, std::move(next));
}

void Registry::Put(ContainerState state) {
  auto next = std::make_shared<const ContainerState>(std::move(state));
  ContainerPtr old;
  std::shared_ptr<Latch> exit;
  {
    std::lock_guard lock(mutex_);
    ContainerEntry& entry = containers_[next->id.str()];
    if (!entry.state) {
      identities_[ContainerIdentity(next->pod, next->spec)] = next->id.str();
      for (const auto& [k, v] : next->spec.labels) container_labels_[LabelKey(k, v)].insert(next->id.str());
      if (auto pod = pods_.find(next->pod.str()); pod != pods_.end()) pod->second.containers.insert(next->id.str());
    }
    created_floor_ = std::max(created_floor_, next->created_at);
    if (next->phase == ContainerPhase::kExited) exit = std::move(entry.exit);
    old = std::exchange(entry.state, std::move(next));
  }
  if (exit) exit->Cancel();
}

namespace {
template <class Index>
void Unindex(Index* index, const Labels& labels, const std::string& id) {
  for (const auto& [k, v] : labels) {
    auto it = index->find(LabelKey(k, v));
    if (it == index->end()) continue;
    it->second.erase(id);
    if (it->second.empty()) index->erase(it);
  }
}
}  // namespace

void Registry::Erase(const PodId& id) {
  std::lock_guard lock(mutex_);
  auto it = pods_.find(id.str());
  if (it == pods_.end()) return;
  const PodState& s = *it->second.state;
  if (auto named = identities_.find(PodIdentity(s.spec)); named != identities_.end() && named->second == id.str())
    identities_.erase(named);
  Unindex(&pod_labels_, s.spec.labels, id.str());
  pods_.erase(it);
}

void Registry::Erase(const ContainerId& id) {
  std::shared_ptr<Latch> exit;
  {
    std::lock_guard lock(mutex_);
    auto it = containers_.find(id.str());
    if (it == containers_.end()) return;
    const ContainerState& s = *it->second.state;
    if (auto named = identities_.find(ContainerIdentity(s.pod, s.spec));
        named != identities_.end() && named->second == id.str())
      identities_.erase(named);
    Unindex(&container_labels_, s.spec.labels, id.str());
    if (auto pod = pods_.find(s.pod.str()); pod != pods_.end()) pod->second.containers.erase(id.str());
    exit = std::move(it->second.exit);
    containers_.erase(it);
  }
  if (exit) exit->Cancel();
}

int64_t Registry::NextCreatedAt() {
  std::lock_guard lock(mutex_);
  return created_floor_ = std::max(clock_.UnixNanos(), created_floor_ + 1);
}

void Registry::RaiseCreatedFloor(int64_t floor) {
  std::lock_guard lock(mutex_);
  created_floor_ = std::max(created_floor_, floor);
}

std::shared_ptr<Latch> Registry::ExitLatch(const ContainerId& id) {
  std::lock_guard lock(mutex_);
  auto it = containers_.find(id.str());
  if (it == containers_.end() || it->second.state->phase == ContainerPhase::kExited) return nullptr;
  if (!it->second.exit) it->second.exit = std::make_shared<Latch>();
  return it->second.exit;
}

void Registry::BeginStart(const ContainerId& id) {
  std::lock_guard lock(mutex_);
  if (auto it = containers_.find(id.str()); it != containers_.end()) it->second.starting = true;
}

bool Registry::DeferExit(const runtime::ExitFacts& facts) {
  std::lock_guard lock(mutex_);
  auto it = containers_.find(facts.id.str());
  if (it == containers_.end() || !it->second.starting) return false;
  it->second.early_exit = facts;
  return true;
}

std::optional<runtime::ExitFacts> Registry::EndStart(const ContainerId& id) {
  std::lock_guard lock(mutex_);
  auto it = containers_.find(id.str());
  if (it == containers_.end()) return std::nullopt;
  it->second.starting = false;
  return std::exchange(it->second.early_exit, std::nullopt);
}

void Registry::MarkLost(const PodId& id) {
  std::lock_guard lock(mutex_);
  if (auto it = pods_.find(id.str()); it != pods_.end()) it->second.lost = true;
}

bool Registry::Lost(const PodId& id) const {
  std::lock_guard lock(mutex_);
  auto it = pods_.find(id.str());
  return it != pods_.end() && it->second.lost;
}

void Registry::MarkUnadopted(const PodId& id, bool unadopted) {
  std::lock_guard lock(mutex_);
  if (auto it = pods_.find(id.str()); it != pods_.end()) it->second.unadopted = unadopted;
}

bool Registry::Unadopted(const PodId& id) const {
  std::lock_guard lock(mutex_);
  auto it = pods_.find(id.str());
  return it != pods_.end() && it->second.unadopted;
}

// --- joins

Registry::Claim::~Claim() {
  if (first()) Finish(Err(Code::kInternal, "{}: the first attempt ended without an answer", key_));
}

void Registry::Claim::Finish(Result<std::string> answer) {
  Registry* registry = registry_.release();
  if (registry == nullptr) return;
  std::shared_ptr<Flight> flight;
  {
    std::lock_guard lock(registry->mutex_);
    auto it = registry->flights_.find(key_);
    flight = std::move(it->second);
    registry->flights_.erase(it);
    flight->answer = std::move(answer);
  }
  flight->done.Cancel();
}

Result<Registry::Claim> Registry::Join(const std::string& key, const std::string& what, const std::string& pod,
                                       const Deadline& until,
                                       const std::function<std::optional<Result<std::string>>()>& existing) {
  while (true) {
    TRY(until.Check(what));
    std::shared_ptr<Flight> flight;
    {
      std::lock_guard lock(mutex_);
      if (auto it = flights_.find(key); it != flights_.end()) {
        flight = it->second;
      } else {
        Claim claim;
        claim.key_ = key;
        if (auto answer = existing()) {
          if (!answer->has_value()) return std::unexpected(std::move(*answer).error());
          claim.answer_ = std::move(*answer);
          return claim;
        }
        auto made = std::make_shared<Flight>();
        made->pod = pod;
        flights_[key] = std::move(made);
        claim.registry_.reset(this);
        return claim;
      }
    }
    TRY(Await(flight->done, until, "the first attempt to create " + what));
    const auto& answer = flight->answer;  // written before the latch fired, never after
    if (!answer.has_value() &&
        (answer.error().code == Code::kCancelled || answer.error().code == Code::kDeadlineExceeded))
      continue;  // its caller gave up, this one has not
    Claim claim;
    claim.answer_ = answer;
    return claim;
  }
}

Result<Registry::Claim> Registry::ClaimPod(const PodSpec& spec, const Deadline& until) {
  std::string key = PodIdentity(spec);
  return Join(key, key, "", until, [&]() -> std::optional<Result<std::string>> {
    auto named = identities_.find(key);
    if (named == identities_.end()) return std::nullopt;
    auto it = pods_.find(named->second);
    if (it == pods_.end()) return std::nullopt;
    if (it->second.state->phase == PodPhase::kReady) return Result<std::string>(named->second);
    return Result<std::string>(
        Err(Code::kAlreadyExists, "{}: exists as {} and is not ready any more; remove it first", key, named->second));
  });
}

Result<Registry::Claim> Registry::ClaimContainer(const PodId& pod, const ContainerSpec& spec, const Deadline& until) {
  std::string key = ContainerIdentity(pod, spec);
  return Join(key, key, pod.str(), until, [&]() -> std::optional<Result<std::string>> {
    auto named = identities_.find(key);
    if (named == identities_.end()) return std::nullopt;
    auto it = containers_.find(named->second);
    if (it == containers_.end()) return std::nullopt;
    if (it->second.state->phase == ContainerPhase::kCreated) return Result<std::string>(named->second);
    return Result<std::string>(
        Err(Code::kAlreadyExists, "{}: exists as {} and was started before; remove it first", key, named->second));
  });
}

Result<void> Registry::AwaitCreations(const PodId& pod, const Deadline& until) {
  while (true) {
    std::shared_ptr<Flight> flight;
    std::string key;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [k, f] : flights_)
        if (f->pod == pod.str()) {
          flight = f;
          key = k;
        }
    }
    if (!flight) return {};
    TRY(Await(flight->done, until, "the creation of " + key));
  }
}

Result<void> Registry::InBackground(std::function<void(const Deadline&)> task, std::chrono::nanoseconds at_most) {
  std::lock_guard lock(mutex_);
  if (!background_) return Err(Code::kUnavailable, "the agent is ending");
  return background_->Submit([task = std::move(task), until = Deadline::After(at_most, ending_)] { task(until); });
}

void Registry::EndBackground() {
  ending_->Cancel();
  std::unique_ptr<WorkerPool> pool;
  {
    std::lock_guard lock(mutex_);
    pool = std::move(background_);
  }
}

}  // namespace berth::pods
