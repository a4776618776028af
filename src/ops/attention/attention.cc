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
    store(block, h0, h1);
  }

  // Heads [h0, h1) of `out`, [queries, heads, width] -> args.y.
  void store(const QueryBlock& block, i64 h0, i64 h1) {
    const i64 head_dim = args.head_dim, width = (head_dim + 15) / 16 * 16, heads = h1 - h0;
    for (i64 t = block.begin; t < block.end; ++t) {
      float* row = out + (t - block.begin) * heads * width;
      for (i64 h = 1; h < heads && width != head_dim; ++h) {  // close the gaps between heads
        std::copy_n(row + h * width, head_dim, row + h * head_dim);
      }
      store_activation_span(row, args.y, t, h0 * head_dim, h1 * head_dim);
    }
  }

  AttentionItem item_of(const QueryBlock& block, i64 h0, i64 h1, float* run_out, i64 out_stride) const {
    const TensorView& k = args.cache.k;
    const i64 kv_offset = args.heads.kv_head_of[size_t(h0)] * k.byte_strides[1];
    return {
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
  }

  void attend_run(const QueryBlock& block, i64 h0, i64 h1, float* run_out, i64 out_stride) {
    const AttentionItem item = item_of(block, h0, h1, run_out, out_stride);
    const TensorView& k = args.cache.k;
    if (k.dtype == DType::kBF16) WEFT_SIMD_BEST(attend<bf16>)(item, scratch);
    if (k.dtype == DType::kF16) WEFT_SIMD_BEST(attend<f16>)(item, scratch);
    if (k.dtype == DType::kF32) WEFT_SIMD_BEST(attend<float>)(item, scratch);
  }
};

// KV blocks that a query block sees, as their indices.
Range kv_blocks(const AttentionArgs& args, const QueryBlock& block) {
  const i32* positions = args.batch.positions.as<const i32>();
  const i64 first = args.window > 0 ? std::max<i64>(0, positions[block.begin] - args.window + 1) : 0;
  const i64 last = std::min<i64>(positions[block.end - 1], args.batch.kv_lens.as<const i32>()[block.row] - 1);
  if (last < first) return {0, 0};
  return {first / kAttentionBlock, last / kAttentionBlock + 1};
}

