#include "ops/embedding/embedding.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

Weight pack(const TensorView& raw) {
  const WeightPart part{raw, {}, 0, -1};
  auto weight = Weight::pack("token_embd", {&part, 1});
  EXPECT_TRUE(weight.ok()) << weight.status().message();
  return std::move(weight).value();
}

TEST(Embedding, ShardsSumToTheTable) {
  constexpr i64 kVocabulary = 50, kHidden = 96;
  PaddedMatrix table(kVocabulary, kHidden, 0, 1);
  for (float& x : table.storage) x = float(bf16(x));
  std::vector<i32> ids{0, 49, 16, 17, 15, 30, 30, 7, 33};
  for (i64 tokens : {0, 1, 2, 9}) {
    for (int threads : {1, 2, 3}) {
      PaddedMatrix sum(tokens, kHidden, 0, 5);
      std::fill(sum.storage.begin(), sum.storage.end(), 0.0f);
      for (auto [begin, end] : std::vector<std::pair<i64, i64>>{{0, 17}, {17, 17}, {17, 50}}) {
        const Weight shard = pack(table.view.rows(begin, end));
        PaddedMatrix y(tokens, kHidden, 9, 3);
        const TensorView id_view = TensorView::dense(ids.data(), DType::kI32, {tokens});
        const Status status =
            run_team(threads, [&](Exec& exec) { return embedding(exec, {id_view, shard, begin, y.view}); });
        ASSERT_TRUE(status.ok()) << status.message();
        for (i64 t = 0; t < tokens; ++t) {
          const i32 id = ids[size_t(t)];
          for (i64 d = 0; d < kHidden; ++d) {
            const bool mine = begin <= id && id < end;
            ASSERT_EQ(y.view.row<float>(t)[d], mine ? table.view.row<float>(id)[d] : 0) << id << " " << d;
            sum.view.row<float>(t)[d] += y.view.row<float>(t)[d];
          }
        }
      }
      for (i64 t = 0; t < tokens; ++t) {
        for (i64 d = 0; d < kHidden; ++d) {
          ASSERT_EQ(sum.view.row<float>(t)[d], table.view.row<float>(ids[size_t(t)])[d]);
        }
      }
    }
  }
}

TEST(Embedding, ErrorsNameTheTensor) {
  PaddedMatrix table(4, 32, 0, 1), y(2, 31, 0, 1);
  const Weight weight = pack(table.view);
  std::vector<i32> ids(2);
  const auto message = [&](const TensorView& id_view, const TensorView& out) {
    return run_team(2, [&](Exec& exec) { return embedding(exec, {id_view, weight, 0, out}); }).message();
  };
  EXPECT_EQ(message(TensorView::dense(ids.data(), DType::kI32, {2}), y.view),
            "y: expected f32 [2, 32], found f32 [2, 31]");
  EXPECT_EQ(message(TensorView::dense(ids.data(), DType::kI64, {2}), y.view),
            "token_ids: expected i32 [-1], found i64 [2]");
}

}  // namespace
}  // namespace weft
