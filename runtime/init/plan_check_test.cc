#include <gtest/gtest.h>

#include "runtime/init/child.h"

namespace berth::init {
namespace {

// A plan of `version` with a header of `header` bytes and the fewest members that are consistent.
std::string PlanOf(uint32_t version, size_t header) {
  std::string bytes(header, '\0');
  Plan plan;
  plan.version = version;
  plan.kind = PlanKind::kExec;
  auto add = [&](std::string_view text) {
    const size_t at = bytes.size();
    bytes += text;
    bytes += '\0';
    return static_cast<Str>(at);
  };
  plan.cwd = add("/");
  plan.path = add("/bin");
  const Str program = add("true");
  bytes.resize((bytes.size() + 7) & ~size_t{7});
  plan.args = {static_cast<uint32_t>(bytes.size()), 1};
  bytes.append(reinterpret_cast<const char*>(&program), sizeof program);
  bytes.resize((bytes.size() + 7) & ~size_t{7});
  plan.size = static_cast<uint32_t>(bytes.size());
  plan.user_namespace = 77;   // in the way of a reader that takes a header of its own length
  memcpy(bytes.data(), &plan, header);
  return bytes;
}

TEST(CheckPlan, TakesWhatAnEarlierPlannerLeftOutAsAbsent) {
  const std::string bytes = PlanOf(1, kPlanSize1);
  Plan room;
  Failure failure;
  const Plan* plan = CheckPlan(bytes.data(), bytes.size(), 0, &room, &failure);
  ASSERT_NE(plan, nullptr) << failure.what;
  EXPECT_EQ(plan->user_namespace, -1);
  EXPECT_EQ(plan->scheduler.count, 0u);
  EXPECT_EQ(plan->args.count, 1u);
  EXPECT_FALSE(NeedsVersion2(*plan));
}

TEST(CheckPlan, RefusesWhatItDoesNotUnderstand) {
  Plan room;
  Failure failure;
  std::string bytes = PlanOf(kPlanVersion + 1, sizeof(Plan));
  EXPECT_EQ(CheckPlan(bytes.data(), bytes.size(), 0, &room, &failure), nullptr);
  EXPECT_STREQ(failure.what, "start plan: made by a later version");
  bytes = PlanOf(0, sizeof(Plan));
  EXPECT_EQ(CheckPlan(bytes.data(), bytes.size(), 0, &room, &failure), nullptr);
  bytes = PlanOf(kPlanVersion, sizeof(Plan));
  EXPECT_EQ(CheckPlan(bytes.data(), bytes.size(), 0, &room, &failure), nullptr) << "descriptor 77 of none";
  bytes = PlanOf(1, kPlanSize1);
  EXPECT_EQ(CheckPlan(bytes.data(), bytes.size() - 1, 0, &room, &failure), nullptr);
}

}  // namespace
}  // namespace berth::init
