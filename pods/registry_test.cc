#include "pods/registry.h"

#include <atomic>
#include <thread>

#include "base/testing.h"
#include "pods/events.h"
#include "pods/samples.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using namespace std::chrono_literals;

PodState Pod(char digit, PodPhase phase = PodPhase::kReady) {
  PodState p;
  p.id = PodId(std::string(64, digit));
  p.spec.name = std::string("pod-") + digit;
  p.spec.name_space = "default";
  p.spec.uid = "u";
  p.spec.labels = {{"app", std::string(1, digit)}, {"tier", "web"}};
  p.phase = phase;
  p.created_at = digit;
  return p;
}

ContainerState Container(char digit, const PodState& pod, ContainerPhase phase = ContainerPhase::kRunning) {
  ContainerState c;
  c.id = ContainerId(std::string(63, digit) + "c");
  c.pod = pod.id;
  c.spec.name = std::string("c-") + digit;
  c.spec.labels = {{"name", c.spec.name}};
  c.phase = phase;
  c.created_at = digit;
  return c;
}

class RegistryTest : public ::testing::Test {
 protected:
  FakeClock clock;
  Registry registry{clock};
};

TEST_F(RegistryTest, FindsByIdAndUniquePrefix) {
  auto a = Pod('a'), b = Pod('b');
  b.id = PodId("aab" + std::string(61, '0'));
  registry.Put(a);
  registry.Put(b);
  EXPECT_EQ((*registry.FindPod(a.id.str()))->id, a.id);
  EXPECT_EQ((*registry.FindPod("aaa"))->id, a.id);
  EXPECT_EQ((*registry.FindPod("aab"))->id, b.id);
  EXPECT_TRUE(IsErr(registry.FindPod("aa"), Code::kConflict, "ambiguous"));
  EXPECT_TRUE(IsErr(registry.FindPod("b"), Code::kNotFound));
  EXPECT_TRUE(IsErr(registry.FindPod(""), Code::kNotFound));
  EXPECT_TRUE(IsErr(registry.FindPod(std::string(65, 'a')), Code::kNotFound));
}

TEST_F(RegistryTest, ListsNewestFirstByFilter) {
  for (char d : {'1', '2', '3'}) registry.Put(Pod(d, d == '2' ? PodPhase::kStopped : PodPhase::kReady));
  registry.Put(Pod('4', PodPhase::kCreating));
  auto names = [](const std::vector<PodPtr>& pods) {
    std::string out;
    for (const auto& p : pods) out += p->spec.name.back();
    return out;
  };
  EXPECT_EQ(names(registry.Pods()), "321");
  EXPECT_EQ(names(registry.Pods({.id = "2", .labels = {}, .phase = {}})), "2");
  EXPECT_EQ(names(registry.Pods({.id = {}, .labels = {{"tier", "web"}}, .phase = PodPhase::kReady})), "31");
  EXPECT_EQ(names(registry.Pods({.id = {}, .labels = {{"app", "3"}, {"tier", "web"}}, .phase = {}})), "3");
  EXPECT_EQ(names(registry.Pods({.id = {}, .labels = {{"app", "9"}}, .phase = {}})), "");
  EXPECT_EQ(registry.EveryPod().size(), 4u);
}

TEST_F(RegistryTest, ContainersBelongToPods) {
  auto a = Pod('1'), b = Pod('2');
  registry.Put(a);
  registry.Put(b);
  registry.Put(Container('3', a));
  registry.Put(Container('4', a, ContainerPhase::kExited));
  registry.Put(Container('5', b));
  EXPECT_EQ(registry.ContainersOf(a.id).size(), 2u);
  EXPECT_EQ(registry.Containers({.id = {}, .pod = a.id.str(), .labels = {}, .phase = ContainerPhase::kRunning}).size(),
            1u);
  EXPECT_EQ(registry.Containers({.id = {}, .pod = "1", .labels = {}, .phase = {}}).size(), 2u);
  EXPECT_EQ(registry.Containers({.id = "3", .pod = "2", .labels = {}, .phase = {}}).size(), 0u);
  EXPECT_EQ(registry.Containers({.id = {}, .pod = {}, .labels = {{"name", "c-5"}}, .phase = {}}).size(), 1u);
  registry.Erase(ContainerId(std::string(63, '3') + "c"));
  EXPECT_EQ(registry.ContainersOf(a.id).size(), 1u);
  registry.Erase(b.id);
  EXPECT_EQ(registry.Pods({.id = {}, .labels = {{"app", "2"}}, .phase = {}}).size(), 0u);
}

