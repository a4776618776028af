#include "engine/step_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

StepPlan example() {
  StepPlan plan;
  plan.clear();
  const i32 prompt[] = {7, 8, 9, 10, 11};
  const i32 pages[] = {5, 2};
  EXPECT_EQ(plan.add_row(prompt, 14, pages, 16, 4), 0);  // crosses from page 5 to page 2
  const i32 next[] = {42};
  const i32 other[] = {3};
  EXPECT_EQ(plan.add_row(next, 0, other, 16, 4), 5);
  plan.logits_at = {3, 4, 5};
  plan.sequence = 17;
  return plan;
}

TEST(StepPlan, RowsGetSlotsOfTheirPages) {
  const StepPlan plan = example();
  EXPECT_EQ(plan.slots, (std::vector<i32>{5 * 16 + 14, 5 * 16 + 15, 2 * 16, 2 * 16 + 1, 2 * 16 + 2, 3 * 16}));
  EXPECT_EQ(plan.row_starts, (std::vector<i32>{0, 5, 6}));
  EXPECT_EQ(plan.kv_lens, (std::vector<i32>{19, 1}));
  EXPECT_EQ(plan.logits_at, (std::vector<i32>{3, 4, 5}));
  EXPECT_EQ(plan.page_table, (std::vector<i32>{5, 2, 0, 0, 3, 0, 0, 0}));
}

TEST(StepPlan, BytesRoundTrip) {
  const StepPlan plan = example();
  const PlanHeader header = encode_header(plan);
  std::vector<i32> body(header.body_words);
  encode_body(plan, body);
  StepPlan copy;
  ASSERT_TRUE(decode_plan(header, body, &copy).ok());
  EXPECT_EQ(copy.sequence, 17u);
  EXPECT_EQ(copy.token_ids, plan.token_ids);
  EXPECT_EQ(copy.positions, plan.positions);
  EXPECT_EQ(copy.slots, plan.slots);
  EXPECT_EQ(copy.row_starts, plan.row_starts);
  EXPECT_EQ(copy.kv_lens, plan.kv_lens);
  EXPECT_EQ(copy.page_table, plan.page_table);
  EXPECT_EQ(copy.logits_at, plan.logits_at);
}

TEST(StepPlan, ForeignBytesAreRefused) {
  const StepPlan plan = example();
  const PlanHeader good = encode_header(plan);
  std::vector<i32> body(good.body_words);
  encode_body(plan, body);
  StepPlan copy;
  PlanHeader bad = good;
  bad.magic = 1;
  EXPECT_EQ(decode_plan(bad, body, &copy).code(), Code::kDataLoss);
  bad = good;
  bad.version = 2;
  EXPECT_EQ(decode_plan(bad, body, &copy).message(), "step plan: version 2, expected 1");
  bad = good;
  bad.tokens = 0xffffffff;
  EXPECT_EQ(decode_plan(bad, body, &copy).code(), Code::kDataLoss);
  body.pop_back();
  EXPECT_EQ(decode_plan(good, body, &copy).code(), Code::kDataLoss);
}

}  // namespace
}  // namespace weft
