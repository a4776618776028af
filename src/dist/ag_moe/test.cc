#include "dist/ag_moe/ag_moe.h"

#include "dist/exchange/moe_testing.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kExperts = 6, kPerToken = 2;

// Every row bit by bit against the single GEMM of its token and expert; columns are split unevenly.
Status multiply_sizes(Communicator& comm, int threads, DType dtype, i64 n, i64 k, i64 at_once_rows) {
  WEFT_ASSIGN(auto pool, small_pool(threads));
  const Range mine = split_range(n, comm.size(), comm.rank());
  std::vector<i64> rows_of_w;
  for (i64 row = mine.begin; row < mine.end; ++row) rows_of_w.push_back(row);
  WEFT_ASSIGN(const Weight probe, packed(dtype, 1, k, 1, {}, {0, k}));
  WEFT_ASSIGN(auto op, AgMoe::create(comm, {100, k, probe.activation_format()}, {at_once_rows}));
  ExpertGroups groups = ExpertGroups::create(100 * kPerToken, kExperts);
  u64 seed = 0;
  for (const i64 m : {1, 2, 0, 100, 3, 70, 1}) {
    ++seed;
    std::vector<i32> ids = random_routing(m, kExperts, kPerToken, seed);
    const TensorView id_view = TensorView::dense(ids.data(), DType::kI32, {m, kPerToken});
    WEFT_TRY(pool->run([&](Exec& exec) { return groups.sort(exec, id_view); }));
    WEFT_ASSIGN(const GroupedWeight w, packed_experts(dtype, kExperts, n, k, seed, rows_of_w, {0, k}));
    const Range rows = split_range(m, comm.size(), comm.rank());
    const ActivationBuffer all = inputs(w.activation_format(), {0, m}, {0, k}, seed + 1);
    const ActivationView given = all.view(m).slice(rows.begin, rows.end), input = op.input(rows.size());
    if (rows.size() > 0) std::memcpy(input.data, given.data, size_t(rows.size() * given.row_bytes()));
    Tensor y = Tensor::zeros(DType::kF32, {groups.pairs(), mine.size()});
    std::vector<float> expected(static_cast<size_t>(mine.size()));
    for (const ActivationView& x : {given, input}) {
      WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x, groups, w, y.view); }));
      for (i64 e = 0; e < kExperts; ++e) {
        for (i64 row = groups.rows(e).begin; row < groups.rows(e).end && mine.size() > 0; ++row) {
          const i64 t = groups.token(row);
          gemm_tile(all.view(m), w.expert(e), {t, t + 1, 0, mine.size()}, expected.data(), mine.size());
          for (i64 j = 0; j < mine.size(); ++j) {
            WEFT_TRY(expect_value("y", row * mine.size() + j, expected[size_t(j)], y.view.row<float>(row)[j]));
            y.view.row<float>(row)[j] = 0;
          }
        }
      }
    }
  }
  return {};
}

TEST(AgMoe, EqualsTheSingleGemmForEveryWorldFormatAndRouting) {
  for (const int ranks : {1, 2, 3, 4, 9}) {
    for (const i64 at_once : {0, 1000}) {
      SCOPED_TRACE(ranks);
      expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) {
        return multiply_sizes(comm, 1 + comm.rank() % 2, DType::kF32, ranks == 9 ? 20 : 136, 64, at_once);
      }));
    }
  }
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    expect_all_ok(run_thread_ranks(2, [&](Communicator& comm) { return multiply_sizes(comm, 3, dtype, 77, 96, 16); }));
  }
}

}  // namespace
}  // namespace weft
