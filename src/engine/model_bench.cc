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
  return std::max(shape.tokens, shape.context + shape.decode_tokens + 1);
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

Status ModelBench::run(Range rows, i64 begin, i64 end, std::vector<float>* logits) {
  const WorkerShape& worker = worker_.shape();
  const i64 vocab = worker_.model().config().vocab;
  i64 row = rows.begin, at = begin;
  while (row < rows.end) {
    plan_.clear();
    const i64 first_done = row;
    while (row < rows.end && plan_.tokens() < worker.max_tokens) {
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
      std::copy_n(found.as<float>(), (row - first_done) * vocab, logits->data() + (first_done - rows.begin) * vocab);
    }
  }
  return {};
}

Status ModelBench::check() {
  const size_t numbers = size_t(shape_.batch * worker_.model().config().vocab);
  std::vector<float> whole(numbers), decoded(numbers);
  WEFT_TRY(run({0, shape_.batch}, 0, shape_.context + 1, &whole));
  WEFT_TRY(run({0, shape_.batch}, shape_.context, shape_.context + 1, &decoded));
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
  WEFT_TRY(run({0, shape_.batch}, 0, shape_.tokens, nullptr));
  return seconds_since(start);
}

Result<double> ModelBench::decode() {
  const auto start = Clock::now();
  for (i64 i = 0; i < shape_.decode_tokens; ++i) {
    WEFT_TRY(run({0, shape_.batch}, shape_.context + i, shape_.context + i + 1, nullptr));
  }
  return seconds_since(start) / double(shape_.decode_tokens);
}

Result<GeneratedBatch> ModelBench::generate(Range rows) {
  const i64 vocab = worker_.model().config().vocab;
  std::vector<float> logits(size_t(rows.size() * vocab));
  GeneratedBatch batch;
  batch.ids.resize(size_t(rows.size()));
  const auto choose = [&](i64 position) {
    for (i64 r = 0; r < rows.size(); ++r) {
      const float* row = logits.data() + r * vocab;
      const i32 token = i32(std::max_element(row, row + vocab) - row);
      batch.ids[size_t(r)].push_back(token);
      ids_[size_t(rows.begin + r)][size_t(position)] = token;
    }
  };
  auto start = Clock::now();
  WEFT_TRY(run(rows, 0, shape_.context, &logits));
  choose(shape_.context);
  batch.first_token_s = seconds_since(start);
  for (i64 i = 0; i < shape_.decode_tokens; ++i) {
    start = Clock::now();
    WEFT_TRY(run(rows, shape_.context + i, shape_.context + i + 1, &logits));
    choose(shape_.context + i + 1);
    batch.step_s.push_back(seconds_since(start));
  }
  return batch;
}

Status ModelBench::check_answers(const GeneratedBatch& batch) {
  for (const i64 row : {i64(0), shape_.batch - 1}) {
    WEFT_ASSIGN(const GeneratedBatch alone, generate({row, row + 1}));
    for (size_t i = 0; i < alone.ids[0].size(); ++i) {
      const i32 found = batch.ids[size_t(row)][i], expected = alone.ids[0][i];
      if (found != expected) {
        return error(Code::kDataLoss, "sequence {}, token {}: {} alone, {} in the batch", row, i, expected, found);
      }
    }
  }
  return {};
}

}  // namespace weft
