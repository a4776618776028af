#include "dist/bench_site.h"
#include "dist/expert_parallel/expert_parallel.h"
#include "dist/expert_parallel/reference.h"

namespace weft {
namespace {

constexpr i64 kExperts = 32, kPerToken = 4, kLongestRow = 1024;

// One rank's tensors, kept by the calls. Rows hold their origin, so that whole numbers tell whether all is right.
struct ExpertBench {
  ep::AllToAll op;
  std::vector<i32> indices;
  TensorView x, weights, expert_x, out;

  TensorView ids() { return TensorView::dense(indices.data(), DType::kI32, {x.dim(0), kPerToken}); }
  bool filled = false;  // expert_x, which combine returns

  Status dispatch(Exec& exec) {
    filled = true;
    return op.dispatch(exec, {.x = x, .indices = ids(), .expert_x = expert_x});
  }
  // The experts return what they got: each weighs a quarter, so that the sum is the token itself.
  Status combine(Exec& exec) {
    if (!filled) WEFT_TRY(dispatch(exec));
    return op.combine(exec, {.expert_y = expert_x, .indices = ids(), .weights = weights, .out = out});
  }
};

// Token t of a rank goes to four neighbours, which differ from rank to rank.
std::vector<i32> indices_of(int rank, i64 tokens) {
  std::vector<i32> indices;
  for (i64 i = 0; i < tokens * kPerToken; ++i) indices.push_back(i32((i * 5 + rank) % kExperts));
  return indices;
}

Status push_mode(BenchSite& site, ep::CombineMode mode, const char* name) {
  const i64 hidden = std::min(site.n, kLongestRow), tokens = site.n / hidden;
  const int ranks = site.comm.size(), rank = site.comm.rank();
  const ep::AllToAllShape shape{.max_num_tokens = tokens,
                                .num_experts = kExperts,
                                .experts_per_token = kPerToken,
                                .rank = rank,
                                .world_size = ranks,
                                .hidden_dim = hidden,
                                .hidden_dim_bytes = hidden * i64(sizeof(float))};
  WEFT_ASSIGN(auto op, ep::AllToAll::create(site.comm, shape, {.combine_dtype = DType::kF32, .combine = mode}));
  const i64 local = op.local_experts().size(), first = op.local_experts().begin, capacity = op.capacity();
  const auto places = [&] {
    const TensorView rows = site.y(local * capacity, hidden);
    return TensorView::dense(rows.data, DType::kF32, {local, capacity, hidden});
  };
  const TensorView x = site.y(tokens, hidden), expert_x = places(), out = site.y(tokens, hidden);
  const TensorView weights = site.y(tokens, kPerToken);
  for (i64 i = 0; i < tokens * hidden; ++i) x.as<float>()[i] = BenchSite::number(rank, i);
  for (i64 i = 0; i < tokens * kPerToken; ++i) weights.as<float>()[i] = 1.0f / kPerToken;
  auto all =
      std::make_shared<ExpertBench>(ExpertBench{std::move(op), indices_of(rank, tokens), x, weights, expert_x, out});

  if (mode == ep::CombineMode::kPreReduced) {
    std::vector<std::vector<i32>> indices;
    for (int r = 0; r < ranks; ++r) indices.push_back(indices_of(r, tokens));
    auto rows = std::make_shared<std::vector<std::vector<ep::Origin>>>(
        ep::route_reference(indices, kExperts, kPerToken, capacity));
    const auto expected = [rows, first, capacity, hidden](i64 i) {
      const auto& routed = (*rows)[size_t(first + i / hidden / capacity)];
      const i64 place = i / hidden % capacity;
      if (place >= i64(routed.size())) return 0.0f;
      return BenchSite::number(routed[size_t(place)].group, routed[size_t(place)].token * hidden + i % hidden);
    };
    site.push("dispatch", "push", all, expert_x, expected,
              [](std::shared_ptr<ExpertBench>& bench, Exec& exec) { return bench->dispatch(exec); });
  }
  const auto expected = [rank](i64 i) { return BenchSite::number(rank, i); };
  site.push("combine", name, all, out, expected,
            [](std::shared_ptr<ExpertBench>& bench, Exec& exec) { return bench->combine(exec); });
  return {};
}

}  // namespace

Status bench_expert_parallel(BenchSite& site) {
  WEFT_TRY(push_mode(site, ep::CombineMode::kPreReduced, "pre_reduced"));
  return push_mode(site, ep::CombineMode::kExact, "exact");
}

}  // namespace weft
