#include "ops/attention/bench.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "ops/attention/attention.h"

namespace weft {
namespace {

// A step of equal rows over random caches, and the memory behind it.
struct Step {
  KvCache cache;
  Tensor q;
  std::vector<i32> positions, starts, lens, table;
  HeadMap heads;
  StepBatch batch;
  ActivationBuffer out;
  Tensor parts;
};

Result<Step> make_step(const AttentionBenchOptions& o) {
  const i64 pages = (o.context + o.page_tokens - 1) / o.page_tokens, tokens = o.rows * o.tokens;
  WEFT_ASSIGN(KvCache cache, KvCache::create({1, o.rows * pages, o.kv_heads, o.page_tokens, o.head_dim, o.dtype}));
  Step step{std::move(cache),
            Tensor::zeros(DType::kF32, {tokens, o.q_heads * o.head_dim}),
            {},
            {},
            {},
            {},
            {},
            {},
            ActivationBuffer::create(ActivationFormat::kF32, tokens, o.q_heads * o.head_dim),
            Tensor::zeros(DType::kF32, {kAttentionParts})};
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  for (const TensorView& view : {step.cache.layer(0).k, step.cache.layer(0).v}) {
    for (i64 i = 0; i < view.shape.elements(); ++i) {
      const float x = normal(random);
      if (o.dtype == DType::kBF16) view.as<bf16>()[i] = bf16(x);
      if (o.dtype == DType::kF16) view.as<f16>()[i] = f16(x);
      if (o.dtype == DType::kF32) view.as<float>()[i] = x;
    }
  }
  for (i64 i = 0; i < step.q.view.shape.elements(); ++i) step.q.view.as<float>()[i] = normal(random);
  for (i64 t = 0; t < tokens; ++t) step.positions.push_back(i32(o.context - o.tokens + t % o.tokens));
  for (i64 r = 0; r <= o.rows; ++r) step.starts.push_back(i32(r * o.tokens));
  step.lens.assign(size_t(o.rows), i32(o.context));
  step.table.resize(size_t(o.rows * pages));
  std::iota(step.table.begin(), step.table.end(), 0);
  std::shuffle(step.table.begin(), step.table.end(), random);
  for (i64 h = 0; h < o.q_heads; ++h) step.heads.kv_head_of.push_back(i32(h * o.kv_heads / o.q_heads));
  const auto view = [](std::vector<i32>& x, Shape shape) { return TensorView::dense(x.data(), DType::kI32, shape); };
  step.batch = {.token_ids = view(step.positions, {tokens}),
                .positions = view(step.positions, {tokens}),
                .row_starts = view(step.starts, {o.rows + 1}),
                .kv_lens = view(step.lens, {o.rows}),
                .page_table = view(step.table, {o.rows, pages}),
                .slots = {},
                .logits_at = {}};
  return step;
}

AttentionArgs args_of(const AttentionBenchOptions& o, const Step& step) {
  return {step.q.view,
          o.head_dim,
          step.heads,
          step.batch,
          step.cache.layer(0),
          1 / std::sqrt(float(o.head_dim)),
          step.out.view(o.rows * o.tokens),
          /*window=*/0,
          {step.parts.view.as<float>(), size_t(kAttentionParts)}};
}

// Largest error of a step of at most 64 tokens of one row.
Result<double> check_output(AttentionBenchOptions o) {
  o.rows = 1;
  o.tokens = std::min<i64>(o.tokens, 64);
  o.context = std::min<i64>(o.context, 512 + o.tokens);
  WEFT_ASSIGN(const Step step, make_step(o));
  const AttentionArgs args = args_of(o, step);
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = o.threads, .cpus = allowed_cpus()}));
  WEFT_TRY(pool->run([&](Exec& exec) { return attention(exec, args); }));
  const Tensor expected = Tensor::zeros(DType::kF32, {o.tokens, o.q_heads * o.head_dim});
  attention_reference(args, expected.view);
  double largest = 0;
  for (i64 t = 0; t < o.tokens; ++t) {
    for (i64 i = 0; i < args.y.k; ++i) {
      largest = std::max(largest, std::fabs(double(args.y.row_f32(t)[i]) - double(expected.view.row<float>(t)[i])));
    }
  }
  // The bound of test.cc: roundings of the scores, of exp and of sums over the context, of values below 5.
  const double roundings = 2 * std::pow(double(o.head_dim), 1.5) + 8 + 1.04 * double(o.context);
  if (!(largest <= 5 * 0x1p-24 * roundings)) return error(Code::kDataLoss, "attention: error of {}", largest);
  return largest;
}

}  // namespace

Result<AttentionBenchResult> bench_attention(const AttentionBenchOptions& o) {
  for (auto [name, value] : {std::pair("rows", o.rows), {"tokens", o.tokens}, {"q_heads", o.q_heads}}) {
    if (value < 1) return error(Code::kInvalidArgument, "{}: expected at least 1, found {}", name, value);
  }
  if (o.kv_heads < 1 || o.kv_heads > o.q_heads) {
    return error(Code::kInvalidArgument, "kv_heads: expected 1 to {}, found {}", o.q_heads, o.kv_heads);
  }
  if (o.context < o.tokens) {
    return error(Code::kInvalidArgument, "context: expected at least tokens ({}), found {}", o.tokens, o.context);
  }
  AttentionBenchResult result;
  WEFT_ASSIGN(result.largest_error, check_output(o));
  WEFT_ASSIGN(const Step step, make_step(o));
  const AttentionArgs args = args_of(o, step);
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, [&](Exec& exec) { return attention(exec, args); }));
  const double seen = double(o.tokens) * double(2 * o.context - o.tokens + 1) / 2;  // positions per row and head
  result.giga_ops = double(o.rows * o.q_heads * o.head_dim) * seen * 4 / result.micros.median / 1e3;
  result.gigabytes =
      double(2 * dtype_bytes(o.dtype, o.rows * o.context * o.kv_heads * o.head_dim)) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