// Cost of one head of a query block: queries times KV blocks.
i64 head_cost(const AttentionArgs& args, const QueryBlock& block) {
  return (block.end - block.begin) * std::max<i64>(1, kv_blocks(args, block).size());
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

// Few tokens: the units are (query block, run of heads, KV block). Each leaves a part; then the heads are merged.
class SharedBlocks {
 public:
  SharedBlocks(const AttentionArgs& args, Worker& worker)
      : args_(args), worker_(worker), cut_(head_cut(args)), q_heads_(i64(args.heads.kv_head_of.size())) {}

  // Whether heads alone would leave threads without work, and the parts fit.
  bool pays(const Exec& exec) const {
    if (exec.num_threads() == 1 || args_.q.dim(0) * q_heads_ == 0) return false;
    if (args_.q.dim(0) > exec.num_threads()) return false;
    i64 runs = 0, floats = 0;
    for_each_run([&](const QueryBlock& block, i64 h0, i64 h1) {
      ++runs;
      floats += part_floats(block, h0, h1) * kv_blocks(args_, block).size();
    });
    return runs < 4 * exec.num_threads() && floats <= i64(args_.parts.size());
  }

  void compute(const Exec& exec) {
    i64 total = 0;
    for_each_run([&](const QueryBlock& block, i64, i64) { total += kv_blocks(args_, block).size(); });
    const Range share = exec.share(total);
    i64 before = 0;
    float* parts = args_.parts.data();
    for_each_run([&](const QueryBlock& block, i64 h0, i64 h1) {
      const Range blocks = kv_blocks(args_, block);
      const i64 begin = std::clamp<i64>(share.begin - before, 0, blocks.size());
      const i64 end = std::clamp<i64>(share.end - before, 0, blocks.size());
      const i64 floats = part_floats(block, h0, h1);
      if (begin < end) {
        const AttentionItem item = worker_.item_of(block, h0, h1, nullptr, 0);
        const i64 from = (blocks.begin + begin) * kAttentionBlock, to = (blocks.begin + end) * kAttentionBlock;
        float* at = parts + begin * floats;
        const DType dtype = args_.cache.k.dtype;
        if (dtype == DType::kBF16) WEFT_SIMD_BEST(attend_parts<bf16>)(item, from, to, at, worker_.scratch);
        if (dtype == DType::kF16) WEFT_SIMD_BEST(attend_parts<f16>)(item, from, to, at, worker_.scratch);
        if (dtype == DType::kF32) WEFT_SIMD_BEST(attend_parts<float>)(item, from, to, at, worker_.scratch);
      }
      before += blocks.size();
      parts += blocks.size() * floats;
    });
  }

  // Thread by thread whole granules of heads, since a row's format may join them.
  void merge(const Exec& exec) {
    const i64 width = (args_.head_dim + 15) / 16 * 16;
    const float* parts = args_.parts.data();
    i64 index = 0;
    i64 group_begin = 0;
    for_each_run([&](const QueryBlock& block, i64 h0, i64 h1) {
      const Range blocks = kv_blocks(args_, block);
      const bool first = h0 % cut_.granule == 0 || cut_.granule == 1, last = h1 == q_heads_ || h1 % cut_.granule == 0;
      if (first) group_begin = h0;
      const i64 heads = std::min(group_begin + group_heads(group_begin), q_heads_) - group_begin;
      if (index % exec.num_threads() == exec.thread()) {
        float* out = worker_.out + (h0 - group_begin) * width;
        const AttentionItem item = worker_.item_of(block, h0, h1, out, heads * width);
        WEFT_SIMD_BEST(merge_parts)(item, parts, blocks.size(), worker_.scratch);
        if (last) worker_.store(block, group_begin, h1);
      }
      if (last) ++index;
      parts += blocks.size() * part_floats(block, h0, h1);
    });
  }

 private:
  i64 part_floats(const QueryBlock& block, i64 h0, i64 h1) const {
    return (block.end - block.begin) * (h1 - h0) * attention_part_row(args_.head_dim);
  }
  // Heads that are stored together from `begin` on.
  i64 group_heads(i64 begin) const {
    if (cut_.granule > 1) return cut_.granule;
    return run_end(args_.heads, begin, std::min(begin + cut_.longest, q_heads_)) - begin;
  }
  // Calls f(block, h0, h1) for every run of heads that read one KV head and are stored together.
  template <class F>
  void for_each_run(F f) const {
    const i64 queries = std::max<i64>(1, kAttentionMaxRows / cut_.longest);
    for_each_query_block(args_.batch, queries, [&](const QueryBlock& block) {
      for (i64 group = 0; group < q_heads_;) {
        const i64 end = std::min(group + group_heads(group), q_heads_);
        for (i64 h = group; h < end;) {
          const i64 next = run_end(args_.heads, h, end);
          f(block, h, next);
          h = next;
        }
        group = end;
      }
    });
  }

  const AttentionArgs& args_;
  Worker& worker_;
  const HeadCut cut_;
  const i64 q_heads_;
};

}  // namespace

Status attention(Exec& exec, const AttentionArgs& args) {
  WEFT_TRY(expect_cpu("attention", exec));
  WEFT_TRY(check(args));
  AttentionScratch scratch;
  alignas(64) float out[kAttentionMaxRows * kAttentionMaxHeadDim];
  Worker worker{args, scratch, out};
  SharedBlocks shared(args, worker);
  if (shared.pays(exec)) {
    shared.compute(exec);
    WEFT_TRY(exec.sync());
    shared.merge(exec);
  } else {
    attend_share(exec, args, worker);
  }
  return exec.sync();
}

}  // namespace weft
