#include "base/worker_pool.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace berth {

struct WorkerPool::State {
  const std::string name;
  const size_t cap;
  const std::chrono::milliseconds idle_time;

  std::mutex mutex;
  std::condition_variable work;    // a task was queued, or the pool closes
  std::condition_variable ended;   // a thread ended
  std::deque<std::function<void()>> queue;  // never longer than the number of idle threads
  size_t threads = 0;
  size_t idle = 0;
  bool closing = false;

  State(std::string n, size_t c, std::chrono::milliseconds i) : name(std::move(n)), cap(c), idle_time(i) {}
};

namespace {

void NameThread(const std::string& name) { pthread_setname_np(pthread_self(), name.substr(0, 15).c_str()); }

}  // namespace

WorkerPool::WorkerPool(std::string name, size_t cap, std::chrono::milliseconds idle)
    : state_(std::make_shared<State>(std::move(name), cap, idle)) {}

WorkerPool::~WorkerPool() {
  std::unique_lock lock(state_->mutex);
  state_->closing = true;
  state_->work.notify_all();
  state_->ended.wait(lock, [&] { return state_->threads == 0; });
}

Result<void> WorkerPool::Submit(std::function<void()> task) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  if (s.closing) return Err(Code::kUnavailable, "worker pool {} is closing", s.name);
  if (s.idle > s.queue.size()) {
    s.queue.push_back(std::move(task));
    s.work.notify_one();
    return {};
  }
  if (s.threads >= s.cap) return Err(Code::kResourceExhausted, "all {} {} threads are busy", s.cap, s.name);
  const auto body = [state = state_](std::function<void()> first) {
    State& s = *state;
    NameThread(s.name);
    std::function<void()> task = std::move(first);
    std::unique_lock lock(s.mutex, std::defer_lock);
    for (;;) {
      task();
      task = nullptr;  // its captures end before the thread counts as idle
      lock.lock();
      ++s.idle;
      const auto until = std::chrono::steady_clock::now() + s.idle_time;
      s.work.wait_until(lock, until, [&] { return s.closing || !s.queue.empty(); });
      --s.idle;
      if (s.queue.empty()) break;
      task = std::move(s.queue.front());
      s.queue.pop_front();
      lock.unlock();
    }
    --s.threads;
    s.ended.notify_all();
  };
  try {
    std::thread(body, std::move(task)).detach();
  } catch (const std::system_error& e) {
    return SysErrOf(e.code().value(), "start a {} thread", s.name);
  }
  ++s.threads;
  return {};
}

size_t WorkerPool::busy() const {
  std::lock_guard lock(state_->mutex);
  return state_->threads - state_->idle + state_->queue.size();
}

}  // namespace berth