TEST_F(RegistryTest, CreatedAtGrowsWhenTheClockDoesNot) {
  int64_t first = registry.NextCreatedAt();
  EXPECT_EQ(registry.NextCreatedAt(), first + 1);
  registry.RaiseCreatedFloor(first + 1000);
  EXPECT_EQ(registry.NextCreatedAt(), first + 1001);
  clock.Advance(1s);
  EXPECT_EQ(registry.NextCreatedAt(), clock.UnixNanos());
}

TEST_F(RegistryTest, ExitLatchFiresAtExitAndRemoval) {
  auto pod = Pod('1');
  registry.Put(pod);
  auto c = Container('2', pod), d = Container('3', pod);
  registry.Put(c);
  registry.Put(d);
  auto latch = registry.ExitLatch(c.id), other = registry.ExitLatch(d.id);
  ASSERT_TRUE(latch && other);
  EXPECT_FALSE(latch->cancelled());
  c.phase = ContainerPhase::kExited;
  registry.Put(c);
  EXPECT_TRUE(latch->cancelled());
  EXPECT_EQ(registry.ExitLatch(c.id), nullptr);
  registry.Erase(d.id);
  EXPECT_TRUE(other->cancelled());
}

TEST_F(RegistryTest, ExitDuringStartIsPutAside) {
  auto pod = Pod('1');
  registry.Put(pod);
  auto c = Container('2', pod, ContainerPhase::kCreated);
  registry.Put(c);
  runtime::ExitFacts facts{.id = c.id, .exit_code = 3, .finished_at = 9};
  EXPECT_FALSE(registry.DeferExit(facts));
  registry.BeginStart(c.id);
  EXPECT_TRUE(registry.DeferExit(facts));
  auto early = registry.EndStart(c.id);
  ASSERT_TRUE(early);
  EXPECT_EQ(early->exit_code, 3);
  EXPECT_FALSE(registry.EndStart(c.id));
}

TEST_F(RegistryTest, SecondCallerJoinsTheFirst) {
  auto spec = Pod('1').spec;
  auto first = registry.ClaimPod(spec, Deadline::Never());
  ASSERT_TRUE(IsOk(first));
  ASSERT_TRUE(first->first());
  std::vector<std::thread> threads;
  std::atomic<int> joined = 0;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto claim = registry.ClaimPod(spec, Deadline::After(30s));
      if (claim && !claim->first() && claim->answer() && *claim->answer() == "id") ++joined;
    });
  auto other = Pod('2').spec;
  EXPECT_TRUE(registry.ClaimPod(other, Deadline::Never())->first());  // another identity does not wait
  first->Finish(std::string("id"));
  for (auto& t : threads) t.join();
  // A thread that came after the end found neither flight nor pod, and became a first one itself; the rest joined.
  EXPECT_LE(joined, 8);
}

TEST_F(RegistryTest, JoinTakesTheError) {
  auto spec = Pod('1').spec;
  auto first = registry.ClaimPod(spec, Deadline::Never());
  std::atomic<bool> waiting = false;
  std::thread second([&] {
    waiting = true;
    auto claim = registry.ClaimPod(spec, Deadline::After(30s));
    if (claim && !claim->first()) {
      EXPECT_TRUE(IsErr(claim->answer(), Code::kConflict, "port 80"));
    }
  });
  while (!waiting) std::this_thread::yield();
  first->Finish(Err(Code::kConflict, "port 80 is taken"));
  second.join();
}

