#include "weights/shard_plan.h"

#include <algorithm>
#include <cmath>

namespace weft {
namespace {

// The KV heads that query heads `q` read.
Range kv_heads_of(Range q, i64 group) {
  if (q.size() == 0) return {q.begin / group, q.begin / group};
  return {q.begin / group, (q.end - 1) / group + 1};
}

// Multiply-adds per token of a rank's attention projections (queries and output, keys and values).
double attention_work(const ShardDims& dims, int tp, int rank) {
  const Range q = split_range(dims.q_heads, tp, rank);
  const Range kv = kv_heads_of(q, dims.q_heads / dims.kv_heads);
  return 2.0 * double(q.size() + kv.size()) * double(dims.head_dim * dims.hidden);
}

// Ranks' borders in [0, ffn], the width of `copies` MLPs that a token goes through: ranks with more attention work get
// fewer columns, whole units at a time: the coarsest power of two up to 32 that divides the width, since kernels like
// whole vectors.
Result<std::vector<i64>> ffn_borders(const ShardDims& dims, i64 ffn, i64 copies, int tp) {
  if (ffn == 0) return std::vector<i64>(size_t(tp) + 1, 0);
  i64 unit = 32;
  while (ffn % unit != 0) unit /= 2;
  if (tp > 1 && unit < dims.block) {
    return error(Code::kInvalidArgument, "FFN width {} is not whole quantisation blocks of {}: it cannot be split", ffn,
                 dims.block);
  }
  const double column_work = 3.0 * double(dims.hidden * copies);  // gate, up and down
  std::vector<double> attention(static_cast<size_t>(tp));
  double total = column_work * double(ffn);
  for (int r = 0; r < tp; ++r) total += attention[size_t(r)] = attention_work(dims, tp, r);
  // Ranks whose attention alone exceeds an even share get nothing; the others share what is left evenly.
  std::vector<double> columns(static_cast<size_t>(tp), 0.0);
  std::vector<bool> full(static_cast<size_t>(tp), false);
  double share = total / tp;
  for (bool changed = true; changed;) {
    changed = false;
    double rest = total;
    int open = 0;
    for (int r = 0; r < tp; ++r) {
      if (full[size_t(r)])
        rest -= attention[size_t(r)];
      else
        ++open;
    }
    share = rest / std::max(open, 1);
    for (int r = 0; r < tp; ++r) {
      if (!full[size_t(r)] && attention[size_t(r)] > share) full[size_t(r)] = changed = true;
    }
  }
  for (int r = 0; r < tp; ++r) {
    if (!full[size_t(r)]) columns[size_t(r)] = (share - attention[size_t(r)]) / column_work;
  }
  std::vector<i64> borders{0};
  double sum = 0;
  for (int r = 0; r < tp; ++r) {
    sum += columns[size_t(r)];
    const i64 border = i64(std::llround(sum / double(unit))) * unit;
    borders.push_back(r + 1 == tp ? ffn : std::clamp(border, borders.back(), ffn));
  }
  return borders;
}

}  // namespace

Result<ShardPlan> make_shard_plan(const ShardDims& dims, int tp, int rank) {
  WEFT_CHECK(0 <= rank && rank < tp, rank, tp);
  if (dims.kv_heads < 1 || dims.q_heads % dims.kv_heads != 0) {
    return error(Code::kInvalidArgument, "{} query heads are not a multiple of {} KV heads", dims.q_heads,
                 dims.kv_heads);
  }
  if (tp > dims.q_heads) {
    return error(Code::kInvalidArgument, "tensor parallelism {} is more than the model's {} query heads", tp,
                 dims.q_heads);
  }
  if (tp > 1 && dims.head_dim % dims.block != 0) {
    return error(Code::kInvalidArgument, "head size {} is not whole quantisation blocks of {}: heads cannot be split",
                 dims.head_dim, dims.block);
  }
  WEFT_ASSIGN(const std::vector<i64> borders, ffn_borders(dims, dims.ffn, 1, tp));
  WEFT_ASSIGN(const std::vector<i64> expert_borders, ffn_borders(dims, dims.expert_ffn, dims.experts_per_token, tp));
  ShardPlan plan;
  const i64 group = dims.q_heads / dims.kv_heads;
  plan.q_heads = split_range(dims.q_heads, tp, rank);
  plan.kv_heads = kv_heads_of(plan.q_heads, group);
  plan.ffn = {borders[size_t(rank)], borders[size_t(rank) + 1]};
  plan.expert_ffn = {expert_borders[size_t(rank)], expert_borders[size_t(rank) + 1]};
  plan.vocab = split_range(dims.vocab, tp, rank);
  for (i64 q = plan.q_heads.begin; q < plan.q_heads.end; ++q) {
    plan.kv_head_of.push_back(i32(q / group - plan.kv_heads.begin));
  }
  return plan;
}

}  // namespace weft
