#include "pods/events.h"

#include <poll.h>
#include <sys/eventfd.h>

namespace berth::pods {

std::string_view EventName(EventKind kind) {
  switch (kind) {
    case EventKind::kPodReady:
      return "pod.ready";
    case EventKind::kPodStopped:
      return "pod.stopped";
    case EventKind::kPodRemoved:
      return "pod.removed";
    case EventKind::kContainerCreated:
      return "container.created";
    case EventKind::kContainerStarted:
      return "container.started";
    case EventKind::kContainerOom:
      return "container.oom";
    case EventKind::kContainerExited:
      return "container.exited";
    case EventKind::kContainerRemoved:
      return "container.removed";
    case EventKind::kLost:
      return "lost";
  }
  return "unknown";
}

static void Signal(const unique_fd& fd) {
  uint64_t one = 1;
  (void)!::write(fd.get(), &one, sizeof one);
}

bool Events::Subscription::Offer(const Event& event) {
  std::lock_guard lock(mutex_);
  if (queue_.size() >= limit_) {
    lost_ = true;
    return false;
  }
  queue_.push_back(event);
  if (queue_.size() == 1) Signal(ready_);
  return true;
}

void Events::Subscription::End() {
  std::lock_guard lock(mutex_);
  ended_ = true;
  Signal(ready_);
}

Result<Event> Events::Subscription::Next(const Deadline& until) {
  while (true) {
    {
      std::lock_guard lock(mutex_);
      if (!queue_.empty()) {
        Event event = std::move(queue_.front());
        queue_.pop_front();
        // The descriptor stays readable while anything is left to say: an event, the loss or the end.
        if (queue_.empty() && !lost_ && !ended_) {
          uint64_t value;
          (void)!::read(ready_.get(), &value, sizeof value);
        }
        return event;
      }
      if (lost_ && !ended_) {
        ended_ = true;
        return Event{};
      }
      if (ended_) return Err(Code::kUnavailable, "event stream: ended; list and subscribe again");
    }
    TRY(until.WaitFor(ready_.get(), POLLIN, "the next event"));
  }
}

Events::~Events() {
  for (auto& weak : subscribers_)
    if (auto s = weak.lock()) s->End();
}

void Events::Publish(EventKind kind, PodPtr pod, ContainerPtr container) {
  std::lock_guard lock(mutex_);
  Event event{.sequence = ++sequence_,
              .at = clock_.UnixNanos(),
              .kind = kind,
              .pod = std::move(pod),
              .container = std::move(container)};
  std::erase_if(subscribers_, [&](const std::weak_ptr<Subscription>& weak) {
    auto s = weak.lock();
    return !s || !s->Offer(event);
  });
}

std::shared_ptr<Events::Subscription> Events::Subscribe(size_t limit) {
  auto s = std::make_shared<Subscription>();
  s->limit_ = std::max<size_t>(limit, 1);
  s->ready_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::lock_guard lock(mutex_);
  subscribers_.push_back(s);
  return s;
}

}  // namespace berth::pods
