#include "ops/attention/attention.h"

#include <algorithm>
#include <numeric>

#include "device/simd_dispatch.h"
#include "ops/attention/kernels.h"

namespace weft {
namespace {

Status check(const AttentionArgs& args) {
  const StepBatch& batch = args.batch;
  const i64 tokens = args.q.shape.rank() == 2 ? args.q.dim(0) : -1, q_heads = i64(args.heads.kv_head_of.size());
  WEFT_TRY(expect_tensor("q", args.q, DType::kF32, {-1, -1}));
  if (args.head_dim < 1 || args.head_dim > kAttentionMaxHeadDim) {
    return error(Code::kUnimplemented, "q: head_dim must be in [1, {}], found {}", kAttentionMaxHeadDim, args.head_dim);
  }
  if (args.q.dim(1) < q_heads * args.head_dim) {
    return error(Code::kInvalidArgument, "q: expected at least {} columns for {} heads, found {}",
                 q_heads * args.head_dim, q_heads, args.q.describe());
  }
  WEFT_TRY(expect_tensor("positions", batch.positions, DType::kI32, {tokens}));
  WEFT_TRY(expect_tensor("kv_lens", batch.kv_lens, DType::kI32, {-1}));
  WEFT_TRY(expect_tensor("row_starts", batch.row_starts, DType::kI32, {batch.rows() + 1}));
  WEFT_TRY(expect_tensor("page_table", batch.page_table, DType::kI32, {batch.rows(), -1}));
  const TensorView& k = args.cache.k;
  if (k.dtype != DType::kBF16 && k.dtype != DType::kF16 && k.dtype != DType::kF32) {
    return error(Code::kInvalidArgument, "cache.k: expected bf16, f16 or f32, found {}", k.describe());
  }
  WEFT_TRY(expect_tensor("cache.k", k, k.dtype, {-1, -1, -1, args.head_dim}));
  WEFT_TRY(expect_tensor("cache.v", args.cache.v, k.dtype, k.shape));
  if (!k.is_dense() || !args.cache.v.is_dense()) return error(Code::kInvalidArgument, "cache: expected dense pages");
  for (size_t h = 0; h < args.heads.kv_head_of.size(); ++h) {
    if (args.heads.kv_head_of[h] < 0 || args.heads.kv_head_of[h] >= k.dim(1)) {
      return error(Code::kInvalidArgument, "heads: query head {} reads KV head {} of {}", h, args.heads.kv_head_of[h],
                   k.dim(1));
    }
  }
  if (args.window < 0) return error(Code::kInvalidArgument, "window: expected at least 0, found {}", args.window);
  return expect_activation("y", args.y, tokens, q_heads * args.head_dim);
}

// How the heads are cut: `granule` heads end on a border that store_activation_span accepts.
struct HeadCut {
  i64 granule;
  i64 longest;  // most heads of one item
};

i64 run_end(const HeadMap& heads, i64 begin, i64 end) {
  i64 h = begin + 1;
  while (h < end && heads.kv_head_of[size_t(h)] == heads.kv_head_of[size_t(begin)]) ++h;
  return h;
}

HeadCut head_cut(const AttentionArgs& args) {
  if (args.y.format == ActivationFormat::kQ16 && args.head_dim % kActivationBlock != 0) {
    const i64 granule = kActivationBlock / std::gcd(kActivationBlock, args.head_dim);
    return {granule, granule};
  }
  HeadCut cut{1, 1};
  const i64 q_heads = i64(args.heads.kv_head_of.size());
  for (i64 h = 0; h < q_heads;) {
    const i64 end = run_end(args.heads, h, q_heads);
    cut.longest = std::max(cut.longest, std::min(end - h, kAttentionMaxRows));
    h = end;
  }
  return cut;
}

// Tokens [begin, end) of one row of the batch.
struct QueryBlock {
  i64 row, begin, end;
};

struct Worker {
  const AttentionArgs& args;
  AttentionScratch& scratch;
  float* out;  // [kAttentionMaxRows, width], aligned

  // Heads [h0, h1) of one query block, at most kAttentionMaxRows rows.
  void run_item(const QueryBlock& block, i64 h0, i64 h1) {
    const i64 head_dim = args.head_dim, width = (head_dim + 15) / 16 * 16, heads = h1 - h0;
    for (i64 h = h0; h < h1;) {
      const i64 end = run_end(args.heads, h, h1);
      attend_run(block, h, end, out + (h - h0) * width, heads * width);
      h = end;
    }
    for (i64 t = block.begin; t < block.end; ++t) {
      float* row = out + (t - block.begin) * heads * width;
      for (i64 h = 1; h < heads && width != head_dim; ++h) {  // close the gaps between heads
        std::copy_n(row + h * width, head_dim, row + h * head_dim);
      }
      store_activation_span(row, args.y, t, h0 * head_dim, h1 * head_dim);
    }
  }

