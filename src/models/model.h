// Model: one rank's part of a language model. One class per architecture serves CPU and GPU.
#pragma once
#include <memory>

#include "comm/parallel_plan.h"
#include "device/exec.h"
#include "layers/tensor_parallel.h"
#include "models/config.h"
#include "ops/attention/kv_cache.h"
#include "ops/attention/step_batch.h"
#include "weights/checkpoint.h"

namespace weft {

struct ModelOptions {
  LayerMode mode = LayerMode::kAuto;
  i64 max_tokens = 512;  // of one step
  i64 max_logits = 16;   // rows of logits of one step
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  // What this rank's KvCache must look like: layers, kv_heads and head_dim are set, pages and page_tokens are the
  // caller's.
  virtual KvCacheShape kv_shape() const = 0;
  // Bytes of packed parameters on this rank.
  virtual size_t weight_bytes() const = 0;
  // One step: logits [batch.wanted(), vocab] f32 on every rank. Writes this step's keys and values into `cache`.
  // Every rank of the plan, and every thread of its team, must call it with the same batch. Allocates nothing.
  // Errors: kInvalidArgument for a batch over max_tokens or max_logits; a communicator's failure.
  virtual Status forward(Exec& exec, const StepBatch& batch, KvCache& cache, const TensorView& logits) = 0;
};

// Builds the model of `config.architecture` on this rank from its share of the checkpoint. Every rank of plan.layer
// must call it. `plan` must outlive the model. Errors: kUnimplemented for an unknown architecture; those of loading.
Result<std::unique_ptr<Model>> make_model(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                          const ModelOptions& options);

}  // namespace weft
