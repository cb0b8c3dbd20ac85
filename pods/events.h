#pragma once
// One ordered stream of what happened to pods and containers. The order within a pod is that of its states.
//
// Publish never blocks. A subscriber has a bounded queue; one that falls behind keeps what it has, then reads one kLost
// and is off the stream: it lists anew and subscribes again.
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/deadline.h"
#include "base/unique_fd.h"
#include "pods/registry.h"

namespace berth::pods {

enum class EventKind {
  kPodReady,
  kPodStopped,
  kPodRemoved,
  kContainerCreated,
  kContainerStarted,
  kContainerOom,
  kContainerExited,
  kContainerRemoved,
  kLost,
};
std::string_view EventName(EventKind kind);  // "pod.ready"

struct Event {
  uint64_t sequence = 0;  // grows by one an event, from the start of this agent
  int64_t at = 0;         // unix nanoseconds
  EventKind kind = EventKind::kLost;
  PodPtr pod;              // state right after; null for kLost
  ContainerPtr container;  // null for events of the pod itself
};

class Events {
 public:
  class Subscription {
   public:
    // The next event. Errors of `until`; kUnavailable after kLost or when the stream ended.
    Result<Event> Next(const Deadline& until);
    int fd() const { return ready_.get(); }  // readable while Next would not wait

   private:
    friend class Events;
    std::mutex mutex_;
    std::deque<Event> queue_;
    size_t limit_ = 0;
    bool lost_ = false, ended_ = false;
    unique_fd ready_;                // eventfd, value 1 while there is something to read
    bool Offer(const Event& event);  // false: fell behind
    void End();
  };

  explicit Events(const Clock& clock) : clock_(clock) {}
  ~Events();
  void Publish(EventKind kind, PodPtr pod, ContainerPtr container = nullptr);
  std::shared_ptr<Subscription> Subscribe(size_t limit = 1024);  // drop the pointer to unsubscribe

 private:
  const Clock& clock_;
  std::mutex mutex_;
  uint64_t sequence_ = 0;
  std::vector<std::weak_ptr<Subscription>> subscribers_;
};

}  // namespace berth::pods
