// What is used from several threads: deadlines, keyed mutexes, the worker pool. Also run under ThreadSanitizer.
#include <poll.h>

#include <atomic>
#include <barrier>
#include <latch>
#include <thread>

#include <gtest/gtest.h>

#include "base/deadline.h"
#include "base/keyed_mutex.h"
#include "base/testing.h"
#include "base/worker_pool.h"

namespace berth {
namespace {

using namespace std::chrono_literals;
using testing::IsErr;
using testing::IsOk;

TEST(Deadline, NeverAndAfter) {
  EXPECT_FALSE(Deadline::Never().expired());
  EXPECT_FALSE(Deadline::Never().remaining());
  EXPECT_EQ(Deadline::Never().poll_timeout_ms(), -1);
  EXPECT_FALSE(Deadline::After(Deadline::Duration::max()).expired());
  EXPECT_TRUE(Deadline::After(-1s).expired());
  EXPECT_EQ(Deadline::After(0s).poll_timeout_ms(), 0);
  EXPECT_TRUE(IsErr(Deadline::After(0s).Check("rain"), Code::kDeadlineExceeded, "waiting for rain"));
}

TEST(Deadline, SoonerKeepsTheTokenAndTheEarlier) {
  auto token = std::make_shared<CancelToken>();
  const Deadline hour = Deadline::After(1h, token);
  EXPECT_LE(*hour.Sooner(1min).remaining(), 1min);
  EXPECT_LE(*hour.Sooner(2h).remaining(), 1h);
  EXPECT_LE(*Deadline::Never().Sooner(1min).remaining(), 1min);
  token->Cancel();
  EXPECT_TRUE(hour.Sooner(1min).cancelled());
}

TEST(Deadline, WaitForReadyTimeAndCancel) {
  auto [read_end, write_end] = std::move(*Pipe());
  EXPECT_TRUE(IsErr(Deadline::After(1ms).WaitFor(read_end.get(), POLLIN, "bytes"), Code::kDeadlineExceeded, "bytes"));
  ASSERT_TRUE(IsOk(WriteAll(write_end.get(), "x")));
  EXPECT_TRUE(IsOk(Deadline::Never().WaitFor(read_end.get(), POLLIN, "bytes")));
  auto token = std::make_shared<CancelToken>();
  std::thread other([token] { token->Cancel(); });
  auto [quiet, keep] = std::move(*Pipe());
  EXPECT_TRUE(IsErr(Deadline::Never(token).WaitFor(quiet.get(), POLLIN, "bytes"), Code::kCancelled));
  EXPECT_TRUE(IsErr(Deadline::Never(token).Sleep(1h, "rain"), Code::kCancelled, "rain"));
  other.join();
  EXPECT_TRUE(IsErr(Deadline::Never().WaitFor(987654, POLLIN, "bytes"), Code::kInternal));
}

TEST(Deadline, SleepEndsWithTheDeadline) {
  EXPECT_TRUE(IsOk(Deadline::Never().Sleep(1ms, "x")));
  EXPECT_TRUE(IsErr(Deadline::After(1ms).Sleep(1h, "x"), Code::kDeadlineExceeded));
}

TEST(KeyedMutex, ExcludesPerKeyOnly) {
  KeyedMutex mutex;
  auto a = mutex.Acquire("a", Deadline::Never(), "pod");
  ASSERT_TRUE(IsOk(a));
  EXPECT_TRUE(IsOk(mutex.Acquire("b", Deadline::After(0s), "pod")));
  auto second = mutex.Acquire("a", Deadline::After(1ms), "pod");
  EXPECT_TRUE(IsErr(second, Code::kDeadlineExceeded, "s for pod a"));
  a->Unlock();
  a->Unlock();
  EXPECT_TRUE(IsOk(mutex.Acquire("a", Deadline::After(0s), "pod")));
}

TEST(KeyedMutex, CancelWakesTheWaiter) {
  KeyedMutex mutex;
  auto held = mutex.Acquire("a", Deadline::Never(), "pod");
  auto token = std::make_shared<CancelToken>();
  std::thread waiter([&] { EXPECT_TRUE(IsErr(mutex.Acquire("a", Deadline::Never(token), "pod"), Code::kCancelled, "pod a")); });
  token->Cancel();
  waiter.join();
}

TEST(KeyedMutex, ManyThreads) {
  KeyedMutex mutex;
  int counts[3] = {};  // guarded by the keys
  std::atomic<int> given_up = 0;
  std::vector<std::thread> threads;
  constexpr int kThreads = 8, kRounds = 300;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const int key = (t + i) % 3;
        const auto until = i % 7 == 0 ? Deadline::After(0s) : Deadline::Never();
        auto lock = mutex.Acquire(std::to_string(key), until, "key");
        if (lock) ++counts[key];
        else ++given_up;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(counts[0] + counts[1] + counts[2] + given_up, kThreads * kRounds);
}

TEST(WorkerPool, RunsUpToTheCapThenRefuses) {
  WorkerPool pool("test", 2);
  std::latch started(2), go(1), done(2);
  for (int i = 0; i < 2; ++i)
    ASSERT_TRUE(IsOk(pool.Submit([&] {
      started.count_down();
      go.wait();
      done.count_down();
    })));
  started.wait();
  EXPECT_EQ(pool.busy(), 2u);
  EXPECT_TRUE(IsErr(pool.Submit([] {}), Code::kResourceExhausted, "all 2 test threads"));
  go.count_down();
  done.wait();
}

TEST(WorkerPool, ReusesIdleThreads) {
  std::set<std::thread::id> ids;
  std::mutex mutex;
  {
    WorkerPool pool("test", 1, 1h);
    for (int i = 0; i < 50; ++i) {
      // With one thread Submit is refused until that thread is idle again.
      while (!pool.Submit([&] {
        std::lock_guard lock(mutex);
        ids.insert(std::this_thread::get_id());
      }))
        std::this_thread::yield();
    }
  }
  EXPECT_EQ(ids.size(), 1u);
}

TEST(WorkerPool, DestructorWaitsForTasks) {
  std::atomic<int> ran = 0;
  {
    WorkerPool pool("test", 64, 1ms);
    for (int i = 0; i < 64; ++i) ASSERT_TRUE(IsOk(pool.Submit([&] { ++ran; })));
  }
  EXPECT_EQ(ran, 64);
}

}  // namespace
}  // namespace berth