TEST_F(RegistryTest, JoinStartsOverWhenTheFirstCallerWentAway) {
  auto spec = Pod('1').spec;
  auto first = registry.ClaimPod(spec, Deadline::Never());
  std::thread second([&] {
    auto claim = registry.ClaimPod(spec, Deadline::After(30s));
    ASSERT_TRUE(IsOk(claim));
    EXPECT_TRUE(claim->first());
    claim->Finish(std::string("later"));
  });
  first->Finish(Err(Code::kCancelled, "the caller went away"));
  second.join();
}

TEST_F(RegistryTest, JoinEndsWithItsOwnDeadline) {
  auto spec = Pod('1').spec;
  auto first = registry.ClaimPod(spec, Deadline::Never());
  EXPECT_TRUE(IsErr(registry.ClaimPod(spec, Deadline::After(1ms)), Code::kDeadlineExceeded, "first attempt"));
  auto token = std::make_shared<CancelToken>();
  token->Cancel();
  EXPECT_TRUE(IsErr(registry.ClaimPod(spec, Deadline::Never(token)), Code::kCancelled));
}

TEST_F(RegistryTest, AbandonedClaimAnswersThoseWhoWait) {
  auto spec = Pod('1').spec;
  std::optional<Result<Registry::Claim>> first = registry.ClaimPod(spec, Deadline::Never());
  std::atomic<bool> waiting = false;
  std::thread second([&] {
    waiting = true;
    auto claim = registry.ClaimPod(spec, Deadline::After(30s));
    if (claim && !claim->first()) {
      EXPECT_TRUE(IsErr(claim->answer(), Code::kInternal));
    }
  });
  while (!waiting) std::this_thread::yield();
  first.reset();
  second.join();
}

TEST_F(RegistryTest, ClaimAfterwards) {
  auto pod = Pod('1');
  registry.Put(pod);
  auto again = registry.ClaimPod(pod.spec, Deadline::Never());
  ASSERT_TRUE(IsOk(again));
  EXPECT_FALSE(again->first());
  EXPECT_EQ(*again->answer(), pod.id.str());
  pod.phase = PodPhase::kStopped;
  registry.Put(pod);
  EXPECT_TRUE(IsErr(registry.ClaimPod(pod.spec, Deadline::Never()), Code::kAlreadyExists, "remove it first"));
  registry.Erase(pod.id);
  EXPECT_TRUE(registry.ClaimPod(pod.spec, Deadline::Never())->first());
}

TEST_F(RegistryTest, BackgroundWorkIsCancelledAtTheEnd) {
  std::atomic<bool> cancelled = false;
  ASSERT_TRUE(IsOk(registry.InBackground(
      [&](const Deadline& until) { cancelled = !until.Sleep(1h, "the test").has_value() && until.cancelled(); }, 2h)));
  registry.EndBackground();
  EXPECT_TRUE(cancelled);
  EXPECT_TRUE(IsErr(registry.InBackground([](const Deadline&) {}, 1s), Code::kUnavailable));
}

