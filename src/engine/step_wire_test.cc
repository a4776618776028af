#include "engine/step_wire.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace weft {
namespace {

StepPlan example() {
  StepPlan plan;
  plan.clear();
  const i32 tokens[] = {7, 8, -1}, pages[] = {5, 2};
  plan.add_row(tokens, 14, pages, 16, 4);
  plan.logits_at = {1, 2};
  plan.samples.resize(2);
  plan.samples[0].target = 8;
  plan.samples[1] = {.params = {.temperature = 0.5f, .seed = 9, .choice = 2},
                     .position = 17,
                     .top_logprobs = 3,
                     .masked = true,
                     .pending = 0,
                     .bias = {{4, 1.5f}},
                     .counts = {{1, 0}, {8, 3}}};
  plan.sequence = 12;
  return plan;
}

TEST(StepWire, PlansRoundTrip) {
  const StepPlan plan = example();
  auto copy = decode_step(encode_step(plan));
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  EXPECT_EQ(copy->sequence, 12u);
  EXPECT_EQ(copy->token_ids, plan.token_ids);
  EXPECT_EQ(copy->page_table, plan.page_table);
  ASSERT_EQ(copy->samples.size(), 2u);
  EXPECT_EQ(copy->samples[0].target, 8);
  const SampleRow& row = copy->samples[1];
  EXPECT_EQ(row.params.seed, 9u);
  EXPECT_EQ(row.params.choice, 2);
  EXPECT_EQ(row.position, 17u);
  EXPECT_TRUE(row.masked);
  EXPECT_EQ(row.pending, 0);
  ASSERT_EQ(row.bias.size(), 1u);
  EXPECT_EQ(row.bias[0].bias, 1.5f);
  ASSERT_EQ(row.counts.size(), 2u);
  EXPECT_EQ(row.counts[1].in_answer, 3);
}

TEST(StepWire, ResultsMasksAndInfoRoundTrip) {
  StepResult result{.sequence = 3, .status = {}, .samples = {}, .seconds = 0.25, .rank_seconds = {0.25f, 0.5f}};
  result.samples.push_back({.token = 4, .logprob = -1, .top = {{4, -1}, {5, -2}}, .fault = {}});
  result.samples.push_back({.token = -1, .top = {}, .fault = error(Code::kDataLoss, "NaN")});
  auto copy = decode_result(encode_result(result));
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  EXPECT_EQ(copy->samples[0].top[1].token, 5);
  EXPECT_EQ(copy->samples[1].fault.message(), "NaN");
  EXPECT_EQ(copy->rank_seconds, result.rank_seconds);
  auto masks = decode_masks(encode_masks(7, {{.sample = 1, .allowed = {3, 4}}, {.sample = 2, .allowed = {}}}));
  ASSERT_TRUE(masks.ok());
  EXPECT_EQ(masks->sequence, 7u);
  EXPECT_EQ(masks->masks[0].allowed, (std::vector<u32>{3, 4}));
  EXPECT_TRUE(masks->masks[1].allowed.empty());
  auto info = decode_info(encode_info({.vocab = 5, .eos_ids = {1, 2}, .ranks = 4}));
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->eos_ids, (std::vector<i32>{1, 2}));
  EXPECT_EQ(info->ranks, 4);
}

TEST(StepWire, CutOrChangedBytesAreFaults) {
  const std::string bytes = encode_step(example());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(decode_step(std::string_view(bytes).substr(0, length)).status().code(), Code::kDataLoss) << length;
  }
  EXPECT_EQ(decode_step(bytes + "x").status().message(), "plan: 1 bytes too many");
  for (size_t at = 0; at < bytes.size(); ++at) {  // must not crash or allocate wildly, whatever the byte says
    std::string changed = bytes;
    changed[at] = char(0xff);
    (void)decode_step(changed).ok();
  }
}

TEST(StepWire, FramesArriveWhole) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  Fd a(ends[0]);
  const Fd b(ends[1]);
  const auto soon = [] { return Deadline::after(std::chrono::milliseconds(50)); };
  ASSERT_TRUE(send_frame(a, StepFrame::kMasks, "abc", soon()).ok());
  auto message = receive_frame(b, soon());
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->payload, "abc");
  EXPECT_EQ(receive_frame(b, soon()).status().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(send_frame(a, StepFrame::kPlan, std::string(1 << 24, 'x'), soon()).code(), Code::kDeadlineExceeded);
  a.reset();
  for (const Status& left : {receive_frame(b, soon()).status(), send_frame(b, StepFrame::kPlan, "abc", soon())}) {
    EXPECT_EQ(left.code(), Code::kUnavailable);
    EXPECT_EQ(left.message(), "the peer closed the connection");
  }
}

}  // namespace
}  // namespace weft
