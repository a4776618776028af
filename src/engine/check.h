// check: a model's logits against a golden file made by Hugging Face transformers.
#pragma once
#include <string>
#include <vector>

#include "engine/worker.h"
#include "weights/safetensors.h"

namespace weft {

// What a golden file holds: input_ids [batch, tokens] i64; optional positions [batch, k] i64, the tokens that logits
// are given for (all by default); logits [batch, k, vocab] f32 or f16 in fp32 arithmetic; logits_bf16 of the same shape
// in bf16 arithmetic.
class Golden {
 public:
  // Errors: kNotFound or kDataLoss naming file and tensor, for ids or positions out of range too.
  static Result<Golden> open(const std::string& path);
  i64 batch() const { return input_ids_.dim(0); }
  i64 tokens() const { return input_ids_.dim(1); }
  i64 wanted() const { return logits_.dim(1); }  // per sequence
  i64 vocab() const { return logits_.dim(2); }
  std::vector<i32> ids(i64 sequence) const;
  i64 position(i64 sequence, i64 k) const;
  std::vector<float> logits(i64 sequence, i64 k) const { return row(logits_, sequence, k); }
  std::vector<float> logits_bf16(i64 sequence, i64 k) const { return row(logits_bf16_, sequence, k); }

 private:
  explicit Golden(SafetensorsFile file) : file_(std::move(file)) {}
  static std::vector<float> row(const TensorView& logits, i64 sequence, i64 k);
  SafetensorsFile file_;
  TensorView input_ids_, positions_, logits_, logits_bf16_;
};

// How one set of logits compares with the golden's fp32 ones, pooled over all its positions.
struct LogitError {
  i64 positions = 0;
  double rms = 0, largest = 0;
  double mean_kl = 0;  // KL(golden || measured) in nats, per position
  double top1_agreement = 0;
};

struct CheckPass {
  std::string name;
  LogitError error;
  u64 hash = 0;  // of the logits' bits, in the order of the golden's positions
  bool passed = false;
};

struct CheckReport {
  LogitError bf16;  // Hugging Face's own bf16 run: the yardstick
  std::vector<CheckPass> passes;
  bool passed = false;
};
constexpr double kCheckRmsRatio = 1.5;  // a pass may err this much more than Hugging Face in bf16

// What the worker must hold for `golden`.
WorkerShape check_shape(const Golden& golden);

// Runs on the leader (a) one prefill, (b) prefill in uneven chunks, (c) the second half of the tokens one by one, (d)
// all sequences at once with different lengths. Errors: kInvalidArgument when the vocabularies differ; those of
// Worker::step.
Result<CheckReport> check_logits(Worker& worker, const Golden& golden);

}  // namespace weft