TEST_F(RegistryTest, ReadersAndWritersAtOnce) {
  auto pod = Pod('1');
  registry.Put(pod);
  std::atomic<bool> stop = false;
  std::thread reader([&] {
    while (!stop) {
      for (const auto& p : registry.Pods()) EXPECT_EQ(p->spec.name, "pod-1");
      if (auto p = registry.Pod(pod.id)) EXPECT_EQ(p->stuck.empty(), p->phase != PodPhase::kStopping);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    PodState next = pod;
    if (i % 2) {
      next.phase = PodPhase::kStopping;
      next.stuck = "so";
    }
    registry.Put(next);
  }
  stop = true;
  reader.join();
}

TEST(EventsTest, InOrderToEverySubscriber) {
  FakeClock clock;
  Events events(clock);
  auto a = events.Subscribe(), b = events.Subscribe();
  auto pod = std::make_shared<const PodState>(Pod('1'));
  events.Publish(EventKind::kPodReady, pod);
  events.Publish(EventKind::kPodStopped, pod);
  for (auto& s : {a, b}) {
    auto first = s->Next(Deadline::Never()), second = s->Next(Deadline::Never());
    ASSERT_TRUE(first && second);
    EXPECT_EQ(first->kind, EventKind::kPodReady);
    EXPECT_EQ(second->kind, EventKind::kPodStopped);
    EXPECT_LT(first->sequence, second->sequence);
    EXPECT_TRUE(IsErr(s->Next(Deadline::After(0s)), Code::kDeadlineExceeded));
  }
}

TEST(EventsTest, SlowSubscriberIsToldAndDropped) {
  FakeClock clock;
  Events events(clock);
  auto slow = events.Subscribe(2);
  for (int i = 0; i < 5; ++i) events.Publish(EventKind::kPodReady, nullptr);
  EXPECT_EQ(slow->Next(Deadline::Never())->sequence, 1u);
  EXPECT_EQ(slow->Next(Deadline::Never())->sequence, 2u);
  EXPECT_EQ(slow->Next(Deadline::Never())->kind, EventKind::kLost);
  EXPECT_TRUE(IsErr(slow->Next(Deadline::Never()), Code::kUnavailable));
}

TEST(EventsTest, EndOfTheStreamWakesReaders) {
  FakeClock clock;
  auto events = std::make_unique<Events>(clock);
  auto s = events->Subscribe();
  std::thread reader([&] { EXPECT_TRUE(IsErr(s->Next(Deadline::After(30s)), Code::kUnavailable)); });
  events.reset();
  reader.join();
}

TEST(EventsTest, ReaderWaitsForAWriterOnAnotherThread) {
  FakeClock clock;
  Events events(clock);
  auto s = events.Subscribe(100000);
  std::thread writer([&] {
    for (int i = 0; i < 1000; ++i) events.Publish(EventKind::kContainerExited, nullptr);
  });
  for (uint64_t i = 1; i <= 1000; ++i) EXPECT_EQ(s->Next(Deadline::After(30s))->sequence, i);
  writer.join();
}

TEST(SamplesTest, RateFromSamplesAtLeastASecondApart) {
  FakeClock clock;
  Registry registry(clock);
  Samples samples(registry, clock, nullptr, nullptr);
  ContainerId id(std::string(64, 'a'));
  EXPECT_EQ(samples.Rate(id, 1'000'000'000), 0u);
  clock.Advance(500ms);
  EXPECT_EQ(samples.Rate(id, 1'400'000'000), 0u);  // too soon for a rate
  clock.Advance(1500ms);
  EXPECT_EQ(samples.Rate(id, 2'000'000'000), 500'000'000u);  // one second of CPU in two
  clock.Advance(100ms);
  EXPECT_EQ(samples.Rate(id, 2'050'000'000), 500'000'000u);
  samples.Forget(id);
  EXPECT_EQ(samples.Rate(id, 5), 0u);
}

TEST(SamplesTest, TickReadsRunningAndWalksRarely) {
  FakeClock clock;
  Registry registry(clock);
  auto pod = Pod('1');
  registry.Put(pod);
  auto running = Container('2', pod), exited = Container('3', pod, ContainerPhase::kExited);
  exited.finished_at = 1;
  registry.Put(running);
  registry.Put(exited);
  uint64_t cpu = 0;
  std::map<std::string, int> walks;
  Samples samples(
      registry, clock, [&](const ContainerState&) -> Result<uint64_t> { return cpu; },
      [&](const ContainerId& id) -> Result<images::Usage> {
        ++walks[id.str()];
        return images::Usage{.bytes = 7, .inodes = 2};
      },
      {.cpu_every = 10s, .writable_every = 20s});
  EXPECT_FALSE(samples.Writable(running.id));
  samples.Tick();
  EXPECT_EQ(samples.Writable(running.id)->bytes, 7u);
  clock.Advance(10s);
  cpu = 5'000'000'000;
  samples.Tick();
  EXPECT_EQ(walks[running.id.str()], 1);
  EXPECT_EQ(samples.Rate(running.id, cpu), 500'000'000u);
  clock.Advance(11s);
  samples.Tick();
  EXPECT_EQ(walks[running.id.str()], 2);
  EXPECT_EQ(walks[exited.id.str()], 1);  // it writes no more
}

}  // namespace
}  // namespace berth::pods