  void attend_run(const QueryBlock& block, i64 h0, i64 h1, float* run_out, i64 out_stride) {
    const TensorView& k = args.cache.k;
    const i64 kv_offset = args.heads.kv_head_of[size_t(h0)] * k.byte_strides[1];
    const AttentionItem item{
        .q = args.q.row<const float>(block.begin) + h0 * args.head_dim,
        .q_stride = args.q.byte_strides[0] / i64(sizeof(float)),
        .positions = args.batch.positions.as<const i32>() + block.begin,
        .queries = block.end - block.begin,
        .heads = h1 - h0,
        .head_dim = args.head_dim,
        .keys = k.data + kv_offset,
        .values = args.cache.v.data + kv_offset,
        .pages = args.batch.page_table.row<const i32>(block.row),
        .page_tokens = k.dim(2),
        .page_stride = k.dim(1) * k.dim(2) * k.dim(3),
        .kv_len = args.batch.kv_lens.as<const i32>()[block.row],
        .window = args.window,
        .scale = args.scale,
        .out = run_out,
        .out_stride = out_stride,
    };
    if (k.dtype == DType::kBF16) WEFT_SIMD_BEST(attend<bf16>)(item, scratch);
    if (k.dtype == DType::kF16) WEFT_SIMD_BEST(attend<f16>)(item, scratch);
    if (k.dtype == DType::kF32) WEFT_SIMD_BEST(attend<float>)(item, scratch);
  }
};

// Cost of one head of a query block: queries times KV blocks.
i64 head_cost(const AttentionArgs& args, const QueryBlock& block) {
  const i32* positions = args.batch.positions.as<const i32>();
  const i64 first = args.window > 0 ? std::max<i64>(0, positions[block.begin] - args.window + 1) : 0;
  const i64 last = positions[block.end - 1];
  return (block.end - block.begin) * (last / kAttentionBlock - first / kAttentionBlock + 1);
}

// Calls f(block) for every query block of the batch, in order.
template <class F>
void for_each_query_block(const StepBatch& batch, i64 queries, F f) {
  const i32* starts = batch.row_starts.as<const i32>();
  for (i64 row = 0; row < batch.rows(); ++row) {
    for (i64 begin = starts[row]; begin < starts[row + 1]; begin += queries) {
      f(QueryBlock{row, begin, std::min<i64>(begin + queries, starts[row + 1])});
    }
  }
}

// The thread's share: (query block, granule of heads) units in order, cut where the accumulated cost passes its part.
void attend_share(const Exec& exec, const AttentionArgs& args, Worker& worker) {
  const HeadCut cut = head_cut(args);
  const i64 q_heads = i64(args.heads.kv_head_of.size());
  const i64 units = (q_heads + cut.granule - 1) / cut.granule;
  const i64 queries = std::max<i64>(1, kAttentionMaxRows / cut.longest);
  i64 total = 0;
  for_each_query_block(args.batch, queries, [&](const QueryBlock& b) { total += units * head_cost(args, b); });
  const i64 lo = total * exec.thread() / exec.num_threads(), hi = total * (exec.thread() + 1) / exec.num_threads();
  i64 before = 0;
  for_each_query_block(args.batch, queries, [&](const QueryBlock& block) {
    const i64 cost = head_cost(args, block);
    // First unit that starts at or after `at`.
    const auto unit = [&](i64 at) { return at <= before ? 0 : std::min((at - before + cost - 1) / cost, units); };
    const i64 begin = unit(lo), end = unit(hi);
    before += units * cost;
    for (i64 h = begin * cut.granule; h < std::min(end * cut.granule, q_heads);) {
      const i64 limit = std::min({h + cut.longest, end * cut.granule, q_heads});
      const i64 next = cut.granule > 1 ? limit : run_end(args.heads, h, limit);
      worker.run_item(block, h, next);
      h = next;
    }
  });
}

}  // namespace

Status attention(Exec& exec, const AttentionArgs& args) {
  WEFT_TRY(check(args));
  AttentionScratch scratch;
  alignas(64) float out[kAttentionMaxRows * kAttentionMaxHeadDim];
  Worker worker{args, scratch, out};
  attend_share(exec, args, worker);
  return exec.sync();
}

}  // namespace weft
