#include "engine/model_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "base/clock.h"

namespace weft {
namespace {

i64 longest(const ModelBenchShape& shape) {
  return std::max(shape.tokens, shape.context + std::max<i64>(shape.decode_tokens, 1));
}

}  // namespace

WorkerShape worker_shape(const ModelBenchShape& shape, i64 max_tokens) {
  WorkerShape worker{
      .max_tokens = std::max(max_tokens, shape.batch), .max_rows = shape.batch, .max_logits = shape.batch};
  worker.max_pages = (longest(shape) + worker.page_tokens - 1) / worker.page_tokens;
  worker.pages = worker.max_pages * shape.batch;
  return worker;
}

Result<ModelBench> ModelBench::create(Worker& worker, const ModelBenchShape& shape) {
  const ModelConfig& config = worker.model().config();
  if (longest(shape) > config.context) {
    return error(Code::kInvalidArgument, "sequences of {} tokens: the model's context is {}", longest(shape),
                 config.context);
  }
  ModelBench bench(worker, shape);
  std::mt19937 random(1);
  std::uniform_int_distribution<i32> id(0, i32(config.vocab - 1));
  for (i64 r = 0; r < shape.batch; ++r) {
    bench.ids_.emplace_back(size_t(longest(shape)));
    for (i32& token : bench.ids_.back()) token = id(random);
    bench.pages_.emplace_back(size_t(worker.shape().max_pages));
    std::iota(bench.pages_.back().begin(), bench.pages_.back().end(), i32(r * worker.shape().max_pages));
  }
  WEFT_TRY(bench.check());
  return bench;
}

Status ModelBench::run(i64 begin, i64 end, std::vector<float>* logits) {
  const WorkerShape& worker = worker_.shape();
  const i64 vocab = worker_.model().config().vocab;
  i64 row = 0, at = begin;
  while (row < shape_.batch) {
    plan_.clear();
    const i64 first_done = row;
    while (row < shape_.batch && plan_.tokens() < worker.max_tokens) {
      const i64 count = std::min(end - at, worker.max_tokens - plan_.tokens());
      const std::span<const i32> ids(ids_[size_t(row)].data() + at, size_t(count));
      const i32 first = plan_.add_row(ids, at, pages_[size_t(row)], worker.page_tokens, worker.max_pages);
      at += count;
      if (at < end) break;
      plan_.logits_at.push_back(first + i32(count) - 1);
      at = begin;
      ++row;
    }
    WEFT_ASSIGN(const TensorView found, worker_.step(plan_));
    if (logits) {
      std::copy_n(found.as<float>(), (row - first_done) * vocab, logits->data() + first_done * vocab);
    }
  }
  return {};
}

Status ModelBench::check() {
  const size_t numbers = size_t(shape_.batch * worker_.model().config().vocab);
  std::vector<float> whole(numbers), decoded(numbers);
  WEFT_TRY(run(0, shape_.context + 1, &whole));
  WEFT_TRY(run(shape_.context, shape_.context + 1, &decoded));
  for (size_t i = 0; i < numbers; ++i) {
    if (!std::isfinite(whole[i])) return error(Code::kDataLoss, "prefill: logit {} is {}", i, whole[i]);
    if (std::memcmp(&whole[i], &decoded[i], sizeof(float)) != 0) {
      return error(Code::kDataLoss, "logit {}: {} by prefill, {} by decode", i, whole[i], decoded[i]);
    }
  }
  return {};
}

Result<double> ModelBench::prefill() {
  const auto start = Clock::now();
  WEFT_TRY(run(0, shape_.tokens, nullptr));
  return seconds_since(start);
}

Result<double> ModelBench::decode() {
  const auto start = Clock::now();
  for (i64 i = 0; i < shape_.decode_tokens; ++i) {
    WEFT_TRY(run(shape_.context + i, shape_.context + i + 1, nullptr));
  }
  return seconds_since(start) / double(shape_.decode_tokens);
}

}  // namespace weft
