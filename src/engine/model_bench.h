// ModelBench: one step of a model under the clock, on the leader of ready ranks.
#pragma once
#include <vector>

#include "engine/worker.h"

namespace weft {

struct ModelBenchShape {
  i64 batch = 1;          // sequences
  i64 tokens = 512;       // of each, computed from an empty cache by prefill()
  i64 context = 512;      // of each, in the cache before decode()
  i64 decode_tokens = 8;  // steps of one decode()
};

// The worker that `shape` needs, with steps of at most `max_tokens` tokens.
WorkerShape worker_shape(const ModelBenchShape& shape, i64 max_tokens);

// Greedy answers of all sequences in lockstep.
struct GeneratedBatch {
  double first_token_s = 0;           // prefill of every prompt and the first tokens
  std::vector<double> step_s;         // every later token
  std::vector<std::vector<i32>> ids;  // the answers
};

class ModelBench {
 public:
  // Fills the cache with random tokens and checks the output first: the logits are finite, and those of the last token
  // of every sequence have the same bits whether it is decoded or part of the prefill. Errors: kInvalidArgument if the
  // sequences do not fit the model; kDataLoss for wrong output; those of Worker::step().
  static Result<ModelBench> create(Worker& worker, const ModelBenchShape& shape);

  // Seconds for all tokens of all sequences, the logits of each one's last token included.
  Result<double> prefill();
  // Seconds of one step, a token for each sequence, from `context` cached tokens on: mean over decode_tokens steps.
  Result<double> decode();
  // Answers of decode_tokens + 1 tokens to prompts of `context` tokens, whatever end tokens they hold.
  Result<GeneratedBatch> generate() { return generate({0, shape_.batch}); }
  // Errors: kDataLoss if the first or the last sequence alone gets another answer than in `batch`.
  Status check_answers(const GeneratedBatch& batch);

 private:
  ModelBench(Worker& worker, const ModelBenchShape& shape) : worker_(worker), shape_(shape) {}
  // Computes positions [begin, end) of sequences `rows` in as few steps as fit. `logits` [rows, vocab] of position end
  // - 1, if not null.
  Status run(Range rows, i64 begin, i64 end, std::vector<float>* logits);
  Result<GeneratedBatch> generate(Range rows);
  Status check();

  Worker& worker_;
  ModelBenchShape shape_;
  std::vector<std::vector<i32>> ids_, pages_;  // of each sequence
  StepPlan plan_;
};

}  // namespace weft
