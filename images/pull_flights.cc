#include "images/pull_flights.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <deque>
#include <list>

#include "base/unique_fd.h"

namespace berth::images {
namespace {

constexpr size_t kMaxQueued = 4096;  // a caller that does not keep up misses byte counts, not the answer

struct Passenger {
  unique_fd wake;
  std::deque<PullProgress> queue;
};

}  // namespace

struct PullFlights::Flight {
  std::mutex mutex;
  std::list<Passenger*> passengers;
  std::optional<Result<ImagePtr>> answer;

  void Tell(const PullProgress* event) {
    std::lock_guard lock(mutex);
    for (Passenger* p : passengers) {
      if (event != nullptr && p->queue.size() < kMaxQueued) p->queue.push_back(*event);
      const uint64_t one = 1;
      (void)!::write(p->wake.get(), &one, sizeof one);
    }
  }
};

size_t PullFlights::waiting(const std::string& key) const {
  std::lock_guard lock(mutex_);
  auto it = flights_.find(key);
  if (it == flights_.end()) return 0;
  std::lock_guard inner(it->second->mutex);
  return it->second->passengers.size();
}

Result<ImagePtr> PullFlights::Run(const std::string& key, const Progress& progress, const Deadline& until,
                                  const Work& work) {
  while (true) {
    std::shared_ptr<Flight> flight;
    Passenger self;
    bool pilot = false;
    {
      std::lock_guard lock(mutex_);
      auto [it, fresh] = flights_.try_emplace(key);
      if (fresh) it->second = std::make_shared<Flight>();
      flight = it->second;
      pilot = fresh;
      if (!pilot) {
        self.wake.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!self.wake) return SysErr("wait for the pull of {}", key);
        std::lock_guard inner(flight->mutex);
        flight->passengers.push_back(&self);
      }
    }
    if (pilot) {
      auto answer = work([&](const PullProgress& p) {
        if (progress) progress(p);
        flight->Tell(&p);
      });
      {
        std::lock_guard lock(mutex_);
        flights_.erase(key);
        std::lock_guard inner(flight->mutex);
        flight->answer = answer;
      }
      flight->Tell(nullptr);
      return answer;
    }

    std::optional<Result<ImagePtr>> answer;
    Result<void> waited;
    while (!answer && waited) {
      waited = until.WaitFor(self.wake.get(), POLLIN, "the pull that another caller has begun");
      std::deque<PullProgress> news;
      {
        std::lock_guard lock(flight->mutex);
        uint64_t count;
        (void)!::read(self.wake.get(), &count, sizeof count);
        news.swap(self.queue);
        answer = flight->answer;
        if (answer || !waited) flight->passengers.remove(&self);
      }
      if (progress)
        for (const PullProgress& p : news) progress(p);
    }
    if (!answer) return std::unexpected(std::move(waited).error());
    bool gave_up =
        !*answer && (answer->error().code == Code::kCancelled || answer->error().code == Code::kDeadlineExceeded);
    if (!gave_up) return *answer;
    TRY(until.Check("the pull"));
  }
}

}  // namespace berth::images
